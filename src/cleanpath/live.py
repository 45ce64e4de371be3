"""Pages that are written anew while a grid runs: from the run folders alone, in another process than the grid's."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cleanpath.errors import Stopped
from cleanpath.experiment import Experiment
from cleanpath.garbage import uncollected
from cleanpath.grid.plan import DONE, Cell
from cleanpath.grid.remaining import Attempt, Remaining
from cleanpath.pages import Page
from cleanpath.reading import Index, Noted
from cleanpath.records import Run, recent
from cleanpath.report.collect import seed_result
from cleanpath.report.standing import Standing, Underway
from cleanpath.report.table import SeedResult
from cleanpath.reproduction import Outcome
from cleanpath.watch import say

_REST = 4.0  # a page that took a second to write is written anew after four: at most a fifth of a core
_SECONDS_FOR_MEASURING = 60.0  # how long to wait for a grid that measures its last runs
_SECONDS_BETWEEN_LINES = 30.0  # on the terminal, while runs go on
_SECONDS_UNTIL_IDLE = 15.0  # a grid begins its next run sooner after one that ended


def follow(pages: Sequence[Page], *, every: float) -> list[Outcome]:
    """Write pages anew every few seconds until all of their runs are done; what they came to.

    A page of which nothing changed is left as it is; how far the runs are is said now and then (`_Told`). Whatever ends
    this, the pages then stand as a report writes them, and no longer load themselves anew.
    """
    cells = [page.job.cells() for page in pages]
    every_cell = list({cell.folder: cell for each in cells for cell in each}.values())
    read, shown, told, alone = Reading(), "", _Told(), math.inf
    try:
        until = _Measured(pages)
        while True:
            began = time.monotonic()
            standings = [standing(each, every=max(1, round(every))) for each in cells]
            together = standings[0] if len(pages) == 1 else standing(every_cell, every=1)
            alone = math.inf if together.underway else min(alone, began)  # since when nobody was seen
            if together.waiting and began - alone >= _SECONDS_UNTIL_IDLE:
                together, *standings = (replace(one, idle=bool(one.waiting)) for one in (together, *standings))
            told.now(together, began)
            if together.over and until.over(began):
                break
            state = repr([replace(one, at="") for one in standings])
            if state != shown:
                with contextlib.suppress(FileNotFoundError):  # a run began anew while it was read
                    for page, one in zip(pages, standings, strict=True):
                        page.write(page.job.outcome(read), one)
                    shown = state
            time.sleep(max(every, _REST * (time.monotonic() - began)))
    except Stopped:
        written(pages, read)
        raise
    return written(pages, read)


def written(pages: Sequence[Page], read: "Reading | None" = None) -> list[Outcome]:
    """Write pages as their runs stand now; what they came to."""
    read = read or Reading()
    with uncollected():
        found = [page.job.outcome(read) for page in pages]
        read.save()
        for page, one in zip(pages, found, strict=True):
            page.write(one)
    return found


class _Told:
    """What a terminal says of runs that a page follows: a line at the start, where one ended, and where all did.

    Ends of runs are said twice a minute at most; at once, that nobody trains any more, or somebody again.
    """

    def __init__(self) -> None:
        self._state, self._at = (False, False, -1), -math.inf

    def now(self, found: Standing, seconds: float) -> None:
        """Say how far they are, if it is time."""
        state = found.over, found.idle, found.ended + len(found.failed)
        if state == self._state or (state[:2] == self._state[:2] and seconds - self._at < _SECONDS_BETWEEN_LINES):
            return
        self._state, self._at = state, seconds
        say(f"{found.at}  {found.in_words()}")


class _Measured:
    """Whether a grid whose runs are done has measured them too, or does not go on with that."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages
        self._left, self._since = -1, 0.0

    def over(self, now: float) -> bool:
        left = sum(len(page.job.wishes()) for page in self._pages)
        if left != self._left:
            self._left, self._since = left, now
        return not left or now - self._since >= _SECONDS_FOR_MEASURING


class Reading:
    """Reads runs for a table, each again only when a file of its folder has changed."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, str], tuple[Noted, SeedResult]] = {}
        self._indices: dict[Path, Index] = {}

    def __call__(self, run: Run, experiment: Experiment, view: str) -> SeedResult:
        """The result of a run, as `seed_result` reads it."""
        noted, found = self._kept.get((run.folder, view), (None, None))
        if noted is None or found is None or not noted.is_as_it_was:
            root = run.folder.parent
            if root not in self._indices:
                self._indices[root] = Index(root)
            noted = self._indices[root].run(run.folder)
            found = seed_result(noted, experiment, view)
            self._indices[root].note(noted)
            self._kept[run.folder, view] = noted, found
        return found

    def save(self) -> None:
        """Have what was read at hand for the next command, if it was much."""
        for index in self._indices.values():
            index.save()


def standing(cells: Sequence[Cell], *, every: int) -> Standing:
    """How far a grid is, from the run folders."""
    states = [(cell, cell.status) for cell in cells]
    ended = [cell for cell, status in states if status in DONE]
    going = [(cell, _underway(cell)) for cell, status in states if status == "running"]
    waiting = [cell for cell, status in states if status not in (*DONE, "failed", "running")]
    return Standing(
        ended=len(ended),
        failed=tuple((cell.label, cell.run.failure or "") for cell, status in states if status == "failed"),
        underway=tuple(one for _, one in going),
        waiting=len(waiting),
        seconds_left=_seconds_left(ended, going, waiting),
        at=time.strftime("%H:%M:%S"),
        every=every,
    )


def _underway(cell: Cell) -> Underway:
    """A run that goes on, from its last measurements."""
    lines = recent(cell.run)
    losses = [line for line in lines if "loss" in line]
    last = losses[-1] if losses else None
    training = cell.experiment.training
    speed = None
    if last is not None and last["seconds"] > losses[0]["seconds"]:
        steps = last["iteration"] - losses[0]["iteration"]
        speed = training.batch_size * steps / (last["seconds"] - losses[0]["seconds"])
    iteration = last["iteration"] if last is not None else 0
    total = training.iterations
    left = (total - iteration) * training.batch_size / speed if total is not None and speed else None
    return Underway(
        label=cell.label,
        iteration=iteration,
        total=total,
        loss=last["loss"] if last is not None else None,
        error=next((line["error"] for line in reversed(lines) if "error" in line), None),
        images_per_second=speed,
        seconds=last["seconds"] if last is not None else 0.0,
        seconds_left=left,
    )


def _seconds_left(
    ended: Sequence[Cell], going: Sequence[tuple[Cell, Underway]], waiting: Sequence[Cell]
) -> float | None:
    """As the grid's own terminal tells it, from what the folders say."""
    remaining = Remaining([*ended, *(cell for cell, _ in going), *waiting])
    for cell in ended:
        remaining.started(cell)
        result = cell.run.result or {}
        remaining.ended(cell, result.get("seconds") if result.get("status") == "finished" else None)
    for cell, _ in going:
        remaining.started(cell)
    attempts = [(cell, Attempt(began=-one.seconds, share=one.share)) for cell, one in going]
    left = remaining.seconds(attempts, 0.0) if going else math.nan
    return left if math.isfinite(left) else None
