"""What can be said of a whole column: whether its rows can be told apart, and whether their order is the paper's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from cleanpath.paper.exact import median
from cleanpath.paper.published import FAIL_ABOVE, Published

# From 99% accuracy a column is at its ceiling: what rows still differ by is not what the paper compares.
CEILING_ERROR = 1.0
# Rows whose order is compared by counting all orders; more take more than seconds.
MOST_ROWS = 12

Errors = Mapping[str, Mapping[int, float]]


def ceiling(errors: Errors, *, test_images: int | None = None) -> str | None:
    """Why the rows of a column cannot be told apart because all are about as good as can be; None if they can.

    `errors` are test errors in percent by row and seed, ∞ for a run that diverged. All medians at 99% accuracy or more
    are a ceiling, and so are medians that all lie within one of the `test_images` of the best.
    """
    medians = _medians(errors)
    if len(medians) < 2 or math.isinf(max(medians)):
        return None
    if max(medians) <= CEILING_ERROR:
        return f"{_all(medians)} rows are at 99% accuracy or more: a ceiling, where rows cannot be told apart"
    if test_images and max(medians) - min(medians) <= 100 / test_images * (1 + 1e-9):
        return (
            f"{_all(medians)} rows are within one of {test_images} test images of the best: a ceiling, where rows "
            "cannot be told apart"
        )
    return None


def floor(errors: Errors) -> str | None:
    """Why the rows of a column cannot be told apart because all fail, by the paper's limit of 20%; None if they can."""
    medians = _medians(errors)
    if len(medians) < 2 or min(medians) <= FAIL_ABOVE:
        return None
    return f"{_all(medians)} rows fail, above {FAIL_ABOVE:g}%: rows that fail cannot be told apart"


def _all(medians: Sequence[float]) -> str:
    return "both" if len(medians) == 2 else f"all {len(medians)}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two columns put their rows into the same order; `tau` and `p` are None where `reason` says why."""

    n: int
    tau: float | None = None
    """Kendall's τ_b, −1 to 1."""
    p: float | None = None
    """The share of all orders of the rows that agree with the paper at least as well."""
    reason: str = ""

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"n": self.n, "tau_b": self.tau, "p": self.p, "reason": self.reason}

    def in_words(self) -> str:
        """One line."""
        if self.tau is None:
            return f"order of rows against the paper's: not compared, {self.reason}"
        return f"order of {self.n} rows against the paper's: τ = {self.tau:.2f}" + (
            f" (exact p = {self.p:.2g}, one-sided)" if self.p is not None else f" ({self.reason})"
        )


def rank_agreement(ours: Mapping[str, Published | None], paper: Mapping[str, Published | None]) -> Agreement:
    """Kendall's τ_b of two columns of errors by row, and its exact one-sided p-value over all orders of the rows.

    τ_b = (C − D) / √((N − T₁)(N − T₂)) over the N pairs of rows: C in the same order in both, D in opposite orders, T
    tied in one column. Not Spearman's ρ, since the paper prints several failures as one word: τ_b counts pairs and
    leaves tied ones out, while ρ would depend on which rank they are given. A word (`fail`, `diverged`, `failed`) and ∞
    are worst, and tied; a row that is None or absent in either column is left out.
    """
    rows = [row for row in paper if paper[row] is not None and ours.get(row) is not None]
    a, b = (_levels([_as_number(column[row]) for row in rows]) for column in (ours, paper))
    n = len(rows)
    if n < 3:
        return Agreement(n=n, reason="fewer than 3 rows are in both columns")
    for levels, whose in ((a, "our"), (b, "the paper's")):
        if len(set(levels)) == 1:
            return Agreement(n=n, reason=f"all of {whose} values are tied")
    pairs = [(_sign(a[i] - a[j]), _sign(b[i] - b[j])) for i, j in combinations(range(n), 2)]
    score = sum(x * y for x, y in pairs)
    untied = [sum(abs(pair[k]) for pair in pairs) for k in (0, 1)]
    tau = score / math.sqrt(untied[0] * untied[1])
    if n > MOST_ROWS:
        return Agreement(n=n, tau=tau, reason=f"no p-value: more than {MOST_ROWS} rows to count orders of")
    return Agreement(n=n, tau=tau, p=_share_at_least(score, _sizes(a), _sizes(b)))


def _share_at_least(score: int, one: Sequence[int], other: Sequence[int]) -> float:
    """The share of all orders whose C − D is at least `score`; both columns as the sizes of their levels, rising.

    Rows are dealt out to the levels of one column in turn; what matters is how many of each level of the other column
    are left, so orders are counted by that state. The array of a state has the ways to each C − D.
    """
    classes, groups = sorted((one, other), key=lambda sizes: math.prod(size + 1 for size in sizes))
    most = math.comb(sum(groups), 2)
    start = np.zeros(2 * most + 1, dtype=np.int64)
    start[most] = 1
    states = {tuple(classes): start}
    for size in groups:
        following: dict[tuple[int, ...], Any] = {}
        for left, ways in states.items():
            for dealt in _deals(left, size):
                rest = tuple(have - out for have, out in zip(left, dealt, strict=True))
                times = math.prod(math.comb(have, out) for have, out in zip(left, dealt, strict=True))
                shift = sum(
                    out * later * _sign(j - i) for i, out in enumerate(dealt) if out for j, later in enumerate(rest)
                )
                into = following.setdefault(rest, np.zeros_like(start))
                into += times * np.roll(ways, shift)
        states = following
    (ways,) = states.values()
    return int(ways[most + score :].sum()) / int(ways.sum())


def _deals(left: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    """All ways to take `size` rows out of what is left, by level."""
    if len(left) == 1:
        if size <= left[0]:
            yield (size,)
        return
    for taken in range(min(size, left[0]) + 1):
        for others in _deals(left[1:], size - taken):
            yield (taken, *others)


def _medians(errors: Errors) -> list[float]:
    return [median(list(runs.values())) for runs in errors.values() if runs]


def _as_number(value: Published | None) -> float:
    return value if isinstance(value, int | float) else math.inf


def _levels(values: Sequence[float]) -> list[int]:
    order = sorted(set(values))
    return [order.index(value) for value in values]


def _sizes(levels: Sequence[int]) -> list[int]:
    return [levels.count(level) for level in sorted(set(levels))]


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
