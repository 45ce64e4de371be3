"""Which seeds the cells of tables run with: all as many, or more for those that claims compare.

Ten seeds for everything would take three times as long, and most rows are compared by no claim.
"""

import re
from dataclasses import dataclass

from cleanpath.errors import SettingError
from cleanpath.paper.claims import Cell
from cleanpath.paper.scales import Scale


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """How many seeds there are, counted from 0: of every cell, and of the `claimed`, the cells of claims."""

    every: int
    of_claims: int | None = None
    """None: as many as of every other."""
    claimed: frozenset[Cell] = frozenset()

    @property
    def most(self) -> int:
        """How many a cell of a claim has; never fewer than another."""
        return max(self.every, self.of_claims or 0)

    def of(self, table: str, row: str, column: str) -> range:
        """The seeds of a cell."""
        return range(self.most if (table, row, column) in self.claimed else self.every)

    @property
    def option(self) -> str:
        """How they are asked for."""
        return f"--seeds {self.every}" if self.of_claims is None else f"--seeds claims={self.of_claims}"


def seeds_asked(asked: int | str | None, scale: Scale) -> Seeds:
    """The seeds of `--seeds N`, `claims`, `claims=N`, or None; what is not said, the scale says.

    Raises `SettingError` for other words, and for numbers below 1.
    """
    if asked is None:
        return Seeds(every=scale.seeds)
    found = re.fullmatch(r"(\d+)|claims(?:=(\d+))?", str(asked).strip())
    if found is None or any(number is not None and int(number) == 0 for number in found.groups()):
        raise SettingError(
            f"--seeds is '{asked}'; give a number that is greater than or equal to 1, for all rows, or claims or "
            "claims=N, for the rows that claims compare"
        )
    every, many = found.groups()
    if every is not None:
        return Seeds(every=int(every))
    return Seeds(every=scale.seeds, of_claims=scale.seeds_of_claims if many is None else int(many))
