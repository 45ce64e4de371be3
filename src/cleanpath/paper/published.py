"""The paper's numbers, each in one place: the JSON files beside this one, with their source."""

import json
from dataclasses import dataclass
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
    cells: dict[tuple[str, str], Published]

    def to_data(self) -> dict[str, Any]:
        """The table as plain data: the schema of `cleanpath show TABLE --json`."""
        rows = [{"row": row, "column": column, "paper": value} for (row, column), value in self.cells.items()]
        about = {"name": self.name, "title": self.title, "source": self.source, "quantity": self.quantity}
        return {"schema": "cleanpath.published", "version": 1, **about, "rows": rows}


@cache
def published_table(name: str) -> PublishedTable:
    """The table as printed."""
    text = resources.files("cleanpath.paper").joinpath("published", f"{name}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    cells = {(row, column): value for row, line in data.pop("cells").items() for column, value in line.items()}
    return PublishedTable(**{**data, "columns": tuple(data["columns"]), "cells": cells})
