"""A single run, as `cleanpath train` asks for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cleanpath import assemble, settings
from cleanpath.experiment import Experiment, Training
from cleanpath.grid.local import News, cores
from cleanpath.grid.plan import DONE, Cell
from cleanpath.nn import catalog
from cleanpath.records import Run, check_folder, default_name
from cleanpath.training.progress import Progress
from cleanpath.watch import Watch, say

# Without a warm-up: the paper's appendix calls it unnecessary for pre-activation networks.
DEFAULT_TRAINING = Training(epochs=20, batch_size=64, lr=0.05)


def experiment_of(network: str, changes: Sequence[str]) -> Experiment:
    """The experiment of a catalog name with `DEFAULT_TRAINING`, or of a file; with `changes` applied."""
    if Path(network).suffix in (".toml", ".json"):
        base = settings.read(Path(network))
    else:
        base = Experiment(network=catalog.network(network), training=DEFAULT_TRAINING)
    experiment = settings.override(base, changes)
    experiment = assemble.fitted_to(experiment)
    assemble.check(experiment)
    return experiment


def plan_run(experiment: Experiment, out: Path | None, *, threads: int | None) -> dict[str, Any]:
    """What the run would be, with its time and memory from a few steps measured now."""
    folder = _folder(experiment, out)
    check_folder(folder, experiment)
    seconds, memory = assemble.measure(experiment, threads=threads or cores())
    return {
        "schema": "cleanpath.run_plan",
        "version": 1,
        "folder": str(folder),
        "digest": settings.digest(experiment),
        "experiment": settings.to_data(experiment),
        "toml": settings.to_toml(experiment),
        "seconds": seconds,
        "memory": memory,
    }


def train(experiment: Experiment, out: Path | None, *, threads: int | None, fresh: bool) -> Run:
    """Train and record; a run that ended is not trained again unless `fresh`."""
    folder = _folder(experiment, out)
    check_folder(folder, experiment)
    cell = Cell(experiment=experiment, folder=folder, label=folder.name)
    if fresh:
        cell.run.forget()
    if cell.status in DONE:
        say(f"{folder} ended before; nothing to do (--fresh trains it again)")
        return cell.run
    with Watch([cell], done=0) as watch:
        watch.tell(News(cell=cell, event="started"))

        def on_step(progress: Progress) -> None:
            watch.tell(News(cell=cell, event="step", progress=progress))

        run = assemble.run(experiment, folder, threads=threads or cores(), on_step=on_step)
        watch.tell(News(cell=cell, event="ended"))
    return run


def _folder(experiment: Experiment, out: Path | None) -> Path:
    return out if out is not None else Path("runs") / default_name(experiment)
