"""What a grid adds to each cell: trivial cells, which train nothing and are finished at once, on two workers.

    python -m benchmarks.grid_overhead    rewrites results/grid-overhead.json

A cell makes its folder and writes a result, so that the driver reads what it reads of any cell, and shows it.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.figures import keep
from benchmarks.grid_cells import finished_at_once, trivial
from cleanpath.grid import plan
from cleanpath.grid.local import run_cells
from cleanpath.watch import Watch


def main() -> None:
    """Run, print milliseconds of each cell, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        cells = plan.cells(trivial(asked.cells), Path(root))
        # The server loads torch, and the processes start, before the clock.
        run_cells(cells[: asked.workers], workers=asked.workers, tell=lambda _: None, work=finished_at_once)
        began, used = time.monotonic(), _processor()
        todo = plan.to_do(cells)
        with Watch(todo, done=0) as watch:
            run_cells(todo, workers=asked.workers, tell=watch.tell, work=finished_at_once)
        took, used = time.monotonic() - began, _processor() - used
        assert all(cell.status == "finished" for cell in cells)
    each = {"milliseconds": 1000 * took / len(todo), "driver": 1000 * used / len(todo)}
    found = {"cells": len(todo), "workers": asked.workers, **each}
    print(found)
    keep("grid-overhead", 1, found)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
