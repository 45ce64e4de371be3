"""The paper's numbers, each in one place: the JSON files beside this one, with their source.

A cell is a number, `fail`, a number with its mean and deviation, or the cell of another table that it is
("table1/original/ResNet-110"). Rows that are `external` are competitors' numbers, which nothing here trains.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

FAIL = "fail"
# Table 1, caption: a network "fails" when its test error is above 20%.
FAIL_ABOVE = 20.0

Published = float | str


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A printed table: (row, column) to test error in percent or "fail"."""

    name: str
    title: str
    source: str
    quantity: str
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Published]
    external: tuple[str, ...] = ()
    """Rows of other methods."""
    spreads: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """Mean and standard deviation where they are printed as well."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The number of parameters of a row, as printed."""
    notes: tuple[str, ...] = ()
    no_numbers: str = ""
    """Why cells have no number."""

    def to_data(self) -> dict[str, Any]:
        """The table as plain data: the schema of `cleanpath show TABLE --json`."""
        about = {"name": self.name, "title": self.title, "source": self.source, "quantity": self.quantity}
        more = {"parameters": dict(self.parameters), "notes": list(self.notes), "no_numbers": self.no_numbers}
        return {"schema": "cleanpath.published", "version": 1, **about, **more, "rows": [*self._rows()]}

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "row": row,
                "column": column,
                "paper": value,
                "spread": list(self.spreads[row, column]) if (row, column) in self.spreads else None,
                "external": row in self.external,
            }
            for (row, column), value in self.cells.items()
        ]


@cache
def published_table(name: str) -> PublishedTable:
    """The table as printed."""
    text = resources.files("cleanpath.paper").joinpath("published", f"{name}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    cells = {(row, column): value for row, line in data.pop("cells").items() for column, value in line.items()}
    spreads = {key: (value["mean"], value["std"]) for key, value in cells.items() if isinstance(value, dict)}
    listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return PublishedTable(**listed, cells={key: _value(value) for key, value in cells.items()}, spreads=spreads)


def _value(found: Any) -> Published:
    """A cell as a number or `fail`."""
    if isinstance(found, dict):
        found = found.get("median", found.get("best"))
    if isinstance(found, str) and found != FAIL:
        table, row, column = found.split("/")
        return published_table(table).cells[row, column]
    return FAIL if found == FAIL else float(found)
