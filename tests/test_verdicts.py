"""Verdicts from values: what each can be, what it takes, and how often it is wrong."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cleanpath.paper.claims import EQUAL, HIGHER, LOWER, NOT_HIGHER, Claim, Comparison, Contrast, Order
from cleanpath.paper.hypotheses import CLAIMS, claim_of
from cleanpath.paper.verdicts import (
    CONFIRMED,
    CONTRADICTED,
    NOT_RUN,
    UNDECIDED,
    Values,
    Verdict,
    in_numbers,
    judge,
    seeds_needed,
    seeds_sentence,
    seeds_to_contradict,
)
from tests.helpers import examples

A, B, C, D = (("table1", row, "ResNet-110") for row in ("original", "conv_1x1", "dropout", "constant_0_1"))
ERRORS = st.lists(st.tuples(st.integers(10, 60), st.integers(10, 60)), min_size=1, max_size=12)


def claim(
    direction: str = LOWER,
    comparisons: tuple[Comparison, ...] = (Contrast(plus=(A,), minus=(B,)),),
    *,
    margin: float = 0.0,
    identifier: str = "H1a",
) -> Claim:
    return Claim(
        id=identifier,
        hypothesis="H1",
        sentence="A is lower than B.",
        quantity="error",
        direction=direction,
        comparisons=comparisons,
        margin=margin,
        refuted_if="it is not",
        source="Table 1",
    )


def runs(**cells: list[float]) -> Values:
    """Values of the cells a, b, c, d, seeds counted from 0."""
    names = {"a": A, "b": B, "c": C, "d": D}
    return {(*names[name], "error"): dict(enumerate(values)) for name, values in cells.items()}


def one(asked: Claim, values: Values) -> Verdict:
    (verdict,) = judge([asked], values)
    return verdict


def spread(middle: float, n: int) -> list[float]:
    return [middle + 0.37 * ((7 * i) % n) / n for i in range(n)]


def test_clear_difference_confirms_its_claim_and_contradicts_the_opposite() -> None:
    values = runs(a=spread(6, 10), b=[x + 6 + i for i, x in enumerate(spread(6, 10))])
    found, opposite = one(claim(LOWER), values), one(claim(HIGHER), values)
    assert (found.verdict, opposite.verdict) == (CONFIRMED, CONTRADICTED)
    (result,) = found.results
    assert (result.n, result.favourable, result.rank_biserial) == (10, 10, -1.0)
    assert found.p_for == found.holm_for == opposite.p_against == 1 / 1024
    assert result.difference == pytest.approx(-10.5)
    assert result.medians == pytest.approx((np.median(spread(6, 10)), np.median([*values[*B, "error"].values()])))


def test_numbers_are_scipy_s() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(6, 1, 9), rng.normal(6.8, 1, 9)
    (result,) = one(claim(), runs(a=list(a), b=list(b))).results
    assert result.p_for == pytest.approx(stats.wilcoxon(a, b, alternative="less", mode="exact").pvalue)
    assert result.p_against == pytest.approx(stats.wilcoxon(a, b, alternative="greater", mode="exact").pvalue)
    assert result.difference == pytest.approx(np.median(a - b), abs=1e-7)


@given(ERRORS)
@examples
def test_swapping_the_sides_swaps_confirmed_and_contradicted(pairs: list[tuple[int, int]]) -> None:
    a, b = [x / 5 for x, _ in pairs], [y / 5 for _, y in pairs]
    found, swapped = one(claim(), runs(a=a, b=b)), one(claim(), runs(a=b, b=a))
    turned = {CONFIRMED: CONTRADICTED, CONTRADICTED: CONFIRMED, UNDECIDED: UNDECIDED}
    assert swapped.verdict == turned[found.verdict]
    assert (swapped.p_for, swapped.p_against) == (found.p_against, found.p_for)
    assert swapped.results[0].interval == tuple(-end for end in reversed(found.results[0].interval))
    assert one(claim(HIGHER), runs(a=b, b=a)).verdict == found.verdict


@given(ERRORS, st.integers(1, 11))
@examples
def test_names_of_seeds_do_not_matter_and_only_common_ones_count(pairs: list[tuple[int, int]], step: int) -> None:
    a, b = [x / 5 for x, _ in pairs], [y / 5 for _, y in pairs]
    found = one(claim(), runs(a=a, b=b))
    renamed = {
        key: {step * seed + 3: x for seed, x in reversed(list(run.items()))} for key, run in runs(a=a, b=b).items()
    }
    lonely = {**renamed, (*A, "error"): {**renamed[*A, "error"], -1: 99.0}}
    for values in (renamed, lonely):
        again = one(claim(), values)
        assert (again.verdict, again.p_for, again.p_against) == (found.verdict, found.p_for, found.p_against)


@given(ERRORS)
@examples
def test_factor_and_offset_of_the_quantity_change_no_verdict(pairs: list[tuple[int, int]]) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    found = one(claim(), runs(a=a, b=b))
    for factor, offset in ((0.1, 0.0), (3.0, 0.7), (1e-7, 0.0)):
        again = one(claim(), runs(a=[factor * x + offset for x in a], b=[factor * y + offset for y in b]))
        assert (again.verdict, again.p_for) == (found.verdict, found.p_for)
        assert again.results[0].rank_biserial == found.results[0].rank_biserial


@pytest.mark.parametrize("cells", [2, 4])
def test_rising_function_changes_nothing_where_only_the_order_counts(cells: int) -> None:
    order = claim(LOWER, (Order(order=(A, B, C, D)[:cells], name="A to D"),))
    values = np.random.default_rng(cells).permuted(np.tile(np.arange(4.0), (8, 1)), axis=1).T
    found, bent = (
        one(order, runs(**{name: list(line) for name, line in zip("abcd", lines, strict=True)}))
        for lines in (values, np.exp(3 * values))
    )
    assert len(set(found.results[0].differences)) > 1
    assert (bent.p_for, bent.results[0].differences) == (found.p_for, found.results[0].differences)


@given(st.integers(1, 40), st.data())
@settings(examples, max_examples=40)
def test_fewer_seeds_than_needed_never_decide(number: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, seeds_needed(number) - 1))
    values = {
        (*cell, "error"): {s: float(data.draw(st.integers(1, 3)) if i else 1) for s in range(n)}
        for i, cell in enumerate((A, B))
    }
    verdicts = judge([claim(identifier=f"H1{i}") for i in range(number)], values)
    assert {verdict.verdict for verdict in verdicts} == {UNDECIDED}
    assert all(
        f"{n} seed{'s' if n > 1 else ''}, and {seeds_needed(number)} are needed" in verdict.doubt
        for verdict in verdicts
    )


@pytest.mark.parametrize("number", [1, 2, 13, 33, 51, 52])
def test_as_many_seeds_as_needed_confirm_what_is_clear(number: int) -> None:
    n = seeds_needed(number)
    claims = [claim(identifier=f"H1{i}") for i in range(number)]
    assert {v.verdict for v in judge(claims, runs(a=[1.5] * n, b=spread(3, n)))} == {CONFIRMED}
    assert {v.verdict for v in judge(claims, runs(a=[1.5] * (n - 1), b=spread(3, n - 1)))} == {UNDECIDED}


def test_seeds_that_are_needed() -> None:
    assert [seeds_needed(k) for k in (1, 2, 3, 4, 12, 13, 25, 26, 51, 52)] == [5, 6, 6, 7, 8, 9, 9, 10, 10, 11]
    assert seeds_needed(1, alpha=0.5) == 1


def test_seeds_that_are_needed_to_contradict_grow_with_the_comparisons() -> None:
    """K · m / 2ⁿ ≤ 0.05: with the fewest seeds a claim is contradicted if all say so, with one less it cannot be."""
    cells = [("table1", f"row {i}", "ResNet-110") for i in range(11)]
    for m, direction, expected in ((1, LOWER, 10), (2, LOWER, 11), (10, LOWER, 13), (1, EQUAL, 11)):
        margin = 0.5 if direction == EQUAL else 0.0
        comparisons = tuple(Contrast(plus=(cells[0],), minus=(other,)) for other in cells[1 : m + 1])
        claims = [claim(direction, comparisons, margin=margin, identifier=f"H{i}a") for i in range(40)]
        assert seeds_to_contradict(claims[0], 40) == expected
        for n, verdict in ((expected, CONTRADICTED), (expected - 1, UNDECIDED)):
            values = {(*cell, "error"): dict.fromkeys(range(n), 6.0 - bool(i)) for i, cell in enumerate(cells)}
            found = judge(claims, values)[0]
            assert (found.verdict, found.needed, found.needed_against) == (verdict, 10, expected)
            told = f"{n} seeds, and {expected} are needed to contradict this one"
            assert (told in found.doubt) == (verdict == UNDECIDED and n >= 10)


def test_doubt_of_few_seeds_names_both_numbers() -> None:
    both = claim(LOWER, (Contrast(plus=(A,), minus=(B,)), Contrast(plus=(A,), minus=(C,))))
    found = one(both, runs(a=[1.5, 1.5], b=[3.0, 3.0], c=[3.0, 3.0]))
    assert found.doubt == "2 seeds, and 5 are needed to confirm it, 6 to contradict it"


def test_sentence_about_seeds_ends_with_the_option_that_gives_enough() -> None:
    plain = [claim(identifier=f"H{i}a") for i in range(13)]
    assert seeds_sentence(5, plain) == (
        "5 seeds cannot confirm any of 13 claims: the smallest p-value after Holm is 0.41, above 0.05; "
        "9 can, and 9 can contradict each as well: --seeds claims=9"
    )
    both = claim(LOWER, (Contrast(plus=(A,), minus=(B,)), Contrast(plus=(A,), minus=(C,))), identifier="H9z")
    assert seeds_sentence(9, [*plain[1:], both], command="cleanpath reproduce all") == (
        "9 seeds cannot contradict H9z, each of several comparisons; cleanpath reproduce all --seeds claims=10 can"
    )
    assert seeds_sentence(10, [*plain[1:], both]) is None
    assert seeds_sentence(9, plain) is None
    assert seeds_sentence(3, []) is None
    sentence = seeds_sentence(3, plain[:1])
    assert sentence is not None
    assert sentence.startswith("3 seeds cannot confirm the claim")


def test_claim_of_several_comparisons_needs_all_and_is_refuted_by_one() -> None:
    both = claim(LOWER, (Contrast(plus=(A,), minus=(B,)), Contrast(plus=(A,), minus=(C,))))
    far, mixed, worse = spread(9, 10), [5.5, 6.9] * 5, spread(2, 10)
    a = spread(6, 10)
    confirmed = one(both, runs(a=a, b=far, c=far))
    assert (confirmed.verdict, confirmed.p_for) == (CONFIRMED, 1 / 1024)
    undecided = one(both, runs(a=a, b=far, c=mixed))
    assert undecided.verdict == UNDECIDED
    assert undecided.p_for == max(result.p_for for result in undecided.results) > 0.05
    assert undecided.leading is undecided.results[1]
    contradicted = one(both, runs(a=a, b=far, c=worse))
    assert (contradicted.verdict, contradicted.p_against) == (CONTRADICTED, 2 / 1024)
    assert contradicted.leading is contradicted.results[1]


def test_claim_with_a_missing_cell_is_not_run_and_no_part_of_the_family() -> None:
    both = claim(LOWER, (Contrast(plus=(A,), minus=(B,)), Contrast(plus=(A,), minus=(C,))))
    values = runs(a=spread(1.5, 10), b=spread(3, 10))
    missing, found = judge([both, claim()], values)
    assert (missing.verdict, missing.missing, missing.family) == (NOT_RUN, (C,), 0)
    assert missing.in_words() == "not run: no seed of table1/dropout/ResNet-110"
    assert (found.verdict, found.family, found.holm_for) == (CONFIRMED, 1, 1 / 1024)
    apart = {(*A, "error"): {0: 1.0}, (*B, "error"): {1: 1.0}}
    assert one(claim(), apart).missing == (A, B)
    assert judge([], {}) == []


def test_diverged_runs_are_worst_and_two_of_them_a_tie() -> None:
    diverged = [math.inf] * 10
    found = one(claim(), runs(a=spread(6, 10), b=diverged))
    assert (found.verdict, found.results[0].difference) == (CONFIRMED, -math.inf)
    assert one(claim(), runs(a=diverged, b=spread(6, 10))).verdict == CONTRADICTED
    tie = one(claim(), runs(a=diverged, b=diverged))
    assert (tie.verdict, tie.p_for, tie.p_against) == (UNDECIDED, 1.0, 1.0)
    assert "diverged" not in json.dumps(found.to_data(), allow_nan=False)


def test_equal_claim_is_confirmed_within_its_margin_and_contradicted_beyond() -> None:
    like = claim(EQUAL, margin=0.5)
    a, wobble = spread(6, 10), [0.2, -0.1, 0.3, -0.3, 0.1, 0.05, -0.2, 0.15, -0.05, 0.25]
    near = one(like, runs(a=a, b=[x + w for x, w in zip(a, wobble, strict=True)]))
    assert (near.verdict, near.results[0].favourable, near.p_for) == (CONFIRMED, 10, 1 / 1024)
    for sign in (-1, 1):
        beyond = one(like, runs(a=a, b=[x + sign * (1 + w) for x, w in zip(a, wobble, strict=True)]))
        assert (beyond.verdict, beyond.p_against) == (CONTRADICTED, 2 / 1024)
    # At the margin neither is shown: half of the differences are beyond it.
    edge = one(like, runs(a=a, b=[x + 0.5 + w for x, w in zip(a, wobble, strict=True)]))
    assert edge.verdict == UNDECIDED


def test_equal_claim_is_two_one_sided_tests() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(6, 0.3, 9), rng.normal(6.1, 0.3, 9)
    (result,) = one(claim(EQUAL, margin=0.5), runs(a=list(a), b=list(b))).results
    lower, upper = (
        stats.wilcoxon(a - b + shift, alternative=way, mode="exact").pvalue
        for shift, way in ((0.5, "greater"), (-0.5, "less"))
    )
    assert result.p_for == pytest.approx(max(lower, upper))


def test_not_higher_allows_the_margin_and_any_improvement() -> None:
    fine = claim(NOT_HIGHER, margin=0.5)
    a = spread(6, 10)
    assert one(fine, runs(a=a, b=[x - 0.3 for x in a])).verdict == CONFIRMED
    assert one(fine, runs(a=a, b=[x + 5 for x in a])).verdict == CONFIRMED
    assert one(fine, runs(a=a, b=[x - 0.7 for x in a])).verdict == CONTRADICTED
    assert one(fine, runs(a=a, b=[x - 0.5 for x in a])).verdict == UNDECIDED


def test_rows_at_the_ceiling_or_the_floor_are_not_called_equal() -> None:
    like = claim(EQUAL, margin=0.5)
    top = one(like, runs(a=[0.2] * 10, b=[0.2] * 10))
    assert (top.verdict, top.holm_for) == (UNDECIDED, 1 / 1024)
    assert "a ceiling" in top.doubt
    assert "a ceiling" in top.in_words()
    bottom = one(like, runs(a=[math.inf] * 10, b=[math.inf] * 10))
    assert bottom.verdict == UNDECIDED
    assert "fail" in bottom.doubt
    # A row that fails is no measure for one that is to be no worse, or like it; it may still be better.
    for direction in (EQUAL, NOT_HIGHER):
        beside = one(claim(direction, margin=0.5), runs(a=[21.0] * 10, b=[21.0] * 9 + [19.0]))
        assert beside.verdict == UNDECIDED
    wide = one(claim(NOT_HIGHER, margin=0.5), runs(a=[19.0] * 10, b=[25.0] * 10))
    assert (wide.verdict, wide.holm_for) == (UNDECIDED, 1 / 1024)
    assert wide.doubt.endswith(" fails, above 20%: no measure for others")
    assert one(claim(), runs(a=[19.0] * 10, b=[25.0] * 10)).verdict == CONFIRMED
    assert one(claim(NOT_HIGHER, margin=0.5), runs(a=[25.0] * 10, b=[19.0] * 10)).verdict == CONTRADICTED
    # A difference that is there in spite of the ceiling counts, and the ceiling is still named.
    lower = one(claim(), runs(a=[0.2] * 10, b=[0.4] * 10))
    assert lower.verdict == CONFIRMED
    assert "a ceiling" in lower.doubt


def test_rows_within_one_test_image_are_not_called_equal() -> None:
    like, values = claim(EQUAL, margin=0.5), runs(a=[5.0] * 10, b=[5.2] * 10)
    assert one(like, values).verdict == CONFIRMED
    (found,) = judge([like], values, test_images={A: 360, B: 360})
    assert found.verdict == UNDECIDED
    assert "within one of 360 test images" in found.doubt
    # Of 1,000 test images 0.2% are two; and of cells that are tested on different images nothing is said.
    for images in ({A: 1000, B: 1000}, {A: 360, B: 450}):
        (apart,) = judge([like], values, test_images=images)
        assert (apart.verdict, apart.doubt) == (CONFIRMED, "")


def test_errors_on_cifar_100_and_imagenet_do_not_fail() -> None:
    """The limit of 20% was made for CIFAR-10: the paper's own numbers elsewhere are above it, and mean something."""
    for identifier, high in (("H9g", 24.0), ("H12c", 21.0)):
        asked = claim_of(identifier)
        values = {(*cell, "error"): dict.fromkeys(range(10), high + i) for i, cell in enumerate(asked.cells)}
        found = one(asked, values)
        assert (found.verdict, found.doubt) == (CONFIRMED, "")
    both = {(*cell, "error"): dict.fromkeys(range(10), 80.0 + i) for i, cell in enumerate(claim_of("H9c").cells)}
    assert "rows fail" in one(claim_of("H9c"), both).doubt


