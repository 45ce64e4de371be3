"""A training step on the processor: a plain network in eager NCHW, ours on torch's kernels, on our own, recomputed.

    python -m benchmarks.training_speed                 ResNet-56 on digits on one thread, ResNet-110 and -164 on two
    python -m benchmarks.training_speed preresnet110    one of them
    python -m benchmarks.training_speed --rounds 5      more processes of each

Appends to results/training-speed.jsonl, with `--json` too. Each side is a process of its own, in turn, so that peaks
of memory can be told apart: a process has a median of its steps after the first, a round a ratio of each side to the
plain one in it. Memory is the process's peak above what it had when all was imported. Ours is the loop's own step, with
its look at every loss and gradient; the plain one (benchmarks/plain_networks.py) is forward, backward, torch's SGD.
Images are random.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.figures import Figure, show
from benchmarks.plain_networks import twin
from benchmarks.recorded import FOLDER
from benchmarks.training_figures import figures
from cleanpath import devices
from cleanpath.assemble import environment
from cleanpath.experiment import Training
from cleanpath.machine import peak_memory, resident_memory
from cleanpath.training.fused import chosen
from cleanpath.training.gradients import Gradients
from cleanpath.training.loop import _step
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.passes import Passes
from cleanpath.training.state import Learner

RESULTS = FOLDER / "training-speed.jsonl"
BATCH = 128
CASES: dict[str, tuple[int, int, int, int]] = {
    "preresnet56": (1, 8, 1, 20),
    "preresnet110": (3, 32, 2, 4),
    "preresnet164": (3, 32, 2, 3),
}
"""Channels and side of the images, threads, steps."""
WAYS = {
    "eager NCHW": ("", ""),
    "plain": ("plain", "plain"),
    "fused": ("fused", "plain"),
    "fused, recompute": ("fused", "recompute"),
}
"""The kernels, and `training.memory`."""


def main() -> None:
    """Time all sides in turn; print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(*asked.one)))
        return
    found = list[Figure]()
    for name in asked.networks:
        _, side, threads, _ = CASES[name]
        rounds = [{way: _process(name, way) for way in WAYS} for _ in range(asked.rounds)]
        rows = [_row(way, rounds) for way in WAYS]
        told = {"environment": environment(threads), "date": time.strftime("%Y-%m-%d")}
        record = {"network": name, "side": side, "batch": BATCH, "rows": rows, **told}
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        found += figures(record)
        if not asked.json:
            print(name, *map(json.dumps, rows), sep="\n", flush=True)
    show(found, as_json=asked.json)


def _process(name: str, way: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_speed", "--one", name, way]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _row(way: str, rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    seconds = [each[way]["seconds"] for each in rounds]
    ratios = sorted(each["eager NCHW"]["seconds"] / each[way]["seconds"] for each in rounds)
    memories, base = ([each[one]["memory"] for each in rounds] for one in (way, "eager NCHW"))
    return {
        "way": way,
        "seconds": seconds,
        "images_per_second": BATCH / statistics.median(seconds),
        "times the plain one": [ratios[0], statistics.median(ratios), ratios[-1]],
        "memories": memories,
        "memory": statistics.median(memories),
        "share of its memory": statistics.median(memories) / statistics.median(base),
    }


def measured(name: str, way: str) -> dict[str, Any]:
    """Of one process: seconds of a step, and bytes above the import."""
    channels, side, threads, steps = CASES[name]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, plain = twin(name, in_channels=channels)
    _warmed()
    images, labels = torch.randn(BATCH, channels, side, side), torch.randint(10, (BATCH,))
    before = resident_memory()
    step = _plain_step(plain, images, labels) if way == "eager NCHW" else _our_step(ours, way, images, labels)
    took = list[float]()
    for _ in range(steps + 1):
        began = time.perf_counter()
        step()
        took.append(time.perf_counter() - began)
    return {"seconds": statistics.median(took[1:]), "memory": peak_memory() - before}


def _warmed() -> None:
    """Have the libraries start their threads before memory is looked at."""
    conv = nn.Conv2d(8, 8, 3)
    conv(torch.randn(2, 8, 8, 8)).sum().backward()


def _plain_step(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _our_step(network: nn.Module, way: str, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    path, memory = WAYS[way]
    training = Training(epochs=1, batch_size=BATCH, memory=memory)
    kernels = chosen(path, training, devices.CPU, threads=torch.get_num_threads())
    network = network.to(memory_format=torch.channels_last).train()
    passes = Passes(network, training, kernels=kernels)
    gradients, learner = Gradients(passes, Loss(training, labels), training), Learner(network, training)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        _step(learner, gradients, Batch(images, labels, labels, 1.0), 1, 0.01)

    return step


if __name__ == "__main__":
    main()
