"""What is drawn of an audit is what was measured: places, directions, colours, and the sentences above."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from cleanpath.auditing.profile import Profile
from cleanpath.report import audit_charts
from cleanpath.report.audit_charts import HERE, POINTS, THERE, Figure, figures
from cleanpath.report.audit_series import Depth, envelope, thinned
from cleanpath.report.charts import REFERENCE, THICK
from cleanpath.report.heat import CELLS, LEVELS, binned, colours, heat_map, level
from tests.report.audit_example import chain, clean, measured, unit
from tests.report.reading import contrast, polyline

Points = list[tuple[float, float]]


def growing(count: int, factor: float) -> Profile:
    """Signal and gradient are multiplied by the factor from unit to unit."""
    units = (
        replace(each, stage=1, measurements=measured(output_rms=factor**at, gradient_rms=factor**at))
        for at, each in enumerate(chain(count))
    )
    return Profile(verdict="", units=tuple(units))


def panel(key: str, here: Profile, there: Profile | None = None, reference: Profile | None = None) -> Figure:
    found = figures(Depth(here), Depth(there) if there else None, Depth(reference) if reference else None)
    return next(each for each in found if each.key == key)


def lines(figure: Figure, colour: str) -> list[tuple[float, Points]]:
    """The lines of a colour: width and points, in the plot's own pixels."""
    found = []
    for path in ET.fromstring(figure.svg).iter("path"):  # noqa: S314 (our own drawing)
        points = polyline(path.get("d") or "") if set("lL") & set(path.get("d") or "") else []
        if path.get("stroke") == colour and "stroke-width" in path.attrib and points:
            found.append((float(path.get("stroke-width", 0)), points))
    return found


def labels(figure: Figure) -> dict[str, float]:
    """The words at the ends of lines, with their heights."""
    found = {}
    for text in ET.fromstring(figure.svg).iter("text"):  # noqa: S314
        place = re.match(r"translate\(([\d.-]+),([\d.-]+)\)", text.get("transform", ""))
        if text.get("fill") in (HERE, THERE, REFERENCE) and place:
            found[text.text or ""] = float(place[2])
    return found


def test_a_line_rises_with_its_values_on_a_log_axis() -> None:
    ((width, points),) = lines(panel("signal", growing(5, 10.0)), HERE)
    assert width == THICK
    wide, high = audit_charts._WIDTH, audit_charts._HEIGHT
    assert [x for x, _ in points] == pytest.approx([(at + 0.5) / 5 * wide for at in range(5)], abs=0.01)
    steps = [a - b for (_, a), (_, b) in pairwise(points)]
    assert steps == pytest.approx([high / 4.4] * 4, abs=0.1)  # four decades, and a tenth more


def test_a_label_stands_at_the_end_of_its_line_and_none_covers_another() -> None:
    figure = panel("signal", growing(5, 10.0), growing(5, 10.0), growing(5, 2.0))
    ends = {colour: points[-1][1] for colour in (HERE, THERE, REFERENCE) for _, points in lines(figure, colour)}
    placed = labels(figure)
    assert set(placed) == {"here", "there", "healthy"}
    assert abs(placed["healthy"] - ends[REFERENCE]) < 12
    heights = sorted(placed.values())
    assert all(b - a >= 10 for a, b in pairwise(heights))


def test_the_other_network_is_dashed_and_the_healthy_one_behind() -> None:
    svg = panel("signal", clean(), clean(), clean()).svg
    assert svg.index(f'stroke="{REFERENCE}"') < svg.index(f'stroke="{THERE}"') < svg.index(f'stroke="{HERE}"')
    assert re.search(rf'stroke="{THERE}"[^>]*stroke-dasharray="5,3"', svg)
    assert not re.search(rf'stroke="{HERE}"[^>]*stroke-dasharray', svg)


def test_the_whole_gradient_is_one_after_the_last_unit() -> None:
    profile = Profile(
        verdict="",
        units=(
            unit("a", measurements=measured(gradient_rms=6.0, backward_gain=2.0, direct_gain=0.5)),
            unit("b", previous="a", measurements=measured(gradient_rms=3.0, backward_gain=1.5, direct_gain=0.25)),
        ),
    )
    depth = Depth(profile)
    assert depth.whole == (3.0, 1.5)
    assert depth.direct == (0.125, 0.25)
    title = "Without branches, 0.125 of the last gradient would reach the first unit; "
    assert panel("direct", profile).title == f"{title}the whole gradient there is 3 times that of the last."


