"""From the runs of tables to verdicts: made-up numbers of which one knows what must come of them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from cleanpath.data.digits import digits
from cleanpath.experiment import Data
from cleanpath.paper.held_out import TEST_IMAGES
from cleanpath.paper.hypotheses import CLAIMS, HYPOTHESES, claim_of
from cleanpath.paper.published import FAIL_ABOVE, published_table
from cleanpath.paper.scales import LAPTOP, PAPER, QUICK, SCALES, Scale
from cleanpath.paper.seeding import Seeds
from cleanpath.paper.tables import recipe_of
from cleanpath.paper.verdicts import CONFIRMED, CONTRADICTED, NOT_RUN, UNDECIDED, Verdict
from cleanpath.report.claimed import (
    columns_of,
    contradicted,
    decided_by,
    few_seeds,
    labels_of,
    line_of,
    tally,
    to_data,
    values_of,
    verdicts_of,
)
from cleanpath.report.claims_shown import claims_shown
from cleanpath.report.collect import collect
from cleanpath.report.table import FINISHED, Cell, SeedResult, Table
from tests.report.example import cell, crashed, diverged, missing, paper_table, run, table

ROWS = [c.row for c in paper_table("table1", seeds=0).cells]
H1A, H1C = claim_of("H1a"), claim_of("H1c")


def result(seed: int, error: float, **numbers: float) -> SeedResult:
    return SeedResult(
        seed=seed,
        status=FINISHED,
        error=error,
        train_error=error / 2,
        train_loss=error / 10,
        measured={"area": error / 5, **numbers},
    )


def table1(seeds: int, others: float = 9.0, original: float = 6.0, scale: str = "paper") -> Table:
    """All rows of Table 1; the original at one error and the rest at another, a little apart from seed to seed."""
    cells = [
        cell(row, *(result(s, (original if row == "original" else others) + s / 100) for s in range(seeds)))
        for row in ROWS
    ]
    return table(*cells, scale=scale)


def by_id(tables: list[Table]) -> dict[str, Verdict]:
    return {one.claim.id: one for one in verdicts_of(tables)}


def test_values_are_those_of_the_seeds_by_quantity() -> None:
    found = values_of([table(cell("original", result(0, 6.0, generalisation_gap=3.0), result(4, 8.0)))])
    place = ("table1", "original", "ResNet-110")
    assert found[*place, "error"] == {0: 6.0, 4: 8.0}
    assert found[*place, "train_error"] == {0: 3.0, 4: 4.0}
    assert found[*place, "train_loss"] == {0: 0.6, 4: 0.8}
    assert found[*place, "area"] == {0: 1.2, 4: 1.6}
    assert found[*place, "generalisation_gap"] == {0: 3.0}
    assert (*place, "negative_share") not in found


def test_diverged_run_is_worse_than_any_and_a_crashed_one_is_left_out() -> None:
    found = values_of([table(cell("original", diverged(0), crashed(1), missing(2), run(2.0, 3)))])
    place = ("table1", "original", "ResNet-110")
    assert found[*place, "error"] == {0: math.inf, 3: found[*place, "error"][3]}
    assert found[*place, "area"] == {0: math.inf}
    assert (*place, "generalisation_gap") not in found  # ∞ − ∞ is no number
    assert values_of([table(cell("original", crashed(0), missing(1)))]) == {}


def test_what_all_seeds_say_is_confirmed_and_the_other_way_contradicted() -> None:
    """10 seeds, all one way: p = 2⁻¹⁰ a claim, times the claims that are judged together."""
    judged = by_id([table1(10)])
    family = judged["H1a"].family
    for claim in (H1A, H1C):
        one = judged[claim.id]
        assert one.verdict == CONFIRMED
        assert one.n == 10
        assert one.p_for == pytest.approx(2**-10)
        assert one.holm_for is not None
        assert one.holm_for <= family * 2**-10 + 1e-12
        assert one.leading is not None
        scale = 0.1 if claim is H1A else 1.0
        assert one.leading.difference == pytest.approx(-3.0 * scale)
    other_way = verdicts_of([table1(10, others=5.0)])
    assert {one.claim.id: one.verdict for one in other_way}["H1c"] == CONTRADICTED
    assert contradicted(other_way)
    assert not contradicted(verdicts_of([table1(10)]))


def test_three_seeds_decide_nothing_and_say_so() -> None:
    one = by_id([table1(3)])["H1c"]
    assert one.verdict == UNDECIDED
    assert "3 seeds" in line_of(one, {})
    told = few_seeds([c for claim in (H1A, H1C) for c in claim.cells], 3, PAPER)
    assert told is not None
    assert "3 seeds cannot confirm" in told
    # Table 1 decides nine claims; those of ten comparisons need eleven seeds to be contradicted.
    assert few_seeds(H1A.cells, 10, PAPER) is not None
    assert few_seeds(H1A.cells, 11, PAPER) is None


def test_what_is_not_run_is_not_run_and_names_what_lacks() -> None:
    judged = by_id([table(cell("original", *(result(s, 6.0) for s in range(10))))])
    assert {one.verdict for one in judged.values()} == {NOT_RUN}
    words = line_of(judged["H1c"], {})
    assert words.startswith("no seed of table1/constant_0_1/ResNet-110")
    assert words.endswith("more cells")
    lacks = replace(judged["H1c"], missing=judged["H1c"].missing[:3])
    assert line_of(lacks, {}).endswith(" and 1 more cell")


def test_hypotheses_of_which_nothing_was_run_are_shown_last() -> None:
    last = [claim for claim in CLAIMS if {name for name, _, _ in claim.cells} == {"table1"}][-1]
    rows = dict.fromkeys(row for _, row, _ in last.cells)
    tables = [table(*(cell(row, *(result(seed, 6.0) for seed in range(3))) for row in rows))]
    groups = claims_shown(tables, verdicts_of(tables))
    named = [title.partition(":")[0] for title, _ in groups]
    idle = [all(claim.kind == NOT_RUN for claim in claims) for _, claims in groups]
    assert named[0] == last.hypothesis != next(name for name in HYPOTHESES if name in named)
    assert True in idle
    assert idle == sorted(idle)
    waiting = named[idle.index(True) :]
    assert waiting == [name for name in HYPOTHESES if name in waiting]  # the rest in the paper's order


def test_only_claims_within_the_tables_are_judged() -> None:
    assert {one.claim.id for one in verdicts_of([table1(3)])} == {
        claim.id for claim in CLAIMS if {name for name, _, _ in claim.cells} == {"table1"}
    }
    assert verdicts_of([]) == []
    assert tally([], []) == "No claim of the paper is decided by these tables alone."
    assert decided_by(H1A.cells[:2], PAPER) == tuple(c for c in CLAIMS if set(c.cells) <= set(H1A.cells[:2]))


def test_tally_counts_every_claim_once_and_says_at_which_scale() -> None:
    whole, small = table1(10), table1(10, scale="quick")
    told = verdicts_of([whole])
    numbers = [int(word) for word in tally(told, [whole]).replace(":", "").split() if word.isdigit()]
    assert numbers[0] == len(told) == sum(numbers[1:])
    assert tally(told, [whole]).endswith("6 confirmed, 3 undecided.")
    words = tally(verdicts_of([small]), [small])
    assert f" Run at scale quick ({QUICK.about}); beside each claim stands what was run for the paper's" in words
    assert words.endswith(
        " 4 of them are undecided because this scale cannot decide such a claim, whatever its runs show."
    )


def test_tally_of_one_claim_is_in_the_singular() -> None:
    small = table1(3, scale="quick")
    (one,) = (verdict for verdict in verdicts_of([small]) if verdict.claim.id == "H1a")
    words = tally([one], [small])
    assert words.startswith("One claim of the paper is about these tables: undecided. Run at scale quick (")
    assert words.endswith(" It is undecided because this scale cannot decide such a claim, whatever its runs show.")


def test_claim_that_a_scale_cannot_decide_is_undecided_whatever_its_runs_say() -> None:
    """The scale says so in words; then neither a verdict nor the correction of the others comes of such runs."""
    beyond = {claim.id for claim in CLAIMS if claim.id in QUICK.undecidable} & set(by_id([table1(3)]))
    assert beyond == {"H1a", "H1b", "H1c", "H3b"}
    for others in (9.0, 5.0):
        judged = by_id([table1(12, others=others, scale="quick")])
        for identifier in beyond:
            one = judged[identifier]
            assert (one.verdict, one.holm_for, one.holm_against) == (UNDECIDED, None, None)
            assert one.doubt == f"scale quick cannot decide it, since {QUICK.undecidable[identifier]}"
            line = line_of(one, {})
            assert "12 seeds" in line
            assert one.doubt in line
            assert "p = " not in line
        assert {one.family for key, one in judged.items() if key not in beyond} == {len(judged) - len(beyond)}
    assert judged["H1d"].verdict == CONTRADICTED
    assert by_id([table1(12, scale="paper")])["H1c"].verdict == CONFIRMED


def test_why_a_scale_cannot_decide_is_not_said_of_settings_that_are_not_its_own() -> None:
    own = table1(3, scale="quick")
    changed = replace(own, changes=("training.iterations=40",))
    doubt = by_id([changed])["H1c"].doubt
    assert doubt == f"scale quick cannot decide it even with its own settings, since {QUICK.undecidable['H1c']}"
    assert line_of(by_id([changed])["H1c"], {}).count("training.iterations=40") == 1
    assert f"Run at scale quick ({QUICK.about}; set here: training.iterations=40)" in tally(
        verdicts_of([changed]), [changed]
    )
    assert "set here" not in tally(verdicts_of([own]), [own])


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_claims_that_scales_cannot_decide_exist(scale: Scale) -> None:
    assert set(scale.undecidable) <= {claim.id for claim in CLAIMS}
    assert bool(scale.undecidable) == (scale.name != "paper")


def test_verdict_says_what_stands_for_the_paper_s_networks_and_data() -> None:
    small, whole = (by_id([table1(10, scale=scale)]) for scale in ("quick", "paper"))
    assert small["H2a"].run_as == "run with 56 layers for ResNet-110, digits for CIFAR-10"
    assert line_of(small["H2a"], {}).endswith(f"; {small['H2a'].run_as}")
    assert small["H2a"].to_data()["run_as"] == small["H2a"].run_as
    assert whole["H2a"].run_as == ""
    changes = ("network.depth=8", "training.lr=0.01")
    set_otherwise = by_id([replace(table1(10, scale="quick"), changes=changes)])["H2a"]
    assert set_otherwise.run_as == (
        "run with network.depth=8, training.lr=0.01, not tried at scale quick, "
        "whose own settings have 56 layers for ResNet-110, digits for CIFAR-10"
    )
    of_the_paper = by_id([replace(table1(10, scale="paper"), changes=changes[:1])])["H2a"]
    assert of_the_paper.run_as == "run with network.depth=8, not tried at scale paper"
    deep = claim_of("H7a")
    cells = [cell(row, result(0, 6.0, early_loss=1.0), column=column) for _, row, column in deep.cells]
    found = by_id([table(*cells, name="table3", scale="laptop")])["H7a"]
    assert found.run_as == "run with 110 layers for ResNet-1001"


def test_column_at_its_ceiling_is_named() -> None:
    (column,) = columns_of(table1(3, others=0.6, original=0.4))
    assert f"all {len(ROWS)} rows are at 99% accuracy or more" in column.ceiling
    (column,) = columns_of(table1(3, others=90.0, original=91.0))
    assert "rows fail" in column.ceiling
    assert column.agreement is not None
    assert (column.agreement.tau, column.agreement.reason) == (None, "all of our values are tied")
    (column,) = columns_of(table1(3))
    assert column.ceiling == ""


def test_rows_within_one_test_image_are_at_a_ceiling() -> None:
    """0.2% is one image of 500 and two of 1000; the claim and the column say so."""
    for images, alike in ((500, True), (1000, False), (None, False)):
        plain = table1(10, others=4.2, original=4.0)
        found = replace(plain, cells=tuple(replace(one, test_images=images) for one in plain.cells))
        (column,) = columns_of(found)
        doubt = by_id([found])["H1c"].doubt
        assert ("within one of 500 test images" in column.ceiling) == ("within one of 500" in doubt) == alike


@pytest.mark.parametrize("kind", ["digits", "cifar10"])
def test_collected_cells_know_how_many_images_they_are_tested_on(kind: str, tmp_path: Path) -> None:
    scale = QUICK if kind == "digits" else LAPTOP
    for held_out, count in (("test", TEST_IMAGES[kind]), ("validation", {"digits": 250, "cifar10": 5000}[kind])):
        changes = [] if held_out == "test" else ["data.held_out=validation"]
        found = collect(recipe_of("table3"), scale, seeds=Seeds(every=1), changes=changes, root=tmp_path)
        counted = {c.column: c.test_images for c in found.cells if c.row == "ResNet-164 original"}
        assert counted == {"CIFAR-10": count, "CIFAR-100": None}
        if kind == "digits":
            assert len(digits(Data(name="digits", held_out=held_out)).held_out.labels) == count


def test_errors_for_which_the_limit_was_not_made_are_no_failures() -> None:
    """The paper's own CIFAR-100 column of Table 3 is above 20% throughout, and has an order."""
    printed = {row: value for (row, column), value in published_table("table3").cells.items() if column == "CIFAR-100"}
    errors = {row: value for row, value in printed.items() if isinstance(value, float)}
    assert min(errors.values()) > FAIL_ABOVE
    cells = [cell(row, result(0, error), paper=error, column="CIFAR-100") for row, error in errors.items()]
    (limited,) = columns_of(table(*cells, name="table3"))
    assert "rows fail" in limited.ceiling
    (free,) = columns_of(table(*(replace(one, judged=False) for one in cells), name="table3"))
    assert free.ceiling == ""
    assert free.agreement is not None
    assert free.agreement.tau == pytest.approx(1.0)


