"""What the tables say about the paper's claims: from the runs of their cells to verdicts, ceilings and orders of rows.

The claims are `paper.hypotheses`, how they are judged is docs/claims.md. Never imports torch.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from cleanpath.paper.claims import QUANTITIES, Cell, Claim, claims_within
from cleanpath.paper.columns import Agreement, ceiling, floor, rank_agreement
from cleanpath.paper.hypotheses import CLAIMS
from cleanpath.paper.published import Published
from cleanpath.paper.scales import SCALES, Scale
from cleanpath.paper.tables import stand_ins
from cleanpath.paper.verdicts import (
    CONFIRMED,
    CONTRADICTED,
    NOT_RUN,
    UNDECIDED,
    Verdict,
    judge,
    seeds_sentence,
)
from cleanpath.report.own_rows import Beside, beside_original, own_rows
from cleanpath.report.table import DIVERGED, FINISHED, SeedResult, Table

# What is worse than anything once a run diverges, if it is not known from before; its other numbers are not known.
_WORST = ("error", "top5_error", "train_error", "train_loss", "early_loss", "area")
# The order in which verdicts are counted.
VERDICTS = (CONFIRMED, CONTRADICTED, UNDECIDED, NOT_RUN)
# A word says a verdict; the shape beside it is for who skims, and no colour is needed for either.
SHAPES = {CONFIRMED: "✔", CONTRADICTED: "✘", UNDECIDED: "◇", NOT_RUN: "○"}
_NAMED = 2  # cells that a line names before it counts the rest


@dataclass(frozen=True, kw_only=True)
class Column:
    """What can be said of one column of a table: why its rows cannot be told apart, and how far the paper agrees."""

    table: str
    column: str
    ceiling: str
    agreement: Agreement | None
    """None where the paper has no number that ours could be set beside."""
    own: tuple[Beside, ...] = ()
    """A user's rows beside the original."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """In words, without what cannot be said."""
        order = self.agreement.in_words() if self.agreement is not None and self.agreement.n else ""
        beside = [one.in_words for one in self.own]
        return tuple(sentence for sentence in (self.ceiling, order, *beside) if sentence)

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "table": self.table,
            "column": self.column,
            "ceiling": self.ceiling,
            "agreement": None if self.agreement is None else self.agreement.to_data(),
            "own": [one.to_data() for one in self.own],
        }


def values_of(tables: Sequence[Table]) -> dict[tuple[str, str, str, str], dict[int, float]]:
    """What `judge` reads: by table, row, column and quantity the number of each seed.

    A run that diverged is ∞ in errors and losses, but for an early loss that it had before; one that crashed or was not
    made has no entry, nor has a number that was not measured.
    """
    found: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for table in tables:
        for cell in table.cells:
            for quantity in QUANTITIES:
                runs = {seed.seed: value for seed in cell.seeds if (value := _value(seed, quantity)) is not None}
                if runs:
                    found[table.name, cell.row, cell.column, quantity] = runs
    return found


def _value(seed: SeedResult, quantity: str) -> float | None:
    if seed.status == DIVERGED:
        known = seed.value(quantity) if quantity == "early_loss" else None
        return known if known is not None else math.inf if quantity in _WORST else None
    return seed.value(quantity) if seed.status == FINISHED else None


def verdicts_of(tables: Sequence[Table]) -> list[Verdict]:
    """A verdict on every claim whose cells are all in these tables; judged together, as one family."""
    images = {(table.name, cell.row, cell.column): cell.test_images for table in tables for cell in table.cells}
    claims = claims_within(CLAIMS, [table.name for table in tables])
    scales = _scales(tables)
    changes = {table.name: table.changes for table in tables}
    beyond = {
        claim.id: _undecidable(scale, claim, dict.fromkeys(one for name, _, _ in claim.cells for one in changes[name]))
        for claim in claims
        for scale in (scales[table] for table, _, _ in claim.cells if table in scales)
        if claim.id in scale.undecidable
    }
    verdicts = judge(claims, values_of(tables), test_images=images, undecidable=beyond)
    return [replace(one, run_as=_run_as(one.claim, scales, changes)) if one.results else one for one in verdicts]


def _undecidable(scale: Scale, claim: Claim, changes: Collection[str]) -> str:
    """Why a scale cannot decide a claim; what it says of its own settings is not said of others."""
    own = " even with its own settings" if changes else ""
    return f"scale {scale.name} cannot decide it{own}, since {scale.undecidable[claim.id]}"


def _scales(tables: Sequence[Table]) -> dict[str, Scale]:
    """The scale of each table, by its name; none for one that is of no scale of ours."""
    return {table.name: SCALES[table.scale] for table in tables if table.scale in SCALES}


def _run_as(claim: Claim, scales: Mapping[str, Scale], changes: Mapping[str, Sequence[str]]) -> str:
    """What stands for the claim's networks and data, by the scale of each of its tables; and what was set otherwise."""
    known = [cell for cell in claim.cells if cell[0] in scales]
    told = []
    for scale, cells in groupby(known, key=lambda cell: scales[cell[0]]):
        some = list(cells)
        found = stand_ins(some, scale)
        if other := ", ".join(dict.fromkeys(one for table, _, _ in some for one in changes[table])):
            own = f", whose own settings have {found}" if found else ""
            told.append(f"run with {other}, not tried at scale {scale.name}{own}")
        elif found:
            told.append(f"run with {found}")
    return "; ".join(told)


