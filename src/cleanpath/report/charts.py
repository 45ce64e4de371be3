"""Curves of a table as static SVG: test error above, training loss below, a panel per row, another row in grey behind.

No name of a row reaches a Vega expression or a field: panels are drawn from numbers, and words are escaped afterwards.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt

from cleanpath.paper.published import FAIL, FAIL_ABOVE
from cleanpath.report.lines import MOST_LINES, MOST_SINGLE, POINTS, Curve, Lines, finite
from cleanpath.report.loss_axis import loss_axis, loss_marks
from cleanpath.report.table import DIVERGED, EXTERNAL, FAILED, MISSING, UNFINISHED, Cell, Table
from cleanpath.report.vega import FONT, named, to_svg

WORDS = {
    "ok": "converges",
    FAIL: "fails",
    DIVERGED: "diverged",
    FAILED: "crashed",
    UNFINISHED: "not finished",
    MISSING: "not run",
    EXTERNAL: "not ours",
}
# Contrast of at least 3 on white and on the dark page; the status is also a word, so no line depends on its colour.
REFERENCE = "#7f7f7f"
COLOURS = {
    **dict.fromkeys(("ok", UNFINISHED, MISSING), "#0072B2"),
    FAIL: "#D55E00",
    DIVERGED: "#D55E00",
    FAILED: "#D55E00",
}
THIN, MIDDLE, THICK = 0.7, 1.4, 2.0
ROWS = 20  # that the table behind a panel has of a curve, where the error was not measured more often
_WIDTH, _HEIGHT, _MARGIN = 262, 92, 40  # the margin has room for 0.0001
_PARTS = ("reference", "seeds", "median")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One row's curves: what is drawn, in a sentence, as SVG, and as the numbers behind it."""

    cell: Cell
    sentence: str
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """All panels of a table, and what must be said about them: averages, edges, rows that are not drawn."""

    panels: tuple[Panel, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """One quantity of one panel: every seed, their median, and that of the reference; each a list of lines."""

    reference: list[Curve]
    seeds: list[Curve]
    median: list[Curve]

    def __bool__(self) -> bool:
        return bool(self.reference or self.seeds or self.median)


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """What all panels of a table share, so that they can be compared."""

    last: int
    loss: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """Both curves of a cell's runs."""

    error: Lines
    loss: Lines


def curves(table: Table) -> Chart:
    """A panel for every cell that has curves and prints how they end."""
    drawn = [cell for cell in table.cells if _has_curves(cell) and cell.quantity == "error"]
    longest = max((len(seed.loss_curve) for cell in drawn for seed in cell.seeds), default=0)
    group = max(1, math.ceil(longest / POINTS))
    of = {
        _key(cell): _Curves(error=Lines(cell, "error_curve", 1), loss=Lines(cell, "loss_curve", group))
        for cell in table.cells
        if _has_curves(cell)
    }
    axes = _axes([of[_key(cell)] for cell in drawn])
    notes = _notes(table, drawn, of, group, axes)
    return Chart(panels=tuple(_panel(table, cell, of, axes) for cell in drawn), notes=tuple(notes))


def anchor(table: Table, cell: Cell | None = None) -> str:
    """The place of the table or the cell in the page: table, row and, if there are several, column."""
    parts = [table.name]
    if cell is not None:
        parts += [cell.row, *([cell.column] if len(table.columns) > 1 else [])]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts))


def label(table: Table, cell: Cell) -> str:
    """What the cell is called in a sentence: its row and, if the table has several, its column."""
    return f"{cell.label}, {cell.column}" if len(table.columns) > 1 else cell.label


def names_of(table: Table, cells: Sequence[Cell]) -> list[str]:
    """The cells' labels; a column of which all rows are among them is named once."""
    columns = {column: [cell for cell in table.cells if cell.column == column] for column in table.columns}
    whole = [column for column, rows in columns.items() if len(columns) > 1 and all(row in cells for row in rows)]
    single = [label(table, cell) for cell in cells if cell.column not in whole]
    return [*single, *(f"all rows of {column}" for column in whole)]


