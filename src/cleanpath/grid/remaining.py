"""How long the rest of a grid will take, from its cells that ended and those that run; no clock is looked at here."""

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cleanpath.experiment import Experiment
from cleanpath.grid.plan import Cell, kind, makespan

_NEIGHBOURS = 5
_KNOWN_FROM = 0.02
"""Share of a cell from which on its own speed says more than that of others."""


@dataclass(kw_only=True)
class Attempt:
    """A cell that runs: since when, from which share of its iterations on, and how far it is."""

    began: float
    first: float = 0.0
    share: float = 0.0

    def whole(self, now: float) -> float | None:
        """Seconds that all of it takes at its own speed; None while too little is done."""
        done = self.share - self.first
        return (now - self.began) / done if done >= _KNOWN_FROM else None


class Remaining:
    """What is expected of cells that wait: as those took that differ in their seed only, else those of most like work.

    A cell's work says which of two takes longer, not by how much when they are of other networks, so that few
    neighbours say more than all that ended.
    """

    def __init__(self, todo: Iterable[Cell]) -> None:
        self._work: dict[Experiment, int] = {}
        self._waiting = Counter[Experiment]()
        self._took = defaultdict[Experiment, list[float]](list)
        self._ended: list[tuple[int, float]] = []
        for cell in todo:
            self._work[kind(cell)] = cell.work
            self._waiting[kind(cell)] += 1

    def started(self, cell: Cell) -> None:
        """It waits no more."""
        self._waiting[kind(cell)] -= 1

    def waits(self, cell: Cell) -> None:
        """It waits again."""
        self._waiting[kind(cell)] += 1

    def took(self, cell: Cell, seconds: float) -> None:
        """A cell ended after so many seconds, all of it counted."""
        self._took[kind(cell)].append(seconds)
        bisect.insort(self._ended, (cell.work, seconds))

    def seconds(self, running: Sequence[tuple[Cell, Attempt]], now: float) -> float:
        """Until the last cell ends, as many at a time as run now; nan while nothing is known."""
        known = [(cell.work, whole) for cell, attempt in running if (whole := attempt.whole(now)) is not None]
        samples = self._ended or sorted(known)
        if not samples:
            return math.nan
        left = []
        for cell, attempt in running:
            whole = attempt.whole(now)
            rest = (1 - attempt.share) * (self._expected(kind(cell), samples) if whole is None else whole)
            left.append(rest)
        for one, count in self._waiting.items():
            left += [self._expected(one, samples)] * count
        return makespan(left, max(1, len(running)))

    def _expected(self, one: Experiment, samples: Sequence[tuple[int, float]]) -> float:
        if took := self._took.get(one):
            return sum(took) / len(took)
        work = self._work[one]
        at = bisect.bisect(samples, (work, 0.0))
        around = samples[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
        nearest = sorted(around, key=lambda sample: abs(math.log(sample[0] / work)))[:_NEIGHBOURS]
        return work * sum(seconds for _, seconds in nearest) / sum(work for work, _ in nearest)