def labels_of(tables: Sequence[Table]) -> dict[tuple[str, str], str]:
    """What the rows are called, by table and row."""
    return {(table.name, cell.row): cell.label for table in tables for cell in table.cells}


def columns_of(table: Table) -> Iterator[Column]:
    """Ceilings and orders, for the columns that print test errors; floors where the paper's limit is for them."""
    values = values_of([table]) if own_rows(table) else {}
    for column in table.columns:
        cells = [cell for cell in table.cells if cell.column == column and not cell.external]
        errors = {cell.row: dict(enumerate(cell.values)) for cell in cells if cell.quantity == "error" and cell.values}
        if not errors:
            continue
        all_fail = floor(errors) if all(cell.judged for cell in cells if cell.row in errors) else None
        # Rows that fail cannot be told apart, and so have no order.
        ours: dict[str, Published | None] = {
            cell.row: cell.status if all_fail or cell.median is None else cell.median
            for cell in cells
            if cell.row in errors
        }
        paper = {cell.row: cell.paper for cell in cells}
        images = {cell.test_images for cell in cells if cell.row in errors}
        top = ceiling(errors, test_images=images.pop() if len(images) == 1 else None)
        printed = any(value is not None for value in paper.values())
        yield Column(
            table=table.name,
            column=column,
            ceiling=top or all_fail or "",
            agreement=rank_agreement(ours, paper) if printed else None,
            own=tuple(beside_original(table, column, values)),
        )


def line_of(verdict: Verdict, labels: Mapping[tuple[str, str], str]) -> str:
    """What was found, without the verdict's word: both sides, effect and interval, n, corrected p."""
    if verdict.verdict == NOT_RUN:
        named = ", ".join("/".join(cell) for cell in verdict.missing[:_NAMED])
        more = len(verdict.missing) - _NAMED
        rest = f" and {more} more {'cell' if more == 1 else 'cells'}" if more > 0 else ""
        return f"no seed of {named}{rest}"
    return verdict.in_words(labels).removeprefix(f"{verdict.verdict}: ")


def tally(verdicts: Sequence[Verdict], tables: Sequence[Table]) -> str:
    """How many claims came out how, and at which scale: what that is, if it is not the paper's own."""
    if not verdicts:
        return "No claim of the paper is decided by these tables alone."
    counts = Counter(one.verdict for one in verdicts)
    said = ", ".join(f"{counts[word]} {word.replace('_', ' ')}" for word in VERDICTS if counts[word])
    if len(verdicts) == 1:
        counted = f"One claim of the paper is about these tables: {said.removeprefix('1 ')}."
    else:
        counted = f"{len(verdicts)} claims of the paper are about these tables: {said}."
    scales = {scale.name: scale for scale in _scales(tables).values() if scale.undecidable}
    if not scales:
        return counted
    changed = dict.fromkeys(change for table in tables for change in table.changes)
    told = f"; set here: {', '.join(changed)}" if changed else ""
    small = " and ".join(f"scale {name} ({scale.about}{told})" for name, scale in scales.items())
    beyond = sum(one.verdict == UNDECIDED and one.holm_for is None for one in verdicts)
    sentences = [counted, f"Run at {small}; beside each claim stands what was run for the paper's networks and data."]
    if beyond:
        which = "these scales" if len(scales) > 1 else "this scale"
        them = "It is" if len(verdicts) == 1 else "One of them is" if beyond == 1 else f"{beyond} of them are"
        sentences.append(f"{them} undecided because {which} cannot decide such a claim, whatever its runs show.")
    return " ".join(sentences)


def contradicted(verdicts: Sequence[Verdict]) -> bool:
    """Whether any claim is."""
    return any(one.verdict == CONTRADICTED for one in verdicts)


def few_seeds(cells: Collection[Cell], seeds: int, scale: Scale, *, command: str = "") -> str | None:
    """Why so many seeds cannot confirm or contradict claims that these cells decide; None where they can."""
    return seeds_sentence(seeds, decided_by(cells, scale), command=command)


def decided_by(cells: Collection[Cell], scale: Scale) -> tuple[Claim, ...]:
    """The claims that the scale can decide and all of whose cells are among these."""
    return tuple(claim for claim in CLAIMS if claim.id not in scale.undecidable and set(claim.cells) <= set(cells))


def to_markdown(tables: Sequence[Table], verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a table in Markdown, under their count."""
    if not verdicts:
        return f"{tally(verdicts, tables)}\n"
    labels = labels_of(tables)
    rows = [("verdict", "claim", "found"), ("---",) * 3]
    rows += [
        (one.verdict.replace("_", " "), f"{one.claim.id}: {one.claim.sentence}", line_of(one, labels))
        for one in verdicts
    ]
    lines = "\n".join(f"| {' | '.join(word.replace('|', '∣') for word in row)} |" for row in rows)
    return f"{tally(verdicts, tables)}\n\n{lines}\n"


def to_data(tables: Sequence[Table], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts and columns as plain data, beside the tables in `cleanpath reproduce --json`."""
    labels = labels_of(tables)
    return {
        "verdicts": [{**one.to_data(), "found": line_of(one, labels)} for one in verdicts],
        "columns": [column.to_data() for table in tables for column in columns_of(table)],
    }
