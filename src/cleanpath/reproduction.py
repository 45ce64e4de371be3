"""A reproduction: the cells of some tables, run on all cores, and the tables that come of their records.

The driver never imports torch; the workers do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanpath.errors import RunError, SettingError
from cleanpath.experiment import Experiment
from cleanpath.grid import local, plan
from cleanpath.grid.plan import Cell
from cleanpath.paper.tables import Recipe, Scale, experiments, recipe_of, scale_of
from cleanpath.records import forget, write
from cleanpath.report.collect import collect, environment, facts
from cleanpath.report.table import Table
from cleanpath.watch import Watch, say


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Some tables at one scale with some seeds; its state is the run folders below `root`, nothing else."""

    recipes: tuple[Recipe, ...]
    scale: Scale
    seeds: tuple[int, ...]
    all_columns: bool
    changes: tuple[str, ...]
    root: Path

    def cells(self) -> tuple[Cell, ...]:
        """What runs: the cells of the chosen columns; a row that two tables share comes once."""
        found: list[Experiment] = []
        for recipe in self.recipes:
            columns = recipe.columns if self.all_columns else recipe.columns[:1]
            found += experiments(recipe, self.scale, columns=columns, seeds=self.seeds, changes=self.changes).values()
        return plan.cells(found, self.root)

    def provenance(self, tables: Sequence[Table]) -> dict[str, Any]:
        """What was asked of a reproduction, and on what its runs ran."""
        asked = {"seeds": len(self.seeds), "all_columns": self.all_columns, "set": list(self.changes)}
        return {**asked, "measured_on": environment(self.root, tables)}

    def tables(self) -> list[Table]:
        """The tables as the runs below `root` have them."""
        return [
            collect(recipe, self.scale, seeds=self.seeds, changes=self.changes, root=self.root)
            for recipe in self.recipes
        ]


def reproduction(
    what: Sequence[str], *, scale: str, seeds: int, all_columns: bool, changes: Sequence[str], root: Path
) -> Reproduction:
    """The reproduction that the names ask for.

    Raises `UnknownNameError` or `SettingError`, before anything is written.
    """
    if root.exists() and not root.is_dir():
        raise SettingError(f"{root} is a file; choose another folder with --runs")
    job = Reproduction(
        recipes=tuple(recipe_of(name) for name in dict.fromkeys(what)),
        scale=scale_of(scale),
        seeds=tuple(range(seeds)),
        all_columns=all_columns,
        changes=tuple(changes),
        root=root,
    )
    job.cells()
    return job


def run(job: Reproduction, *, workers: int | None, fresh: bool) -> None:
    """Run the cells that have not ended; with `fresh`, all of them."""
    cells = job.cells()
    todo = list(cells) if fresh else plan.to_do(cells)
    workers = workers or local.cores()
    if todo:
        local.check_cells(todo)
        say(f"{len(todo)} of {len(cells)} cells to do, {workers} at a time")
        if fresh:
            forget(cell.run for cell in todo)
        with Watch(todo, done=len(cells) - len(todo)) as watch:
            local.run_cells(todo, workers=workers, tell=watch.tell)


def measured_plan(job: Reproduction, *, workers: int | None, fresh: bool) -> dict[str, Any]:
    """The cells with their status, and time and memory of the rest, from a few steps measured on this machine."""
    cells = job.cells()
    workers = workers or local.cores()
    todo = list(cells) if fresh else plan.to_do(cells)
    if todo:
        local.check_cells(todo)
    kinds = {cell.experiment.network: cell for cell in todo}
    measured = local.measure_cells(list(kinds.values()), workers=workers)
    costs = {network: measured[cell.folder.name] for network, cell in kinds.items()}
    rows = []
    for cell in cells:
        seconds, memory = costs[cell.experiment.network] if cell in todo else (0.0, 0)
        status = "to do" if cell in todo else cell.status
        rows.append(
            {"cell": cell.label, "run": cell.folder.name, "status": status, "seconds": seconds, "memory": memory}
        )
    return {
        "schema": "cleanpath.plan",
        "version": 1,
        "workers": workers,
        "cells": rows,
        "to_do": len(todo),
        "seconds": plan.makespan([costs[cell.experiment.network][0] for cell in todo], workers),
        "memory": sum(sorted((costs[cell.experiment.network][1] for cell in todo), reverse=True)[:workers]),
    }


def write_page(job: Reproduction, tables: Sequence[Table], path: Path, *, command: str) -> None:
    """Write the page of the tables. Raises `RunError` if it cannot be written there."""
    from cleanpath.report.page import page

    if path.is_dir():
        raise SettingError(f"--page {path} is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--page {path} cannot be written: {error.strerror}; name another file") from None
    write(path, page(tables, facts(job.root, tables), command).encode())
