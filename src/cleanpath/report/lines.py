"""The curves of a cell as a chart draws them: each averaged, their median, and the least and the greatest of many."""

import math
import statistics
from collections.abc import Sequence
from functools import cached_property

from cleanpath.report.table import DIVERGED, FINISHED, Cell, SeedResult

POINTS = 80  # a loss curve has no more; a longer one is averaged
# Single runs have as many points together as their median, as long as each has a fifth of them; with more runs than
# that, the table behind a panel has their median and their range: twelve seeds take hardly more room than three.
MOST_SINGLE = 5
MOST_LINES = 30  # of more runs the least and the greatest are drawn, place by place

Curve = Sequence[tuple[int, float]]


class Lines:
    """One curve of the runs of a cell, over `group` neighbours each; what is asked for is made once."""

    def __init__(self, cell: Cell, curve: str, group: int) -> None:
        self._cell, self._curve, self._group = cell, curve, group

    @cached_property
    def raw(self) -> list[Curve]:
        """The curves as they were recorded, of those runs that have one."""
        return [points for seed in self._cell.seeds if (points := getattr(seed, self._curve))]

    @cached_property
    def means(self) -> list[tuple[SeedResult, Curve]]:
        """The same averaged, each with its run."""
        return [
            (seed, means(points, self._group)) for seed in self._cell.seeds if (points := getattr(seed, self._curve))
        ]

    @property
    def are_many(self) -> bool:
        """Whether a line for each would be too many."""
        return len(self.raw) > MOST_LINES

    @cached_property
    def median(self) -> Curve:
        """The median line of the runs that ended; one that diverged counts as infinite from there on."""
        lines = len(self._ended) + self._silent
        each = ((at, [*values, *[math.inf] * (lines - len(values))]) for at, values in sorted(self._at.items()))
        return finite([(at, statistics.median(values)) for at, values in each])

    @property
    def end(self) -> tuple[int, float] | None:
        """The last point of the median line; None if there is no line."""
        lines, silent = self._ended, self._silent
        for at in sorted({at for line in lines for at in line}, reverse=True):
            value = statistics.median([*(line.get(at, math.inf) for line in lines), *[math.inf] * silent])
            if math.isfinite(value):
                return at, value
        return None

    @property
    def ungrouped(self) -> "Lines":
        """The same curves as they were recorded."""
        return self if self._group == 1 else Lines(self._cell, self._curve, 1)

    @cached_property
    def range(self) -> tuple[dict[int, float], dict[int, float]]:
        """The least and the greatest value of the runs that ended, by iteration."""
        least, greatest = ({at: of(values) for at, values in self._at.items()} for of in (min, max))
        return least, greatest

    @cached_property
    def single(self) -> list[Curve]:
        """What is drawn of single runs: coarser where they are several, of many their range."""
        if self.are_many:
            return [sorted(line.items()) for line in self.range]
        coarser = self.coarser if self._curve == "loss_curve" else 1
        # A line ends where it is not finite.
        return [means(points, self._group * (coarser if _is_finite(points) else 1)) for points in self.raw]

    @property
    def coarser(self) -> int:
        """Over how many points of the median a single run is averaged: all runs together have few points."""
        longest = math.ceil(max(map(len, self.raw), default=0) / self._group)
        return min(MOST_SINGLE, max(1, math.ceil(longest * len(self.raw) / POINTS)))

    @property
    def _silent(self) -> int:
        """How many runs diverged before there was a point of their curve."""
        return sum(seed.status == DIVERGED and not getattr(seed, self._curve) for seed in self._cell.seeds)

    @cached_property
    def _at(self) -> dict[int, list[float]]:
        """The values of the runs that ended, by iteration."""
        found: dict[int, list[float]] = {}
        for line in self._ended:
            for at, value in line.items():
                found.setdefault(at, []).append(value)
        return found

    @cached_property
    def _ended(self) -> list[dict[int, float]]:
        return [dict(points) for seed, points in self.means if seed.status in (FINISHED, DIVERGED)]


def means(curve: Curve, group: int) -> Curve:
    """Means over `group` neighbours, each at the last of them; what is not a number counts as infinite."""
    if group > 1:
        parts = [curve[start : start + group] for start in range(0, len(curve), group)]
        curve = [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
    if not any(value != value for _, value in curve):  # noqa: PLR0124 (that of no number; of half a million values)
        return curve
    return [(at, math.inf if math.isnan(value) else value) for at, value in curve]


def finite(curve: Curve) -> Curve:
    """Those points that have a finite value."""
    return [(at, value) for at, value in curve if math.isfinite(value)]


def _is_finite(curve: Curve) -> bool:
    return all(math.isfinite(value) for _, value in curve)
