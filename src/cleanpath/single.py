"""A single run, as `cleanpath train` asks for it."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cleanpath import assemble, costs, devices, forecasted, networks, settings
from cleanpath.errors import Request, UserError
from cleanpath.experiment import Experiment, Network
from cleanpath.grid.driver import News
from cleanpath.grid.plan import DONE, Cell
from cleanpath.keeping import checkpoints
from cleanpath.logs import callbacks
from cleanpath.naming import default_name
from cleanpath.nn import catalog, own
from cleanpath.paper.recipes import recipe
from cleanpath.records import Run, check_folder, forget, remove_bare
from cleanpath.training import fused
from cleanpath.training.progress import Progress, Stepped
from cleanpath.training.ranks import ALONE, Ranks
from cleanpath.watch import Watch, say


def experiment_of(network: str, changes: Sequence[str], chosen: str | None = None) -> Experiment:
    """The experiment of a catalog name with a recipe, or of a file; with `changes` applied."""
    from_file = Path(network).suffix in (".toml", ".json")
    if from_file:
        base = settings.read(Path(network))
        base = base if chosen is None else replace(base, training=recipe(chosen))
    else:
        built = networks.foreign(network) or catalog.network(network)
        base = Experiment(network=built, training=recipe(chosen or "default"))
    experiment = settings.override(base, changes)
    if not from_file:
        # The catalog's channels and classes are CIFAR's; what the user sets stands, and is checked below.
        experiment = settings.override(assemble.fitted_to(experiment), changes)
    if isinstance(experiment.network, Network):
        experiment = replace(experiment, network=own.with_code(experiment.network, anew=_sets_kind(changes)))
    assemble.check(experiment)
    return experiment


def _sets_kind(changes: Sequence[str]) -> bool:
    """Whether a unit is named here, and its file meant as it is now."""
    return any(change.partition("=")[0].strip() == "network.shortcut.kind" for change in changes)


def plan_run(  # noqa: PLR0913 (keyword options)
    experiment: Experiment,
    out: Path | None,
    *,
    threads: int,
    device: torch.device,
    kernels: str = fused.AUTO,
    init: Path | None = None,
    foretold: bool = True,
) -> dict[str, Any]:
    """What the run would be, with its time and memory from a few steps measured now, and its forecast if `foretold`."""
    gpu = device.type == "cuda"
    folder = _folder(experiment, out, threads, gpu=gpu)
    check_folder(folder, experiment)
    found = costs.cost(experiment, device=device)
    tried = costs.fits(found)
    measured = costs.measure(experiment, threads=threads, device=device, kernels=kernels) if tried else None
    told = None
    if tried and foretold:
        told = forecasted.if_possible(experiment, threads=threads, device=device, init=init)
    return {
        "schema": "cleanpath.run_plan",
        "version": 1,
        "folder": str(folder),
        "digest": settings.digest(experiment),
        "experiment": settings.to_data(experiment),
        "toml": settings.to_toml(experiment),
        "device": device.type,
        "seconds": measured.seconds if measured else None,
        "memory": measured.memory if measured else found.memory,
        "memory_counted": found.memory,
        "free_memory": found.free,
        "disk": found.disk,
        "largest_batch": found.largest_batch,
        "forecast": told.to_data() if told else None,
    }


def train(  # noqa: PLR0913 (keyword options)
    experiment: Experiment,
    out: Path | None,
    *,
    threads: int,
    fresh: bool,
    request: Request,
    loaders: int = 0,
    seconds_between: float = 60.0,
    init: Path | None = None,
    log: Sequence[str] = (),
    ranks: Ranks = ALONE,
    here: int = 1,
    device: torch.device = devices.CPU,
    kernels: str = fused.AUTO,
    foretold: bool = True,
) -> Run:
    """Train and record, from where an earlier try stopped; a run that ended is not trained again unless `fresh`.

    A long run that begins here alone is `foretold`: a line says beforehand whether it will train. Of several `ranks`,
    so many of which are `here`, the first one alone looks at the folder, writes and speaks.
    """
    folder = _folder(experiment, out, threads, ranks=ranks.count > 1, gpu=device.type == "cuda")
    cell = Cell(experiment=experiment, folder=folder, label=folder.name)
    if ranks.shared(ranks.led(lambda: _is_done(cell, fresh=fresh))):
        return cell.run
    ranks.led(lambda: _tell_cost(cell, ranks, here, device))
    if foretold and ranks.count == 1 and forecasted.is_worth(experiment) and not checkpoints(cell.run):
        found = forecasted.if_possible(experiment, threads=threads, device=device, init=init)
        say(f"{cell.label}: forecast: {found.line if found else 'none could be made'}")
    told = ranks.led(lambda: callbacks(log, folder)) or []
    with ExitStack() as stack:
        watch = stack.enter_context(Watch([cell], done=0)) if ranks.leads else None

        def on_step(progress: Progress) -> None:
            assert watch is not None
            watch.tell(News(cell=cell, event="step", progress=progress))

        if watch is not None:
            watch.tell(News(cell=cell, event="started"))
        try:
            run = assemble.run(
                experiment,
                folder,
                threads=threads,
                callbacks=[Stepped(on_step), *told],
                request=request,
                loaders=loaders,
                seconds_between=seconds_between,
                init=init,
                say=say,
                ranks=ranks,
                device=device,
                kernels=kernels,
            )
        except UserError:
            # What the user mends may be another experiment, for which the folder is to be free.
            if ranks.leads:
                remove_bare(folder, experiment)
            raise
        if watch is not None:
            watch.tell(News(cell=cell, event="ended"))
    return run


def _is_done(cell: Cell, *, fresh: bool) -> bool:
    """Whether nothing is left to do. Raises `RunError` for a folder that is not this experiment's."""
    check_folder(cell.folder, cell.experiment)
    if fresh:
        forget([cell.run])
    if done := cell.status in DONE:
        say(f"{cell.folder} ended before; nothing to do (--fresh trains it again)")
    return done


def _tell_cost(cell: Cell, ranks: Ranks, here: int, device: torch.device) -> None:
    if line := costs.told(costs.cost(cell.experiment, ranks, here, device), here):
        say(f"{cell.label}: {line}")


def _folder(experiment: Experiment, out: Path | None, threads: int, *, ranks: bool = False, gpu: bool = False) -> Path:
    return out if out is not None else Path("runs") / default_name(experiment, threads=threads, ranks=ranks, gpu=gpu)