def test_order_counts_rising_pairs_less_falling_ones() -> None:
    rising = claim(HIGHER, (Order(order=(A, B, C), name="A, B, C"),))
    found = one(rising, runs(a=[1.0] * 6, b=[2.0] * 5 + [0.5], c=[3.0, 3.0, 3.0, 3.0, 1.5, math.inf]))
    # Per seed: 3 of 3 rise; at last but one b > c; at the end a > b.
    assert found.results[0].differences == pytest.approx((1, 1, 1, 1, 1 / 3, 1 / 3))
    assert found.verdict == CONFIRMED
    assert one(replace(rising, direction=LOWER), runs(a=[1.0] * 6, b=[2.0] * 6, c=[3.0] * 6)).verdict == CONTRADICTED


def test_difference_of_differences_compares_what_a_choice_costs() -> None:
    cost = claim(HIGHER, (Contrast(plus=(A, D), minus=(B, C), name="cost"),))
    found = one(cost, runs(a=[12.0] * 6, b=[6.0] * 6, c=[9.0] * 6, d=[8.0] * 6))
    assert found.results[0].differences == (5.0,) * 6
    assert found.verdict == CONFIRMED
    # What diverges on both sides says nothing about the difference.
    tie = one(cost, runs(a=[math.inf] * 6, b=[math.inf] * 6, c=[9.0] * 6, d=[8.0] * 6))
    assert tie.results[0].differences == (0.0,) * 6


