"""The curves: what is drawn is what was measured, and what is not drawn is named."""

import math
import re
import statistics
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanpath.report import charts
from cleanpath.report.charts import COLOURS, MIDDLE, REFERENCE, THICK, THIN, Chart, Panel, curves
from cleanpath.report.lines import MOST_LINES, POINTS, means
from cleanpath.report.loss_axis import loss_axis, loss_marks
from cleanpath.report.table import UNFINISHED, Table
from tests.helpers import examples
from tests.report.example import cell, crashed, diverged, missing, paper_table, run, table
from tests.report.reading import contrast, polyline

OK, BAD = COLOURS["ok"], COLOURS["fail"]
HEIGHT = charts._HEIGHT
Points = list[tuple[float, float]]


@pytest.fixture(scope="module")
def first() -> Table:
    return paper_table("table1")


@pytest.fixture(scope="module")
def chart(first: Table) -> Chart:
    return curves(first)


def lines(panel: Panel) -> list[tuple[str, float, bool, Points]]:
    """Every drawn line of a panel as (colour, width, dashed, points)."""
    found = []
    for path in ET.fromstring(panel.svg).iter("path"):  # noqa: S314 (our own drawing)
        if path.get("stroke") in {*COLOURS.values(), REFERENCE} and path.get("d"):
            points = polyline(path.get("d") or "")
            dashed = bool(path.get("stroke-dasharray"))
            found.append((path.get("stroke") or "", float(path.get("stroke-width") or 0), dashed, points))
    return found


def counts(panel: Panel) -> Counter[tuple[str, float, bool]]:
    return Counter(line[:3] for line in lines(panel))


def points(panel: Panel, colour: str, width: float, *, dashed: bool) -> Points:
    (found,) = (line[3] for line in lines(panel) if line[:3] == (colour, width, dashed))
    return found


def test_every_row_with_curves_has_a_panel(first: Table, chart: Chart) -> None:
    assert [panel.cell for panel in chart.panels] == list(first.cells)
    assert len(chart.panels) == 12


def test_a_panel_draws_each_seed_thin_the_median_thick_and_the_original_in_grey(first: Table, chart: Chart) -> None:
    for panel in chart.panels:
        colour = COLOURS[panel.cell.status]
        own = {(colour, width, dashed): n for dashed in (False, True) for width, n in ((THIN, 3), (THICK, 1))}
        grey = {(REFERENCE, MIDDLE, dashed): 1 for dashed in (False, True)}
        assert counts(panel) == own | ({} if panel.cell.row == "original" else grey)
    assert {COLOURS[c.status] for c in first.cells} == {OK, BAD}


def test_one_seed_is_one_line() -> None:
    (panel,) = curves(table(cell("original", run(2.0, 0)))).panels
    assert counts(panel) == {(OK, THICK, False): 1, (OK, THICK, True): 1}


def test_the_error_line_ends_at_the_median_of_the_table(chart: Chart) -> None:
    for panel in chart.panels:
        _, y = points(panel, COLOURS[panel.cell.status], THICK, dashed=False)[-1]
        assert panel.cell.median is not None
        assert 100 * (1 - y / HEIGHT) == pytest.approx(panel.cell.median, abs=0.11)


def test_a_point_stands_at_its_iteration_and_its_error() -> None:
    seed = replace(run(2.0, 0), error_curve=((100, 90.0), (300, 40.0), (400, 5.0)))
    (panel,) = curves(table(cell("original", seed))).panels
    drawn = points(panel, OK, THICK, dashed=False)
    wide = charts._WIDTH / 400
    expected = [(at * wide, HEIGHT * (1 - error / 100)) for at, error in seed.error_curve]
    assert [pytest.approx(point, abs=0.051) for point in expected] == drawn


