"""What a grid has to do: its cells, each experiment once, and which of them are done; the run folders say."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cleanpath import estimate
from cleanpath.experiment import Experiment, Foreign
from cleanpath.naming import default_name
from cleanpath.nn import catalog
from cleanpath.nn.multiply_adds import layers
from cleanpath.records import Run

DONE = ("finished", "diverged")
_TYPICAL = estimate.Speed(per_layer=2e-3, multiply_adds=3e10)
"""Of an EPYC's core, as `machine_speed` measured it; only ratios count here."""
_SAMPLED = 10


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One experiment of a grid, its run folder, and a short label."""

    experiment: Experiment
    folder: Path
    label: str

    @property
    def run(self) -> Run:
        """The run, as it stands on disk."""
        return Run(self.folder)

    @property
    def status(self) -> str:
        """The run's status, or `missing` where there is none."""
        return self.run.status if self.folder.is_dir() else "missing"

    @cached_property
    def work(self) -> float:
        """A relative cost: the seconds of one typical core, where the shapes are known without looking at data."""
        network, training = self.experiment.network, self.experiment.training
        if estimate.known(self.experiment):
            return estimate.seconds(self.experiment, _TYPICAL)
        images = training.batch_size * (training.iterations or training.epochs or 1)
        count = 1 if isinstance(network, Foreign) else layers(network)
        return images * count / _TYPICAL.multiply_adds


def cell(experiment: Experiment, root: Path) -> Cell:
    """The cell of an experiment, its run directly below `root`."""
    label = f"{experiment.source or catalog.name_of(experiment.network)} seed {experiment.seed}"
    return Cell(experiment=experiment, folder=root / default_name(experiment), label=label)


def cells(experiments: Iterable[Experiment], root: Path) -> tuple[Cell, ...]:
    """The cells of a grid in their order; an experiment that comes twice is one cell."""
    found: dict[Path, Cell] = {}
    for experiment in experiments:
        made = cell(experiment, root)
        found.setdefault(made.folder, made)
    return tuple(found.values())


def apart(experiment: Experiment, **changes: int) -> Experiment:
    """The experiment without its label, which decides nothing of it."""
    return replace(experiment, source="", **changes)  # type: ignore[arg-type]


def kind(cell: Cell) -> Experiment:
    """What decides the cost of a cell: all but its seed and its label."""
    return apart(cell.experiment, seed=0)


def to_do(all_cells: Iterable[Cell]) -> list[Cell]:
    """The cells that have not ended, `in_order`."""
    return in_order(cell for cell in all_cells if cell.status not in DONE)


def in_order(some: Iterable[Cell]) -> list[Cell]:
    """The costliest first, so that none is left straggling.

    Every tenth of them comes before the others: what is left can then be estimated from cells of all sizes.
    """
    ordered = sorted(some, key=lambda cell: (-cell.work, _digest(cell)))
    return ordered[::_SAMPLED] + [cell for at, cell in enumerate(ordered) if at % _SAMPLED]


def _digest(cell: Cell) -> str:
    """Orders cells of equal work by what has nothing to do with their rows: rows differ in their time."""
    return cell.folder.name.rpartition("-")[2]


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last of `workers` is done, each taking the costliest job that is left."""
    ends = [0.0] * workers
    for duration in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)
