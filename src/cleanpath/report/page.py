"""A reproduction as one HTML page: the answer, the tables, what differs, the curves, how it was measured.

The page loads nothing, runs nothing, and is read in a browser, in the dark and on paper. Values come from `table.py`.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cleanpath.paper.deviations import LETTERS
from cleanpath.paper.published import FAIL, FAIL_ABOVE
from cleanpath.paper.verdicts import Verdict
from cleanpath.records import EARLIER
from cleanpath.report.beginnings import Beginning, gains_drawing, of_cell
from cleanpath.report.charts import COLOURS, REFERENCE, THICK, THIN, WORDS, Chart, anchor, curves, label, names_of, runs
from cleanpath.report.claimed import Column, columns_of, tally, verdicts_of
from cleanpath.report.claims_shown import claims_shown
from cleanpath.report.drawing import Drawn, unit_drawing
from cleanpath.report.heading import heading, name_of
from cleanpath.report.overlays import Together, overlays
from cleanpath.report.standing import Standing
from cleanpath.report.table import DIVERGED, FAILED, MISSING, UNFINISHED, Cell, Table, clock, number, spread
from cleanpath.report.table_text import about_intervals, interval, interval_head

# A status is a word, a shape and a colour: two of them are left for who does not see the third.
SHAPES = {
    "converges": "●",
    "fails": "▲",
    "diverged": "✕",
    "crashed": "■",
    "not finished": "◐",
    "not run": "○",
    "not ours": "□",
}


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One printed row of a table; `gap` is how many rows without a result follow from here on, 0 inside such a gap."""

    cell: Cell
    anchor: str
    paper: str
    median: str
    spread: str
    interval: str
    n: str
    status: str
    verdict: str
    same: bool | None
    gap: int
    why: str
    """Why there is no number of ours, where that is meant to be so."""
    command: str
    """What fills it."""


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One table with everything that the page says about it."""

    table: Table
    name: str
    answer: tuple[str, ...]
    lines: tuple[_Line, ...]
    interval_head: str
    limits: tuple[str, ...]
    troubles: tuple[str, ...]
    chart: Chart
    overlays: tuple[Together, ...]
    """Panels with the lines of several rows, as the paper draws them."""
    columns: tuple[Column, ...]
    """Ceilings, and how far the order of the rows is the paper's."""
    figures: tuple[tuple[str, str], ...]
    """Units that the figure draws: caption and SVG."""
    started: tuple[tuple[str, str], ...]
    """For each panel of the chart, its network at initialisation: gains over depth and unit; empty where not known."""