def test_the_loss_is_drawn_on_decades() -> None:
    seed = replace(run(2.0, 0), loss_curve=((1, 10.0), (2, 1.0), (3, 0.1), (4, 0.01)), error_curve=())
    (panel,) = curves(table(cell("original", seed))).panels
    heights = [y for _, y in points(panel, OK, THICK, dashed=True)]
    assert heights == pytest.approx([0, HEIGHT / 3, 2 * HEIGHT / 3, HEIGHT], abs=0.051)


def test_all_panels_have_the_same_axes(chart: Chart) -> None:
    ticks = {tuple(re.findall(r">([\d.k]+)</text>", panel.svg)) for panel in chart.panels}
    assert len(ticks) == 1
    assert {"0", "100", "400", "0.01", "10"} <= set(ticks.pop())


def test_small_losses_have_short_words_on_their_axis() -> None:
    """A browser's letters may be wider than those that Vega leaves room for."""
    seed = replace(run(2.0, 0), loss_curve=((1, 1.0), (2, 1e-5)))
    (panel,) = curves(table(cell("original", seed))).panels
    ticks = re.findall(r">([^<]*)</text>", panel.svg)
    assert {"1e-5", "1e-4", "0.001", "0.01", "0.1", "1"} <= {tick.replace("\u2212", "-") for tick in ticks}
    assert not any(len(tick) > 5 for tick in ticks if tick[:1].isdigit())


def test_the_limit_of_the_paper_is_in_every_panel(chart: Chart) -> None:
    for panel in chart.panels:
        (height,) = re.findall(r'translate\(0,([\d.]+)\)" x2="262"[^>]*stroke-dasharray="2,3"', panel.svg)
        assert float(height) == pytest.approx(0.8 * HEIGHT)


def test_a_long_loss_curve_is_averaged_and_the_caption_says_so(chart: Chart) -> None:
    drawn = points(chart.panels[0], OK, THICK, dashed=True)
    assert len(drawn) == POINTS == 80
    assert chart.notes[0] == "Each point of the training loss is the mean of 5 recorded values, at the last of them."


NOT_ALL = "The tables behind the panels have some of these points; metrics.jsonl in a run's folder has all."


def test_a_short_loss_curve_is_drawn_as_it_is() -> None:
    chart = curves(table(cell("original", run(30.0, 0, 60))))
    assert len(points(chart.panels[0], BAD, THICK, dashed=True)) == 60
    assert chart.notes == (NOT_ALL,)
    assert curves(table(cell("original", run(30.0, 0, 20)))).notes == ()


def test_means_stand_at_the_last_of_their_group_and_keep_what_is_not_finite() -> None:
    curve = ((1, 1.0), (2, 3.0), (3, 5.0), (4, math.nan), (5, 8.0))
    assert means(curve, 2) == [(2, 2.0), (4, math.inf), (5, 8.0)]


def test_the_median_ends_where_most_runs_have_diverged() -> None:
    chart = curves(table(cell("dropout", diverged(0, 100), diverged(1, 100), run(90.0, 2))))
    (panel,) = chart.panels
    assert panel.cell.status == "diverged"
    median = points(panel, BAD, THICK, dashed=False)
    assert median[-1][0] == pytest.approx(charts._WIDTH * 100 / 400, abs=0.051)
    assert counts(panel)[BAD, THIN, False] == 3
    assert "A line ends where its value is not finite." in chart.notes
    assert not re.search("nan|inf", re.sub("<desc.*</desc>", "", panel.svg).lower())


def test_a_run_that_diverged_before_its_first_evaluation_counts_against_the_median() -> None:
    (panel,) = curves(table(cell("dropout", diverged(0, 10), run(90.0, 1)))).panels
    assert counts(panel)[BAD, THICK, False] == 0
    assert counts(panel)[BAD, THIN, False] == 1


