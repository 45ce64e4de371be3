"""In what cells are not run as the paper's: the letters of a table, typed from what each scale says of itself."""

from pathlib import Path

import pytest

from cleanpath.paper.deviations import LETTERS
from cleanpath.paper.parts import Part
from cleanpath.paper.scales import LAPTOP, PAPER, QUICK, Scale
from cleanpath.paper.seeding import Seeds
from cleanpath.paper.tables import RECIPES, recipe_of, with_rows
from cleanpath.report.collect import collect
from cleanpath.report.table import Table
from cleanpath.report.table_text import to_markdown


def of(table: str, scale: Scale, *changes: str) -> Table:
    return collect(recipe_of(table), scale, seeds=Seeds(every=1), changes=changes, root=Path("nowhere"))


def letters(table: Table) -> dict[str, str]:
    """The letters of each row, in a table of one column."""
    return {cell.row: "".join(cell.deviates) for cell in table.cells}


@pytest.mark.parametrize("table", RECIPES)
def test_nothing_deviates_from_the_paper_at_its_own_scale(table: str) -> None:
    found = of(table, PAPER)
    assert {cell.deviates for cell in found.cells} <= {()}
    assert set(found.letters) <= {""}


@pytest.mark.parametrize("scale", [QUICK, LAPTOP, PAPER], ids=lambda scale: scale.name)
@pytest.mark.parametrize("table", RECIPES)
def test_every_letter_of_a_row_stands_before_a_sentence_and_back(table: str, scale: Scale) -> None:
    found = of(table, scale)
    at_rows = {letter for cell in found.cells for letter in cell.deviates}
    assert at_rows == {letter for letter in found.letters if letter} <= set(LETTERS)
    assert len(found.letters) == len(found.deviations)
    for cell in found.cells:
        assert not cell.deviates or cell.seeds, f"{cell.row} runs nothing that could deviate"


def test_gated_rows_alone_are_marked_for_where_their_gates_stand() -> None:
    found = letters(of("table1", QUICK))
    assert found == {row: "ndtg" if "gating" in row else "ndt" for row in found}
    assert {row for row, told in letters(of("beyond", QUICK)).items() if "g" in told} == {"exclusive_gating_-6_free"}


def test_networks_that_a_scale_runs_as_they_are_have_no_letter_for_it() -> None:
    """At scale laptop CIFAR-10 is the paper's, and ResNet-110 of `gate_bias` is one of 20 layers."""
    assert set(letters(of("table1", LAPTOP)).values()) == {"nt", "ntg"}
    assert set(letters(of("depth", LAPTOP)).values()) == {"ntw"}


def test_weight_decay_is_told_only_where_the_first_paper_s_is_another() -> None:
    assert "w" not in of("table1", QUICK).letters
    assert set(letters(of("depth", QUICK)).values()) == {"ndtw"}
    rows = {cell.row: "w" in cell.deviates for cell in of("table4", QUICK).cells if cell.seeds}
    assert {row for row, told in rows.items() if told} == {"ResNet-1202 original"}


def test_changed_settings_mark_every_row_that_runs_also_at_the_paper_s_scale() -> None:
    found = of("table1", PAPER, "training.lr=0.5")
    assert "training.lr=0.5" in found.marked[0][1]
    assert found.letters[0] == "c"
    assert {cell.deviates for cell in found.cells} == {("c",)}
    external = [cell for cell in of("table4", QUICK, "training.lr=0.5").cells if cell.external or cell.left_out]
    assert external
    assert {cell.deviates for cell in external} == {()}


def test_sentences_of_a_scale_are_of_its_own_settings_where_others_were_set() -> None:
    """Only those that what was set touches, and those about all that can be concluded."""

    def told(*changes: str) -> list[str]:
        return [text for letter, text in of("gate_bias", QUICK, *changes).marked if letter != "c"]

    def own(*changes: str) -> set[str]:
        mark = "With the scale's own settings: "
        found = {text.removeprefix(mark).partition(" ")[0] for text in told(*changes) if text.startswith(mark)}
        assert [text.removeprefix(mark) for text in told(*changes)] == told()
        return found

    assert own() == set()
    assert own("training.iterations=40") == {"150", "Training:", "It"}
    assert own("data.held_out=validation") == {"Data:", "It"}
    assert own("network.depth=14") == {"Networks", "It"}
    assert own("network.width=4") == {"It"}
    first = of("table1", QUICK, "training.iterations=40").marked[0]
    assert first == (
        "c",
        "Set for this reproduction: training.iterations=40. What scale quick says is of its own settings.",
    )


def test_row_of_a_user_s_is_marked_as_the_rows_beside_it() -> None:
    recipe = with_rows(recipe_of("table1"), [Part(key="mine")])
    found = letters(collect(recipe, QUICK, seeds=Seeds(every=1), changes=(), root=Path("nowhere")))
    assert found["mine"] == found["original"] == "ndt"


def test_markdown_has_the_letters_of_its_rows_and_what_they_stand_for() -> None:
    text = to_markdown(of("table1", QUICK))
    rows = [line for line in text.splitlines() if line.startswith("| exclusive gating")]
    assert [row.split(" | ")[-1] for row in rows] == ["n d t g |"] * 3
    for letter in "ndtg":
        assert f"\n- **{letter}**: " in text
    assert "\n- Where the paper is silent: " in text
