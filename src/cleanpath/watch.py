"""What a person sees while runs go on: a line per running cell and a total, on stderr."""

import math
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cleanpath.grid.driver import News
from cleanpath.grid.plan import Cell
from cleanpath.grid.remaining import Attempt, Remaining
from cleanpath.report.table import clock
from cleanpath.training.progress import Progress

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BEFORE_COUNTING = 2.0
_SECONDS_BETWEEN_ESTIMATES = 1.0


class Watch:
    """Progress of a grid: live where stderr is a terminal, else plain lines, one per end and one per half minute."""

    def __init__(self, todo: Sequence[Cell], *, done: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._count, self._done = len(todo), done
        self._ended = self._failed = 0
        self._running: dict[Cell, Progress | None] = {}
        self._attempts: dict[Cell, Attempt] = {}
        self._said: dict[Cell, float] = {}
        self._began = time.monotonic()
        self._remaining, self._left, self._counted = Remaining(todo), math.nan, -math.inf
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
        cell, now = news.cell, time.monotonic()
        if news.event == "started":
            self._remaining.started(cell)
            self._attempts[cell], self._running[cell] = Attempt(began=now), None
            self._said[cell] = now
        elif news.progress is not None:
            self._stepped(cell, news.progress, now)
        else:
            self._over(news, now)

    def _stepped(self, cell: Cell, progress: Progress, now: float) -> None:
        attempt = self._attempts[cell]
        if self._running[cell] is None:
            attempt.first = (progress.iteration - 1) / progress.total
        attempt.share = progress.iteration / progress.total
        self._running[cell] = progress
        if not self._console.is_terminal and now - self._said[cell] >= _SECONDS_BETWEEN_LINES:
            self._said[cell] = now
            self._say(_line(cell, progress))

    def _over(self, news: News, now: float) -> None:
        """A cell ended, or waits again."""
        cell, attempt = news.cell, self._attempts.pop(news.cell)
        self._running.pop(cell)
        del self._said[cell]
        if news.event != "ended":
            self._remaining.put_off(cell)
            told = {
                "died": f"its process died ({news.reason}), it is tried again behind the others",
                "refused": f"not on that machine ({news.reason}), it is tried again behind the others",
                "held": f"{news.reason} has it",
            }
            self._say(f"{cell.label}: {told[news.event]}")
            return
        self._ended += 1
        status = cell.status
        self._failed += status == "failed" or bool(news.reason)
        self._remaining.ended(cell, attempt.whole(now) if status == "finished" else None)
        self._say(f"{self._total()}  {_outcome(cell, news.reason)}")

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _screen(self) -> Group:
        lines = [_line(cell, progress) for cell, progress in self._running.items()]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in [*lines, self._total()]))

    def _total(self) -> str:
        now = time.monotonic()
        if now - self._counted >= _SECONDS_BETWEEN_ESTIMATES:
            self._left, self._counted = self._remaining.seconds(list(self._attempts.items()), now), now
        count = f"{self._done + self._ended}/{self._done + self._count} done"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{count}{failed}, {clock(now - self._began)} gone, {clock(self._left)} left"


class Counting:
    """How many of many are done, on stderr, once it takes longer than two seconds; the last count then always is."""

    def __init__(self, what: str) -> None:
        self._what, self._began, self._console = what, time.monotonic(), Console(stderr=True, highlight=False)
        self._last, self._waiting = 0.0, ""

    def __enter__(self) -> "Counting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last and self._waiting:
            self._show("\n")
        elif self._last and self._console.is_terminal:
            self._console.print()

    def tell(self, done: int, total: int) -> None:
        """Show it."""
        now, live = time.monotonic(), self._console.is_terminal
        self._waiting = f"{done:,} of {total:,} {self._what}"
        if now - self._began < _SECONDS_BEFORE_COUNTING or now - self._last < (0.2 if live else _SECONDS_BETWEEN_LINES):
            return
        self._show("\r" if live else "\n")
        self._last = now

    def _show(self, end: str) -> None:
        """One line, however long: cut where the next is written over it."""
        live = self._console.is_terminal
        self._console.print(Text(self._waiting), end=end, soft_wrap=not live, no_wrap=live, overflow="ellipsis")
        self._waiting = ""


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


def _outcome(cell: Cell, reason: str) -> str:
    result = cell.run.result
    if result is None:
        return f"{cell.label}: failed: {reason or cell.run.failure or 'it left no result'}"
    if result["status"] == "diverged":
        return f"{cell.label}: diverged, {result['reason']}"
    return f"{cell.label}: error {result['error']:.1f}% after {clock(result['seconds'])}"
