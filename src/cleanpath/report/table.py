"""A table of the paper with ours beside it: values only, and as plain data."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cleanpath.measures import by_unit
from cleanpath.paper.exact import ranks_around_median
from cleanpath.paper.parts import Overlay
from cleanpath.paper.published import FAIL, FAIL_ABOVE, Published

FORMAT = 1
# What a run can come to: it finished, a value was not finite, it crashed, it has begun, or there is none.
FINISHED, DIVERGED, FAILED, UNFINISHED, MISSING = "finished", "diverged", "failed", "unfinished", "missing"
# How often an interval is to hold the median at least.
CONFIDENCE = 0.95
# A competitor's number, which nothing here trains.
EXTERNAL = "external"


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One run of a cell: how it ended, its last errors in percent, and its curves as (iteration, value)."""

    seed: int
    status: str
    error: float | None = None
    train_error: float | None = None
    train_loss: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    """Other numbers of the run by quantity: of its curves, of its responses, of another view of the test images."""
    series: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """Measured lines: by layer (`response`), by iteration and by unit (`negative_share`, `truncated`)."""
    loss_curve: tuple[tuple[int, float], ...] = ()
    error_curve: tuple[tuple[int, float], ...] = ()
    seconds: float | None = None
    run: str = ""
    reason: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions, threads and machine of a run that ended."""

    def value(self, quantity: str) -> float | None:
        """A number of the run by its quantity: `error`, `train_error`, `train_loss`, or one that was measured."""
        if quantity in ("error", "train_error", "train_loss"):
            found: float | None = getattr(self, quantity)
            return found
        return self.measured.get(quantity)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of one column: the paper's number and our runs.

    Statistics are over the runs that ended, at their last iteration, of the `quantity` that the cell prints; a run that
    diverged counts as a number that is above all others.
    """

    row: str
    label: str
    column: str
    paper: Published | None
    seeds: tuple[SeedResult, ...]
    quantity: str = "error"
    note: str = ""
    """What the row is and where it is from, beyond the paper."""
    external: bool = False
    """Whether the row is a competitor's number."""
    left_out: str = ""
    """Why this scale has no such cell."""
    fill: str = ""
    """The command that fills a cell that was left out, and its cost."""
    reference: str = "original"
    """The row whose curves stand behind its own."""
    judged: bool = True
    """Whether the number is an error for which the paper's limit of 20% was made."""
    test_images: int | None = None
    """How many images an error is counted on; None where that is not known."""
    deviates: tuple[str, ...] = ()
    """In what it is not run as the paper's: letters, which stand before the table's `deviations`."""

    @cached_property  # these are asked for a dozen times, of a thousand seeds
    def values(self) -> tuple[float, ...]:
        """The numbers of the runs that ended; infinite for one that diverged."""
        found = [
            math.inf if seed.status == DIVERGED else seed.value(self.quantity)
            for seed in self.seeds
            if seed.status in (FINISHED, DIVERGED)
        ]
        return tuple(value for value in found if value is not None)

    @property
    def errors(self) -> tuple[float, ...]:
        """The numbers that the paper's limit is for; none if the cell prints something else."""
        return self.values if self.judged else ()

    @property
    def n(self) -> int:
        """How many runs ended."""
        return len(self.values)

    @cached_property
    def median(self) -> float | None:
        """Median over seeds; None if there is none or it is not finite."""
        return _finite(statistics.median(self.values)) if self.values else None

    @cached_property
    def mean(self) -> float | None:
        """Mean over seeds; None if a run diverged."""
        return _finite(statistics.fmean(self.values)) if self.values else None

    @cached_property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None below two runs, or if one diverged."""
        return statistics.stdev(self.values) if self.n > 1 and self.mean is not None else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """An interval of the median over seeds from two of the runs (`ranks_around_median`); None below two runs."""
        if self.n < 2:
            return None
        k, _ = ranks_around_median(self.n)
        ordered = sorted(self.values)
        return ordered[k - 1], ordered[-k]

    @property
    def coverage(self) -> float | None:
        """How often such an interval holds the true median, whatever the distribution; None below two runs."""
        return ranks_around_median(self.n)[1] if self.n > 1 else None

    @property
    def is_range(self) -> bool:
        """Whether the runs are too few for an interval of 95%, so that it is all of them, from least to greatest."""
        return self.coverage is not None and self.coverage < CONFIDENCE

    @property
    def digits(self) -> int:
        """How many decimals our numbers are printed with."""
        return 1 if self.quantity.endswith("error") else 3

    @property
    def status(self) -> str:
        """`external`, `failed` if a run crashed, else the `outcome`."""
        if self.external:
            return EXTERNAL
        return FAILED if self.crashes else self.outcome

    @property
    def crashes(self) -> int:
        """How many runs crashed."""
        return sum(seed.status == FAILED for seed in self.seeds)

    @property
    def outcome(self) -> str:
        """What the runs that ended say, whatever became of the others: `ok`, `fail`, `diverged`.

        Without one `unfinished` if a run has begun, else `missing`.
        """
        if not self.n:
            return UNFINISHED if any(seed.status == UNFINISHED for seed in self.seeds) else MISSING
        if self.median is None:
            return DIVERGED
        return FAIL if self.judged and self.median > FAIL_ABOVE else "ok"


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
    fill: str
    """The command that fills what is missing."""
    quantities: Mapping[str, str] = field(default_factory=dict)
    """What our numbers are, in words, by quantity."""
    no_numbers: str = ""
    """Why the paper has no number for some cells."""
    curves: bool = False
    """Whether it is a figure of the curves of these cells."""
    overlays: tuple[Overlay, ...] = ()
    """Its panels with the lines of several cells."""
    letters: tuple[str, ...] = ()
    """Of each of the `deviations` the letter at the cells that it is said of; empty where it is of none."""
    changes: tuple[str, ...] = ()
    """What was set for it against the scale's own settings."""

    @property
    def marked(self) -> tuple[tuple[str, str], ...]:
        """The deviations, each with its letter."""
        return tuple(zip(self.letters or ("",) * len(self.deviations), self.deviations, strict=True))

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """What rows are that need to be told, each once: its label and its note."""
        return tuple(dict.fromkeys((cell.label, cell.note) for cell in self.cells if cell.note))


