"""A grid on this machine: one process per core, one torch thread each.

Every cell has a process of its own, forked from a server that has torch loaded: a process that dies costs its cell
and nothing else. The driver itself never loads torch.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from cleanpath.auditing.values import UnitRow
from cleanpath.errors import RunError, SettingError
from cleanpath.estimate import PROBED, Probe
from cleanpath.experiment import Experiment, Network
from cleanpath.grid.plan import Cell
from cleanpath.measures import Wish
from cleanpath.training.progress import Callback, Progress, Stepped

# The last is what torch imports when a network is first built on the meta device, as each cell's check does: 2 seconds.
_PRELOAD = [
    "cleanpath.assemble",
    "cleanpath.data.sources",
    "cleanpath.grid.local",
    "cleanpath.measuring",
    "torch._dynamo",
]
_SECONDS_BETWEEN_NEWS = 0.2
_SECONDS_TO_END = 5.0


@dataclass(frozen=True, kw_only=True)
class News:
    """What happened to a cell: it `started`, made a `step`, or `ended`."""

    cell: Cell
    event: str
    progress: Progress | None = None


def run_cells(todo: Sequence[Cell], *, workers: int, tell: Callable[[News], None], device: str = "cpu") -> None:
    """Run all cells, `workers` at a time on a device; what became of each stands in its run folder.

    Whatever is raised meanwhile (a signal, say) ends the running cells first; cells that ended are kept. Raises
    `RunError` at the end if another driver held some of the cells.
    """
    held: list[str] = []

    def start(cell: Cell) -> None:
        tell(News(cell=cell, event="started"))

    def told(cell: Cell, message: Progress) -> None:
        tell(News(cell=cell, event="step", progress=message))

    def ended(cell: Cell, exit_code: int | None) -> None:
        if cell.run.holder:
            held.append(f"{cell.label} is being written by {cell.run.holder}")
        elif cell.status not in ("finished", "diverged", "failed"):
            _record_death(cell, exit_code)
        tell(News(cell=cell, event="ended"))

    jobs = [(cell, _train, (cell, device)) for cell in todo]
    _run(jobs, workers=workers, start=start, told=told, ended=ended)
    if held:
        raise RunError(f"{', '.join(held)}; wait for it, and give this command again")


def check_cells(cells: Sequence[Cell], device: str = "cpu") -> None:
    """Raise `SettingError` for the first cell that cannot run there, before any does; in a process that has torch."""
    found: list[str] = []
    jobs = [(cell, _check, (tuple(c.experiment for c in cells), device)) for cell in cells[:1]]
    _run(jobs, workers=1, start=lambda _: None, told=lambda _, message: found.append(message), ended=lambda *_: None)
    if not found:
        raise RunError("the process that checks the cells died; `cleanpath doctor` tells of memory and limits")
    if found[0]:
        raise SettingError(found[0])


def measure_cells(kinds: Sequence[Cell], *, workers: int) -> dict[str, tuple[float, int]]:
    """Seconds and peak bytes of one run of each cell, from a few steps of it, with all workers busy."""
    found: dict[str, list[tuple[float, int]]] = {}
    copies = max(1, workers // max(1, len(kinds)))
    jobs = [(cell, _measure, (cell,)) for cell in kinds for _ in range(copies)]

    def told(cell: Cell, message: tuple[float, int]) -> None:
        found.setdefault(cell.folder.name, []).append(message)

    _run(jobs, workers=workers, start=lambda _: None, told=told, ended=lambda *_: None)
    if silent := [cell.label for cell in kinds if cell.folder.name not in found]:
        raise RunError(f"the process that measures {silent[0]} died; `cleanpath doctor` tells of memory and limits")
    return {name: (max(s for s, _ in many), max(b for _, b in many)) for name, many in found.items()}


def observe_cells(wishes: Sequence[tuple[Cell, Wish]], *, workers: int, tell: Callable[[Cell], None]) -> list[str]:
    """Measure finished runs, `workers` at a time; which could not be, with the reason."""
    troubles: list[str] = []
    waiting = {cell: None for cell, _ in wishes}

    def told(_: Cell, message: tuple[Cell, str]) -> None:
        cell, reason = message
        waiting.pop(cell)
        troubles.extend([f"{cell.label}: {reason}"] if reason else [])
        tell(cell)

    # Runs are measured so quickly that a process each would take longer than the measuring.
    shares = [share for share in (wishes[start::workers] for start in range(workers)) if share]
    jobs = [(share[0][0], _observe, (share,)) for share in shares]
    _run(jobs, workers=workers, start=lambda _: None, told=told, ended=lambda *_: None)
    return troubles + [f"{cell.label}: the process that measures it died" for cell in waiting]


def probe() -> tuple[Probe, Probe]:
    """What a step takes on small images and on large ones, measured in about a second."""
    found: list[tuple[Probe, Probe]] = []
    nobody = Cell(experiment=PROBED, folder=Path(), label="the probe")
    jobs = [(nobody, _probe, ())]
    _run(jobs, workers=1, start=lambda _: None, told=lambda _, message: found.append(message), ended=lambda *_: None)
    if not found:
        raise RunError("the process that measures the speed died; `cleanpath doctor` tells of memory and limits")
    return found[0]


def typical_units(networks: Sequence[tuple[Network, bool]]) -> list[tuple[UnitRow, int]]:
    """One unit of each network that keeps its width, as an audit sees it; in a process that has torch.

    With each network comes whether its asymmetric form is meant, with each unit how many operations of F are of the
    unit above it.
    """
    found: list[tuple[UnitRow, int]] = []
    nobody = Cell(experiment=PROBED, folder=Path(), label="the drawing")
    jobs = [(nobody, _units, (tuple(networks),))]
    _run(jobs, workers=1, start=lambda _: None, told=lambda _, message: found.append(message), ended=lambda *_: None)
    if len(found) < len(networks):
        raise RunError("the process that draws the units died; `cleanpath doctor` tells of memory and limits")
    return found


Job = tuple[Cell, Callable[..., None], tuple[Any, ...]]


def _run(
    jobs: Iterable[Job],
    *,
    workers: int,
    start: Callable[[Cell], None],
    told: Callable[[Cell, Any], None],
    ended: Callable[[Cell, int | None], None],
) -> None:
    context = _context()
    waiting = deque(jobs)
    running: dict[BaseProcess, tuple[Cell, Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell, work, arguments = waiting.popleft()
                start(cell)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(*arguments, theirs))  # type: ignore[attr-defined]
                process.start()
                theirs.close()
                running[process] = (cell, ours)
            wait([*(p.sentinel for p in running), *(connection for _, connection in running.values())])
            for process, (cell, connection) in list(running.items()):
                alive = process.is_alive()
                with contextlib.suppress(EOFError):
                    while connection.poll():
                        told(cell, connection.recv())
                if not alive:
                    process.join()
                    connection.close()
                    del running[process]
                    ended(cell, process.exitcode)
    finally:
        _end(running)


def _end(running: Iterable[BaseProcess]) -> None:
    processes = list(running)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _context() -> BaseContext:
    """A server that forks from an image with torch loaded; a fresh interpreter where there is no such server."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    # The server is to be deaf to Ctrl-C from its first moment: what it should end with is up to the driver. The
    # tracker of resources starts before it and, once started, makes its starter listen to Ctrl-C again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _train(cell: Cell, device: str, news: Connection) -> None:
    """One cell, in its own process: one thread; ends by itself when nobody listens any more."""
    from cleanpath import assemble, devices
    from cleanpath.errors import CleanpathError, Request
    from cleanpath.measuring import Moments

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    request, last = Request(), 0.0

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        request.signal_number, request.message = number, "the driver ends"

    signal.signal(signal.SIGTERM, ask)  # the cell is saved, so that it goes on from there

    def on_step(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_NEWS or progress.iteration == progress.total:
            last = time.monotonic()
            news.send(progress)

    watchers: list[Callback] = [Stepped(on_step)]
    if isinstance(cell.experiment.network, Network):
        watchers.append(Moments(cell.folder, cell.experiment.data))
    try:
        on = devices.chosen(device)
        assemble.run(cell.experiment, cell.folder, threads=1, callbacks=watchers, request=request, device=on)
    except BrokenPipeError:
        sys.exit(1)
    except CleanpathError as error:
        sys.exit(f"{cell.label}: {error}")


def _check(experiments: tuple[Experiment, ...], device: str, news: Connection) -> None:
    from cleanpath import assemble, devices
    from cleanpath.errors import UserError

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for experiment in experiments:
        try:
            assemble.check(experiment)
            devices.check(devices.chosen(device), experiment.training.precision)
        except UserError as error:
            _tell(news, f"{experiment.source}: {error}")
            return
    _tell(news, "")


def _measure(cell: Cell, news: Connection) -> None:
    from cleanpath import costs

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _tell(news, costs.measure(cell.experiment, threads=1))


def _observe(wishes: Sequence[tuple[Cell, Wish]], news: Connection) -> None:
    """Measure runs one after the other; whatever one of them raises, a user's own unit above all, the rest come too."""
    from cleanpath import assemble, measuring
    from cleanpath.errors import CleanpathError
    from cleanpath.nn import own

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ends when nobody listens any more.
    with assemble.threads_of_torch(1), contextlib.suppress(BrokenPipeError):
        for cell, wish in wishes:
            reason = ""
            try:
                measuring.measure(cell.run, wish)
            except CleanpathError as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 (somebody else's code runs in it)
                reason = own.told(error)
            news.send((cell, reason))


def _probe(news: Connection) -> None:
    from cleanpath import costs

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _tell(news, costs.probe())


def _units(networks: tuple[tuple[Network, bool], ...], news: Connection) -> None:
    from cleanpath import measuring

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for network, asymmetric in networks:
        _tell(news, measuring.typical_unit(network, asymmetric=asymmetric))


def _tell(news: Connection, message: object) -> None:
    """Send a message to the driver, if it is still there."""
    with contextlib.suppress(BrokenPipeError):
        news.send(message)


def _record_death(cell: Cell, exit_code: int | None) -> None:
    from cleanpath.records import record_failure

    how = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
    record_failure(cell.folder, f"the process of this cell ended with {how} before it was done")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
