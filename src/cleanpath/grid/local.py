"""What a grid does in processes of this machine, one torch thread each: train cells, and check and measure them.

The driver itself never loads torch.
"""

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from cleanpath.auditing.values import UnitRow
from cleanpath.errors import CleanpathError, HeldError, KernelsError, Request, RunError, SettingError, UserError
from cleanpath.estimate import Probe, Tried
from cleanpath.experiment import Experiment, Network
from cleanpath.grid import plan
from cleanpath.grid.driver import News, drive
from cleanpath.grid.plan import Cell
from cleanpath.grid.pool import Died, Ended, Pool, Work, each, place
from cleanpath.measures import Wish
from cleanpath.nn import own
from cleanpath.training.progress import Callback, Progress, Stepped

_SECONDS_BETWEEN_NEWS = 0.2
_ON_A_GPU = 3
"""Runs that share one: more of them wait for each other (docs/gpu.md)."""


def run_cells(
    todo: Sequence[Cell],
    *,
    workers: int,
    tell: Callable[[News], None],
    devices: Sequence[str] = ("cpu",),
    work: Work[Cell] | None = None,
    kernels: str = "auto",
) -> None:
    """Run all cells, `workers` at a time, as `drive` says; `work` is done instead of training, if given.

    The devices are those of the workers, one each; of more workers the next has the first device again.
    """
    with Pool(work or partial(train_cell, devices=tuple(devices), kernels=kernels), workers) as pool:
        drive(todo, pool, tell)


def check_cells(cells: Sequence[Cell], devices: Sequence[str] = ("cpu",), kernels: str = "auto") -> tuple[str, ...]:
    """The devices of as many workers as the cells can have: one per core, on GPUs what memory and `_ON_A_GPU` allow.

    Raises `SettingError` for the first cell that cannot run there, before any does; in a process that has torch.
    """
    kinds = {plan.kind(cell): cell.experiment for cell in reversed(cells)}
    trouble, places = _one(_check, (tuple(reversed(kinds.values())), tuple(devices), kernels), "checks the cells")
    if trouble:
        raise SettingError(trouble)
    return tuple(places)


def devices_of(name: str) -> tuple[str, ...]:
    """The devices that a name means here: `cuda` all GPUs. Raises `SettingError` if there is none such."""
    if name == "cpu":
        return (name,)
    found, trouble = _one(_choose, name, "looks for devices")
    if trouble:
        raise SettingError(trouble)
    return tuple(found)


