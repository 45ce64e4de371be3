"""Write the generated parts of the READMEs: what stands between `<!-- begin: NAME -->` and `<!-- end -->`.

    python docs/generate.py          write
    python docs/generate.py --check  say what is out of date, and exit with 1

The tables come from `results/quick.json`, which is `cleanpath reproduce table1 table2 --json` as it was printed.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cleanpath.report.table import from_data, to_markdown

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "README.zh.md")
_BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> str:
    """Both tables, with what differs from the paper."""
    recorded = json.loads((ROOT / "results" / "quick.json").read_text(encoding="utf-8"))
    found = from_data(recorded)
    deviations = "\n".join(f"- {line}" for line in found[0].deviations)
    return "\n".join(to_markdown(table) for table in found) + f"\n{deviations}\n"


def command(*arguments: str) -> str:
    """A command of ours and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cleanpath", *arguments], check=True, capture_output=True, text=True, cwd=ROOT
    )
    body = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    return f"```console\n$ cleanpath {' '.join(arguments)}\n{body}\n```\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "tables": tables,
    "show": lambda: command("show", "preresnet20"),
}


def generated(page: Path) -> str:
    """The page with its generated parts as they are now."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{BLOCKS[match[2]]()}{match[3]}"

    return _BLOCK.sub(block, page.read_text(encoding="utf-8"))


def main() -> None:
    """Write or check all pages."""
    stale = [name for name in PAGES if generated(ROOT / name) != (ROOT / name).read_text(encoding="utf-8")]
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py" if stale else 0)
    for name in stale:
        (ROOT / name).write_text(generated(ROOT / name), encoding="utf-8")


if __name__ == "__main__":
    main()
