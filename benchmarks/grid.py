"""Cells side by side, one thread each, against the same cells one after another with all threads.

python benchmarks/grid.py
"""

import statistics
import tempfile
import time
from pathlib import Path

from machine import machine

from cleanpath.assemble import run
from cleanpath.grid.local import cores, run_cells
from cleanpath.grid.plan import Cell, cells
from cleanpath.paper.scales import SCALES
from cleanpath.paper.tables import experiments, recipe_of

ROUNDS, ITERATIONS = 3, 30


def main() -> None:
    """Print the median time of both ways and the median of the ratios of neighbours."""
    ratios = []
    for _ in range(ROUNDS):
        one_by_one, side_by_side = _serial(_cells()), _parallel(_cells())
        ratios.append(one_by_one / side_by_side)
        print(f"one after another {one_by_one:.1f} s, side by side {side_by_side:.1f} s")
    print(machine())
    low, high = min(ratios), max(ratios)
    print(
        f"throughput side by side: median ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}, n = {ROUNDS})"
    )


def _cells() -> tuple[Cell, ...]:
    """Four rows of Table 1, cut short, in a new folder."""
    changes = [f"training.iterations={ITERATIONS}", "training.warmup=0"]
    recipe = recipe_of("table1")
    found = experiments(recipe, SCALES["quick"], columns=["ResNet-110"], seeds=[0], changes=changes)
    return cells(list(found.values())[:4], Path(tempfile.mkdtemp()))


def _serial(todo: tuple[Cell, ...]) -> float:
    began = time.monotonic()
    for cell in todo:
        run(cell.experiment, cell.folder, threads=cores())
    return time.monotonic() - began


def _parallel(todo: tuple[Cell, ...]) -> float:
    began = time.monotonic()
    run_cells(todo, workers=cores(), tell=lambda _: None)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