def test_a_crashed_run_is_drawn_but_is_not_in_the_median() -> None:
    seed = replace(run(90.0, 2, 200), status="failed")
    (panel,) = curves(table(cell("original", run(2.0, 0), run(2.0, 1), seed))).panels
    assert counts(panel)[BAD, THIN, False] == 3
    last = points(panel, BAD, THICK, dashed=False)[-1][1]
    assert panel.cell.median == pytest.approx(100 * (1 - last / HEIGHT), abs=0.11)


def test_rows_without_curves_are_named_with_their_status() -> None:
    chart = curves(table(cell("original", run(2.0, 0)), cell("dropout", missing()), cell("conv_1x1", crashed())))
    assert [panel.cell.row for panel in chart.panels] == ["original"]
    assert chart.notes[-2:] == ("Without curves (crashed): conv_1x1.", "Without curves (not run): dropout.")


def test_a_column_that_was_not_run_is_named_once() -> None:
    chart = curves(paper_table("table2", seeds=1))
    assert len(chart.panels) == 5
    assert chart.notes[-1] == "Without curves (not run): all rows of ResNet-164."


def test_each_column_is_compared_with_its_own_original() -> None:
    second = curves(paper_table("table2", seeds=1, ran=("ResNet-110", "ResNet-164"))).panels[5:]
    assert [counts(panel)[REFERENCE, MIDDLE, False] for panel in second] == [0, 1, 1, 1, 1]


def test_a_table_without_any_run_has_no_panel() -> None:
    assert curves(table(cell("original", missing()))).panels == ()


def test_a_loss_beyond_the_axis_is_drawn_at_its_edge_and_said_so() -> None:
    seed = replace(run(2.0, 0), loss_curve=((1, 1e30), (2, 1.0), (3, 0.0)))
    chart = curves(table(cell("original", seed)))
    heights = [y for _, y in points(chart.panels[0], OK, THICK, dashed=True)]
    assert (heights[0], heights[-1]) == (0, HEIGHT)
    assert "A loss outside 1 to 1000 is drawn at the edge." in chart.notes


def test_the_text_alternative_states_the_result(first: Table, chart: Chart) -> None:
    panel = next(panel for panel in chart.panels if panel.cell.row == "dropout")
    original = first.cells[0].median
    assert panel.sentence.startswith("dropout 0.5: fails, median test error 90.2% over 3 runs, training loss ")
    assert panel.sentence.endswith(f"at iteration 400; original: {original:.1f}%.")
    root = ET.fromstring(panel.svg)  # noqa: S314 (our own drawing)
    title, text = root.find("title"), root.find("desc")
    assert title is not None
    assert text is not None
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", f"{title.get('id')} {text.get('id')}")
    assert (title.text, text.text) == ("dropout 0.5: fails", panel.sentence)


def test_a_name_is_text_whatever_it_holds() -> None:
    name = '"><script>alert(1)</script>{{7*7}}'
    (panel,) = curves(table(cell("original", run(2.0, 0), label=name))).panels
    root = ET.fromstring(panel.svg)  # noqa: S314 (our own drawing)
    assert not list(root.iter("script"))
    assert root.findtext("title") == f"{name}: converges"


def test_a_drawing_takes_the_page_s_text_colour_and_loads_nothing(chart: Chart) -> None:
    for panel in chart.panels:
        root = ET.fromstring(panel.svg)  # noqa: S314 (our own drawing)
        assert {text.get("fill") for text in root.iter("text")} == {"currentColor"}
        assert not re.search(r"https?:|url\(|href|<style|<image|<rect", panel.svg)
        fills = {element.get("fill") for element in root.iter() if element.tag != "text"} - {None, "none"}
        assert fills == {COLOURS[panel.cell.status]}


@pytest.mark.parametrize("colour", sorted({*COLOURS.values(), REFERENCE}))
def test_a_line_stands_out_on_both_pages(colour: str) -> None:
    assert contrast(colour, "#ffffff") >= 3
    assert contrast(colour, "#16181d") >= 3


