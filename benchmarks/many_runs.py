"""The driver's memory over many cells; and ten thousand run folders: how long they take to list, report and plan.

    python -m benchmarks.many_runs    rewrites results/many-runs.json

The folders are those of table1 with that many seeds, half of them without a result, none with weights. The cells of the
first part are simulated: no process, no folder, every cell ends at once; what is shown of them goes to stderr.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import keep
from benchmarks.grid_cells import trivial
from cleanpath import settings
from cleanpath.grid import plan
from cleanpath.grid.driver import drive
from cleanpath.grid.plan import Cell
from cleanpath.grid.pool import Ended
from cleanpath.machine import peak_memory, resident_memory
from cleanpath.reproduction import Reproduction, reproduction
from cleanpath.watch import Watch

_LINES = 50
_REPORTS, _SECONDS_AT_REST = 4, 6


def main() -> None:
    """Make, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--cells", type=int, default=100_000)
    asked = parser.parse_args()
    before = resident_memory()
    many = plan.cells(trivial(asked.cells), Path("nowhere"))
    began = time.monotonic()
    with Watch(many, done=0) as watch:
        drive(many, AtOnce(), watch.tell)
    took = time.monotonic() - began
    memory = peak_memory() - before
    driver = {"cells": len(many), "bytes": memory, "seconds": took}
    print(driver, flush=True)
    commands = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        root, page = Path(place) / "runs", str(Path(place) / "page.html")
        count = len(_job(root, 1).cells())
        seeds = max(1, asked.runs // count)
        job = _job(root, seeds)
        for at, cell in enumerate(job.cells()):
            _write(cell, finished=at % 2 == 0)
        again = ("--runs", str(root), "--json")
        for _ in range(2):  # the first reads all, and the second what the first has left
            commands.append(_timed("list", "runs", *again))
        time.sleep(_SECONDS_AT_REST)  # what was written a moment ago is not indexed
        os.environ["CLEANPATH_CACHE"] = str(Path(place) / "cache")
        for _ in range(_REPORTS):  # the first of them makes the index
            commands.append(_timed("report", "table1", "--seeds", str(seeds), "--page", page, *again))
        began, used = time.monotonic(), time.process_time()
        todo = plan.to_do(_job(root, seeds).cells())
        took, used = time.monotonic() - began, time.process_time() - used
    plan_of = {"runs": count * seeds, "to do": len(todo), "seconds": took, "processor": used}
    print(plan_of)
    keep("many-runs", 1, {"driver": driver, "commands": commands, "plan": plan_of, "lines": _LINES})


def _job(root: Path, seeds: int) -> Reproduction:
    return reproduction(["table1"], scale="quick", seeds=seeds, all_columns=True, changes=[], root=root)


def _timed(*words: str) -> dict[str, Any]:
    """A command in a process of its own: how long it takes, with the start of Python."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "cleanpath", *words], check=True, capture_output=True)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"command": " ".join(words[:2]), "seconds": took, "processor": used, "bytes": len(done.stdout)}
    print(found, flush=True)
    return found


def _write(cell: Cell, *, finished: bool) -> None:
    """What a run leaves, without its weights."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "experiment.json").write_text(json.dumps(settings.to_data(cell.experiment)))
    (cell.folder / "environment.json").write_text(json.dumps({"torch": "2.14.1", "threads": 1}))
    lines = [json.dumps({"iteration": at, "loss": 1.0, "seconds": 0.1 * at}) for at in range(_LINES)]
    (cell.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if finished:
        result = {"status": "finished", "error": 1.0, "seconds": 5.0, "iterations": _LINES}
        (cell.folder / "result.json").write_text(json.dumps(result))


class AtOnce:
    """An engine in which every cell ends at once; its runs are nowhere."""

    def __init__(self) -> None:
        self._running: list[Cell] = []

    @property
    def busy(self) -> bool:
        """Whether a cell is being done."""
        return bool(self._running)

    @property
    def has_room(self) -> bool:
        """Whether another cell can start."""
        return len(self._running) < 2

    def start(self, cell: Cell) -> None:
        """Begin a cell."""
        self._running.append(cell)

    def news(self) -> Iterator[tuple[Cell, Any]]:
        """The end of one."""
        yield self._running.pop(0), Ended()


if __name__ == "__main__":
    main()
