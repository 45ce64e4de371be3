"""What the monitor costs: a recorded step and an unrecorded one over a plain training step.

    python -m benchmarks.monitor_cost                    rewrites results/monitor-cost.json
    python -m benchmarks.monitor_cost preresnet110:32    one, and writes nothing

A target is a name and a batch size. A step is forward, cross-entropy, backward and SGD with momentum, on random images
of 32×32, or 224×224 for a network whose name ends so; all cores. In a round a recorded step follows a plain one, and
unrecorded steps and plain ones alternate. What a monitor does in a step that it lets pass is too little to be seen in
that; it is timed by itself, on a module that holds the network and computes nothing. The cost of every=100 is what one
recorded step and 99 others take beyond plain ones. `make bench` has a network with a ReLU behind each sum and one
without, and fewer rounds.
"""

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from benchmarks.figures import Figure, keep, number, show
from benchmarks.measuring import seconds
from cleanpath.auditing.monitoring import Monitor
from cleanpath.grid.local import cores
from cleanpath.targets import resolve

TARGETS = (
    *("resnet110:128", "resnet110:32", "preresnet110:128", "preresnet110:32"),
    "timm:vit_tiny_patch16_224:8",
)
FEW = ("resnet110:32", "preresnet110:32")
EVERY, NEVER = 100, 10**9
ROUNDS, FEW_ROUNDS, STEPS, PASSES = 9, 7, 4, 200


def main() -> None:
    """Measure each network; print, and write or give the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # what other libraries have to say
    torch.set_num_threads(cores())
    rows = list[dict[str, Any]]()
    for target in asked.targets or (FEW if asked.json else TARGETS):
        rows.append({"target": target, **measured(target, FEW_ROUNDS if asked.json else ROUNDS)})
        if not asked.json:
            print(json.dumps(rows[-1]), flush=True)
    if not asked.json and not asked.targets:
        keep("monitor-cost", cores(), {"rows": rows})
    show([figure(row) for row in rows], as_json=asked.json)


class Idle(nn.Module):
    """Holds a network, and computes nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return x


def measured(target: str, rounds: int) -> dict[str, Any]:
    """Seconds of letting a step pass; by round those of a plain step, and the other kinds as ratios to plain ones."""
    model, step = _steps(target)
    often, rarely = cleanpath.monitor(model, every=1), cleanpath.monitor(model, every=NEVER)
    found = list[dict[str, float]]()
    for monitor in (often, rarely):
        _under(monitor, step)  # the step that finds the units
    for _ in range(rounds):
        plain = seconds(step)
        first = _under(cleanpath.monitor(model, every=1), step)
        between = seconds(step)
        recorded = _under(often, step)
        pairs = [(_under(rarely, step), seconds(step)) for _ in range(STEPS)]
        unrecorded = statistics.median(one / other for one, other in pairs)
        ratios = {"first": first / plain, "recorded": recorded / between, "unrecorded": unrecorded}
        found.append({"step": plain, **ratios})
    assert len(often.profiles) == rounds + 1
    assert len(rarely.profiles) == 1
    return {"passing": _passing(model), "rounds": found}


def _passing(model: nn.Module) -> float:
    """Seconds of a monitor in a step that it does not record, beyond those without one."""
    idle, x = Idle(model), torch.zeros(1, requires_grad=True)

    def passes() -> None:
        for _ in range(PASSES):
            idle(x)

    with cleanpath.monitor(idle, every=NEVER):
        idle(x)  # the one that it records
        watched = min(seconds(passes) for _ in range(ROUNDS))
    return (watched - min(seconds(passes) for _ in range(ROUNDS))) / PASSES


def figure(row: dict[str, Any]) -> Figure:
    """What is paid for a profile every hundred steps, in percent of the training."""
    passed = (EVERY - 1) * row["passing"]
    shares = [100 * (one["recorded"] - 1 + passed / one["step"]) / EVERY for one in row["rounds"]]
    name, _, batch = row["target"].rpartition(":")
    return number(f"the monitor at every={EVERY}, {name}, a batch of {batch}", shares, "monitor")


def _steps(target: str) -> tuple[nn.Module, Callable[[], None]]:
    """A network and one step of its training."""
    name, _, size = target.rpartition(":")
    model = resolve(name).module.train()
    side = 224 if name.endswith("224") else 32
    images, optimizer = torch.randn(int(size), 3, side, side), torch.optim.SGD(model.parameters(), 0.01, 0.9)

    def step() -> None:
        optimizer.zero_grad()
        scores: Tensor = model(images)
        labels = torch.randint(scores.shape[1], (len(scores),))
        functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return model, step


def _under(monitor: Monitor, step: Callable[[], None]) -> float:
    """The time of one step under a monitor."""
    with monitor:
        return seconds(step)


if __name__ == "__main__":
    main()