def test_order_of_rows_is_set_beside_the_paper_s() -> None:
    """The paper's own numbers agree with themselves, turned about they disagree; failures are tied at the end."""
    paper = {"a": 6.0, "b": 7.0, "c": 8.0, "d": "fail"}

    def column_of(ours: dict[str, SeedResult]) -> float | None:
        (column,) = columns_of(table(*(cell(row, ours[row], paper=value) for row, value in paper.items())))
        assert column.agreement is not None
        return column.agreement.tau

    assert column_of({"a": result(0, 1.0), "b": result(0, 2.0), "c": result(0, 3.0), "d": diverged()}) == 1.0
    assert column_of({"a": diverged(), "b": result(0, 3.0), "c": result(0, 2.0), "d": result(0, 1.0)}) == -1.0


def test_column_that_prints_no_errors_or_has_no_number_of_the_paper_s_is_not_compared() -> None:
    assert not list(columns_of(table(cell("original", result(0, 1.0, response=0.3), quantity="response"))))
    (column,) = columns_of(table(cell("original", result(0, 1.0), paper=None)))
    assert column.agreement is None
    assert not list(columns_of(table(cell("original", missing()))))


def test_data_is_json_with_every_number() -> None:
    tables = [table1(10)]
    data = json.loads(json.dumps(to_data(tables, verdicts_of(tables)), allow_nan=False))
    one = next(each for each in data["verdicts"] if each["claim"]["id"] == "H1c")
    assert (one["verdict"], one["n"]) == (CONFIRMED, 10)
    assert "p = " in one["found"]
    assert data["columns"][0]["agreement"]["n"] == len([c for c in tables[0].cells if c.paper is not None])


def test_rows_are_called_as_in_the_table() -> None:
    one: Cell = replace(cell("original", result(0, 1.0)), label="the identity")
    assert labels_of([table(one)]) == {("table1", "original"): "the identity"}
