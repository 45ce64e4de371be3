"""Run a tutorial and compare what its blocks print with what it shows.

    python -m tests.tutorials PAGE …     write into the pages what their blocks print now

A page is read from top to bottom in one namespace and one empty folder. A block of Python whose first line is a comment
with the name of a file is written to that file; any other is run, and what it prints must be the block of text that
follows it. A block of console holds commands after `$` and what they print;
those of benchmarks are run in the repository. A line of one … stands for any lines.

Words must be equal. Counts must be equal, measured numbers may differ by 5%, or by what a comment above the block says
(`within N%`), or by one unit of the last digit shown: processors round differently.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.helpers import here

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "tutorials"
USUAL = 0.05
_BLOCK = re.compile(r"(?:<!-- within (\d+)% -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")
_DRAWN = re.compile(r"[▁▂▃▄▅▆▇█│]+")
_NUMBER = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\d)%?")
_DURATION = re.compile(r"\b\d+(?:\.\d+)?s\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, what it holds, where that stands in the page, its tolerance."""

    language: str
    body: str
    span: tuple[int, int]
    line: int
    within: float


@dataclass(frozen=True)
class Output:
    """What a page shows in a place, and what was printed there."""

    span: tuple[int, int]
    shown: str
    printed: str
    where: str
    within: float

    def differences(self) -> list[str]:
        return [f"{self.where}: {each}" for each in differences(self.shown, self.printed, self.within)]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(
            language=found[2],
            body=found[3],
            span=found.span(3),
            line=text[: found.start(3)].count("\n") + 1,
            within=int(found[1]) / 100 if found[1] else USUAL,
        )
        for found in _BLOCK.finditer(text)
    ]


def outputs(page: Path, folder: Path) -> Iterator[Output]:
    """Run a page's blocks in a folder."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    every = blocks(page.read_text(encoding="utf-8"))
    for block, following in zip(every, [*every[1:], None], strict=True):
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            name = _FILE.match(block.body)
            if name:
                (folder / name[1]).write_text(block.body, encoding="utf-8")
                continue
            with _alone(folder):
                printed = _executed(block, where, namespace)
            if following is not None and following.language == "text":
                yield Output(following.span, following.body, printed, where, following.within)
            else:
                yield Output((block.span[1], block.span[1]), "", printed, where, USUAL)
        elif block.language == "console":
            yield from _console(block, where, folder)
        else:
            assert block.language == "text", f"{where}: {block.language} is not run"


def differences(shown: str, printed: str, within: float) -> list[str]:
    """Lines that are not alike; empty where all are."""
    wanted, given = (_lines(each) for each in (shown, printed))
    found, at = list[str](), 0
    for position, line in enumerate(wanted):
        if line == "…":
            following = wanted[position + 1 : position + 2]
            while at < len(given) and not (following and _alike(following[0], given[at], within)):
                at += 1
        elif at == len(given):
            found.append(f"shown, not printed: {line}")
        else:
            if not _alike(line, given[at], within):
                found.append(f"shown: {line}\n  got: {given[at]}")
            at += 1
    return [*found, *(f"printed, not shown: {line}" for line in given[at:])]


def _lines(text: str) -> list[str]:
    """Without empty lines, drawings, the width of columns, and durations, of which every machine has its own."""
    lines = (" ".join(_DURATION.sub("…s", _DRAWN.sub(" ", line)).split()) for line in text.splitlines())
    return [line for line in lines if line]


def _alike(shown: str, printed: str, within: float) -> bool:
    if _words(shown) != _words(printed):
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True)
    return all(_near(one, other, within) for one, other in pairs)


def _words(line: str) -> str:
    return _NUMBER.sub(lambda found: "#%" if found[0].endswith("%") else "#", line)


def _near(shown: str, printed: str, within: float) -> bool:
    """Whether two numbers are one: counts exactly, measured values within the tolerance or a unit of the last digit."""
    if shown == printed:
        return True
    if _is_count(shown) and _is_count(printed):
        return False
    one, other = (float(each.rstrip("%").replace(",", "").replace("−", "-")) for each in (shown, printed))
    return abs(one - other) <= max(within * abs(one), _last_digit(shown), _last_digit(printed)) * 1.001


def _is_count(number: str) -> bool:
    """A whole number; one of three digits may be a measured value that was rounded to three, and a share is one."""
    return number.replace(",", "").isdigit() and ("," in number or len(number) != 3)


def _last_digit(number: str) -> float:
    mantissa, _, exponent = number.rstrip("%").partition("e")
    return float(10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """In a folder, on one thread; number of threads, random state and search path are as before afterwards."""
    threads, paths = torch.get_num_threads(), list(sys.path)
    with contextlib.chdir(folder), torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            sys.path[:] = paths
            for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(folder))]:
                del sys.modules[name]


def _executed(block: Block, where: str, namespace: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * (block.line - 1) + block.body, where, "exec"), namespace)  # noqa: S102 (our own page)
    return out.getvalue()


def _console(block: Block, where: str, folder: Path) -> Iterator[Output]:
    """Run a block's commands; `echo $?` is the exit code of the one before."""
    code = 0
    for found in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.body, re.MULTILINE):
        if found[1] == "echo $?":
            printed = f"{code}\n"
        else:
            code, printed = _called(found[1], folder)
        start, end = (block.span[0] + at for at in found.span(2))
        yield Output((start, end), found[2], printed, f"{where}: {found[1]}", block.within)


def _called(command: str, folder: Path) -> tuple[int, str]:
    """The exit code and the output of a command: ours in this process, any other in one of its own."""
    program, *words = shlex.split(command)
    if program == "cleanpath":
        with _alone(folder):
            ended = here(*words)
        assert ended.code in {0, 1}, f"{command}: {ended.err}"
        return ended.code, ended.out
    assert program == "python", command
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        encoding="utf-8",
        env={**_as_a_reader_has_it(), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        cwd=ROOT if "benchmarks." in command else folder,
        check=False,
    )
    assert done.returncode in {0, 1}, f"{command}: {done.stderr}"
    return done.returncode, done.stdout


def _as_a_reader_has_it() -> dict[str, str]:
    """Without what the tests around this were told: a page that shows pytest would show that too."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def write(page: Path) -> None:
    """Put into a page what its blocks print, except where the page shows that already or leaves lines out."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(outputs(page, Path(folder).resolve()))
    text = page.read_text(encoding="utf-8")
    for output in sorted(found, key=lambda each: each.span, reverse=True):
        if "…" in output.shown.splitlines() or not output.shown + output.printed:
            sys.stdout.write("".join(f"{each}\n" for each in output.differences()))
            continue
        printed = "".join(f"{line.rstrip()}\n" for line in output.printed.splitlines())
        text = text[: output.span[0]] + printed + text[output.span[1] :]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(FOLDER / argument)