@pytest.mark.parametrize(
    ("factor", "signal", "gradient"),
    [
        (2.0, "grows 16 times", "falls to 1/16"),
        (0.5, "falls to 1/16", "grows 16 times"),
        (1.0, *["stays as it is"] * 2),
    ],
)
def test_the_statement_says_which_way(factor: float, signal: str, gradient: str) -> None:
    assert panel("signal", growing(5, factor)).title == f"The signal {signal} from the first unit to the last."
    assert (
        panel("gradient", growing(5, factor)).title == f"The gradient {gradient} from the last unit back to the first."
    )


def test_units_inside_others_have_no_place_on_the_axis() -> None:
    units = chain(4)
    nested = replace(units[1], name="inner", parent="layer.1", previous=None)
    depth = Depth(Profile(verdict="", units=(*units[:2], nested, *units[2:])))
    assert [each.name for each in depth.units] == ["layer.0", "layer.1", "layer.2", "layer.3"]
    assert depth.direct == (1.0,) * 4


def test_a_long_line_keeps_its_extremes() -> None:
    values = [(at, 1.0) for at in range(5000)]
    values[1234], values[4321] = (1234, 9.0), (4321, 0.1)
    kept = envelope(values, POINTS)
    assert len(kept) <= POINTS
    assert {(1234, 9.0), (4321, 0.1)} <= set(kept)
    assert kept == sorted(kept)
    assert envelope(values[:9], POINTS) == values[:9]
    assert (thinned(5, 9), thinned(1001, 3)) == ([0, 1, 2, 3, 4], [0, 500, 1000])


def test_a_single_broken_unit_of_a_thousand_is_drawn() -> None:
    units = list(chain(1000))
    units[500] = replace(units[500], measurements=replace(units[500].measurements, direct_gain=0.5))
    figure = panel("direct_gain", Profile(verdict="", units=tuple(units)))
    assert figure.title == "1 of 1000 direct gains are more than 5% off 1; the furthest is 0.5, in layer.500."
    ((_, points),) = lines(figure, HERE)
    assert len(points) <= POINTS
    assert max(y for _, y in points) > audit_charts._HEIGHT * 0.7


@pytest.mark.parametrize(
    ("log", "expected"),
    [(0.0, 0), (-3.0, -LEVELS), (3.0, LEVELS), (-40.0, -LEVELS), (9.0, LEVELS), (-1.0, -2), (0.2, 0)],
)
def test_colours_are_centred_on_one_and_end_at_three_decades(log: float, expected: int) -> None:
    assert level(log) == expected


def test_bins_are_geometric_means_of_what_is_known() -> None:
    gains = ((1.0, 100.0, None), (None, 1.0, 1e-4), (None, None, math.inf))
    assert binned(gains, 1) == [[0.0, 2.0, None], [None, 0.0, -4.0], [None, None, 30.0]]
    assert binned(gains, 2) == [[pytest.approx(2 / 3), -4.0], [None, 30.0]]
    assert binned(((0.0,),), 1) == [[-30.0]]


def test_a_cell_lies_in_the_row_that_is_reached_and_the_column_where_the_path_starts() -> None:
    units = chain(2)
    units = (units[0], replace(units[1], measurements=replace(units[1].measurements, direct_gain=1e-3)))
    figure = heat_map(Depth(Profile(verdict="", units=units)), key="heat")
    assert figure is not None
    paths = dict(re.findall(r'<path class="(h-?\d)" d="([^"]+)"', figure.svg))
    assert paths == {"h0": "M0 0H150V150H0Z", "h-6": "M150 0H300V150H150ZM150 150H300V300H150Z"}
    assert figure.rows == (("1", "1", "0.001"), ("2", "–", "0.001"))
    assert figure.title.startswith("From the last unit to the first the direct path has the gain 0.001;")


@pytest.mark.parametrize("count", [64, 65, 1000])
def test_the_map_has_at_most_64_cells_a_side(count: int) -> None:
    figure = heat_map(Depth(clean(count)), key="heat")
    assert figure is not None
    assert len(figure.svg) < 40_000
    size = math.ceil(count / CELLS)
    assert any("geometric mean over" in note for note in figure.notes) == (size > 1)
    assert len(figure.rows) <= 16


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_neighbouring_colours_of_the_map_differ_and_the_ends_stand_apart(theme: str) -> None:
    shades = list(colours(theme).values())
    assert len(set(shades)) == 2 * LEVELS + 1
    middle = shades[LEVELS]
    assert min(contrast(shades[0], middle), contrast(shades[-1], middle)) >= 3


def test_a_network_of_one_unit_or_of_none_known_has_no_map() -> None:
    assert heat_map(Depth(clean(1)), key="heat") is None
    assert heat_map(Depth(Profile(verdict="", units=chain(5, direct_gain=None))), key="heat") is None
