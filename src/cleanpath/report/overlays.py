"""Panels with the lines of several cells, as the paper draws them, in static SVG.

Of test errors: the training loss dashed, on a logarithmic axis on the left, the test error solid, on the right, as in
the paper's Figures 1, 3 and 6. Of other quantities: their lines by iteration, layer or unit, as in the first paper's
Figure 7. Every line is the median over the runs, and carries its number.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from cleanpath.measures import by_unit
from cleanpath.paper.parts import ITERATION, LAYER, RANK, UNIT, Overlay
from cleanpath.paper.published import FAIL_ABOVE
from cleanpath.report.charts import (
    THICK,
    WORDS,
    anchor,
    axis,
    label,
    runs,
)
from cleanpath.report.lines import POINTS, Curve, Lines
from cleanpath.report.loss_axis import LOSS_LIMITS
from cleanpath.report.table import Cell, Table, number
from cleanpath.report.vega import named, to_svg

# Contrast of at least 3 on white and on the dark page; a line's number says the same as its colour.
PALETTE = ("#0072B2", "#D55E00", "#008A66", "#B25591", "#8A7300", "#7f7f7f")
PAPER_LOSS, PAPER_ERROR = (0.002, 2.0), FAIL_ABOVE
"""The ranges of the paper's axes, which are wider here where a line needs it."""
_WIDTH, _HEIGHT = 340, 210
_IN_TEN_THOUSANDS = 20_000  # from so many iterations on, the axis counts them as the paper's does
_TITLES = {LAYER: "layer index (original)", RANK: "layer index (sorted by magnitude)", UNIT: "unit"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One cell of a panel: its colour, what is said of it, and its lines."""

    cell: Cell
    colour: str
    words: str
    solid: Curve
    dashed: Curve = ()


@dataclass(frozen=True, kw_only=True)
class Together:
    """A drawn panel: its lines, what it shows in a sentence, the SVG, and the numbers that stand nowhere else."""

    caption: str
    lines: tuple[Line, ...]
    sentence: str
    svg: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def overlays(table: Table) -> tuple[Together, ...]:
    """The panels of a table of which there is a line."""
    drawn = [(overlay, _lines(table, overlay)) for overlay in table.overlays]
    return tuple(
        _together(table, at, overlay, lines)
        for at, (overlay, lines) in enumerate(drawn, start=1)
        if any(line.solid or line.dashed for line in lines)
    )


def _lines(table: Table, overlay: Overlay) -> list[Line]:
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    found = [cells[key] for key in overlay.cells if key in cells]
    losses = [len(seed.loss_curve) for cell in found for seed in cell.seeds]
    group = max(1, math.ceil(max(losses, default=0) / POINTS))
    return [
        Line(
            cell=cell,
            colour=PALETTE[at % len(PALETTE)],
            words=_words(table, cell),
            solid=Lines(cell, "error_curve", 1).median if _of_errors(cell) else _measured(cell, overlay.across),
            dashed=Lines(cell, "loss_curve", group).median if _of_errors(cell) else (),
        )
        for at, cell in enumerate(found)
    ]


def _of_errors(cell: Cell) -> bool:
    return cell.quantity == "error"


def _measured(cell: Cell, across: str) -> Curve:
    """The median over the runs of a line that was measured on them."""
    name = by_unit(cell.quantity) if across == UNIT else cell.quantity
    lines = [seed.series.get(name, ()) for seed in cell.seeds]
    each = [known for line in lines if (known := {at: value for at, value in line if math.isfinite(value)})]
    shared = sorted(set.intersection(*map(set, each))) if each else []
    line = [(at, statistics.median(values[at] for values in each)) for at in shared]
    if across == RANK:
        line = list(enumerate(sorted((value for _, value in line), reverse=True), start=1))
    return tuple((round(at), value) for at, value in line)


def _words(table: Table, cell: Cell) -> str:
    """What the cell is called, and what it came to."""
    name = label(table, cell)
    if cell.median is None:
        return f"{name}: {WORDS[cell.status]}"
    return f"{name}: {number(cell.median, cell.digits)}{'%' if _of_errors(cell) else ''} ({runs(cell.n)})"


def _together(table: Table, at: int, overlay: Overlay, lines: Sequence[Line]) -> Together:
    errors = any(line.dashed for line in lines) or any(_of_errors(line.cell) for line in lines)
    sentence = f"{overlay.caption}. {'; '.join(line.words for line in lines)}."
    svg = _of_training(lines) if errors else _of_quantity(lines, overlay.across, table)
    head, rows = ((), ()) if errors else _data(lines, overlay.across)
    return Together(
        caption=overlay.caption,
        lines=tuple(lines),
        sentence=sentence,
        svg=named(svg, f"{anchor(table)}-panel{at}", overlay.caption, sentence),
        head=head,
        rows=rows,
    )


def _data(lines: Sequence[Line], across: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    columns = [dict(line.solid) for line in lines if line.solid]
    places = sorted({at for column in columns for at in column})
    rows = tuple((str(at), *(f"{column[at]:.3g}" if at in column else "–" for column in columns)) for at in places)
    return (across, *(line.words for line in lines if line.solid)), rows


def loss_range(lines: Iterable[Line]) -> tuple[float, float]:
    """The paper's range of training losses, or as far as these lines go."""
    values = [value for line in lines for _, value in line.dashed if value > 0]
    low = max(min((*values, PAPER_LOSS[0])), LOSS_LIMITS[0])
    return low, min(max((*values, PAPER_LOSS[1])), LOSS_LIMITS[1])


def error_limit(lines: Iterable[Line]) -> float:
    """The paper's 20%, with what lies above at the edge; 100% if a line ends above."""
    return PAPER_ERROR if all(line.solid[-1][1] <= PAPER_ERROR for line in lines if line.solid) else 100.0


def _of_training(lines: Sequence[Line]) -> str:
    """Both axes over the iterations."""
    low, high = loss_range(lines)
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    top = error_limit(lines)
    x = _across(lines, ITERATION)
    left = alt.Y(
        "y:Q",
        scale=alt.Scale(type="log", domain=[low, high], nice=False, clamp=True),
        axis=axis(values=[10.0**power for power in powers], format="~g", orient="left"),
    )
    right = alt.Y(
        "y:Q",
        scale=alt.Scale(domain=[0, top], nice=False, clamp=True),
        axis=axis(values=[top * part / 4 for part in range(5)], orient="right", gridOpacity=0.0),
    )
    return _drawn(
        lines,
        [_marks("dashed", lines, x, left, dash=[4, 2]), _marks("solid", lines, x, right, dash=[])],
        "training loss, log scale (dashed, left) · test error, % (solid, right)",
    )


def _of_quantity(lines: Sequence[Line], across: str, table: Table) -> str:
    """One axis from 0, over layers, units or iterations."""
    highest = max(value for line in lines for _, value in line.solid)
    y = alt.Y(
        "y:Q",
        scale=alt.Scale(domain=[0, highest or 1.0], nice=True),
        axis=axis(tickCount=5, grid=True, gridOpacity=0.14, minExtent=40, title=None),
    )
    quantity = lines[0].cell.quantity
    return _drawn(
        lines, [_marks("solid", lines, _across(lines, across), y, dash=[])], table.quantities.get(quantity, quantity)
    )


def _marks(part: str, lines: Sequence[Line], x: alt.X, y: alt.Y, *, dash: list[int]) -> alt.LayerChart:
    """A line for each cell, and its number on it."""
    colour = alt.Color(
        "line:N",
        scale=alt.Scale(domain=list(range(1, len(lines) + 1)), range=[line.colour for line in lines]),
        legend=None,
    )
    drawn = (
        alt.Chart(alt.NamedData(name=part))
        .mark_line(strokeWidth=THICK if part == "solid" else 1.2, strokeDash=dash, strokeJoin="round")
        .encode(x=x, y=y, color=colour)
    )
    text = (
        alt.Chart(alt.NamedData(name=f"{part}_numbers"))
        .mark_text(fontSize=11, fontWeight="bold", dy=-7)
        .encode(x=x, y=y, color=colour, text="line:N")
    )
    return alt.LayerChart(layer=[drawn, text] if part == "solid" else [drawn])


def _drawn(lines: Sequence[Line], layers: list[alt.LayerChart], heading: str) -> str:
    title = alt.TitleParams(
        "HEADING", anchor="start", frame="group", fontSize=11, fontWeight="normal", color="currentColor", offset=6
    )
    chart = alt.LayerChart(layer=layers, width=_WIDTH, height=_HEIGHT, title=title).resolve_scale(y="independent")
    chart = chart.configure(
        aria=False, background="transparent", font="system-ui, sans-serif", view=alt.ViewConfig(stroke=None), padding=2
    )
    specification: dict[str, Any] = chart.to_dict()
    specification["title"]["text"] = heading
    data = {part: _values([getattr(line, part) for line in lines]) for part in ("dashed", "solid")}
    data["solid_numbers"] = _numbers(lines)
    return to_svg({**specification, "datasets": data})


def _values(lines: Sequence[Curve]) -> list[dict[str, float]]:
    return [{"line": number, "x": at, "y": value} for number, line in enumerate(lines, start=1) for at, value in line]


def _numbers(lines: Sequence[Line]) -> list[dict[str, float]]:
    """Where the numbers of the lines stand: one beside the other, so that lines that meet do not hide them."""
    found = []
    for order, line in enumerate(lines, start=1):
        if line.solid:
            at, value = line.solid[min(len(line.solid) - 1, round(len(line.solid) * order / (len(lines) + 1)))]
            found.append({"line": order, "x": at, "y": value})
    return found


def _across(lines: Sequence[Line], across: str) -> alt.X:
    last = max(curve[-1][0] for line in lines for curve in (line.solid, line.dashed) if curve)
    settings: dict[str, Any] = {
        "tickCount": 6,
        "tickMinStep": 1,
        "format": "~s",
        "title": _TITLES.get(across, "iterations"),
    }
    if across == ITERATION and last >= _IN_TEN_THOUSANDS:
        settings |= {"labelExpr": "datum.value / 10000", "title": "iterations (1e4)"}
    scale = alt.Scale(domain=[0 if across == ITERATION else 1, max(last, 2)], nice=False)
    return alt.X("x:Q", scale=scale, axis=axis(**settings))
