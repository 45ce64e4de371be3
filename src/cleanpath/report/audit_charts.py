"""The series of an audit as static SVG, one panel each, on a log axis against the unit.

As in `charts.py`, no word of the model reaches Vega: it draws numbers and our own words; names are escaped afterwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import altair as alt
import vl_convert

from cleanpath.auditing.text import number, usable
from cleanpath.report.audit_series import QUANTITIES, Depth, Quantity, Values, beyond_units, envelope, thinned
from cleanpath.report.charts import MIDDLE, REFERENCE, THICK, axis
from cleanpath.report.vega import named

HERE, THERE = "#0072B2", "#7B4EA3"
POINTS = 400  # a line has no more
DOTS = 80  # beyond, units are joined to a line
ROWS = 200  # of a table of numbers
EDGES = (1e-30, 1e30)  # what lies beyond is drawn at the edge
_SLIM = 1.1  # the direct path
_WIDTH, _HEIGHT = 286, 130
_PADDING = {"left": 46, "right": 72, "top": 32, "bottom": 36}
_LEAST_SPAN = 1.0  # decades
_APART = 11  # least distance of two labels
_STAGES = 6  # more are not labelled


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A panel: its statement, how it is read, the drawing, what must be said, and the numbers behind it."""

    key: str
    title: str
    caption: str
    svg: str
    notes: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    least: int = 0
    """How many of the leading columns are words."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    word: str
    values: Values
    colour: str
    width: float
    dash: tuple[int, ...] = ()
    label: bool = True

    @property
    def points(self) -> list[tuple[int, float]]:
        return [(at, min(max(v, EDGES[0]), EDGES[1])) for at, v in enumerate(self.values, 1) if usable(v)]

    @property
    def zeros(self) -> list[int]:
        return [at for at, value in enumerate(self.values, 1) if value == 0]


def figures(here: Depth, there: Depth | None, reference: Depth | None) -> tuple[Figure, ...]:
    """A panel for every quantity of which anything was measured."""
    found = (_figure(quantity, here, there, reference) for quantity in QUANTITIES)
    return tuple(figure for figure in found if figure is not None)


def _figure(quantity: Quantity, here: Depth, there: Depth | None, reference: Depth | None) -> Figure | None:
    lines = _lines(quantity, here, there, reference)
    own = [line for line in lines if line.colour != REFERENCE]
    if not any(line.points or line.zeros for line in own):
        return None
    title = f"{quantity.statement(here)}."
    if there is not None:
        said = (f"{side[0].lower()}{side[1:]}" for side in map(quantity.statement, (here, there)))
        title = "Here: {}. There: {}.".format(*said)
    head, rows = _table(lines, here, there)
    return Figure(
        key=quantity.key,
        title=title,
        caption=quantity.caption,
        svg=named(_svg(quantity, lines, here), f"chart-{quantity.key}", title, _sentence(quantity, lines)),
        notes=(*_notes(quantity, lines), *(beyond_units(here) if quantity.key == "direct" else ())),
        head=head,
        rows=rows,
        least=2,
    )


def _lines(quantity: Quantity, here: Depth, there: Depth | None, reference: Depth | None) -> list[_Line]:
    """Back to front: the healthy network, the other one, this one."""
    found = list[_Line]()
    sides = ((reference, "healthy", REFERENCE), (there, "there", THERE), (here, "here" if there else "", HERE))
    for depth, whose, colour in sides:
        if depth is None:
            continue
        thick = MIDDLE if colour == REFERENCE else THICK
        for order, (word, values) in enumerate(quantity.series):
            several = len(quantity.series) > 1
            spoken = f"{word} {whose}" if several and whose and whose != "healthy" else whose or word
            found.append(
                _Line(
                    word=spoken if whose != "healthy" or not order else f"healthy {word}",
                    values=_met(values(depth), here, quantity) if whose == "healthy" else values(depth),
                    colour=colour,
                    width=_SLIM if order else thick,
                    dash=(5, 3) if whose == "there" else (),
                    label=whose != "healthy" or not order,
                )
            )
    return found


def _met(values: Values, here: Depth, quantity: Quantity) -> Values:
    """The healthy line, scaled where only its course counts."""
    own = quantity.series[0][1](here)
    if quantity.meet is None or not own or not values:
        return values
    wanted, found = own[quantity.meet], values[quantity.meet]
    if not usable(wanted) or not usable(found):
        return values
    return tuple(None if value is None else value * wanted / found for value in values)


def _svg(quantity: Quantity, lines: Sequence[_Line], here: Depth) -> str:
    count = _longest(lines)
    low, high = _domain([value for line in lines for _, value in line.points], ratio=quantity.ratio)
    scale = alt.Scale(type="log", domain=[low, high], nice=False, clamp=True)
    y = alt.Y("y:Q", scale=scale, axis=axis(values=_ticks(low, high), labelExpr=_LABELS))
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=[0.5, count + 0.5], nice=False),
        axis=axis(
            title="unit, in the order of the signal", values=_indices(count), format="d", minExtent=0, grid=False
        ),
    )
    layers = [*_frame(quantity, here, x, y)]
    for at, line in enumerate(lines):
        layers += _marks(f"line{at}", line, x, y, dots=quantity.ratio or quantity.key == "share")
    layers += _labels(lines, low, high)
    chart = alt.LayerChart(layer=layers, width=_WIDTH, height=_HEIGHT).properties(
        autosize=alt.AutoSizeParams(type="none"), padding=_PADDING, datasets=_datasets(quantity, lines, here, count)
    )
    chart = chart.configure(aria=False, background="transparent", font="system-ui, sans-serif")
    return str(vl_convert.vegalite_to_svg(chart.configure_view(stroke=None).to_dict()))


# A constant: no word of the model is part of it.
_LABELS = "datum.value < 0.001 || datum.value >= 10000 ? format(datum.value, '.0e') : format(datum.value, '~g')"


def _datasets(quantity: Quantity, lines: Sequence[_Line], here: Depth, count: int) -> dict[str, list[dict[str, Any]]]:
    data: dict[str, list[dict[str, Any]]] = {"one": [{"x": 0.5, "to": count + 0.5, "y": 1}] if quantity.ratio else []}
    data["stages"] = [{"x": at + 0.5, "word": f"stage {stage}"} for at, stage in here.boundaries[:POINTS]]
    for at, line in enumerate(lines):
        data[f"line{at}"] = [{"x": x, "y": y, "part": part} for part, x, y in _parts(line)]
        data[f"line{at}_zero"] = [{"x": line.zeros[i]} for i in thinned(len(line.zeros), DOTS)]
    return data


def _parts(line: _Line) -> list[tuple[int, int, float]]:
    """The points in unbroken parts: what was not measured is a gap."""
    runs = [
        [point for _, point in run] for _, run in groupby(enumerate(line.points), lambda pair: pair[1][0] - pair[0])
    ]
    room = max(2, POINTS * 2 // max(len(runs), 1))
    most = POINTS if len(runs) == 1 else room
    drawn = [(part, x, y) for part, run in enumerate(runs) for x, y in envelope(run, most)]
    return [drawn[at] for at in thinned(len(drawn), POINTS)]


def _frame(quantity: Quantity, here: Depth, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """The line at 1, the boundaries of stages, the name of the quantity."""
    grey: dict[str, Any] = {"color": "currentColor", "opacity": 0.55, "strokeWidth": 1}
    layers = [alt.Chart(alt.NamedData(name="one")).mark_rule(**grey).encode(x=x, x2="to:Q", y=y)]
    stages = alt.Chart(alt.NamedData(name="stages"))
    layers.append(stages.mark_rule(**grey, strokeDash=[2, 3]).encode(x=x))
    if len(here.boundaries) <= _STAGES and _roomy(here):
        text = stages.mark_text(align="left", dx=2, fontSize=9, color="currentColor")
        layers.append(text.encode(x=x, y=alt.value(-5), text="word:N"))
    return [*layers, _word(quantity.name, -_PADDING["left"] + 10, -20, 11, "currentColor")]


def _roomy(here: Depth) -> bool:
    starts = [at for at, _ in here.boundaries] + [len(here.units)]
    least = min((b - a for a, b in pairwise(starts)), default=0)
    return least * _WIDTH / max(len(here.units), 1) >= 38


def _marks(data: str, line: _Line, x: alt.X, y: alt.Y, *, dots: bool) -> list[alt.Chart]:
    own = alt.Chart(alt.NamedData(name=data))
    layers = list[alt.Chart]()
    if dots and len(line.points) <= DOTS and line.colour != REFERENCE:
        filled = not line.dash
        mark = own.mark_point(
            color=line.colour, filled=filled, opacity=1, size=22, shape="circle" if filled else "diamond"
        )
        layers.append(mark.encode(x=x, y=y))
    else:
        style: dict[str, Any] = {"color": line.colour, "strokeWidth": line.width}
        style |= {"strokeDash": list(line.dash)} if line.dash else {}
        layers.append(own.mark_line(**style, strokeJoin="round", strokeCap="round").encode(x=x, y=y, detail="part:N"))
    if line.zeros:
        zero = alt.Chart(alt.NamedData(name=f"{data}_zero"))
        mark = zero.mark_point(color=line.colour, filled=False, opacity=1, size=34, shape="triangle-down")
        layers.append(mark.encode(x=x, y=alt.value(_HEIGHT)))
    return layers


def _labels(lines: Sequence[_Line], low: float, high: float) -> list[alt.Chart]:
    """The word of each line at its end, moved apart where they would overlap."""
    ends = [(line, _height(line.points[-1][1], low, high)) for line in lines if line.label and line.points]
    ends.sort(key=lambda end: end[1])
    free, placed = -math.inf, list[tuple[_Line, float]]()
    for line, height in ends:
        free = max(height, free + _APART)
        placed.append((line, free))
    over = max(0.0, (placed[-1][1] if placed else 0.0) - _HEIGHT)
    return [_word(line.word, _WIDTH + 6, height - over, 10, line.colour) for line, height in placed]


def _word(text: str, x: float, y: float, size: int, colour: str) -> alt.Chart:
    style: dict[str, Any] = {"align": "left", "baseline": "middle", "fontSize": size, "color": colour}
    chart = alt.Chart(alt.InlineData(values=[{}])).mark_text(text=text, **style)
    return chart.encode(x=alt.value(x), y=alt.value(y))  # type: ignore[no-any-return]


def _height(value: float, low: float, high: float) -> float:
    place = (math.log(high) - math.log(value)) / (math.log(high) - math.log(low))
    return _HEIGHT * min(max(place, 0.0), 1.0)


def _domain(values: Sequence[float], *, ratio: bool) -> tuple[float, float]:
    """At least a decade; a ratio's has 1 in its middle."""
    logs = [math.log10(value) for value in values] or [0.0]
    if ratio:
        reach = max(_LEAST_SPAN / 2, 1.1 * max(map(abs, logs)))
        return 10**-reach, 10**reach
    middle, span = (max(logs) + min(logs)) / 2, max(1.1 * (max(logs) - min(logs)), _LEAST_SPAN)
    return 10 ** (middle - span / 2), 10 ** (middle + span / 2)


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, thinned; with 2 and 5 between them where there are few."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        step = math.ceil((last - first) / 5)
        return [10.0**power for power in range(-(-first // step) * step, last + 1, step)]
    every = (digit * 10.0**power for power in range(first - 1, last + 1) for digit in (1, 2, 5))
    return [tick for tick in every if low <= tick <= high]


def _indices(count: int) -> list[int]:
    """First and last unit, and round ones between."""
    step = next(s for power in range(7) for d in (1, 2, 5) if count / (s := d * 10**power) <= 5)
    return [1, *(at for at in range(step, count, step) if at > step / 2 and 1 < at <= count - step / 2), *{count} - {1}]


def _longest(lines: Sequence[_Line]) -> int:
    return max((len(line.values) for line in lines), default=1)


def _sentence(quantity: Quantity, lines: Sequence[_Line]) -> str:
    """The ends and the extremes of each line, for who cannot see it."""
    told = []
    for line in lines:
        values = [value for value in line.values if usable(value)]
        if values:
            first, last, least, most = map(number, (values[0], values[-1], min(values), max(values)))
            told.append(f"{line.word}: {first} at the first unit, {last} at the last, between {least} and {most}")
        elif line.zeros:
            told.append(f"{line.word}: zero in {len(line.zeros)} units")
    return f"{quantity.name.capitalize()} against the unit, log axis. {'; '.join(told)}."


def _notes(quantity: Quantity, lines: Sequence[_Line]) -> list[str]:
    notes = []
    longest = _longest(lines)
    if any(line.colour == REFERENCE for line in lines) and quantity.meet is not None:
        where = "first" if quantity.meet == 0 else "last"
        notes.append(f"The healthy line is scaled to meet this one at the {where} unit: only its course counts.")
    if any(line.word.startswith("healthy ") for line in lines):
        notes.append("In grey the same of the healthy network.")
    if longest > POINTS:
        notes.append("Of every few neighbours the smallest and the largest are drawn.")
    own = [value for line in lines if line.colour != REFERENCE for value in line.values]
    broken = sum(value is not None and not math.isfinite(value) for value in own)
    absent = sum(value is None for value in own)
    zeros = sum(value == 0 for value in own) if quantity.key != "share" else 0
    if broken:
        notes.append(f"{broken} values are not finite and leave a gap.")
    if absent:
        notes.append(f"{absent} values are not known and leave a gap.")
    if zeros:
        notes.append(f"{zeros} values are zero: a hollow mark on the lower edge.")
    if any(usable(value) and not EDGES[0] <= value <= EDGES[1] for value in own):
        notes.append(f"What is below {EDGES[0]:g} or above {EDGES[1]:g} is drawn at the edge.")
    if longest > ROWS:
        notes.append(f"The table has {ROWS} of {longest} units, spread evenly.")
    return notes


def _table(
    lines: Sequence[_Line], here: Depth, there: Depth | None
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The numbers that are drawn, this network's first."""
    columns = sorted(lines, key=lambda line: (HERE, THERE, REFERENCE).index(line.colour))
    names = [unit.name for unit in (here if there is None or len(here.units) >= len(there.units) else there).units]
    rows = tuple(
        (
            str(at + 1),
            names[at] if at < len(names) else "–",
            *(number(line.values[at] if at < len(line.values) else None) for line in columns),
        )
        for at in thinned(_longest(lines), ROWS)
    )
    return ("", "unit", *(line.word for line in columns)), rows
