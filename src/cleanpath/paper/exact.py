"""Exact statistics of a number per seed: tests of paired differences d_s, intervals, correction for many claims.

Numbers in, numbers out. The test is Wilcoxon's signed-rank test. Under its null hypothesis the two sides of a pair are
exchangeable, so that each d_s is as likely as −d_s; given all |d_s|, the 2^m signs of the m differences that are not 0
are equally likely, and the p-value counts them. No normal approximation, no random numbers.

Zeros are Pratt's: ranked with the others, then left out of the sum. Ties share the mean of their ranks. An infinite
difference (one side diverged) has the highest rank.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

# Differences are told apart down to this part of the largest value: 6.2 − 6.0 ties with 4.6 − 4.4.
RESOLUTION = 9


def p_above(differences: Sequence[float], shift: float = 0.0) -> float:
    """P(W ≥ w) of the sum W of the ranks of positive d − shift: small where differences are mostly above it."""
    ranks, positive = _signed_ranks([d - shift for d in differences])
    return float(_tails(tuple(sorted(ranks)))[sum(rank for rank, up in zip(ranks, positive, strict=True) if up)])


def p_below(differences: Sequence[float], shift: float = 0.0) -> float:
    """The same for differences that are mostly below it."""
    return p_above([-d for d in differences], -shift)


def rank_biserial(differences: Sequence[float]) -> float:
    """Ranks of positive differences less those of negative ones, as a share of all: −1 to 1, 0 without any."""
    ranks, positive = _signed_ranks(differences)
    signed = sum(rank if up else -rank for rank, up in zip(ranks, positive, strict=True))
    return signed / sum(ranks) if ranks else 0.0


def interval(differences: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """The least and the greatest shift θ that the test of d − θ does not reject at (1 − confidence) / 2 a side.

    The test changes at the means of two differences only (Hodges and Lehmann), so it is made at each of them and once
    between neighbours. Infinite where there are too few pairs to reject any shift, below six for 95%.
    """
    reject = (1 - confidence) / 2
    finite = (a + b for i, a in enumerate(differences) for b in differences[i:] if math.isfinite(a + b))
    means = sorted({total / 2 for total in finite}) or [0.0]
    beyond = 1 + abs(means[0]) + abs(means[-1])
    # A shift to test, and the first and last of those that it stands for.
    stretches = [(-beyond, -math.inf, means[0])]
    for mean, following in pairwise([*means, math.inf]):
        stretches += [(mean, mean, mean), (min((mean + following) / 2, beyond), mean, following)]
    low = (first for t, first, _ in stretches if p_above(differences, t) > reject)
    high = (last for t, _, last in reversed(stretches) if p_below(differences, t) > reject)
    return next(low, math.inf), next(high, -math.inf)


def ranks_around_median(n: int, *, confidence: float = 0.95) -> tuple[int, float]:
    """The greatest k with which the k-th least and the k-th greatest of n hold the true median, and how often they do.

    They miss it if fewer than k of the n lie on one of its sides: in 2 P(B < k) of all cases, B binomial of n and 1/2.
    That is exact whatever the distribution, and at most so where values tie. k is 1 where even the least and the
    greatest hold it less often than `confidence`, below six for 95%.
    """
    k, fewer, more = 1, 1, n + 1  # 2^n P(B < k), and P(B < k + 1)
    while k < (n + 1) // 2 and 2 * more / 2**n <= 1 - confidence:
        k, fewer, more = k + 1, more, more + math.comb(n, k + 1)
    return k, 1 - 2 * fewer / 2**n if n else 0.0


def median(numbers: Sequence[float]) -> float:
    """The median, also of infinities; 0 where its two middle numbers are −∞ and ∞."""
    middle = sorted(numbers)[(len(numbers) - 1) // 2 : len(numbers) // 2 + 1]
    found = middle[0] if middle[0] == middle[-1] else (middle[0] + middle[-1]) / 2
    return 0.0 if math.isnan(found) else found


def decimals(values: Sequence[float]) -> int:
    """The decimals to which differences of these values are kept: `RESOLUTION` digits from the first of the largest."""
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return RESOLUTION - math.floor(math.log10(largest)) if largest else 0


def on_grid(number: float, places: int) -> float:
    """How often 10^−places goes into the number, a whole number: sums of such are exact, so ties are ties."""
    return number if math.isinf(number) else float(round(number * 10.0**places))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the i-th smallest of K times K − i + 1, no smaller than the one before it, at most 1.

    Rejecting those at most α bounds the chance of one or more false rejections by α, however the tests depend on each
    other.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, least = [1.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = least
    return adjusted


def _signed_ranks(differences: Sequence[float]) -> tuple[list[int], list[bool]]:
    """Twice the rank of every difference that is not 0, and whether it is positive."""
    sizes = sorted(abs(d) for d in differences)
    first = {size: place for place, size in reversed(list(enumerate(sizes, start=1)))}
    last = {size: place for place, size in enumerate(sizes, start=1)}
    kept = [d for d in differences if d != 0]
    return [first[abs(d)] + last[abs(d)] for d in kept], [d > 0 for d in kept]


@lru_cache(maxsize=4096)
def _tails(ranks: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """P(W ≥ w) for every w: how many of the 2^m choices of signs reach it. Exact up to 53 differences."""
    ways = np.zeros(sum(ranks) + 1)
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] += ways[:-rank]
    return np.cumsum(ways[::-1])[::-1] / 2.0 ** len(ranks)