def to_data(tables: Sequence[Table], **provenance: Any) -> dict[str, Any]:
    """The tables as plain data: the schema of `cleanpath reproduce --json`; `provenance` says how they were made."""
    rows = [_table_data(table) for table in tables]
    return {"schema": "cleanpath.tables", "version": FORMAT, **provenance, "tables": rows}


def from_data(data: dict[str, Any]) -> list[Table]:
    """The tables that `to_data` wrote, without their curves."""
    tables = []
    for one in data["tables"]:
        cells = tuple(
            Cell(
                seeds=tuple(_seed(seed) for seed in row["seeds"]),
                deviates=tuple(row["deviates"]),
                **{key: row[key] for key in _AS_THEY_ARE},
            )
            for row in one["rows"]
        )
        about = {key: value for key, value in one.items() if key != "rows"}
        about |= {key: tuple(one[key]) for key in ("deviations", "columns", "letters", "changes")}
        tables.append(Table(**about, cells=cells))
    return tables


_ABOUT_A_ROW = ("row", "label", "column", "paper", "quantity", "note", "external", "left_out", "fill")
_AS_THEY_ARE = (*_ABOUT_A_ROW, "judged", "test_images")


def _seed(data: Mapping[str, Any]) -> SeedResult:
    series = {key: tuple((x, y) for x, y in line) for key, line in data["series"].items()}
    return SeedResult(**{**data, "series": series})


def number(value: Published | None, digits: int) -> str:
    """A number as it is printed: `fail` stays, nothing is a dash."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def count(cell: Cell) -> str:
    """How many runs ended, and of how many where some did not."""
    return str(cell.n) if cell.n in (0, len(cell.seeds)) else f"{cell.n} of {len(cell.seeds)}"


def spread(cell: Cell) -> str:
    """Mean ± standard deviation, where there are at least two runs."""
    if cell.std is None or cell.mean is None:
        return "–"
    return f"{cell.mean:.{cell.digits}f} ± {cell.std:.{cell.digits}f}"


def clock(seconds: float) -> str:
    """Minutes and seconds; hours where there are any."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _table_data(table: Table) -> dict[str, Any]:
    printed = {name for cell in table.cells for name in (cell.quantity, by_unit(cell.quantity))}
    return {
        "name": table.name,
        "title": table.title,
        "source": table.source,
        "quantity": table.quantity,
        "scale": table.scale,
        "protocol": table.protocol,
        "deviations": list(table.deviations),
        "letters": list(table.letters),
        "changes": list(table.changes),
        "columns": list(table.columns),
        "fill": table.fill,
        "quantities": dict(table.quantities),
        "no_numbers": table.no_numbers,
        "curves": table.curves,
        "rows": [cell_data(cell, printed) for cell in table.cells],
    }


def cell_data(cell: Cell, lines: Collection[str] = ()) -> dict[str, Any]:
    """A cell and its runs; of their measured lines those that the table is about."""
    return {
        "row": cell.row,
        "label": cell.label,
        "column": cell.column,
        "paper": cell.paper,
        "quantity": cell.quantity,
        "note": cell.note,
        "external": cell.external,
        "left_out": cell.left_out,
        "fill": cell.fill,
        "judged": cell.judged,
        "test_images": cell.test_images,
        "deviates": list(cell.deviates),
        "n": cell.n,
        "median": cell.median,
        "mean": cell.mean,
        "std": cell.std,
        "interval": None
        if cell.interval is None
        else [end if math.isfinite(end) else DIVERGED for end in cell.interval],
        "coverage": cell.coverage,
        "status": cell.status,
        "seeds": [
            {
                "seed": s.seed,
                "status": s.status,
                "error": s.error,
                "train_error": s.train_error,
                "train_loss": s.train_loss,
                "measured": dict(s.measured),
                "series": {
                    key: [[x, float(f"{y:.4g}")] for x, y in line] for key, line in s.series.items() if key in lines
                },
                "seconds": s.seconds,
                "run": s.run,
                "reason": s.reason,
            }
            for s in cell.seeds
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
