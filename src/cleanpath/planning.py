"""What a reproduction would be: its cells with time, memory and disk, for `--dry-run`; nothing is trained or written.

Never imports torch by itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cleanpath import estimate, machine_speed
from cleanpath.errors import UserError
from cleanpath.estimate import Tried
from cleanpath.experiment import Experiment
from cleanpath.grid import local, plan
from cleanpath.grid.plan import Cell
from cleanpath.machine import free_disk
from cleanpath.paper.parts import Recipe
from cleanpath.paper.tables import missing
from cleanpath.reproduction import MEASURED_ON_STEPS, Reproduction, gpu_hours, say_what_seeds_can
from cleanpath.watch import Counting

_CHECKPOINTS = 6
"""Times what a finished run keeps, while it goes on: two, of weights, the optimizer's state and averages."""
_NOT_TIMED = "the start of torch and of a process for every run; what is measured on the runs when they have finished"
"""What a plan leaves out: no record says what it takes."""


def measured_plan(  # noqa: PLR0913 (keyword options)
    job: Reproduction,
    *,
    workers: int | None,
    fresh: bool,
    device: str = "cpu",
    cluster: str | None = None,
    kernels: str = "auto",
    foretold: bool = True,
) -> dict[str, Any]:
    """The cells with their status, and time, memory and disk of the rest, and a forecast of each kind if `foretold`.

    From a few steps measured on this machine; at scale paper from shapes, whose networks may not fit into it: of them
    there is no forecast either.
    """
    if cluster is not None and workers is None:
        raise UserError("--dry-run asks no cluster: give --workers, the cores that it has; a step is measured here")
    cells, todo, devices = job.cells(), job.to_do(fresh=fresh), local.devices_of(device)
    kinds, forecasts = {plan.kind(cell): cell for cell in todo}, dict[Experiment, Any]()
    places = local.check_cells(todo, devices, kernels) if todo and job.scale.name in MEASURED_ON_STEPS else ()
    workers = workers or len(places) or local.cores()
    say_what_seeds_can(job)
    if job.scale.name in MEASURED_ON_STEPS:
        busy = workers if cluster is None else local.cores()
        with Counting("kinds of cells tried for a few steps") as counting:
            measured = local.measure_cells(
                list(kinds.values()), workers=busy, devices=places, tell=counting.tell, kernels=kernels
            )
        costs = {kind: measured[cell.folder.name] for kind, cell in kinds.items()}
        if foretold:
            forecasts = forecasts_of(kinds, workers=busy, devices=places)
        how = "measured from a few steps just now, beside whatever else this machine does"
    else:
        if strange := [kind.data.name for kind in kinds if not estimate.known(kind)]:
            raise UserError(
                f"no estimate for {strange[0]}: at scale paper --dry-run knows the tables' own data; run it"
            )
        of_kinds = dict(zip(kinds, local.disk_of(list(kinds.values())), strict=True)) if todo else {}
        speed = machine_speed.measured().speed if todo and devices == ("cpu",) else None
        costs = {}
        for kind in kinds:
            seconds = 3600 * estimate.gpu_hours([kind]) if speed is None else estimate.seconds(kind, speed)
            costs[kind] = Tried(seconds=seconds, memory=0, disk=of_kinds[kind])
        how = f"an estimate from multiply-adds; {gpu_hours(todo)}"
    rows, folders, nothing = [], {cell.folder for cell in todo}, Tried(seconds=0.0, memory=0, disk=0)
    for cell in cells:
        is_to_do = cell.folder in folders
        found = costs[plan.kind(cell)] if is_to_do else nothing
        status = "to do" if is_to_do else cell.status
        said = forecasts.get(plan.kind(cell)) if is_to_do else None
        rows.append({"cell": cell.label, "run": cell.folder.name, "status": status, **asdict(found), "forecast": said})
    waiting = [costs[plan.kind(cell)] for cell in todo]
    disks = [one.disk for one in waiting]
    return {
        "schema": "cleanpath.plan",
        "version": 1,
        "workers": workers,
        "how": how,
        "cells": rows,
        "to_do": len(todo),
        "seconds": plan.makespan([one.seconds for one in waiting], workers),
        "worker_seconds": sum(one.seconds for one in waiting),
        "devices": list(devices),
        "memory": sum(sorted((one.memory for one in waiting), reverse=True)[:workers]),
        "disk": sum(disks) + _CHECKPOINTS * sum(sorted(disks, reverse=True)[:workers]),
        "free_disk": free_disk(job.root),
        "left_out": _NOT_TIMED,
        "missing": [line for recipe in job.recipes for line in _not_here(job, recipe)],
    }


def forecasts_of(
    kinds: Mapping[Experiment, Cell], *, workers: int, devices: Sequence[str]
) -> dict[Experiment, dict[str, Any] | None]:
    """The forecast of each kind of cells as plain data; None where none could be made."""
    with Counting("kinds of cells of which it is asked whether they will train") as counting:
        found = local.forecast_cells(list(kinds.values()), workers=workers, devices=devices, tell=counting.tell)
    return {kind: found.get(cell.folder.name) for kind, cell in kinds.items()}


def _not_here(job: Reproduction, recipe: Recipe) -> list[str]:
    """A line for every reason why cells of a table are not at a scale, with what fills them."""
    name, filling = job.scale.name, job.elsewhere[recipe.name]
    counted = Counter((reason, filling[key]) for key, reason in missing(recipe, job.scale).items())
    return [
        f"{recipe.name}: {count} {'cell is' if count == 1 else 'cells are'} not at scale {name}: {reason}; {fill}"
        for (reason, fill), count in counted.items()
    ]
