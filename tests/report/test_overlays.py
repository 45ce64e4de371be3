"""Panels of several cells: which lines stand together, and that each point stands where it was measured."""

import math
import re
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from cleanpath.paper.parts import RANK, UNIT
from cleanpath.paper.tables import RECIPES
from cleanpath.report import overlays
from cleanpath.report.charts import curves
from cleanpath.report.overlays import PALETTE, Together
from cleanpath.report.page import page
from cleanpath.report.table import Table
from tests.report.example import measured, missing, paper_table, run
from tests.report.reading import Reader, contrast, polyline

RAN = ("ResNet-110", "ResNet-164", "CIFAR-10")
WIDE, HIGH = overlays._WIDTH, overlays._HEIGHT
Points = list[tuple[float, float]]


def lines(panel: Together) -> dict[tuple[str, bool], Points]:
    """Every line of a panel by colour and whether it is dashed; each once."""
    found: dict[tuple[str, bool], Points] = {}
    for path in ET.fromstring(panel.svg).iter("path"):  # noqa: S314 (our own drawing)
        if path.get("stroke") in PALETTE and path.get("d"):
            key = path.get("stroke") or "", bool(path.get("stroke-dasharray"))
            assert key not in found
            found[key] = polyline(path.get("d") or "")
    return found


def drawn(name: str, seeds: int = 1) -> tuple[Together, ...]:
    return overlays.overlays(paper_table(name, seeds, ran=RAN))


@pytest.mark.parametrize(
    ("name", "counts"), [("figure1", [2]), ("figure3", [2] * 4), ("figure6", [2, 2]), ("depth", [5, 5, 2])]
)
def test_every_panel_of_the_paper_has_a_solid_and_a_dashed_line_for_each_of_its_networks(
    name: str, counts: list[int]
) -> None:
    panels = drawn(name)
    assert [len(panel.lines) for panel in panels] == counts
    for panel in panels:
        assert Counter(dashed for _, dashed in lines(panel)) == {False: len(panel.lines), True: len(panel.lines)}


def test_figure_1_has_the_original_and_the_proposed_unit_of_1001_layers_in_one_panel() -> None:
    (panel,) = drawn("figure1")
    assert [line.cell.row for line in panel.lines] == ["ResNet-1001 original", "ResNet-1001 full_preactivation"]
    (right,) = (panel for panel in drawn("figure6") if panel.caption.startswith("right"))
    assert {(line.cell.row, line.cell.column) for line in right.lines} == {
        ("original", "ResNet-164"),
        ("full_preactivation", "ResNet-164"),
    }


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.overlays])
def test_panels_name_cells_that_their_table_has(name: str) -> None:
    there = {(row.key, column.key) for row, column in RECIPES[name].cells()}
    assert {cell for overlay in RECIPES[name].overlays for cell in overlay.cells} <= there


@pytest.mark.parametrize("name", RECIPES)
def test_rows_are_compared_with_rows_of_their_table(name: str) -> None:
    rows = {row.key for row in RECIPES[name].rows}
    assert {row.reference for row in RECIPES[name].rows} - {"original"} <= rows


def with_seed(table: Table, **changes: object) -> Table:
    """The table with one run in each cell, changed."""
    seeds = (replace(run(2.0, 0), **changes),)  # type: ignore[arg-type]
    return replace(table, cells=tuple(replace(cell, seeds=seeds) for cell in table.cells))


def test_loss_stands_on_the_left_decades_and_error_on_the_right_to_20() -> None:
    table = with_seed(
        paper_table("figure1", 1),
        loss_curve=((1, 2.0), (200, 0.02), (400, 0.002)),
        error_curve=((200, 50.0), (300, 10.0), (400, 5.0)),
    )
    (panel,) = overlays.overlays(table)
    first = lines(panel)[PALETTE[0], True]
    decades = math.log10(2.0 / 0.002)
    expected = [(WIDE / 400, 0.0), (WIDE / 2, HIGH * 2 / decades), (WIDE, HIGH)]
    assert [pytest.approx(point, abs=0.06) for point in expected] == first
    edge, half, quarter = (y for _, y in lines(panel)[PALETTE[0], False])
    assert (edge, half, quarter) == pytest.approx((0.0, HIGH / 2, 0.75 * HIGH), abs=0.06)


def test_axes_go_as_far_as_a_line_that_does_not_fit_the_paper_s() -> None:
    table = with_seed(
        paper_table("figure1", 1), loss_curve=((1, 4.0), (400, 0.0004)), error_curve=((200, 80.0), (400, 50.0))
    )
    (panel,) = overlays.overlays(table)
    assert overlays.loss_range(panel.lines) == (0.0004, 4.0)
    assert lines(panel)[PALETTE[0], False][-1][1] == pytest.approx(HIGH / 2, abs=0.06)


def test_long_runs_are_counted_in_ten_thousands_as_in_the_paper() -> None:
    table = with_seed(paper_table("figure1", 1), loss_curve=((1, 2.0), (64_000, 0.01)), error_curve=((64_000, 5.0),))
    (panel,) = overlays.overlays(table)
    texts = re.findall(r">([^<>]+)</text>", panel.svg)
    assert "iterations (1e4)" in texts
    assert [text for text in texts if text in "123456"][:6] == ["1", "2", "3", "4", "5", "6"]


