"""The generated parts of docs/fixes.md and of the pages in docs/fixes/, for `generate.py`."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from cleanpath.auditing import judging
from cleanpath.auditing.rules.fixes import FIXES, Fix, fix_of

ROOT = Path(__file__).resolve().parent.parent
FIXED = tuple(code for code, one in FIXES.items() if one.safety != "none")
"""The codes with a fix, each of which has a page."""
_SHOWS = 5
"""So many pairs there must be for p of the exact signed-rank test to get below 0.05."""


def overview() -> str:
    """Which findings have a fix, of which kind, and on how many of the networks that were tried it helped."""
    lines = [
        "| code | finding | fix | what is done, or why nothing is | helped on |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in judging.every_rule():
        code, made = one.code, fix_of(one.code)
        link = f"[{code}](fixes/{code}.md)" if code in FIXED else code
        lines.append(f"| {link} | {one.name} | {made.safety} | {made.does} | {_helped(code)} |")
    return "\n".join(lines) + "\n"


def _helped(code: str) -> str:
    if code not in FIXED:
        return ""
    tried = [float(row[-1]) for row in _effects(code) if int(row[1]) >= _SHOWS]
    return f"{sum(p <= 0.05 for p in tried)} of {len(tried)}" if tried else "not tried"


def head(code: str) -> str:
    """What asks for a fix, and what may become of the function."""
    name = next(one.name for one in judging.every_rule() if one.code == code)
    one = fix_of(code)
    finding = f"[{code}](../findings.md#{code.lower()}-{name}), {name}"
    return f"Of the finding {finding}. {_kept(one)}\n\n    {one.command(code)}\n"


def _kept(one: Fix) -> str:
    if one.safety == "safe":
        return "*Safe*: the function stays the same."
    named = " Made only where it is named." if one.by_name else ""
    return f"*Unsafe*: the weights are kept, the function changes.{named}"


def effect(code: str) -> str:
    """The pairs of training runs of a fix, and what became of the families that have the finding."""
    rows = _effects(code)
    parts = [_pairs(rows)] if rows else ["No pairs of runs were made."]
    where = [row for row in _recorded("fix_families") if any(_units(cell, code) is not None for cell in row[1:5])]
    mended, still, left = (sum(_units(row[at], code) or 0 for row in where) for at in (2, 3, 4))
    told = f"{mended} units mended, {still} changed and found again, {left} left as they were"
    count = f"{len(where)} famil{'y has' if len(where) == 1 else 'ies have'}"
    parts.append(f"Of the audit's test list {count} it: {told} ([which](../fixes.md#families))." if where else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def _pairs(rows: list[list[str]]) -> str:
    names = ("network", "pairs", "units", "test error before, %", "mended, %", "difference, 95%", "p")
    lines = [[*names], ["---", *["--:"] * (len(names) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _effects(code: str) -> list[list[str]]:
    return [row[1:] for row in _recorded("fixes") if row[0] == code]


def _units(cell: str, code: str) -> int | None:
    """Of how many units a cell says that they have a code; None if it does not name it."""
    found = re.search(rf"{code}(?: (\d+))?", cell)
    return None if found is None else int(found[1] or 1)


@cache
def table(script: str) -> str:
    """What a benchmark of the fixes prints."""
    asked = [sys.executable, "-m", f"benchmarks.{script}"]
    return subprocess.run(asked, check=True, capture_output=True, encoding="utf-8", cwd=ROOT).stdout


def _recorded(script: str) -> list[list[str]]:
    """The cells of that table."""
    lines = [line for line in table(script).splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