def wrong_verdicts(rng: np.random.Generator, *, true: int = 0, lattice: bool = False) -> tuple[bool, bool]:
    """Whether any of five claims is wrongly confirmed or contradicted: rows are exchangeable, all against one baseline.

    Before them stand claims that are `true`, which Holm rejects first.
    """
    claims, n = 5 + true, 10
    columns = rng.normal(6, 1, size=(claims + 1, n)) + rng.normal(0, 1, size=n)
    columns[1 : true + 1] += 9
    if lattice:
        columns = np.round(columns)
    cells = [("table1", f"row {i}", "ResNet-110") for i in range(claims + 1)]
    values = {(*cell, "error"): dict(enumerate(map(float, row))) for cell, row in zip(cells, columns, strict=True)}
    asked = [claim(LOWER, (Contrast(plus=(cells[0],), minus=(cell,)),)) for cell in cells[1:]]
    told = [verdict.verdict for verdict in judge(asked, values)]
    assert told[:true] == [CONFIRMED] * true
    verdicts = set(told[true:])
    return CONFIRMED in verdicts, CONTRADICTED in verdicts


@pytest.mark.parametrize("null", [{}, {"lattice": True}, {"true": 5}], ids=["continuous", "with ties", "some true"])
def test_familywise_error_under_the_null_is_at_most_alpha_of_each_kind(null: dict[str, Any]) -> None:
    rng = np.random.default_rng(11)
    tries = 300
    found = np.array([wrong_verdicts(rng, **null) for _ in range(tries)])
    # Three standard errors above α.
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / tries)
    confirmed, contradicted = found.mean(axis=0)
    assert confirmed <= limit
    assert contradicted <= limit
    # The test can fail: it does decide now and then.
    assert confirmed + contradicted > 0


