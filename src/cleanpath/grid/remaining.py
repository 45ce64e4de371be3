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
        self._work: dict[Experiment, float] = {}
        self._waiting = Counter[Experiment]()
        self._took = defaultdict[Experiment, list[float]](list)
        self._like = _Like()
        self._running = self._most = 0
        for cell in todo:
            self._work[kind(cell)] = cell.work
            self._waiting[kind(cell)] += 1

    def started(self, cell: Cell) -> None:
        """It waits no more."""
        self._waiting[kind(cell)] -= 1
        self._running += 1
        self._most = max(self._most, self._running)

    def put_off(self, cell: Cell) -> None:
        """It waits again."""
        self._waiting[kind(cell)] += 1
        self._running -= 1

    def ended(self, cell: Cell, seconds: float | None) -> None:
        """A cell ended, after so many seconds, all of it counted; None if that is not known."""
        self._running -= 1
        if seconds is not None:
            self._took[kind(cell)].append(seconds)
            self._like.add(cell.work, seconds)

    def seconds(self, running: Sequence[tuple[Cell, Attempt]], now: float) -> float:
        """Until the last cell ends, as many at a time as ran so far; nan while nothing is known."""
        like = self._like
        if not like.works:
            like = _Like()
            for cell, attempt in running:
                if (whole := attempt.whole(now)) is not None:
                    like.add(cell.work, whole)
        if not like.works:
            return math.nan
        left = []
        for cell, attempt in running:
            whole = attempt.whole(now)
            left.append((1 - attempt.share) * (self._expected(kind(cell), like) if whole is None else whole))
        for one, count in self._waiting.items():
            left += [self._expected(one, like)] * count
        return makespan(left, max(1, self._most))

    def _expected(self, one: Experiment, like: "_Like") -> float:
        took = self._took.get(one)
        return sum(took) / len(took) if took else like.seconds(self._work[one])


class _Like:
    """What cells took, by their work."""

    def __init__(self) -> None:
        self.works: list[float] = []
        self._took = defaultdict[float, list[float]](list)

    def add(self, work: float, seconds: float) -> None:
        """One more."""
        if work not in self._took:
            bisect.insort(self.works, work)
        self._took[work].append(seconds)

    def seconds(self, work: float) -> float:
        """What a cell takes in proportion to the nearest in work, all of equal work together, at least so many."""
        high = bisect.bisect(self.works, work)
        low = high - 1
        found: list[float] = []
        together = 0.0
        while len(found) < _NEIGHBOURS and (low >= 0 or high < len(self.works)):
            above = math.inf if high == len(self.works) else self.works[high] / work
            below = math.inf if low < 0 else work / self.works[low]
            nearest = self.works[low if below <= above else high]
            low, high = (low - 1, high) if below <= above else (low, high + 1)
            found += self._took[nearest]
            together += nearest * len(self._took[nearest])
        return work * sum(found) / together
