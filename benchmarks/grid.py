"""Many small cells on all cores, one thread each, beside the same cells one after another with all threads.

    python -m benchmarks.grid

Ten rows of Table 1 at scale quick, cut short, each time in new folders: the start of the workers counts, as it does for
a whole table, over fewer iterations.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, alternated, ratio, tell
from cleanpath.assemble import run
from cleanpath.grid.local import cores, run_cells
from cleanpath.grid.plan import Cell, cells
from cleanpath.paper.scales import SCALES
from cleanpath.paper.tables import experiments, recipe_of

ROUNDS, ITERATIONS, ROWS = 3, 40, 10


def measure() -> list[Figure]:
    """One figure."""
    took = alternated(
        {"side by side": _in_new_folders(_side_by_side), "one by one": _in_new_folders(_one_by_one)}, ROUNDS
    )
    return [ratio("a grid of small cells on all cores, beside one after another", *took.values(), "grid")]


def _in_new_folders(train: Callable[[tuple[Cell, ...]], None]) -> Callable[[], None]:
    changes = [f"training.iterations={ITERATIONS}", "training.warmup=0"]
    found = experiments(recipe_of("table1"), SCALES["quick"], columns=["ResNet-110"], seeds=[0], changes=changes)

    def trained() -> None:
        folder = Path(tempfile.mkdtemp())
        train(cells(list(found.values())[:ROWS], folder))
        shutil.rmtree(folder)

    return trained


def _one_by_one(todo: tuple[Cell, ...]) -> None:
    for cell in todo:
        run(cell.experiment, cell.folder, threads=cores())


def _side_by_side(todo: tuple[Cell, ...]) -> None:
    run_cells(todo, workers=cores(), tell=lambda _: None)


if __name__ == "__main__":
    tell(measure, __doc__)
