"""Ceilings, floors, and the agreement of two orders, against brute force and scipy."""

import json
import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cleanpath.paper.columns import Agreement, ceiling, floor, rank_agreement
from cleanpath.paper.published import FAIL, Published, published_table
from tests.helpers import examples

LEVELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=6)


def column(values: list[int] | list[float]) -> dict[str, Published | None]:
    return {f"row {i}": float(value) for i, value in enumerate(values)}


def score(a: list[int], b: list[int]) -> int:
    """C − D, pair by pair."""
    return sum(
        ((a[i] > a[j]) - (a[i] < a[j])) * ((b[i] > b[j]) - (b[i] < b[j])) for i in range(len(a)) for j in range(i)
    )


@given(LEVELS.filter(lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))))
@examples
def test_tau_is_scipy_s_and_its_p_value_counts_all_orders(pairs: list[tuple[int, int]]) -> None:
    ours, paper = [a for a, _ in pairs], [b for _, b in pairs]
    found = rank_agreement(column(ours), column(paper))
    assert found.tau == pytest.approx(stats.kendalltau(ours, paper, variant="b").statistic)
    scores = [score(list(order), paper) for order in permutations(ours)]
    assert found.p == sum(one >= score(ours, paper) for one in scores) / len(scores)


@pytest.mark.parametrize("n", [3, 7, 12])
def test_p_value_without_ties_is_scipy_s(n: int) -> None:
    ours = [(5 * i + i * i) % 13 + i / 100 for i in range(n)]
    paper = [float(i) for i in range(n)]
    expected = stats.kendalltau(ours, paper, alternative="greater", method="exact").pvalue
    assert rank_agreement(column(ours), column(paper)).p == pytest.approx(expected, rel=1e-9)


def test_paper_agrees_with_itself_and_its_failures_are_tied_worst() -> None:
    paper = {row: value for (row, _), value in published_table("table1").cells.items()}
    itself = rank_agreement(dict(paper), paper)
    assert itself.n == 11
    assert itself.tau == pytest.approx(1.0)
    # 11! orders, and the 4! of the tied rows agree perfectly.
    assert itself.p == pytest.approx(math.factorial(4) / math.factorial(11))
    # In which order ours fails is no disagreement, but where the paper ties and we do not, τ_b is below 1.
    failing = [row for row, value in paper.items() if value == FAIL]
    ordered = {**paper, **{row: 30.0 + i for i, row in enumerate(failing)}}
    backwards = {**paper, **{row: 40.0 - i for i, row in enumerate(failing)}}
    assert rank_agreement(ordered, paper) == rank_agreement(backwards, paper)
    tau = rank_agreement(ordered, paper).tau
    assert tau is not None
    assert 0.9 < tau < 1


def test_diverged_and_failed_rows_are_worst_and_tied() -> None:
    paper = column([1, 2, 3, 4])
    words: dict[str, Published | None] = {"row 0": 1.0, "row 1": 2.0, "row 2": "diverged", "row 3": "failed"}
    numbers: dict[str, Published | None] = {"row 0": 1.0, "row 1": 2.0, "row 2": math.inf, "row 3": FAIL}
    assert rank_agreement(words, paper) == rank_agreement(numbers, paper) == rank_agreement(column([1, 2, 9, 9]), paper)


def test_missing_rows_are_left_out() -> None:
    paper = {**column([1, 2, 3, 4]), "unprinted": None}
    ours: dict[str, Published | None] = {"row 0": 5.0, "row 1": None, "row 2": 6.0, "row 3": 7.0, "unprinted": 1.0}
    assert rank_agreement(ours, paper) == rank_agreement(column([1, 2, 3]), column([1, 2, 3]))


@pytest.mark.parametrize(
    ("ours", "paper", "reason"),
    [
        ([1, 2], [1, 2], "fewer than 3 rows"),
        ([], [], "fewer than 3 rows"),
        ([5, 5, 5], [1, 2, 3], "all of our values are tied"),
        ([1, 2, 3], [5, 5, 5], "all of the paper's values are tied"),
    ],
)
def test_columns_without_an_order_are_not_compared(ours: list[int], paper: list[int], reason: str) -> None:
    found = rank_agreement(column(ours), column(paper))
    assert (found.tau, found.p) == (None, None)
    assert reason in found.reason
    assert reason in found.in_words()


def test_many_rows_have_tau_but_no_p_value() -> None:
    found = rank_agreement(column(list(range(13))), column(list(range(13))))
    assert (found.tau, found.p) == (1.0, None)
    assert "more than 12 rows" in found.in_words()


@given(LEVELS)
@examples
def test_rising_functions_of_either_column_change_nothing(pairs: list[tuple[int, int]]) -> None:
    ours, paper = [a for a, _ in pairs], [b for _, b in pairs]
    bent = rank_agreement(column([math.exp(a) for a in ours]), column([b**3 for b in paper]))
    assert bent == rank_agreement(column(ours), column(paper))


def test_agreement_as_data_and_in_words() -> None:
    found = rank_agreement(column([1, 2, 3, 4]), column([1, 2, 3, 4]))
    assert json.loads(json.dumps(found.to_data(), allow_nan=False)) == {
        "n": 4,
        "tau_b": 1.0,
        "p": pytest.approx(1 / 24),
        "reason": "",
    }
    assert found.in_words() == "order of 4 rows against the paper's: τ = 1.00 (exact p = 0.042, one-sided)"
    assert isinstance(found, Agreement)


def test_column_at_99_percent_is_a_ceiling() -> None:
    errors = {"a": {0: 0.2, 1: 0.4}, "b": {0: 1.0, 1: 0.8}, "c": {0: 0.0, 1: 0.0}}
    sentence = ceiling(errors)
    assert sentence is not None
    assert sentence.startswith("all 3 rows are at 99% accuracy or more: a ceiling")
    assert ceiling({**errors, "d": {0: 1.2, 1: 1.0}}) is None
    assert ceiling({**errors, "d": {0: math.inf, 1: math.inf}}) is None


def test_column_within_one_test_image_is_a_ceiling() -> None:
    errors = {"a": {0: 4.0}, "b": {0: 4.2}, "c": {0: 4.1}}
    sentence = ceiling(errors, test_images=500)
    assert sentence is not None
    assert "within one of 500 test images" in sentence
    assert ceiling(errors, test_images=1000) is None
    assert ceiling(errors) is None


def test_one_row_or_none_is_no_ceiling_and_no_floor() -> None:
    assert ceiling({"a": {0: 0.0}, "b": {}}, test_images=500) is None
    assert ceiling({}) is None
    assert floor({"a": {0: 90.0}}) is None


def test_column_whose_rows_all_fail_is_a_floor() -> None:
    assert floor({"a": {0: 90.0}, "b": {0: math.inf}}) == (
        "both rows fail, above 20%: rows that fail cannot be told apart"
    )
    assert floor({"a": {0: 20.0}, "b": {0: 90.0}}) is None


def test_order_of_one_row_is_singular() -> None:
    assert (
        rank_agreement(column([1]), column([1])).in_words()
        == "order of rows against the paper's: not compared, fewer than 3 rows are in both columns"
    )
