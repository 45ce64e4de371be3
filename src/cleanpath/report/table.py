"""A table of the paper with ours beside it: values only, and as JSON, Markdown and CSV."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cleanpath.paper.published import FAIL, FAIL_ABOVE, Published

FORMAT = 1
# What a run can come to: it finished, a value was not finite, it crashed, or there is none.
FINISHED, DIVERGED, FAILED, MISSING = "finished", "diverged", "failed", "missing"


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One run of a cell: how it ended, its last errors in percent, and its curves as (iteration, value)."""

    seed: int
    status: str
    error: float | None = None
    train_error: float | None = None
    loss_curve: tuple[tuple[int, float], ...] = ()
    error_curve: tuple[tuple[int, float], ...] = ()
    seconds: float | None = None
    run: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of one column: the paper's number and our runs.

    Statistics are over the runs that ended, at their last iteration; a run that diverged counts as an error that is
    above all others.
    """

    row: str
    label: str
    column: str
    paper: Published | None
    seeds: tuple[SeedResult, ...]

    @property
    def errors(self) -> tuple[float, ...]:
        """The test errors of the runs that ended, in percent; infinite for one that diverged."""
        ended = (seed for seed in self.seeds if seed.status in (FINISHED, DIVERGED))
        return tuple(math.inf if seed.error is None else seed.error for seed in ended)

    @property
    def n(self) -> int:
        """How many runs ended."""
        return len(self.errors)

    @property
    def median(self) -> float | None:
        """Median test error in percent; None if there is none or it is not finite."""
        return _finite(statistics.median(self.errors)) if self.errors else None

    @property
    def mean(self) -> float | None:
        """Mean test error in percent; None if a run diverged."""
        return _finite(statistics.fmean(self.errors)) if self.errors else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds, in percent; None below two runs, or if one diverged."""
        return statistics.stdev(self.errors) if self.n > 1 and self.mean is not None else None

    @property
    def status(self) -> str:
        """`ok`, `fail` (median error above the paper's own limit), `diverged`, `failed` (crashed) or `missing`."""
        if not self.n:
            return FAILED if any(seed.status == FAILED for seed in self.seeds) else MISSING
        if self.median is None:
            return DIVERGED
        return FAIL if self.median > FAIL_ABOVE else "ok"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper at one scale."""

    name: str
    title: str
    source: str
    quantity: str
    scale: str
    protocol: str
    deviations: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    fill: str  # the command that fills what is missing


def to_data(tables: Sequence[Table]) -> dict[str, Any]:
    """The tables as plain data: the schema of `cleanpath reproduce --json`."""
    return {"schema": "cleanpath.tables", "version": FORMAT, "tables": [_table_data(table) for table in tables]}


def from_data(data: dict[str, Any]) -> list[Table]:
    """The tables that `to_data` wrote, without their curves."""
    tables = []
    for one in data["tables"]:
        cells = tuple(
            Cell(
                row=row["row"],
                label=row["label"],
                column=row["column"],
                paper=row["paper"],
                seeds=tuple(SeedResult(**seed) for seed in row["seeds"]),
            )
            for row in one["rows"]
        )
        about = {key: value for key, value in one.items() if key != "rows"}
        about |= {"deviations": tuple(one["deviations"]), "columns": tuple(one["columns"])}
        tables.append(Table(**about, cells=cells))
    return tables


def to_markdown(table: Table) -> str:
    """The table as Markdown."""
    head = ["row", "column", "paper", "ours, median", "mean ± std", "n", "status"]
    lines = [head, ["---", "---", "--:", "--:", "--:", "--:", "---"]]
    lines += [
        [c.label, c.column, number(c.paper, 2), number(c.median, 1), spread(c), str(c.n), c.status] for c in table.cells
    ]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{table.name}: {table.title}**, scale {table.scale} ({table.protocol})\n\n{body}\n"


def to_csv(tables: Sequence[Table]) -> str:
    """All rows of all tables as one CSV."""
    out = io.StringIO()
    names = ("table", "row", "column", "paper", "n", "median", "mean", "std", "status")
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        writer.writerows({"table": table.name, **_cell_data(cell)} for cell in table.cells)
    return out.getvalue()


def number(value: Published | None, digits: int) -> str:
    """A number as it is printed: `fail` stays, nothing is a dash."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def spread(cell: Cell) -> str:
    """Mean ± standard deviation, where there are at least two runs."""
    return "–" if cell.std is None or cell.mean is None else f"{cell.mean:.1f} ± {cell.std:.1f}"


def clock(seconds: float) -> str:
    """Minutes and seconds; hours where there are any."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _table_data(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "title": table.title,
        "source": table.source,
        "quantity": table.quantity,
        "scale": table.scale,
        "protocol": table.protocol,
        "deviations": list(table.deviations),
        "columns": list(table.columns),
        "fill": table.fill,
        "rows": [_cell_data(cell) for cell in table.cells],
    }


def _cell_data(cell: Cell) -> dict[str, Any]:
    return {
        "row": cell.row,
        "label": cell.label,
        "column": cell.column,
        "paper": cell.paper,
        "n": cell.n,
        "median": cell.median,
        "mean": cell.mean,
        "std": cell.std,
        "status": cell.status,
        "seeds": [
            {
                "seed": s.seed,
                "status": s.status,
                "error": s.error,
                "train_error": s.train_error,
                "seconds": s.seconds,
                "run": s.run,
                "reason": s.reason,
            }
            for s in cell.seeds
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
