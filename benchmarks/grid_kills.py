"""Kills of the processes of a grid at random instants: a worker, the driver, on Ray a node; and the same command again.

    python -m benchmarks.grid_kills --cells 20           on this machine; appends a line to results/grid-kills.jsonl
    python -m benchmarks.grid_kills --cells 10 --ray     on a Ray cluster of two nodes on this machine

A driver that is killed, or that ends with cells that died too often, is started anew until all cells are finished. Each
is then compared with one that was left alone: metrics (but for the clock), weights and result, bit for bit; and no
result may have been written twice.
"""

import argparse
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.recorded import FOLDER
from cleanpath import settings
from cleanpath.experiment import Experiment, Training
from cleanpath.grid import cluster, local, plan
from cleanpath.grid.driver import News
from cleanpath.grid.plan import Cell
from cleanpath.nn import catalog
from cleanpath.records import Run

RESULTS = FOLDER / "grid-kills.jsonl"
FIRST, LONGEST, LONGEST_ON_RAY = 0.5, 6.0, 30.0
"""Seconds from one kill to the next. On Ray a process starts for every cell: where the machine is slow, nothing but
starts would be killed."""
SAVING_OFTEN = partial(local.train_cell, seconds_between=0.2)
"""So that kills hit the writing of checkpoints too."""
CLOCKS = {"seconds", "peak_memory"}


def main() -> None:
    """Kill, compare, record; or drive, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="after which nothing more is killed")
    parser.add_argument("--longest", type=float, help="seconds from one kill to the next, at most")
    parser.add_argument("--drive", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.drive:
        _drive(_cells(asked, Path(asked.drive)), asked.address)
        return
    with tempfile.TemporaryDirectory() as place, _nodes(asked.ray) as nodes:
        calm, hunted = _cells(asked, Path(place) / "calm"), _cells(asked, Path(place) / "hunted")
        local.run_cells(calm, workers=local.cores(), tell=lambda _: None)
        found = _hunt(asked, hunted, nodes)
        wrong = [cell.label for cell, one in zip(hunted, calm, strict=True) if _told(cell.run) != _told(one.run)]
    line: dict[str, Any] = {"cells": len(hunted), "on": "ray" if asked.ray else "this machine", **found}
    line |= {"differing": wrong, "seed": asked.seed, "iterations": asked.iterations, "date": time.strftime("%Y-%m-%d")}
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line))
    sys.exit(bool(wrong or found["written twice"]))


def _cells(asked: argparse.Namespace, root: Path) -> tuple[Cell, ...]:
    network = catalog.network("preresnet8", in_channels=1, width=4)
    training = settings.override(
        Experiment(network=network, training=Training(iterations=asked.iterations, batch_size=32, lr=0.05)),
        ["network.shortcut.kind=dropout", "network.shortcut.rate=0.1", "training.average=0.9"],
    )
    return plan.cells((plan.apart(training, seed=seed) for seed in range(asked.cells)), root)


def _drive(cells: Sequence[Cell], address: str | None) -> None:
    def tell(news: News) -> None:
        if news.event != "step":
            print(news.event, news.cell.label, news.reason, file=sys.stderr, flush=True)

    todo = plan.to_do(cells)
    if address:
        cluster.run_cells(todo, address=address, workers=None, tell=tell, work=SAVING_OFTEN)
    else:
        local.run_cells(todo, workers=2, tell=tell, work=SAVING_OFTEN)


def _hunt(asked: argparse.Namespace, cells: Sequence[Cell], nodes: Any) -> dict[str, Any]:
    """Drive, kill, drive again; what was killed, and what was written twice."""
    choose = random.Random(asked.seed)  # noqa: S311
    longest = asked.longest or (LONGEST_ON_RAY if asked.ray else LONGEST)
    killed, written, drivers = Counter[str](), defaultdict[str, set[int]](set), 0
    began, driver, next_kill = time.monotonic(), None, 0.0
    while any(cell.status not in plan.DONE for cell in cells):
        if driver is None or driver.poll() is not None:
            driver = _started(cells[0].folder.parent, asked, nodes)
            drivers += 1
            next_kill = time.monotonic() + choose.uniform(FIRST, longest)
        now = time.monotonic()
        if now >= next_kill and now - began < 60 * asked.minutes:
            victim = choose.choice(("worker", "worker", "worker", "node" if asked.ray else "worker", "driver"))
            killed[victim] += _kill(victim, driver, nodes, choose)
            next_kill = now + choose.uniform(FIRST, longest)
        _look(cells, written)
        time.sleep(0.05)
    if driver is not None:
        driver.wait()
    _look(cells, written)
    twice = [label for label, files in written.items() if len(files) > 1]
    took = round(time.monotonic() - began, 1)
    return {"killed": dict(killed), "drivers": drivers, "written twice": twice, "seconds": took}


def _look(cells: Sequence[Cell], written: dict[str, set[int]]) -> None:
    """Note which files the results are."""
    for cell in cells:
        with suppress(FileNotFoundError):
            written[cell.label].add((cell.folder / "result.json").stat().st_ino)


def _started(root: Path, asked: argparse.Namespace, nodes: Any) -> subprocess.Popen[bytes]:
    words = ["--drive", str(root), "--cells", str(asked.cells), "--iterations", str(asked.iterations)]
    address = ["--address", nodes.address] if nodes is not None else []
    return subprocess.Popen([sys.executable, "-m", "benchmarks.grid_kills", *words, *address])


def _kill(victim: str, driver: subprocess.Popen[bytes], nodes: Any, choose: random.Random) -> bool:
    """Whether there was one to kill."""
    if victim == "driver":
        driver.kill()
        driver.wait()
        return True
    if victim == "node":
        lost = choose.choice(sorted(nodes.worker_nodes, key=lambda node: str(node.unique_id)))
        nodes.remove_node(lost, allow_graceful=False)
        nodes.add_node(num_cpus=1)
        return True
    names = "multiprocessing.forkserver"
    above = psutil.Process(os.getpid()) if nodes is not None else psutil.Process(driver.pid)
    servers = [one for one in _below(above) if names in " ".join(_command(one))]
    workers = [child for server in servers for child in _below(server)]
    if not workers:
        return False
    with suppress(psutil.Error):
        choose.choice(workers).kill()
    return True


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(process.children(recursive=True))
    return []


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


@contextmanager
def _nodes(wanted: bool) -> Iterator[Any]:  # noqa: FBT001
    """Two nodes on this machine and a head without cores, which asks for a token; or nothing."""
    if not wanted:
        yield None
        return
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update(told)  # before Ray is imported, which looks at them once
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found]

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


def _told(run: Run) -> tuple[Any, ...]:
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]
    result = {k: v for k, v in (run.result or {}).items() if k not in CLOCKS}
    return metrics, result, run.weights.read_bytes()


if __name__ == "__main__":
    main()