def test_familywise_error_is_exactly_what_enumeration_gives() -> None:
    """Two independent claims of seven pairs, over all 2^14 signs: how often one is wrongly decided, counted by hand.

    Of seven pairs p is k/128, where k choices of signs have at least the same sum of ranks. After Holm over two claims
    one is confirmed if its p is at most 1/40: where k ≤ 3.2, the sums 0, 1 and 2 of the ranks that go against it.
    """
    ranks, all_signs = range(1, 8), list(product((-1, 1), repeat=7))
    of_sum = {sum(r for r, s in zip(ranks, signs, strict=True) if s > 0): signs for signs in all_signs}
    times = Counter(sum(r for r, s in zip(ranks, signs, strict=True) if s > 0) for signs in all_signs)
    two = [claim(identifier="H1a"), claim(comparisons=(Contrast(plus=(C,), minus=(D,)),), identifier="H1b")]
    wrong = Counter[str]()
    for sums in product(times, repeat=2):
        a, c = ([10.0 + s * r for r, s in zip(ranks, of_sum[one_sum], strict=True)] for one_sum in sums)
        told = {verdict.verdict for verdict in judge(two, runs(a=a, b=[10.0] * 7, c=c, d=[10.0] * 7))}
        for verdict in told:
            wrong[verdict] += times[sums[0]] * times[sums[1]]
    # Neither is confirmed in (125/128)²; what Holm adds, the second at 1/20, is only where the first is confirmed.
    expected = 128**2 - 125**2
    assert (wrong[CONFIRMED], wrong[CONTRADICTED]) == (expected, expected)
    assert 0.04 < expected / 128**2 <= 0.05