def test_the_data_are_what_is_drawn() -> None:
    seeds = (run(2.0, 0, 20), run(2.0, 1, 20))
    (panel,) = curves(table(cell("original", *seeds))).panels
    assert panel.head == ("iteration", "error %, seed 0", "error %, seed 1", "loss, seed 0", "loss, seed 1")
    assert len(panel.rows) == 20
    assert panel.rows[18][1:3] == ("–", "–")
    assert panel.rows[19] == (
        "20",
        *(f"{dict(seed.error_curve)[20]:.1f}" for seed in seeds),
        *(f"{dict(seed.loss_curve)[20]:.3g}" for seed in seeds),
    )


def test_the_data_of_a_long_curve_are_some_of_its_points_and_every_error(first: Table, chart: Chart) -> None:
    errors = [at for at, _ in first.cells[0].seeds[0].error_curve]
    for panel in chart.panels:
        places = [int(row[0]) for row in panel.rows]
        assert set(errors) <= set(places)
        assert len(places) <= len(errors) + charts.ROWS
        assert places[-1] == 400


@given(
    places=st.lists(st.integers(1, 10**6), min_size=1, max_size=300, unique=True).map(sorted),
    kept=st.sets(st.integers(1, 10**6), max_size=60),
)
@examples
def test_thinned_places_keep_what_is_to_be_kept_and_the_last_and_are_few(places: list[int], kept: set[int]) -> None:
    kept |= set(places[::7])
    found = charts.thinned(places, kept)
    assert found == sorted(set(found))
    assert {*(at for at in places if at in kept), places[-1]} <= set(found) <= set(places)
    assert len(found) <= len(set(places) & kept) + max(1, charts.ROWS - len(kept))


def test_coordinates_are_to_a_tenth_and_how_opaque_a_line_is_to_a_hundredth(chart: Chart) -> None:
    for panel in chart.panels:
        drawn = re.sub("<desc.*</desc>", "", panel.svg)
        found = re.findall(r' (?:d|transform)="([^"]*)"', drawn)
        assert found
        assert not [one for one in found if re.search(r"\d\.\d\d", one)]
        assert 'stroke-opacity="0.14"' in drawn
        assert not re.search(r"\d\.\d{3,}", drawn)


def test_of_very_many_runs_the_least_and_the_greatest_are_drawn() -> None:
    """As many lines as of two runs, through the same points as the extremes of all; and it is said."""
    n = MOST_LINES + 1
    results = [run(2.0, seed) for seed in range(n)]
    few, many = (curves(table(cell("original", *results[:count]))) for count in (n - 1, n))
    assert counts(few.panels[0])[OK, THIN, False] == n - 1
    assert counts(many.panels[0])[OK, THIN, False] == 2
    ends = sorted(line[3][-1][1] for line in lines(many.panels[0]) if line[:3] == (OK, THIN, False))
    errors = [result.error_curve[-1][1] for result in results]
    drawn = sorted(100 * (1 - end / HEIGHT) for end in ends)
    assert drawn == pytest.approx([min(errors), max(errors)], abs=0.1)
    assert not any("least" in note and "thin" in note for note in few.notes)
    said = "Of more than 30 runs of a row, the thin lines are the least and the greatest."
    assert MOST_LINES == 30
    assert said in many.notes


def test_single_runs_take_hardly_more_room_where_there_are_many() -> None:
    """Each is averaged further than the median; the table behind the panel has median and range in place of all."""
    few, many = (curves(table(cell("original", *(run(2.0, seed) for seed in range(n))))) for n in (3, 12))
    for chart, n, each in ((few, 3, 27), (many, 12, 16)):
        (panel,) = chart.panels
        thin = [line[3] for line in lines(panel) if line[:3] == (OK, THIN, True)]
        assert [len(line) for line in thin] == [each] * n
        assert len(points(panel, OK, THICK, dashed=True)) == POINTS
    assert few.notes[1] == "Single runs are averaged further, over 15 values where a row has most of them."
    assert many.notes[1] == "Single runs are averaged further, over 25 values where a row has most of them."
    (panel,) = many.panels
    words = ("median", "least", "greatest")
    assert panel.head == ("iteration", *(f"{what}, {word}" for what in ("error %", "loss") for word in words))
    assert "Of more than 5 runs these tables have the median and the range of those that ended." in many.notes
    ends = [run(2.0, seed).error or 0.0 for seed in range(12)]
    middle = statistics.median(ends)
    assert panel.rows[-1][1:4] == tuple(f"{end:.1f}" for end in (middle, min(ends), max(ends)))


