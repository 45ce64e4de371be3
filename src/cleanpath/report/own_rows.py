"""A user's rows beside the table's original: paired differences over the seeds that both have, as data and in words.

Each pair stands alone: nothing is corrected for the others, and no claim of the paper is judged by them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cleanpath.paper.claims import LOWER, QUANTITIES, Contrast
from cleanpath.paper.tables import RECIPES
from cleanpath.paper.verdicts import Result, Values, in_numbers, result_of
from cleanpath.report.table import Table

ORIGINAL = "original"
"""The row of Tables 1 and 2 and of the shortcuts that every other stands beside."""
LEAST = 6
"""Seeds from which on the exact test can reject anything at 5%, two-sided."""
_QUANTITIES = ("error", "train_loss")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """One number of a user's row less that of the original, seed by seed."""

    label: str
    quantity: str
    result: Result

    @property
    def p(self) -> float:
        """Two-sided and exact, of this pair alone."""
        return min(1.0, 2 * min(self.result.p_for, self.result.p_against))

    @property
    def in_words(self) -> str:
        """One sentence."""
        quantity, found = QUANTITIES[self.quantity], self.result
        way = "higher" if found.difference > 0 else "lower" if found.difference < 0 else "apart"
        unit = " points" if quantity.unit == "%" else ""
        size = in_numbers(abs(found.difference), quantity.digits)
        said = f"{self.label} against original, {quantity.words}: {size}{unit} {way}"
        if found.n == 1:
            return f"{said} with one seed, from which nothing follows"
        seeds = f"lower with {found.favourable} of {found.n} seeds"
        if found.n < LEAST:
            return f"{said} (median), {seeds}; an interval and a test take {LEAST}"
        low, high = (in_numbers(end, quantity.digits) for end in found.interval)
        return (
            f"{said} (median; difference in [{low}, {high}]), {seeds}, p = {self.p:.2g} (two-sided, of this pair alone)"
        )

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {"quantity": self.quantity, "p": self.p, "in_words": self.in_words, **self.result.to_data()}


def own_rows(table: Table) -> frozenset[str]:
    """The rows that are not the table's own, where it has an original to set them beside."""
    known = {row.key for row in RECIPES[table.name].rows} if table.name in RECIPES else set()
    there = frozenset(cell.row for cell in table.cells if not cell.external)
    return there - known if ORIGINAL in known else frozenset()


def beside_original(table: Table, column: str, values: Values) -> Iterator[Beside]:
    """What `own_rows` come to beside the original, in one column; left out are those without a seed in common."""
    own = own_rows(table)
    for cell in (cell for cell in table.cells if cell.row in own and cell.column == column):
        contrast = Contrast(plus=((table.name, cell.row, column),), minus=((table.name, ORIGINAL, column),))
        for quantity in _QUANTITIES:
            result = result_of(contrast, values, quantity, LOWER)
            if result.n:
                yield Beside(label=cell.label, quantity=quantity, result=result)
