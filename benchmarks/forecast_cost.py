"""What a forecast takes, in training steps of the same network, batch and optimizer, on one thread.

    python -m benchmarks.forecast_cost      print it, and write results/forecast-cost.json

Each network has its forecast and its steps in turn, three times over; the median of each is taken.
"""

import json
import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cleanpath
from benchmarks.recorded import FOLDER
from cleanpath.assemble import environment
from cleanpath.data.sources import load
from cleanpath.forecasting.probing import Batch

RESULTS = FOLDER / "forecast-cost.json"
NETWORKS = ("resnet20", "resnet56", "preresnet56", "resnet110", "cifar-preresnet83-bottleneck")
TIMES, STEPS, BATCH = 3, 10, 64


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> None:
    """Training, plainly."""
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def cost(name: str) -> dict[str, Any]:
    """Seconds of a step and of a forecast."""
    torch.manual_seed(0)
    train = load(cleanpath.Data()).train
    batches: list[Batch] = [
        (train.plain(torch.arange(at, at + BATCH)), train.labels[at : at + BATCH])
        for at in range(0, STEPS * BATCH, BATCH)
    ]
    model = cleanpath.build(name, in_channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    steps(model, optimizer, batches[:2])
    took: dict[str, list[float]] = {"forecast": [], "steps": []}
    for _ in range(TIMES):
        began = time.process_time()
        cleanpath.forecast(model, batches, optimizer=optimizer)
        took["forecast"].append(time.process_time() - began)
        began = time.process_time()
        steps(model, optimizer, batches)
        took["steps"].append(time.process_time() - began)
    forecast, step = statistics.median(took["forecast"]), statistics.median(took["steps"]) / STEPS
    return {"network": name, "step": round(step, 4), "forecast": round(forecast, 3), "ratio": round(forecast / step, 1)}


def main() -> None:
    """Measure all."""
    torch.set_num_threads(1)
    found = [cost(name) for name in NETWORKS]
    for one in found:
        print(f"{one['network']}: {one['forecast']} s, {one['ratio']} steps of {one['step']} s")
    RESULTS.write_text(json.dumps({"networks": found, "batch": BATCH, "environment": environment(1)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