def _key(cell: Cell) -> tuple[str, str]:
    return cell.row, cell.column


def _panel(table: Table, cell: Cell, of: Mapping[tuple[str, str], _Curves], axes: _Axes) -> Panel:
    reference, mine = _reference(table, cell), of[_key(cell)]
    behind = of[_key(reference)] if reference else None
    error = _drawn(mine.error, behind.error if behind else None)
    loss = _drawn(mine.loss, behind.loss if behind else None)
    sentence = _sentence(table, cell, reference, mine.loss.ungrouped)
    head, rows = _data(cell, mine)
    return Panel(
        cell=cell,
        sentence=sentence,
        svg=named(
            _svg(error, loss, COLOURS[cell.status], axes),
            anchor(table, cell),
            f"{label(table, cell)}: {WORDS[cell.status]}",
            sentence,
        ),
        head=head,
        rows=rows,
    )


def _drawn(lines: Lines, reference: Lines | None) -> _Drawn:
    behind = reference.median if reference else []
    alone = len(lines.single) == 1 and bool(lines.median)
    return _Drawn(
        reference=[behind] if behind else [],
        seeds=[] if alone else [points for points in map(finite, lines.single) if points],
        median=[lines.median] if lines.median else [],
    )


def _axes(drawn: Sequence[_Curves]) -> _Axes:
    losses = sorted(v for one in drawn for _, curve in one.loss.means for _, v in curve if 0 < v < math.inf)
    return _Axes(
        last=max((curve[-1][0] for one in drawn for lines in (one.loss, one.error) for curve in lines.raw), default=1),
        loss=loss_axis(losses),
    )


def _svg(error: _Drawn, loss: _Drawn, colour: str, axes: _Axes) -> str:
    """The views that have lines, one above the other, drawn by Vega from numbers alone."""
    views = {"error": error, "loss": loss}
    data = {f"{view}_{part}": _values(getattr(lines, part)) for view, lines in views.items() for part in _PARTS}
    data |= {f"{view}_end": _values(_dots(lines)) for view, lines in views.items()}
    data["limit"] = [{"x": 0, "to": axes.last, "y": FAIL_ABOVE}]
    present = tuple(view for view, lines in views.items() if lines)
    return to_svg({**_specification(colour, axes, present), "datasets": data})


def _dots(lines: _Drawn) -> list[Curve]:
    """Where the median ends, and runs of one point, which are no line."""
    return [*(line[-1:] for line in lines.median), *(line for line in lines.seeds if len(line) == 1)]


@cache
def _specification(colour: str, axes: _Axes, views: tuple[str, ...]) -> dict[str, Any]:
    """Two views with one axis of iterations, without their data: altair checks and copies every value it is given."""
    drawn = [
        _error_view(colour, axes, last=view == views[-1]) if view == "error" else _loss_view(colour, axes)
        for view in views
    ]
    chart = alt.vconcat(*drawn, spacing=8).configure(
        aria=False, background="transparent", font=FONT, view=alt.ViewConfig(stroke=None), padding=2
    )
    specification: dict[str, Any] = chart.to_dict()
    return specification


def _error_view(colour: str, axes: _Axes, *, last: bool) -> alt.LayerChart:
    """Linear from 0 to 100%, with the limit above which the paper prints "fail"."""
    x = _across(axes.last, labels=last)
    scale = alt.Scale(domain=[0, 100], nice=False, clamp=True)
    y = alt.Y("y:Q", scale=scale, axis=axis(values=[0, 20, 40, 60, 80, 100]))
    rule = alt.Chart(alt.NamedData(name="limit")).mark_rule(color="currentColor", strokeDash=[2, 3], strokeWidth=1.2)
    rule = rule.encode(x=x, x2="to:Q", y=y)
    return _view("test error, %", [rule, *_marks("error", colour, x, y, dash=[])])


