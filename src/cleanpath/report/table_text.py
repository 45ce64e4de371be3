"""A table as text: the words of its cells, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cleanpath.paper.deviations import LETTERS
from cleanpath.paper.exact import ranks_around_median
from cleanpath.report.table import CONFIDENCE, DIVERGED, Cell, Table, cell_data, count, number, spread

_CSV = (
    *("table", "scale", "set", "row", "column", "quantity", "paper", "n", "median", "mean", "std"),
    *("interval", "low", "high", "coverage", "status", "deviates", "deviates_in", "left_out"),
)
_RANGE, _INTERVAL = "min–max", "interval"
_DIGITS = 5
"""Of a number in CSV."""


def to_markdown(table: Table) -> str:
    """The table as Markdown, with what its intervals are and what its letters stand for below it."""
    head = [
        "row",
        "column",
        "paper",
        "ours, median",
        "mean ± std",
        interval_head(table.cells),
        "n",
        "status",
        "differs in",
    ]
    lines = [head, ["---", "---", *["--:"] * 5, "---", "---"]]
    for c in table.cells:
        numbers = [number(c.paper, 2), number(c.median, c.digits), spread(c), interval(c), count(c)]
        lines.append([c.label, c.column, *numbers, c.status, letters(c) or "–"])
    parts = (
        f"**{table.name}: {table.title}**, scale {table.scale} ({table.protocol})\n",
        "".join(f"| {' | '.join(line)} |\n" for line in lines),
        f"{about_intervals(table.cells)}\n",
        "".join(f"- {label}: {note}\n" for label, note in table.notes),
        "".join(f"- {f'**{letter}**: ' if letter else ''}{told}\n" for letter, told in table.marked),
    )
    return "\n".join(part for part in parts if part.strip())


def to_csv(tables: Sequence[Table]) -> str:
    """All rows of all tables as one CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        writer.writerows(
            {
                "table": table.name,
                "scale": table.scale,
                "set": "; ".join(table.changes),
                **_rounded({**cell_data(cell), **_more(cell)}),
            }
            for cell in table.cells
        )
    return out.getvalue()


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with the digits that mean something: of 50,000 images an error has no more; JSON has them exactly."""
    return {
        key: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) and math.isfinite(value) else value
        for key, value in values.items()
    }


def _more(cell: Cell) -> dict[str, float | str | None]:
    low, high = cell.interval or (None, None)
    return {
        "deviates": letters(cell),
        "deviates_in": letters_in_words(cell),
        "interval": None if cell.interval is None else _RANGE if cell.is_range else _INTERVAL,
        "low": low,
        "high": high,
        "coverage": cell.coverage,
    }


def letters(cell: Cell) -> str:
    """In what a cell is not run as the paper's, by the letters of the sentences that say so."""
    return " ".join(cell.deviates)


def letters_in_words(cell: Cell) -> str:
    """The same in words."""
    return ", ".join(LETTERS[letter] for letter in cell.deviates)


def interval(cell: Cell) -> str:
    """Both ends of a cell's interval; a dash below two runs."""
    if cell.interval is None:
        return "–"
    low, high = (f"{end:.{cell.digits}f}" if math.isfinite(end) else DIVERGED for end in cell.interval)
    return f"{low} to {high}"


def interval_head(cells: Sequence[Cell]) -> str:
    """What a column of intervals is called: `min–max` where no cell has the runs for more."""
    kinds = {cell.is_range for cell in cells if cell.interval is not None}
    if kinds == {True, False}:
        return f"{_INTERVAL}; n < {_least_runs()}: {_RANGE}"
    return _INTERVAL if kinds == {False} else _RANGE


def about_intervals(cells: Sequence[Cell]) -> str:
    """What the intervals of some cells are, with the true coverage by number of runs; empty where there is none."""
    counts = sorted({cell.n for cell in cells if cell.interval is not None}, reverse=True)
    ranks = {n: ranks_around_median(n) for n in counts}
    narrow = [
        f"of {n} runs from the {_ordinal(k)}least to the {_ordinal(k)}greatest, {100 * share:.3g}% of the time"
        for n, (k, share) in ranks.items()
        if share >= CONFIDENCE
    ]
    wide = [f"with {n} runs {100 * share:.3g}% of the time" for n, (_, share) in ranks.items() if share < CONFIDENCE]
    sentences = []
    if narrow:
        sentences.append(f"An interval holds the median over seeds, however they are distributed: {'; '.join(narrow)}.")
    if wide:
        sentences.append(
            f"Min–max is the whole range of the runs, not an interval of 95%, which takes {_least_runs()}: it holds "
            f"the median over seeds {', '.join(wide)}."
        )
    return " ".join(sentences)


def _least_runs() -> int:
    """The least number of runs with an interval of 95%."""
    n = 2
    while ranks_around_median(n)[1] < CONFIDENCE:
        n += 1
    return n


def _ordinal(k: int) -> str:
    """1: nothing, as in "the least"; 2: "2nd "."""
    ending = "th" if k % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(k % 10, "th")
    return "" if k == 1 else f"{k}{ending} "