def page(  # noqa: PLR0913 (keyword options)
    tables: Sequence[Table],
    facts: Mapping[str, str],
    command: str,
    *,
    verdicts: Sequence[Verdict] | None = None,
    beginnings: Mapping[str, Beginning] | None = None,
    drawings: Mapping[str, Sequence[Drawn]] | None = None,
    standing: Standing | None = None,
    own: Sequence[str] = (),
    awaited: Collection[tuple[str, str]] = (),
) -> str:
    """The complete HTML; `facts` are printed as they are (versions, threads, commit, time), `command` made the page.

    The verdicts are those of the tables, if none are given. `beginnings` are the networks at their initialisation, by
    run, `drawings` the units that a figure shows, by table. With a `standing` the page says how far the runs are, and
    loads itself anew. `own` are the names of files of a user's units among the rows, `awaited`
    the columns, by table, of which a grid that goes on makes what is not there yet.
    """
    environment = Environment(
        loader=PackageLoader("cleanpath.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals = {"shapes": SHAPES, "words": WORDS, "svg": _svg, "anchor": anchor, "fail_above": FAIL_ABOVE}
    environment.globals |= {"letters": LETTERS, "number": number, "clock": clock}
    sections = [
        _section(table, beginnings or {}, (drawings or {}).get(table.name, ()), _awaited(table, awaited))
        for table in tables
    ]
    judged = verdicts_of(tables) if verdicts is None else verdicts
    return environment.get_template("page.html").render(
        sections=sections,
        facts=facts,
        command=command,
        heading=heading(tables, own),
        tally=re.split(r" (?=Run at )", tally(judged, tables), maxsplit=1),
        hypotheses=claims_shown(tables, judged),
        intervals=about_intervals([cell for table in tables for cell in table.cells]),
        standing=standing,
        lettered=any(cell.deviates for table in tables for cell in table.cells),
        widths=(THIN, THICK),
        colours=COLOURS,
        reference=REFERENCE,
    )


def _awaited(table: Table, awaited: Collection[tuple[str, str]]) -> Collection[Cell]:
    """The cells of a table whose runs a grid is about to make, or to end."""
    return [
        cell
        for cell in table.cells
        if (table.name, cell.column) in awaited and any(seed.status in (MISSING, UNFINISHED) for seed in cell.seeds)
    ]


def answer(table: Table, awaited: Collection[Cell] = ()) -> tuple[str, ...]:
    """Which rows do here what the paper says of them, and which do not: sentences from the data, the counts first."""
    if not table.cells:
        return ("A drawing of units, of which nothing is trained.",)
    run = [cell for cell in table.cells if cell.n]
    if not run:
        return ("Nothing has a result yet." if awaited else f"Nothing has a result yet; {_fill(table)} fills it.",)
    absent = names_of(table, [cell for cell in table.cells if not cell.n and not cell.external])
    told = [cell for cell in run if cell.paper is not None and cell.judged]
    sentences = [
        _agreement(told, whole=not absent),
        _disagreement(table, told),
        *_beyond(table, run),
        f"{_seeds(run)}.",
    ]
    if absent:
        sentences.append(f"Without a result: {', '.join(absent)}.")
    return tuple(sentence for sentence in sentences if sentence)


def _fill(table: Table) -> str:
    """The command that fills a table of which nothing ran: at this scale, or where it has cells at all."""
    return table.fill if any(cell.seeds for cell in table.cells) else table.cells[0].fill or table.fill


def verdict(cell: Cell) -> tuple[str, bool | None]:
    """The row beside the paper's, in words, and whether both fail or both converge; None where that cannot be said."""
    if cell.external:
        return "another method", None
    if cell.paper is None:
        return "not in the paper", None
    if cell.n and not cell.judged:
        return "–", None
    if not cell.n:
        return "no result", None
    there = WORDS[FAIL if cell.paper == FAIL else "ok"]
    if _fails(cell) == (cell.paper == FAIL):
        return f"same: both {'fail' if _fails(cell) else 'converge'}", True
    return f"differs: {there} in the paper", False


def _fails(cell: Cell) -> bool:
    return cell.outcome in (FAIL, DIVERGED)


def _agreement(told: Sequence[Cell], *, whole: bool) -> str:
    """Both counts; a paper's table without failing rows has only the second."""
    counts = []
    for there, words in (
        (True, "fail in the paper, {} fail here too"),
        (False, "converge in the paper, {} converge here"),
    ):
        rows = [verdict(cell)[1] for cell in told if (cell.paper == FAIL) == there]
        if rows:
            counts.append(words.format(f"{rows.count(True)} of {len(rows)}"))
    rows_of = "rows" if whole else "rows with a result"
    return f"Of the {rows_of} that {'; of those that '.join(counts)}." if counts else ""


def _disagreement(table: Table, told: Sequence[Cell]) -> str:
    """The rows that disagree, by name, with both numbers."""
    rows = [cell for cell in told if verdict(cell)[1] is False]
    if not told:
        return ""
    if not rows:
        return "No row disagrees."
    named = (f"{label(table, cell)} ({_result(cell)}; in the paper {_percent(number(cell.paper, 2))})" for cell in rows)
    return f"These disagree: {', '.join(named)}."


def _beyond(table: Table, run: Sequence[Cell]) -> list[str]:
    told = [f"{label(table, cell)}: {_result(cell)}" for cell in run if cell.paper is None]
    return [f"Beyond the paper, {'; '.join(told)}."] if told else []


def _result(cell: Cell) -> str:
    word = WORDS[cell.outcome]
    if not cell.judged and cell.median is not None:
        return number(cell.median, cell.digits)
    crash = f", of {len(cell.seeds)} runs {cell.crashes} crashed" if cell.crashes else ""
    return f"{word if cell.median is None else f'{word} here with {number(cell.median, 1)}%'}{crash}"


def _percent(text: str) -> str:
    return WORDS[FAIL] if text == FAIL else f"{text}%"


def _seeds(run: Sequence[Cell]) -> str:
    counts = sorted({cell.n for cell in run})
    each = runs(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    return f"{each[0].upper()}{each[1:]} per row, each with its own seed" if counts[-1] > 1 else "One run per row"


def _section(
    table: Table, beginnings: Mapping[str, Beginning], drawn: Sequence[Drawn], awaited: Collection[Cell]
) -> _Section:
    chart = curves(table)
    return _Section(
        table=table,
        name=name_of(table),
        answer=answer(table, awaited),
        lines=tuple(_line(table, index, awaited) for index in range(len(table.cells))),
        interval_head=interval_head(table.cells).replace(" < ", "\u00a0<\u00a0"),
        limits=tuple(_limits(table)),
        troubles=tuple(_troubles(table)),
        chart=chart,
        overlays=overlays(table),
        columns=tuple(columns_of(table)),
        figures=tuple(
            (
                f"({one.letter}) {one.caption}",
                unit_drawing(one.unit, key=f"{anchor(table)}-{one.letter}", title=one.caption, above=one.above),
            )
            for one in drawn
        ),
        started=tuple(_started(table, panel.cell, beginnings) for panel in chart.panels),
    )


def _started(table: Table, cell: Cell, beginnings: Mapping[str, Beginning]) -> tuple[str, str]:
    """The network of a cell before its first step; its unit once per row."""
    one = of_cell(cell, beginnings)
    if one is None or not one.forward:
        return "", ""
    key, name = anchor(table, cell), label(table, cell)
    first = next(other for other in table.cells if other.row == cell.row and of_cell(other, beginnings)) is cell
    unit = unit_drawing(one.unit, key=f"{key}-unit", title=f"unit of {name}") if one.unit and first else ""
    return gains_drawing(one, key=f"{key}-start", title=f"{name}, at initialisation"), unit


def _line(table: Table, index: int, awaited: Collection[Cell]) -> _Line:
    cell = table.cells[index]
    words, same = verdict(cell)
    why, command = _filling(table, cell, awaited)
    asked = len(cell.seeds)
    return _Line(
        cell=cell,
        anchor=anchor(table, cell),
        paper=number(cell.paper, 2),
        median=number(cell.median, cell.digits),
        spread=spread(cell),
        interval=interval(cell),
        n=str(cell.n) if cell.n == asked else f"{cell.n} of {asked}",
        status=WORDS[cell.status],
        verdict=words,
        same=same,
        gap=_gap(table, index, awaited),
        why=why,
        command=command,
    )


def _gap(table: Table, index: int, awaited: Collection[Cell]) -> int:
    """How many rows without a result begin here: one cell says for all of them how they are filled."""
    fillings = [None if cell.n else _filling(table, cell, awaited) for cell in table.cells]
    if fillings[index] is None or (index and fillings[index - 1] == fillings[index]):
        return 0
    return len(list(takewhile(lambda filling: filling == fillings[index], fillings[index:])))


def _filling(table: Table, cell: Cell, awaited: Collection[Cell]) -> tuple[str, str]:
    """Why a row has no number of ours, and the command that fills it."""
    if cell.external:
        return "another method", ""
    if cell in awaited:
        return "to come", ""
    return (cell.left_out, cell.fill) if cell.left_out else ("", table.fill)


def _limits(table: Table) -> list[str]:
    """What the runs themselves leave open."""
    limits = []
    if max((cell.n for cell in table.cells), default=0) == 1:
        limits.append("One run per row: how far another seed would be from it is not known.")
    for cell in table.cells:
        if elsewhere := [seed for seed in cell.seeds if EARLIER in seed.environment]:
            told = ", ".join(f"seed {seed.seed} (before: {seed.environment[EARLIER]})" for seed in elsewhere)
            limits.append(f"{label(table, cell)}: went on elsewhere, so that last bits may differ: {told}.")
        if min(cell.errors, default=0.0) <= FAIL_ABOVE < max(cell.errors, default=0.0):
            each = ", ".join(f"{error:.1f}%" if math.isfinite(error) else WORDS[DIVERGED] for error in cell.errors)
            limits.append(f"{label(table, cell)}: its runs stand on both sides of the limit of 20% ({each}).")
    return limits


def _troubles(table: Table) -> list[str]:
    """Every run that did not finish, with its reason."""
    return [
        f"{label(table, cell)}, seed {seed.seed}: {WORDS[seed.status]}{f': {seed.reason}' if seed.reason else ''}"
        for cell in table.cells
        for seed in cell.seeds
        if seed.status in (DIVERGED, FAILED)
    ]


def _svg(drawing: str) -> Markup:
    """The drawing as markup: the only text that is not escaped here, because `charts` has done it."""
    return Markup(drawing)  # noqa: S704 (the words in it went through html.escape)