def measure_cells(
    kinds: Sequence[Cell],
    *,
    workers: int,
    devices: Sequence[str] = ("cpu",),
    tell: Callable[[int, int], None] = lambda *_: None,
    kernels: str = "auto",
) -> dict[str, Tried]:
    """What one run of each cell takes, from a few steps of it, with all workers busy; told how many of all are done."""
    found = defaultdict[str, list[Tried]](list)
    copies = max(1, workers // max(1, len(kinds)))
    for cell, message in each(
        partial(_measure, devices=tuple(devices), kernels=kernels),
        [cell for cell in kinds for _ in range(copies)],
        workers,
    ):
        if not isinstance(message, Ended | Died):
            found[cell.folder.name].append(message)
            tell(len(found), len(kinds))
    if silent := [cell.label for cell in kinds if cell.folder.name not in found]:
        raise _died(f"measures {silent[0]}")
    return {
        name: replace(many[0], seconds=max(one.seconds for one in many), memory=max(one.memory for one in many))
        for name, many in found.items()
    }


def forecast_cells(
    kinds: Sequence[Cell],
    *,
    workers: int,
    devices: Sequence[str] = ("cpu",),
    tell: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, dict[str, Any] | None]:
    """The forecast of each cell as plain data, by its folder's name; None where none could be made."""
    found = dict[str, dict[str, Any] | None]()
    for cell, message in each(partial(_foretell, devices=tuple(devices)), list(kinds), workers):
        if not isinstance(message, Ended | Died):
            found[cell.folder.name] = message[0]
            tell(len(found), len(kinds))
    return found


def disk_of(cells: Sequence[Cell]) -> list[int]:
    """What a finished run of each cell keeps on disk, from its shapes; in a process that has torch."""
    found: list[int] = _one(_shaped, tuple(cell.experiment for cell in cells), "counts weights")
    return found


def observe_cells(wishes: Sequence[tuple[Cell, Wish]], *, workers: int, tell: Callable[[Cell], None]) -> list[str]:
    """Measure finished runs, `workers` at a time; which could not be, with the reason."""
    troubles = []
    for (cell, _), message in each(_observe, list(wishes), workers):
        reason = f"the process that measures it died ({message.how})" if isinstance(message, Died) else message.reason
        troubles += [f"{cell.label}: {reason}"] if reason else []
        tell(cell)
    return troubles


def probe() -> tuple[Probe, Probe]:
    """What a step takes on small images and on large ones, measured in about a second once torch has started."""
    found: tuple[Probe, Probe] = _one(_probe, None, "measures the speed")
    return found


def typical_units(networks: Sequence[tuple[Network, bool]]) -> list[tuple[UnitRow, int]]:
    """One unit of each network that keeps its width, as an audit sees it; in a process that has torch.

    With each network comes whether its asymmetric form is meant, with each unit how many operations of F are of the
    unit above it.
    """
    found: list[tuple[UnitRow, int]] = _one(_units, tuple(networks), "draws the units")
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one(work: Work[Any], job: Any, what_it_does: str) -> Any:
    """What a process says about one job."""
    found = [message for _, message in each(work, [job], 1) if not isinstance(message, Ended | Died)]
    if not found:
        raise _died(what_it_does)
    return found[0]


def _died(what_it_does: str) -> RunError:
    return RunError(f"the process that {what_it_does} died; `cleanpath doctor` tells of memory and limits")


def train_cell(
    cell: Cell,
    news: Connection,
    *,
    devices: Sequence[str] = ("cpu",),
    seconds_between: float | None = None,
    kernels: str = "auto",
) -> Ended:
    """One cell on one thread, in a process of a pool; a SIGTERM has it saved, so that it goes on from there.

    It is saved every `seconds_between` anyhow, as any run if that is not given.
    """
    from cleanpath import assemble
    from cleanpath.devices import chosen
    from cleanpath.keeping import SECONDS_BETWEEN
    from cleanpath.measuring import Moments

    request, last = Request(), 0.0

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        request.signal_number, request.message = number, "the driver ends"

    def on_step(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_NEWS or progress.iteration == progress.total:
            last = time.monotonic()
            news.send(progress)

    watchers: list[Callback] = [Stepped(on_step)]
    if isinstance(cell.experiment.network, Network):
        watchers.append(Moments(cell.folder, cell.experiment.data))
    reason, held, elsewhere, before = "", False, False, signal.signal(signal.SIGTERM, ask)
    try:
        assemble.run(
            cell.experiment,
            cell.folder,
            threads=1,
            callbacks=watchers,
            request=request,
            device=chosen(_mine(devices)),
            kernels=kernels,
            seconds_between=SECONDS_BETWEEN if seconds_between is None else seconds_between,
        )
    except CleanpathError as error:
        reason, held, elsewhere = str(error), isinstance(error, HeldError), isinstance(error, KernelsError)
    finally:
        signal.signal(signal.SIGTERM, before)
    if request.signal_number is not None:
        sys.exit()
    return Ended(reason, spent=_runs_code_of_others(cell), held=held, elsewhere=elsewhere)


def _mine(devices: Sequence[str]) -> str:
    """The device of this worker."""
    return devices[place() % len(devices)]


def _runs_code_of_others(cell: Cell) -> bool:
    """Whether a process is not, for sure, as it was before: a user's file or a library may leave anything behind.

    Ours leaves nothing: random states, threads and settings of torch are put back, compiled units are forgotten.
    """
    network = cell.experiment.network
    return not isinstance(network, Network) or own.is_own(network.shortcut.kind)


def _choose(name: str, news: Connection) -> None:
    from cleanpath import devices

    try:
        news.send(([str(one) for one in devices.shared(name)], ""))
    except SettingError as error:
        news.send(([], str(error)))


def _check(asked: tuple[tuple[Experiment, ...], tuple[str, ...], str], news: Connection) -> None:
    from cleanpath import assemble, devices
    from cleanpath.training import fused

    experiments, names, kernels = asked
    device = devices.chosen(names[0])
    for experiment in experiments:
        try:
            assemble.check(experiment)
            devices.check(device, experiment.training.precision)
            fused.chosen(kernels, experiment.training, device, threads=1)
        except UserError as error:
            news.send((f"{experiment.source}: {error}", ()))
            return
    news.send(("", ("cpu",) * cores() if device.type == "cpu" else _on_gpus(experiments, names)))


def _on_gpus(experiments: Sequence[Experiment], names: Sequence[str]) -> tuple[str, ...]:
    """The GPUs of the workers: each GPU once, then again as often as its free memory holds the largest of the runs.

    A run that does not fit even alone says so itself.
    """
    from cleanpath import costs, devices

    needed = max(costs.cost(one, device=devices.chosen(names[0])).needed for one in experiments)
    room = {name: devices.free_memory(devices.chosen(name)) // needed for name in names}
    places = [name for turn in range(_ON_A_GPU) for name in names if not turn or room[name] > turn]
    return tuple(places[: cores()])


def _measure(cell: Cell, news: Connection, *, devices: Sequence[str], kernels: str) -> Ended:
    from cleanpath import costs
    from cleanpath.devices import chosen

    news.send(costs.measure(cell.experiment, threads=1, device=chosen(_mine(devices)), kernels=kernels))
    return Ended(spent=_runs_code_of_others(cell))


def _foretell(cell: Cell, news: Connection, *, devices: Sequence[str]) -> Ended:
    from cleanpath import forecasted
    from cleanpath.devices import chosen

    found = forecasted.if_possible(cell.experiment, threads=1, device=chosen(_mine(devices)))
    news.send((None if found is None else found.to_data(),))
    return Ended(spent=_runs_code_of_others(cell))


def _shaped(experiments: tuple[Experiment, ...], news: Connection) -> None:
    from cleanpath import costs

    news.send([costs.shaped(one) for one in experiments])


def _observe(wish: tuple[Cell, Wish], news: Connection) -> Ended:  # noqa: ARG001 (as a pool calls it)
    """Measure a run; whatever that raises, a user's own unit above all, is told."""
    from cleanpath import assemble, measuring

    cell, wanted = wish
    reason = ""
    try:
        with assemble.threads_of_torch(1):
            measuring.measure(cell.run, wanted)
    except CleanpathError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 (somebody else's code runs in it)
        reason = own.told(error)
    return Ended(reason, spent=_runs_code_of_others(cell))


def _probe(_: None, news: Connection) -> None:
    from cleanpath import costs

    news.send(costs.probe())


def _units(networks: tuple[tuple[Network, bool], ...], news: Connection) -> None:
    from cleanpath import measuring

    news.send([measuring.typical_unit(network, asymmetric=asymmetric) for network, asymmetric in networks])
