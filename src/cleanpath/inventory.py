"""What `list tables` shows: every table with its cells, which of them are finished, and what the rest costs here.

Costs are estimates of training and its tests: from the speed of this machine (`machine_speed`), corrected by the runs
that are there; GPU-hours at scale paper are of the paper's time. Never imports torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from cleanpath import estimate, machine_speed
from cleanpath.grid import local, plan
from cleanpath.grid.plan import Cell
from cleanpath.paper.parts import Recipe
from cleanpath.paper.published import published_table
from cleanpath.paper.scales import PAPER, SCALES, Scale
from cleanpath.paper.tables import ALL, RECIPES, experiments, missing

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _At:
    """A table at a scale: the runs that its cells need with the scale's seeds."""

    scale: Scale
    cells: tuple[Cell, ...]
    left_out: int

    @property
    def finished(self) -> int:
        """How many of them ended."""
        return sum(cell.status in plan.DONE for cell in self.cells)


def tables(pattern: str, root: Path) -> list[Row]:
    """A row per table whose name matches, and one for all together, where runs that tables share count once."""
    names = [name for name in RECIPES if fnmatchcase(name, pattern)]
    at = {(name, scale.name): _at(name, scale, root) for name in RECIPES for scale in SCALES.values()}
    factors = {name: _correction(at[table, name] for table in RECIPES) for name in SCALES}
    rows = [_table(RECIPES[name], [at[name, scale] for scale in SCALES], factors) for name in names]
    if fnmatchcase(ALL, pattern):
        whole = [_together([at[name, scale.name] for name in RECIPES], scale) for scale in SCALES.values()]
        rows.append(
            {
                "name": ALL,
                "title": "every table and figure",
                "command": f"cleanpath reproduce {ALL}",
                "scales": [_scale(one, factors) for one in whole],
                "cells": [],
            }
        )
    return rows


def printed(rows: Sequence[Row]) -> list[Row]:
    """The rows as a terminal has room for them."""
    return [
        {
            "name": row["name"],
            "title": row["title"],
            **{one["scale"]: _in_words(one) for one in row["scales"]},
        }
        for row in rows
    ]


def printed_cells(rows: Sequence[Row]) -> list[Row]:
    """The cells of the tables as a terminal has room for them: the paper's number, and how many runs are finished."""
    return [
        {
            "table": row["name"],
            "cell": f"{cell['row']} in {cell['column']}",
            "printed": cell["paper"],
            **{name: _state(one) for name, one in cell["scales"].items()},
        }
        for row in rows
        for cell in row["cells"]
    ]


def _state(one: Row) -> str:
    return "left out" if one["left_out"] else f"{one['finished']}/{one['runs']}"


def _at(name: str, scale: Scale, root: Path) -> _At:
    recipe = RECIPES[name]
    made = experiments(recipe, scale, seeds=range(scale.seeds)).values()
    return _At(scale=scale, cells=plan.cells(made, root), left_out=len(missing(recipe, scale)))


def _together(several: Iterable[_At], scale: Scale) -> _At:
    several = list(several)
    cells = {cell.folder: cell for one in several for cell in one.cells}
    return _At(scale=scale, cells=tuple(cells.values()), left_out=sum(one.left_out for one in several))


def _table(recipe: Recipe, at: Sequence[_At], factors: dict[str, float]) -> Row:
    return {
        "name": recipe.name,
        "title": published_table(recipe.name).title,
        "command": f"cleanpath reproduce {recipe.name}",
        "scales": [_scale(one, factors) for one in at],
        "cells": _cells(recipe, at),
    }


def _cells(recipe: Recipe, at: Sequence[_At]) -> list[Row]:
    """Every cell with the paper's number, and at every scale how many of its runs are finished or why it has none."""
    paper = published_table(recipe.name)
    at_scales = {one.scale.name: _progress(recipe, one) for one in at}
    return [
        {
            "row": row.key,
            "column": column.key,
            "paper": paper.cells.get((row.key, column.key)),
            "scales": {name: cells[row.key, column.key] for name, cells in at_scales.items()},
        }
        for row, column in recipe.cells()
    ]


def _progress(recipe: Recipe, at: _At) -> dict[tuple[str, str], Row]:
    """By row and column: runs and how many of them ended, or why there are none."""
    ended = {plan.apart(cell.experiment): cell.status in plan.DONE for cell in at.cells}
    found: dict[tuple[str, str], Row] = {
        key: {"left_out": reason, "runs": 0, "finished": 0} for key, reason in missing(recipe, at.scale).items()
    }
    for (row, column, _), experiment in experiments(recipe, at.scale, seeds=range(at.scale.seeds)).items():
        one = found.setdefault((row, column), {"left_out": "", "runs": 0, "finished": 0})
        one["runs"] += 1
        one["finished"] += ended[plan.apart(experiment)]
    return found


def _scale(one: _At, factors: dict[str, float]) -> Row:
    todo = [cell.experiment for cell in one.cells if cell.status not in plan.DONE]
    about = {"scale": one.scale.name, "seeds": one.scale.seeds, "left_out_cells": one.left_out}
    about |= {"runs": len(one.cells), "finished": one.finished}
    if one.scale.name == PAPER.name:
        return {**about, "gpu_hours": estimate.gpu_hours(todo), "seconds": None}
    seconds = [factors[one.scale.name] * estimate.seconds(each, _speed()) for each in todo]
    return {**about, "gpu_hours": None, "seconds": plan.makespan(seconds, local.cores())}


def _in_words(one: Row) -> str:
    if not one["runs"]:
        return f"{one['left_out_cells']} cells left out" if one["left_out_cells"] else "a drawing"
    done = f"{one['finished']}/{one['runs']}"
    if one["finished"] == one["runs"]:
        return f"{done} finished"
    return f"{done}, {_hours(one['gpu_hours'], 'GPU-h') if one['seconds'] is None else _hours(one['seconds'] / 3600)}"


def _hours(hours: float, unit: str = "h") -> str:
    """About how long, in hours; below two of them in minutes."""
    return f"~{hours:,.0f} {unit}" if hours >= 2 or unit != "h" else f"~{60 * hours:.0f} min"


def _correction(at: Iterable[_At]) -> float:
    """How much longer the finished runs of a scale took than estimated, or 1 without any."""
    cells = {cell.folder: cell for one in at for cell in one.cells if cell.status == "finished"}
    pairs = []
    for cell in cells.values():
        took = (cell.run.result or {}).get("seconds")
        if took is not None:
            pairs.append((took, estimate.seconds(cell.experiment, _speed())))
    return estimate.corrected(pairs) or 1.0


def about_speed() -> str:
    """When the speed that costs were estimated with was measured; empty if none was needed."""
    return _measured().in_words() if _measured.cache_info().currsize else ""


def _speed() -> estimate.Speed:
    return _measured().speed


@cache
def _measured() -> machine_speed.Measured:
    return machine_speed.measured()