def _loss_view(colour: str, axes: _Axes) -> alt.LayerChart:
    """Dashed as in the paper."""
    scale = alt.Scale(type="log", domain=list(axes.loss), nice=False, clamp=True)
    # 0.00001 is wider than the margin where a browser's letters are wider than Vega's.
    words = "datum.value < 0.001 ? format(datum.value, '~e') : format(datum.value, '~g')"
    decades = axis(values=loss_marks(*axes.loss), labelExpr=words)
    y = alt.Y("y:Q", scale=scale, axis=decades)
    marks = _marks("loss", colour, _across(axes.last, labels=True), y, dash=[4, 2])
    return _view("training loss, log scale", marks)


def _view(title: str, layers: list[alt.Chart]) -> alt.LayerChart:
    heading = alt.TitleParams(
        title, anchor="start", frame="group", fontSize=11, fontWeight="normal", color="currentColor", offset=4
    )
    return alt.LayerChart(layer=layers, width=_WIDTH, height=_HEIGHT, title=heading)


def _marks(view: str, colour: str, x: alt.X, y: alt.Y, *, dash: list[int]) -> list[alt.Chart]:
    """Reference behind, seeds thin, median thick; a dot where the median ends."""
    styles = zip(_PARTS, (REFERENCE, colour, colour), (MIDDLE, THIN, THICK), strict=True)
    lines = [
        alt.Chart(alt.NamedData(name=f"{view}_{part}"))
        .mark_line(color=stroke, strokeWidth=width, strokeDash=dash, strokeJoin="round")
        .encode(x=x, y=y, detail="line:N")
        for part, stroke, width in styles
    ]
    end = alt.Chart(alt.NamedData(name=f"{view}_end")).mark_circle(color=colour, opacity=1, size=24)
    return [*lines, end.encode(x=x, y=y)]


def _values(lines: Sequence[Curve]) -> list[dict[str, float]]:
    return [{"line": index, "x": at, "y": value} for index, line in enumerate(lines) for at, value in line]


def _across(last: int, *, labels: bool) -> alt.X:
    scale = alt.Scale(domain=[0, last], nice=False)
    title = "iteration" if labels else None
    return alt.X(
        "x:Q", scale=scale, axis=axis(labels=labels, ticks=labels, title=title, tickCount=4, tickMinStep=1, format="~s")
    )


def axis(**settings: Any) -> alt.Axis:
    """An axis in the colour of the text, with lines that stay behind the curves."""
    colours = {f"{part}Color": "currentColor" for part in ("domain", "grid", "label", "tick", "title")}
    texts = {"labelFontSize": 10, "titleFontSize": 11, "titleFontWeight": "normal", "labelFlush": False}
    space = {"minExtent": _MARGIN, "gridOpacity": 0.14, "title": None} if "values" in settings else {"grid": False}
    return alt.Axis(**{**colours, **texts, **space, **settings})


def _sentence(table: Table, cell: Cell, reference: Cell | None, losses: Lines) -> str:
    """The result that the panel shows, for who cannot see it."""
    if not cell.n:
        text = f"{label(table, cell)}: {WORDS[cell.status]}, no result yet"
    elif cell.median is None:
        text = f"{label(table, cell)}: {WORDS[cell.status]}, no finite median test error over {runs(cell.n)}"
    else:
        text = f"{label(table, cell)}: {WORDS[cell.status]}, median test error {cell.median:.1f}% over {runs(cell.n)}"
    if losses.end:
        text += f", training loss {losses.end[1]:.2g} at iteration {losses.end[0]}"
    if reference and reference.median is not None:
        text += f"; {reference.label}: {reference.median:.1f}%"
    return f"{text}."


