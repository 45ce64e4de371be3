"""What the monitor costs: a recorded step and an unrecorded one over a plain training step.

python benchmarks/monitor_cost.py
python benchmarks/monitor_cost.py preresnet110:32 --rounds 15

A target is a name and a batch size. A step is forward, cross-entropy, backward and SGD with momentum, on random images.
Plain, recorded and unrecorded steps take turns in one process; the figures are medians of the ratios to the plain step
of the same turn. What a recorded step takes beyond a plain one is spread over every=100 steps.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from machine import machine
from torch import Tensor, nn

import cleanpath
from cleanpath.auditing.monitoring import Monitor
from cleanpath.targets import resolve

TARGETS = (
    *("resnet110:128", "resnet110:32", "preresnet110:128", "preresnet110:32"),
    "timm:vit_tiny_patch16_224:8",
)
EVERY = 100


def steps(target: str) -> tuple[nn.Module, Callable[[], None]]:
    """A network and one step of its training."""
    name, _, size = target.rpartition(":")
    model = resolve(name).module.train()
    side = 224 if name.endswith("224") else 32
    images, optimizer = torch.randn(int(size), 3, side, side), torch.optim.SGD(model.parameters(), 0.01, 0.9)

    def step() -> None:
        optimizer.zero_grad()
        scores: Tensor = model(images)
        labels = torch.randint(scores.shape[1], (len(scores),))
        nn.functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return model, step


def seconds(step: Callable[[], None]) -> float:
    """The time of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Cost:
    """Seconds of plain steps, and what the steps beside each took, as ratios to it."""

    plain: list[float]
    first: list[float]
    recorded: list[float]
    unrecorded: list[float]


def cost(target: str, rounds: int) -> Cost:
    """Four kinds of step in turn; the order changes, so that none always follows the same other."""
    model, step = steps(target)
    often, rarely = (cleanpath.monitor(model, every=every) for every in (1, 10**9))
    taken = Cost([], [], [], [])
    for monitor in (often, rarely):
        under(monitor, step)  # the one that finds the units
    for turn in range(rounds):
        taken.plain.append(seconds(step))
        kinds = [
            (cleanpath.monitor(model, every=1), taken.first),
            (often, taken.recorded),
            (rarely, taken.unrecorded),
        ]
        for monitor, found in kinds[turn % 3 :] + kinds[: turn % 3]:
            found.append(under(monitor, step) / taken.plain[-1])
    assert len(often.profiles) == rounds + 1
    assert len(rarely.profiles) == 1
    return taken


def under(monitor: Monitor, step: Callable[[], None]) -> float:
    """The time of one step under a monitor."""
    with monitor:
        return seconds(step)


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """One row per target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    heads = ("first", "recorded", "unrecorded")
    print(f"{'target':30} {'step ms':>8}  " + "".join(f"{head:22}" for head in heads) + f"cost at {EVERY}")
    for target in chosen.targets:
        taken = cost(target, chosen.rounds)
        told = "".join(f"{spread(found):22}" for found in (taken.first, taken.recorded, taken.unrecorded))
        share = 100 * (statistics.median(taken.recorded) - 1) / EVERY
        print(f"{target:30} {1e3 * statistics.median(taken.plain):8.0f}  {told}{share:.2f} %", flush=True)
    print(f"{machine()}, {torch.get_num_threads()} thread(s); python {' '.join(sys.argv)}")


if __name__ == "__main__":
    main()