def test_second_claim_of_holm_is_judged_more_mildly_than_the_first() -> None:
    """p of 1/128 and of 5/128: twice the second is above 0.05, but behind the first it counts once."""
    ranks = range(1, 8)
    clear = [10.0 - r for r in ranks]
    mixed = [10.0 + (r if r == 3 else -r) for r in ranks]
    two = [claim(identifier="H1a"), claim(comparisons=(Contrast(plus=(C,), minus=(D,)),), identifier="H1b")]
    first, second = judge(two, runs(a=clear, b=[10.0] * 7, c=mixed, d=[10.0] * 7))
    assert (first.p_for, second.p_for) == (1 / 128, 5 / 128)
    assert (first.holm_for, second.holm_for) == (2 / 128, 5 / 128)
    assert (first.verdict, second.verdict) == (CONFIRMED, CONFIRMED)
    alike = judge(two, runs(a=mixed, b=[10.0] * 7, c=mixed, d=[10.0] * 7))
    assert [one.verdict for one in alike] == [UNDECIDED, UNDECIDED]


def test_words_of_a_confirmed_claim() -> None:
    claims = [claim(identifier=f"H1{i}") for i in range(13)]
    verdict = judge(claims, runs(a=spread(6, 10), b=[18.0 + i / 10 for i in range(10)]))[0]
    words = verdict.in_words({("table1", "original"): "identity"})
    assert words.startswith("confirmed: identity (6.17) lower than conv 1x1 (18.45) by 12.2")
    assert words.endswith("], 10 of 10 seeds, p = 0.013 after Holm over 13")