def test_responses_are_drawn_in_the_order_of_layers_and_by_size() -> None:
    table = measured("responses", "response")
    one = table.cells[0]
    assert one.row == "plain-20"
    heights = (5.0, 1.0, 3.0)
    seed = replace(one.seeds[0], series={"response": tuple(enumerate(heights, start=1))})
    table = replace(table, cells=(replace(one, seeds=(seed,)), *table.cells[1:]))
    top, bottom = overlays.overlays(table)
    assert top.lines[0].solid == ((1, 5.0), (2, 1.0), (3, 3.0))
    assert bottom.lines[0].solid == ((1, 5.0), (2, 3.0), (3, 1.0))
    assert top.head[:2] == ("layer", "plain-20: 0.500 (one run)")
    assert [row[:2] for row in top.rows[:3]] == [("1", "5"), ("2", "1"), ("3", "3")]
    (y,) = {y for x, y in lines(bottom)[PALETTE[0], False] if x == 0.0}
    axis = max(value for line in bottom.lines for _, value in line.solid)
    assert y == pytest.approx(HIGH * (1 - 5.0 / (math.ceil(axis / 5) * 5)), abs=HIGH / 15)


def test_a_measured_line_is_the_median_over_the_runs() -> None:
    top, _ = overlays.overlays(measured("responses", "response"))
    # Runs differ by their seed: 0, 1, 2.
    assert top.lines[1].solid[1] == (2, 10.0 / 2 + 1 + 1)


def test_truncation_is_drawn_over_the_training_and_over_the_units() -> None:
    panels = overlays.overlays(measured("truncation", "negative_share"))
    assert [panel.caption.rpartition(", over ")[2] for panel in panels] == ["the training", "the units"] * 2
    by_unit = panels[1]
    assert dict(by_unit.lines[0].solid) == pytest.approx({at: 0.1 * at + 1 for at in range(1, 5)})
    assert by_unit.head[0] == UNIT
    assert [line.cell.column for line in by_unit.lines] == ["ResNet-164", "ResNet-1001"]


def test_rank_falls() -> None:
    panels = overlays.overlays(measured("responses", "response"))
    (bottom,) = (panel for panel in panels if panel.head[0] == RANK)
    for line in bottom.lines:
        values = [value for _, value in line.solid]
        assert values == sorted(values, reverse=True)


def test_cells_without_runs_are_named_and_a_panel_without_lines_is_left_out() -> None:
    table = paper_table("figure3", 1, ran=RAN)
    gone = replace(
        table, cells=tuple(replace(c, seeds=(missing(),)) if c.row == "conv_1x1" else c for c in table.cells)
    )
    assert [line.words for line in overlays.overlays(gone)[3].lines] == [
        "original: 2.1% (one run)",
        "1×1 convolution: not run",
    ]
    nothing = replace(table, cells=tuple(replace(cell, seeds=(missing(),)) for cell in table.cells))
    assert overlays.overlays(nothing) == ()


def test_names_are_text_and_the_drawing_loads_nothing() -> None:
    table = paper_table("figure1", 1, ran=RAN)
    hostile = '"><script>alert(1)</script>{{7*7}}'
    table = replace(table, cells=tuple(replace(cell, label=hostile) for cell in table.cells))
    (panel,) = overlays.overlays(table)
    root = ET.fromstring(panel.svg)  # noqa: S314 (our own drawing)
    assert not list(root.iter("script"))
    assert hostile in (root.findtext("desc") or "")
    assert not re.search(r"https?:|url\(|href|<style|<image|<rect", panel.svg)


@pytest.mark.parametrize("colour", PALETTE)
def test_lines_stand_out_on_both_pages(colour: str) -> None:
    assert contrast(colour, "#ffffff") >= 3
    assert contrast(colour, "#16181d") >= 3


@pytest.mark.parametrize(
    ("name", "row", "behind"),
    [
        ("table3", "ResNet-110 full_preactivation", True),
        ("table3", "ResNet-110 original", False),
        ("depth", "ResNet-56", True),
    ],
)
def test_rows_of_a_pair_have_the_other_in_grey_behind(name: str, row: str, behind: bool) -> None:  # noqa: FBT001
    panels = curves(paper_table(name, 1, ran=RAN)).panels
    (sentence,) = (panel.sentence for panel in panels if (panel.cell.row, panel.cell.column) == (row, "CIFAR-10"))
    reference = {"table3": "ResNet-110, original: ", "depth": "plain-56: "}[name]
    assert (f"; {reference}" in sentence) == behind


def test_page_shows_the_panels_with_a_list_of_their_lines() -> None:
    html = page([paper_table("figure3", 1, ran=RAN), measured("responses", "response")], {}, "x")
    figures = [each for each in Reader(html).every if each.tag == "figure" and "overlay" in each.classes]
    assert len(figures) == 6
    assert [item.text for item in figures[0].all("li")] == [
        "original: 2.1% (one run)",
        "constant scaling: shortcut 0.5, F 0.5: 70.1% (one run)",
    ]
