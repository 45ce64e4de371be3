"""Time and memory of a step by depth, plain and with `training.memory=recompute`, and how straight the lines are.

    python -m benchmarks.depth_memory    rewrites results/depth-memory.json

A step of SGD on random images of 32×32 in a batch of 32, each network and way in a process of its own, in turn. Memory
is the process's peak beyond what it had before the network was built; time the median of the steps after the first. The
fits against the number of units are by least squares; residuals are relative.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import cleanpath
from benchmarks.recorded import FOLDER
from cleanpath.assemble import environment
from cleanpath.experiment import Training
from cleanpath.machine import peak_memory, resident_memory
from cleanpath.nn import catalog
from cleanpath.training.gradients import Gradients
from cleanpath.training.loop import _step
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.memory import memory_of
from cleanpath.training.passes import Passes
from cleanpath.training.state import Learner

RESULTS = FOLDER / "depth-memory.json"
NETWORKS = {
    "two layers": tuple(f"preresnet{depth}" for depth in (20, 56, 110, 218, 434, 866, 1202)),
    "bottleneck": ("preresnet164", "cifar-preresnet326-bottleneck", "cifar-preresnet650-bottleneck", "preresnet1001"),
}
BATCH, STEPS = 32, 4
WAYS = ("plain", "recompute")


def main() -> None:
    """Measure each in a process of its own; fit, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"))
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(*asked.one)))
        return
    rows = []
    for family, names in NETWORKS.items():
        for name in names:
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.depth_memory", "--one", name, way]
                done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
                rows.append({"family": family, "network": name, "way": way, **json.loads(done.stdout)})
                print(rows[-1], file=sys.stderr)
    fits = [
        {"family": family, "way": way, "quantity": quantity, **_fit(rows, family, way, quantity)}
        for family in NETWORKS
        for way in WAYS
        for quantity in ("seconds", "memory")
    ]
    found = {"batch": BATCH, "rows": rows, "fits": fits, "environment": environment(1)}
    found["date"] = time.strftime("%Y-%m-%d")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(name: str, way: str) -> dict[str, Any]:
    """A few steps of a network: seconds of one, bytes measured and counted."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training = Training(epochs=1, batch_size=BATCH, memory=way)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    before = resident_memory()
    network = cleanpath.build(name).to(memory_format=torch.channels_last).train()
    counted = memory_of(network, images[:2], training)
    gradients = Gradients(Passes(network, training), Loss(training, labels), training)
    learner, took = Learner(network, training), list[float]()
    for step in range(STEPS):
        began = time.perf_counter()
        _step(learner, gradients, Batch(images, labels, labels, 1.0), step + 1, 0.01)
        took.append(time.perf_counter() - began)
    return {
        "units": sum(catalog.units_per_stage(catalog.network(name))),
        "seconds": statistics.median(took[1:]),
        "memory": peak_memory() - before,
        "counted": counted.of(training),
    }


def _fit(rows: Sequence[dict[str, Any]], family: str, way: str, quantity: str) -> dict[str, Any]:
    chosen = [row for row in rows if (row["family"], row["way"]) == (family, way)]
    units, values = (np.array([row[key] for row in chosen]) for key in ("units", quantity))
    slope, start = np.polyfit(units, values, 1)
    fitted = slope * units + start
    return {"start": start, "per unit": slope, "residuals": ((values - fitted) / values).round(3).tolist()}


if __name__ == "__main__":
    main()