def test_words_of_other_verdicts() -> None:
    a = spread(6, 10)
    contradicted = one(claim(), runs(a=[x + 1 for x in a], b=a)).in_words()
    assert contradicted == (
        "contradicted: original (7.17) higher than conv 1x1 (6.17) by 1.00 [1.00, 1.00], 0 of 10 seeds as claimed, "
        "p = 0.00098 after Holm over 1"
    )
    few = one(claim(), runs(a=[6.0, 6.0], b=[7.0, 8.0])).in_words()
    assert few == (
        "undecided: original (6.00) and conv 1x1 (7.50): difference −1.50 [−∞, ∞], 2 of 2 seeds as claimed, p = 0.25 "
        "after Holm over 1 (2 seeds, and 5 are needed to confirm it)"
    )
    tie = one(claim(), runs(a=a, b=a)).in_words()
    assert tie.startswith(
        "undecided: original (6.17) and conv 1x1 (6.17): difference 0.00 [0.00, 0.00], 0 of 10 seeds as claimed, p = 1"
    )
    like = one(claim(EQUAL, margin=0.5), runs(a=a, b=[x + 0.1 for x in a])).in_words()
    assert "margin 0.50: difference −0.10 [−0.10, −0.10], 10 of 10 seeds, p" in like
    order = one(claim(HIGHER, (Order(order=(A, B, C), name="A to C"),)), runs(a=a, b=a, c=[x + 1 for x in a]))
    assert order.in_words().startswith("confirmed: A to C: rising less falling pairs 0.67 [0.67, 0.67], 10 of 10 seeds")


