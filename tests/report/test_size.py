"""How large the page of everything is, with three seeds and curves of full length."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from cleanpath.measures import by_unit
from cleanpath.nn.catalog import units_per_stage
from cleanpath.paper.scales import QUICK
from cleanpath.paper.seeding import Seeds
from cleanpath.paper.tables import RECIPES, experiments
from cleanpath.report.beginnings import Beginning
from cleanpath.report.collect import collect
from cleanpath.report.page import page
from cleanpath.report.table import Cell, Table
from tests.helpers import network_of
from tests.report.audit_example import unit
from tests.report.example import run

LENGTH = QUICK.trainings[""].iterations or 0


def full(name: str, root: Path) -> Table:
    """A table at scale quick of which everything ran."""
    empty = collect(RECIPES[name], QUICK, seeds=Seeds(every=QUICK.seeds), changes=(), root=root)
    return replace(empty, cells=tuple(ran(cell, name) for cell in empty.cells))


def ran(cell: Cell, table: str) -> Cell:
    lines = {
        key: tuple((float(at), math.sin(at) + 2) for at in range(1, 128))
        for key in (cell.quantity, by_unit(cell.quantity))
    }
    measured = {cell.quantity: 1.0}
    seeds = tuple(
        replace(run(2.0, s.seed, LENGTH), run=f"{table}/{cell.row}/{cell.column}", measured=measured, series=lines)
        for s in cell.seeds
    )
    return replace(cell, seeds=seeds)


def beginnings() -> dict[str, Beginning]:
    found = {}
    for name, recipe in RECIPES.items():
        for (row, column, _), one in experiments(recipe, QUICK, seeds=[0]).items():
            count = sum(units_per_stage(network_of(one)))
            line = tuple(1.0 + math.sin(at) / 3 for at in range(count))
            found[f"{name}/{row}/{column}"] = Beginning(forward=line, backward=line, unit=unit("a"))
    return found


@pytest.mark.slow
def test_page_of_everything_has_at_most_two_megabytes(tmp_path: Path) -> None:
    tables = [full(name, tmp_path) for name in RECIPES]
    html = page(tables, {"runs": "210"}, "cleanpath report all", beginnings=beginnings())
    assert html.count('class="gains" role="img"') > 70
    assert len(html.encode()) < 2e6