def runs(n: int) -> str:
    """A number of runs, in words."""
    return "one run" if n == 1 else f"{n or 'no'} runs"


def _notes(
    table: Table, drawn: Sequence[Cell], of: Mapping[tuple[str, str], _Curves], group: int, axes: _Axes
) -> list[str]:
    notes, losses = [], [of[_key(cell)].loss for cell in drawn]
    if group > 1:
        notes.append(f"Each point of the training loss is the mean of {group} recorded values, at the last of them.")
    if any(lines.are_many for lines in losses):
        notes.append(f"Of more than {MOST_LINES} runs of a row, the thin lines are the least and the greatest.")
    if (coarser := max((lines.coarser for lines in losses if not lines.are_many), default=1)) > 1:
        notes.append(f"Single runs are averaged further, over {group * coarser} values where a row has most of them.")
    values = [value for lines in losses for _, curve in lines.means for _, value in curve]
    if group > 1 or any(len(curve) > ROWS for lines in losses for curve in lines.raw):
        notes.append("The tables behind the panels have some of these points; metrics.jsonl in a run's folder has all.")
    if any(len(lines.raw) > MOST_SINGLE for lines in losses):
        notes.append(f"Of more than {MOST_SINGLE} runs these tables have the median and the range of those that ended.")
    low, high = axes.loss
    if any(not 0.999 * low <= value <= 1.001 * high for value in values if -math.inf < value < math.inf):
        notes.append(f"A loss outside {low:g} to {high:g} is drawn at the edge.")
    if math.inf in values or -math.inf in values:
        notes.append("A line ends where its value is not finite.")
    absent = [cell for cell in table.cells if cell not in drawn and cell.quantity == "error" and not cell.external]
    for status, word in WORDS.items():
        names = names_of(table, [cell for cell in absent if cell.status == status])
        if names:
            notes.append(f"Without curves ({word}): {', '.join(names)}.")
    return notes


def _data(cell: Cell, curves: _Curves) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """What is drawn for each seed, or of many their median and range, by iteration; a dash where nothing was measured.

    Of a long loss curve some points, evenly, and those where the error was measured.
    """
    lines = [
        (f"{name}, {words}", digits, line)
        for name, each, digits in (("error %", curves.error, ".1f"), ("loss", curves.loss, ".3g"))
        for words, line in _columns(each)
    ]
    measured = {at for seed in cell.seeds for at, _ in seed.error_curve}
    places = thinned(sorted({at for _, _, line in lines for at in line}), measured)
    rows = tuple((str(at), *(format(line[at], f) if at in line else "–" for _, f, line in lines)) for at in places)
    return ("iteration", *(name for name, _, _ in lines)), rows


def _columns(lines: Lines) -> list[tuple[str, dict[int, float]]]:
    if len(lines.raw) <= MOST_SINGLE:
        return [(f"seed {seed.seed}", dict(points)) for seed, points in lines.means]
    least, greatest = lines.range
    words = (("median", dict(lines.median)), ("least", least), ("greatest", greatest))
    return [(word, line) for word, line in words if line]


def thinned(places: Sequence[int], kept: Collection[int]) -> list[int]:
    """At most about `ROWS` places: those to be kept, and of the others some, evenly, the last among them."""
    others = [at for at in places if at not in kept]
    step = max(1, math.ceil(len(others) / max(1, ROWS - len(kept))))
    return sorted({*(at for at in places if at in kept), *others[::-1][::step]})


def _reference(table: Table, cell: Cell) -> Cell | None:
    """The row of the same column that the cell is compared with, unless it is the cell itself or has no curves."""
    rows = (other for other in table.cells if (other.row, other.column) == (cell.reference, cell.column))
    found = next(rows, None)
    return None if found is None or found == cell or not _has_curves(found) else found


def _has_curves(cell: Cell) -> bool:
    return any(seed.loss_curve or seed.error_curve for seed in cell.seeds)
