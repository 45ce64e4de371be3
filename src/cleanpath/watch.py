"""What a person sees while runs go on: a line per running cell and a total, on stderr."""

import math
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cleanpath.grid.local import News
from cleanpath.grid.plan import Cell
from cleanpath.report.table import clock
from cleanpath.training.progress import Progress

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BEFORE_COUNTING = 2.0


class Watch:
    """Progress of a grid: live where stderr is a terminal, else plain lines, one per end and one per half minute."""

    def __init__(self, todo: Sequence[Cell], *, done: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._todo, self._done = todo, done
        self._ended = self._failed = self._ended_work = 0
        self._running: dict[Cell, Progress | None] = {}
        self._said: dict[Cell, float] = {}
        self._began = time.monotonic()
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._screen, transient=True)

    def __enter__(self) -> "Watch":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def tell(self, news: News) -> None:
        """Take note of what happened, and show it."""
        if news.event == "ended":
            self._running.pop(news.cell, None)
            self._ended += 1
            self._ended_work += news.cell.work
            self._failed += news.cell.status == "failed"
            self._say(f"{self._total()}  {_outcome(news.cell)}")
            return
        self._running[news.cell] = news.progress
        now = time.monotonic()
        if news.event == "started":
            self._said[news.cell] = now
        elif not self._console.is_terminal and now - self._said[news.cell] >= _SECONDS_BETWEEN_LINES:
            self._said[news.cell] = now
            self._say(_line(news.cell, news.progress))

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _screen(self) -> Group:
        lines = [_line(cell, progress) for cell, progress in self._running.items()]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in [*lines, self._total()]))

    def _total(self) -> str:
        elapsed = time.monotonic() - self._began
        shares = [p.iteration / p.total * cell.work for cell, p in self._running.items() if p is not None]
        all_work = sum(cell.work for cell in self._todo)
        done_work = self._ended_work + sum(shares)
        left = elapsed * (all_work / done_work - 1) if done_work else math.nan
        count = f"{self._done + self._ended}/{self._done + len(self._todo)} done"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{count}{failed}, {clock(elapsed)} gone, {clock(left)} left"


class Counting:
    """How many of many are done, on stderr, once it takes longer than two seconds."""

    def __init__(self, what: str) -> None:
        self._what, self._began, self._console = what, time.monotonic(), Console(stderr=True, highlight=False)
        self._last = 0.0

    def __enter__(self) -> "Counting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last and self._console.is_terminal:
            self._console.print()

    def tell(self, done: int, total: int) -> None:
        """Show it."""
        now, live = time.monotonic(), self._console.is_terminal
        if now - self._began < _SECONDS_BEFORE_COUNTING or now - self._last < (0.2 if live else _SECONDS_BETWEEN_LINES):
            return
        self._last = now
        self._console.print(f"{done:,} of {total:,} {self._what}", end="\r" if live else "\n")


def say(line: str) -> None:
    """One line on stderr."""
    Console(stderr=True, highlight=False).print(Text(line), soft_wrap=True)


def _line(cell: Cell, progress: Progress | None) -> str:
    if progress is None:
        return f"{cell.label}: starting"
    seconds = (progress.total - progress.iteration) * cell.experiment.training.batch_size / progress.images_per_second
    error = "" if math.isnan(progress.error) else f"  error {progress.error:.1f}%"
    return (
        f"{cell.label}: {progress.iteration}/{progress.total}  loss {progress.loss:.3f}{error}  "
        f"{progress.images_per_second:.0f} images/s  {clock(seconds)} left"
    )


def _outcome(cell: Cell) -> str:
    result = cell.run.result
    if result is None:
        return f"{cell.label}: {cell.status}: {cell.run.failure or 'another process has it'}"
    if result["status"] == "diverged":
        return f"{cell.label}: diverged, {result['reason']}"
    return f"{cell.label}: error {result['error']:.1f}% after {clock(result['seconds'])}"
