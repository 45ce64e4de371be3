"""The claims as data: complete, consistent, and about cells that tables have."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from cleanpath.errors import UnknownNameError
from cleanpath.paper import tables
from cleanpath.paper.claims import (
    DIRECTIONS,
    EQUAL,
    HIGHER,
    LOWER,
    NOT_HIGHER,
    QUANTITIES,
    Cell,
    Claim,
    Contrast,
    Order,
    cells_of,
    claims_within,
)
from cleanpath.paper.hypotheses import CLAIMS, HYPOTHESES, claim_of
from cleanpath.paper.published import FAIL, published_table
from cleanpath.paper.verdicts import seeds_needed


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_claim_is_complete(claim: Claim) -> None:
    assert re.fullmatch(rf"{claim.hypothesis}[a-z]", claim.id)
    assert claim.hypothesis in HYPOTHESES
    assert claim.quantity in QUANTITIES
    assert claim.direction in DIRECTIONS
    assert claim.sentence.endswith(".")
    assert claim.sentence[0].isupper()
    assert claim.refuted_if
    assert re.search(r"Section|Table|Figure|Appendix", claim.source)
    assert claim.comparisons
    # A margin is stated with its reason where a claim needs one, and nowhere else.
    needs = claim.direction in (EQUAL, NOT_HIGHER)
    assert (claim.margin > 0) == needs
    assert bool(claim.why_margin) == needs
    json.dumps(claim.to_data(), allow_nan=False)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_comparisons_have_two_sides_and_a_name_where_their_cells_do_not_say_it(claim: Claim) -> None:
    for comparison in claim.comparisons:
        assert len(set(comparison.cells)) == len(comparison.cells) >= 2
        if isinstance(comparison, Contrast):
            assert len(comparison.plus) == len(comparison.minus)
        if isinstance(comparison, Order) or len(comparison.cells) > 2:
            assert comparison.name


def test_claims_have_names_of_their_own_and_cover_all_hypotheses() -> None:
    assert max(Counter(claim.id for claim in CLAIMS).values()) == 1
    assert list(dict.fromkeys(claim.hypothesis for claim in CLAIMS)) == list(HYPOTHESES)
    for hypothesis in HYPOTHESES:
        letters = "".join(claim.id[-1] for claim in CLAIMS if claim.hypothesis == hypothesis)
        assert letters == "abcdefghijkl"[: len(letters)]


def test_cells_exist_in_the_tables() -> None:
    for table, row, column in cells_of(CLAIMS):
        assert table in tables.RECIPES
        recipe = tables.recipe_of(table)
        assert (row, column) in {(one.key, other.key) for one, other in recipe.cells()}, (table, row, column)


def printed(cell: Cell) -> float | None:
    """The paper's number, 100 where it says `fail`; None where it prints none."""
    table, row, column = cell
    value = published_table(table).cells.get((row, column))
    return 100.0 if value == FAIL else value if value is None else float(value)


def test_every_claim_about_the_error_holds_of_the_paper_s_own_numbers() -> None:
    """What the paper prints confirms what we say that it claims: a wrong direction or cell is seen here."""
    unprinted = set()
    for claim in (claim for claim in CLAIMS if claim.quantity == "error"):
        for comparison in claim.comparisons:
            values = [value for cell in comparison.cells if (value := printed(cell)) is not None]
            if len(values) < len(comparison.cells):
                unprinted.add(claim.id)
                continue
            if isinstance(comparison, Contrast):
                d = sum(values[: len(comparison.plus)]) - sum(values[len(comparison.plus) :])
            else:
                d = sum((b > a) - (b < a) for a, b in combinations(values, 2))
            margin = claim.margin
            held = {LOWER: d < 0, HIGHER: d > 0, EQUAL: abs(d) < margin, NOT_HIGHER: d < margin}[claim.direction]
            assert held, (claim.id, comparison, d)
    # Every claim is checked but those of which the papers print no number for a cell.
    assert unprinted == {"H2c", "H11a"}


def test_h1_compares_the_identity_with_every_other_shortcut_of_table_1() -> None:
    rows = {row for row, _ in published_table("table1").cells}
    for name in ("H1a", "H1c"):
        claim = claim_of(name)
        assert {row for _, row, _ in claim.cells} == rows
        assert {comparison.plus[0][1] for comparison in claim.comparisons if isinstance(comparison, Contrast)} == {
            "original"
        }


def test_h9_tests_the_error_and_the_training_loss_of_the_same_cells() -> None:
    claims = [claim for claim in CLAIMS if claim.hypothesis == "H9"]
    for error, loss in zip(claims[::2], claims[1::2], strict=True):
        assert (error.quantity, error.direction) == ("error", LOWER)
        assert (loss.quantity, loss.direction) == ("train_loss", HIGHER)
        assert error.comparisons == loss.comparisons


def test_order_of_several_cells_is_claimed_as_a_tendency() -> None:
    """The test of an order asks whether more pairs go one way than the other: not that each step does."""
    for claim in CLAIMS:
        orders = [isinstance(comparison, Order) for comparison in claim.comparisons]
        assert any(orders) == all(orders) == bool(re.search(r"\btends? to (rise|fall)\b", claim.sentence)), claim.id
        assert any(orders) == ("tends to" in claim.refuted_if), claim.id


def test_sentences_say_no_more_than_what_is_compared() -> None:
    """What would need a second test is not in the sentence: that F is never negative, that something does not grow."""
    assert "never" not in claim_of("H5b").sentence
    assert claim_of("H10a").sentence.endswith("more along a stage in the original than with full pre-activation.")
    # A sum over units is larger where there are more of them, whatever each of them does.
    assert claim_of("H8b").quantity == "truncated_share"


def test_ten_seeds_can_confirm_even_if_all_claims_are_judged_at_once() -> None:
    assert seeds_needed(len(CLAIMS)) <= 10


def test_presumptions_of_the_paper_are_not_decisive() -> None:
    assert {claim.id for claim in CLAIMS if not claim.decisive} == {"H3d", "H10a", "H10b"}


def test_claims_within_tables_need_no_other() -> None:
    found = claims_within(CLAIMS, ["table1"])
    assert {table for table, _, _ in cells_of(found)} == {"table1"}
    assert {claim.hypothesis for claim in found} == {"H1", "H2", "H3"}
    assert claims_within(CLAIMS, []) == ()
    everything = {table for table, _, _ in cells_of(CLAIMS)}
    assert claims_within(CLAIMS, everything) == CLAIMS


def test_formula_tells_what_is_compared() -> None:
    assert claim_of("H2b").formula == "d > 0, d = table1/conv_1x1/ResNet-110 − table1/original/ResNet-110"
    assert claim_of("H6a").formula.startswith("|d| < 0.5, d = table2/relu_only_preactivation/ResNet-110 − ")
    assert claim_of("H2c").formula == (
        "d > 0, d = (shortcuts/conv_1x1/ResNet-110 − shortcuts/original/ResNet-110) − "
        "(shortcuts/conv_1x1/ResNet-32 − shortcuts/original/ResNet-32)"
    )
    assert claim_of("H1d").formula.startswith(
        "d < 0, d = table1/original/ResNet-110 − (table1/constant_0_1/ResNet-110 or"
    )
    assert " or table2/bn_after_addition/ResNet-164 − table2/original/ResNet-164" in claim_of("H4b").formula
    assert claim_of("H14a").formula.startswith("d > 0, d = rising − falling along depth/")


def test_unknown_claim_names_the_nearest() -> None:
    assert claim_of("H1a").hypothesis == "H1"
    with pytest.raises(UnknownNameError, match="did you mean"):
        claim_of("H9z")
