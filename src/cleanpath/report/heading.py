"""What the page of a reproduction is called: short, and otherwise than a page of other tables, settings or units."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cleanpath.paper.tables import RECIPES
from cleanpath.report.table import Table

_NAMED, _SET = 3, 2  # so many tables and settings are named before they are counted


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A page's title, what tells it from others of the same tables, and both in few words."""

    title: str
    apart: str
    """What was set for it and whose units are in it; empty where nothing was."""
    short: str
    """For a browser's tab."""


def heading(tables: Sequence[Table], own: Sequence[str] = ()) -> Heading:
    """The heading of a page of these tables; `own` are the names of files of a user's units."""
    if not tables:
        return Heading(title="Nothing to report", apart="", short="Nothing to report")
    scales = ", ".join(dict.fromkeys(table.scale for table in tables))
    changes = list(dict.fromkeys(change for table in tables for change in table.changes))
    told = [
        *([f"Set: {', '.join(changes)}."] if changes else []),
        *([f"With the units of {_and(own)}."] if own else []),
    ]
    few = [change.removeprefix("training.").removeprefix("network.") for change in changes[:_SET]]
    more = [f"{len(changes) - _SET} more set"] if len(changes) > _SET else []
    return Heading(
        title=f"{_names(tables)} at scale {scales}",
        apart=" ".join(told),
        short=" · ".join([_names(tables), scales, *few, *more, *own]),
    )


def name_of(table: Table) -> str:
    """`table1` is Table 1 and `figure3` Figure 3, as in the paper."""
    return re.sub(r"^(table|figure)(?=\d+$)", lambda found: f"{found[1].capitalize()} ", table.name)


def _names(tables: Sequence[Table]) -> str:
    """The names of a few tables, of many how many there are."""
    if {table.name for table in tables} == set(RECIPES):
        return "Every table and figure"
    if len(tables) <= _NAMED:
        return _and([name_of(table) for table in tables])
    return f"{name_of(tables[0])} and {len(tables) - 1} more"


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
