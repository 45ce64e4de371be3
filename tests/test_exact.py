"""The exact tests against enumeration, scipy, and what must hold of any p-value."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cleanpath.paper import exact
from tests.helpers import examples

WHOLE = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=8)
WITH_INFINITIES = st.lists(st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 1.0, 2.0, math.inf]), min_size=1, max_size=7)


def by_enumeration(differences: Sequence[float]) -> float:
    """P(W ≥ w) over all signs, with ranks that are counted one by one."""
    sizes = [abs(d) for d in differences]
    ranks = [sum(s < size for s in sizes) + (sum(s == size for s in sizes) + 1) / 2 for size in sizes]
    kept = [(rank, d > 0) for rank, d in zip(ranks, differences, strict=True) if d]
    reached = sum(rank for rank, up in kept if up)
    sums = [
        sum(rank for (rank, _), up in zip(kept, signs, strict=True) if up)
        for signs in product((False, True), repeat=len(kept))
    ]
    return sum(total >= reached for total in sums) / len(sums)


@given(st.one_of(WHOLE, WITH_INFINITIES))
@examples
def test_p_value_counts_the_signs_that_reach_the_sum(differences: list[float]) -> None:
    assert exact.p_above(differences) == by_enumeration(differences)
    assert exact.p_below(differences) == by_enumeration([-d for d in differences])


@pytest.mark.parametrize("n", [1, 4, 10, 25, 40])
def test_p_value_without_ties_is_scipy_s(n: int) -> None:
    d = np.random.default_rng(n).normal(0.3, 1, size=n)
    above, below = (stats.wilcoxon(d, alternative=way, mode="exact").pvalue for way in ("greater", "less"))
    assert exact.p_above(list(d)) == pytest.approx(above, rel=1e-12)
    assert exact.p_below(list(d)) == pytest.approx(below, rel=1e-12)


@given(st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=8).filter(any))
@examples
def test_p_value_with_zeros_and_ties_is_scipy_s_permutation_of_signs(differences: list[float]) -> None:
    def statistic(x: Any, axis: int) -> Any:
        # Ranks do not depend on signs: zeros keep theirs, and add nothing.
        return np.sum(stats.rankdata(np.abs(x), axis=axis) * (x > 0), axis=axis)

    found = stats.permutation_test(
        (np.array(differences),), statistic, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert exact.p_above(differences) == pytest.approx(found.pvalue, rel=1e-9)


@given(st.one_of(WHOLE, WITH_INFINITIES))
@examples
def test_p_value_is_at_most_alpha_no_more_often_than_alpha(differences: list[float]) -> None:
    """Over all signs of the same sizes, each as likely: exactly what exchangeable sides give."""
    kept = [d for d in differences if d]
    zeros = [0.0] * (len(differences) - len(kept))
    p_values = [
        exact.p_above([*zeros, *(abs(d) * sign for d, sign in zip(kept, signs, strict=True))])
        for signs in product((-1, 1), repeat=len(kept))
    ]
    for alpha in p_values:
        assert sum(p <= alpha for p in p_values) / len(p_values) <= alpha + 1e-12


@given(st.one_of(WHOLE, WITH_INFINITIES), st.randoms(use_true_random=False))
@examples
def test_order_of_seeds_and_a_change_of_unit_change_nothing(differences: list[float], random: object) -> None:
    mixed = sorted(differences, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert exact.p_above(mixed) == exact.p_above(differences)
    assert exact.p_above([d * 4 for d in differences]) == exact.p_above(differences)
    # Any odd rising function: only the order of the sizes counts.
    assert exact.p_above([math.copysign(d * d, d) for d in differences]) == exact.p_above(differences)
    assert exact.rank_biserial(mixed) == exact.rank_biserial(differences)


@given(st.one_of(WHOLE, WITH_INFINITIES))
@examples
def test_sides_swap(differences: list[float]) -> None:
    turned = [-d for d in differences]
    assert exact.p_above(turned) == exact.p_below(differences)
    assert exact.rank_biserial(turned) == -exact.rank_biserial(differences)
    low, high = exact.interval(differences)
    assert exact.interval(turned) == (-high, -low)
    assert exact.median(turned) == -exact.median(differences)


@pytest.mark.parametrize(("n", "place"), [(6, 1), (8, 4), (10, 9), (12, 14), (15, 26), (20, 53)])
def test_interval_is_hodges_and_lehmann_s(n: int, place: int) -> None:
    """Without ties its ends are the k-th smallest and largest mean of two; k from printed tables of the test."""
    d = list(np.random.default_rng(n).normal(size=n))
    means = sorted((d[i] + d[j]) / 2 for i in range(n) for j in range(i, n))
    assert exact.interval(d) == (means[place - 1], means[-place])


@given(WHOLE, st.integers(-14, 14))
@examples
def test_interval_holds_the_shifts_that_are_not_rejected(differences: list[float], halves: int) -> None:
    shift = halves / 2 + 0.25 * (halves % 2)
    low, high = exact.interval(differences)
    if exact.p_above(differences, shift) > 0.025 and exact.p_below(differences, shift) > 0.025:
        assert low <= shift <= high


@given(st.integers(-3, 3), st.lists(st.integers(0, 3), min_size=6, max_size=7))
@settings(examples, max_examples=25)
def test_interval_misses_the_truth_no_more_often_than_it_says(truth: int, sizes: list[int]) -> None:
    """Also where values are few and tie: over all signs around the true shift."""
    intervals = [
        exact.interval([float(truth + sign * size) for sign, size in zip(signs, sizes, strict=True)])
        for signs in product((-1, 1), repeat=len(sizes))
    ]
    assert sum(not low <= truth <= high for low, high in intervals) / len(intervals) <= 0.05


def test_interval_of_few_pairs_or_of_diverged_runs_has_no_end() -> None:
    assert exact.interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (-math.inf, math.inf)
    assert exact.interval([]) == (-math.inf, math.inf)
    assert exact.interval([1.0] * 6) == (1.0, 1.0)
    assert exact.interval([math.inf] * 6) == (math.inf, math.inf)
    low, high = exact.interval([1.0, 2.0, 3.0, 4.0, 5.0, math.inf])
    assert (low, high) == (1.0, math.inf)


def test_infinite_differences_have_the_highest_rank() -> None:
    # Ranks 1, 2, 3; the infinite one alone outweighs nothing more than rank 3.
    assert exact.p_above([1.0, 2.0, math.inf]) == 1 / 8
    assert exact.p_above([-1.0, -2.0, math.inf]) == 5 / 8
    assert exact.rank_biserial([-1.0, math.inf]) == pytest.approx((2 - 1) / 3)


def test_zeros_are_ranked_and_left_out() -> None:
    # Pratt: 0 has rank 1, so −1 has 2 and 2 has 3; without it they would be 1 and 2.
    assert exact.rank_biserial([0.0, -1.0, 2.0]) == pytest.approx((3 - 2) / 5)
    assert exact.p_above([0.0, 0.0]) == 1.0
    assert exact.p_above([0.0] * 3 + [1.0] * 4) == 1 / 16


def test_median_of_infinities() -> None:
    assert exact.median([1.0, math.inf]) == math.inf
    assert exact.median([math.inf, math.inf]) == math.inf
    assert exact.median([-math.inf, math.inf]) == 0.0
    assert exact.median([3.0, 1.0, 2.0, 10.0]) == 2.5


def test_grid_makes_ties_of_what_differs_by_rounding_only() -> None:
    a, b = 6.2 - 6.0, 4.6 - 4.4
    assert a != b
    places = exact.decimals([6.2, 6.0, 4.6, 4.4])
    assert exact.on_grid(a, places) == exact.on_grid(b, places) == 200_000_000.0
    assert exact.on_grid(math.inf, places) == math.inf
    assert exact.decimals([]) == exact.decimals([0.0, math.inf]) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@examples
def test_holm_keeps_the_order_and_never_falls_below_the_raw_values(p_values: list[float]) -> None:
    adjusted = exact.holm(p_values)
    assert all(raw <= after <= 1 for raw, after in zip(p_values, adjusted, strict=True))
    assert max(adjusted) <= 1
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(adjusted)
    # Never larger than Bonferroni's, and its rejections are those of the step-down procedure.
    assert all(after <= min(1.0, len(p_values) * raw) for raw, after in zip(p_values, adjusted, strict=True))
    for alpha in (0.01, 0.05, 0.2):
        steps = 0
        for place, raw in enumerate(sorted(p_values)):
            if (len(p_values) - place) * raw > alpha:
                break
            steps += 1
        assert sum(after <= alpha for after in adjusted) == steps


def test_holm_of_a_printed_example() -> None:
    assert exact.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert exact.holm([]) == []


@pytest.mark.parametrize("n", range(1, 13))
def test_interval_of_the_median_holds_it_as_often_as_it_says(n: int) -> None:
    """Counted: each run lies below or above the median; the interval misses it where too few lie on one side."""
    k, share = exact.ranks_around_median(n)
    below = [sum(sides) for sides in product((0, 1), repeat=n)]
    held = [sum(place <= count <= n - place for count in below) / 2**n for place in range(1, n // 2 + 2)]
    assert share == held[k - 1]
    assert (share >= 0.95) == (n >= 6)
    assert all(narrower < 0.95 for narrower in held[k:])


@given(st.integers(1, 60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@examples
def test_interval_of_the_median_is_scipy_s_of_the_binomial(n: int, confidence: float) -> None:
    k, share = exact.ranks_around_median(n, confidence=confidence)
    assert share == pytest.approx(1 - 2 * stats.binom.cdf(k - 1, n, 0.5), abs=1e-12)
    assert k == 1 or share >= confidence
    assert 1 <= k <= (n + 1) // 2