def test_an_anchor_is_a_word_and_names_the_column_only_where_there_are_several() -> None:
    one, two = paper_table("table1"), paper_table("table2")
    assert charts.anchor(one) == "table1"
    assert charts.anchor(one, one.cells[5]) == "table1-exclusive_gating_-6"
    assert charts.anchor(two, two.cells[0]) == "table2-original-ResNet-110"
    assert charts.anchor(one, replace(one.cells[0], row='a "b> c')) == "table1-a_b_c"


@pytest.mark.parametrize(
    ("losses", "axis", "marks"),
    [
        ([], (0.1, 1.0), [0.1, 0.2, 0.3, 0.5, 1.0]),
        ([2.3], (2.0, 3.0), [2.0, 3.0]),
        ([2.0, 2.0], (2.0, 3.0), [2.0, 3.0]),
        ([1.2, 2.4], (1.0, 3.0), [1.0, 2.0, 3.0]),
        ([0.04, 2.4], (0.03, 3.0), [0.03, 0.1, 0.3, 1.0, 3.0]),
        ([0.002, 2.4], (0.001, 10.0), [0.001, 0.01, 0.1, 1.0, 10.0]),
        ([1e-9], (1e-5, 2e-5), [1e-5, 2e-5]),
        ([1e30], (1e3, 2e3), [1e3, 2e3]),
        ([*[2.0] * 99, 1e30], (2.0, 20.0), [2.0, 3.0, 5.0, 10.0, 20.0]),
        ([1e-9, *[2.0] * 99], (0.2, 2.0), [0.2, 0.3, 0.5, 1.0, 2.0]),
    ],
)
def test_an_axis_of_losses_is_as_long_as_they_need(
    losses: list[float], axis: tuple[float, float], marks: list[float]
) -> None:
    found = loss_axis(losses)
    assert found == pytest.approx(axis)
    assert loss_marks(*found) == pytest.approx(marks)


def test_a_short_run_fills_its_panel() -> None:
    short = replace(run(2.0, 0), loss_curve=tuple((at, 2.4 - 0.06 * at) for at in range(1, 21)))
    heights = [y for _, y in points(curves(table(cell("original", short))).panels[0], OK, THICK, dashed=True)]
    assert max(heights) - min(heights) > HEIGHT / 2


def test_few_iterations_are_counted_in_whole_ones() -> None:
    for iterations in (1, 2, 3):
        svg = curves(table(cell("original", replace(run(2.0, 0, iterations), error=2.0)))).panels[0].svg
        assert not re.findall(r">\d+m<", svg)  # thousandths of an iteration


def test_a_run_of_one_point_that_goes_on_is_a_dot() -> None:
    begun = replace(run(2.0, 0), status=UNFINISHED, error=None, loss_curve=((1, 2.3),), error_curve=())
    more = replace(begun, loss_curve=((1, 2.3), (2, 2.2)))
    assert [curves(table(cell("original", one))).panels[0].svg.count("A2.4,") for one in (begun, more)] == [2, 0]


def test_a_run_that_ended_and_whose_number_is_not_taken_yet_has_its_curves() -> None:
    """As of a view of the test images that is measured afterwards."""
    chart = curves(table(cell("original", replace(run(2.0, 0), error=None))))
    assert len(chart.panels) == 1