def test_a_number_that_rounds_to_nothing_has_no_sign() -> None:
    assert [in_numbers(value, 2) for value in (-0.001, -0.004, -0.006, -math.inf)] == ["0.00", "0.00", "−0.01", "−∞"]


def test_words_name_columns_where_those_differ() -> None:
    other = ("table1", "original", "ResNet-164")
    values = {(*A, "error"): {0: 6.6}, (*other, "error"): {0: 5.9}}
    words = one(claim(HIGHER, (Contrast(plus=(A,), minus=(other,)),)), values).in_words()
    assert "ResNet-110 (6.60) and ResNet-164 (5.90): difference 0.70" in words


def test_all_claims_of_the_paper_are_judged_and_told() -> None:
    rng = np.random.default_rng(3)
    cells = {(*cell, asked.quantity) for asked in CLAIMS for cell in asked.cells}
    values = {key: dict(enumerate(map(float, rng.normal(8, 1, 10)))) for key in sorted(cells)}
    verdicts = judge(CLAIMS, values)
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS)
    assert {verdict.family for verdict in verdicts} == {len(CLAIMS)}
    for verdict in verdicts:
        data = json.loads(json.dumps(verdict.to_data(), allow_nan=False))
        assert data["verdict"] == verdict.verdict != NOT_RUN
        assert data["in_words"] == verdict.in_words()
        assert "after Holm over" in data["in_words"]
    assert {verdict.verdict for verdict in judge(CLAIMS, {})} == {NOT_RUN}


def test_infinite_numbers_are_words_in_data() -> None:
    data = one(claim(), runs(a=[1.0, 1.0], b=[math.inf, 2.0])).to_data()
    json.dumps(data, allow_nan=False)
    assert data["results"][0]["differences"] == ["-inf", -1.0]
    assert data["results"][0]["interval"] == ["-inf", "inf"]


def test_claim_reads_its_own_quantity() -> None:
    early = claim_of("H4a")
    values: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for place, cell in enumerate(early.cells):
        values[*cell, "early_loss"] = dict.fromkeys(range(6), 2.0 - place)
        values[*cell, "train_loss"] = dict.fromkeys(range(6), 1.0 + place)
    assert one(early, values).verdict == CONFIRMED
