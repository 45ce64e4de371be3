"""A training step of ResNet-50 for ImageNet, beside timm's and torchvision's as they are shipped.

    python -m benchmarks.imagenet50

The pre-activation one beside timm's resnetv2_50, the original one (stride on the 3×3, norms on the projections) beside
timm's resnet50 and torchvision's: the same counts of parameters each. Sixteen images of 224×224, random, all cores,
fp32, SGD with momentum on all sides: forward, backward, step. Ours is a training's own step (kernels chosen by
themselves); theirs are in torch's usual layout, as they are built. Each has a process of its own, in turn: what a
training tells the allocator holds for a process.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable

import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

import cleanpath
from benchmarks.figures import Figure, ratio, tell
from benchmarks.measuring import seconds
from cleanpath import devices
from cleanpath.experiment import Training
from cleanpath.grid.local import cores
from cleanpath.training.fused import AUTO, chosen
from cleanpath.training.gradients import Gradients
from cleanpath.training.loop import _step
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.passes import Passes
from cleanpath.training.state import Learner

ROUNDS, STEPS, BATCH, SIDE = 3, 2, 16, 224
_COMMON = {"widening": "B", "stride_on": "middle", "num_classes": 1000}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "preresnet50": lambda: cleanpath.build("preresnet50", **_COMMON),
    "resnet50": lambda: cleanpath.build("resnet50", widening_norm=True, **_COMMON),
    "timm's resnetv2_50": lambda: timm.create_model("resnetv2_50"),
    "timm's resnet50": lambda: timm.create_model("resnet50"),
    "torchvision's resnet50": torchvision.models.resnet50,
}
PAIRS = (
    ("preresnet50", "timm's resnetv2_50", "imagenet"),
    ("resnet50", "timm's resnet50", None),
    ("resnet50", "torchvision's resnet50", None),
)


def measure() -> list[Figure]:
    """A figure for each pair."""
    rounds = [{name: _process(name) for name in NETWORKS} for _ in range(ROUNDS)]
    found = []
    for mine, other, target in PAIRS:
        counts = [rounds[0][name]["parameters"] for name in (mine, other)]
        assert counts[0] == counts[1], f"{mine}, {other}: {counts[0]:,} parameters against {counts[1]:,}"
        took = ([each[name]["seconds"] for each in rounds] for name in (mine, other))
        found.append(ratio(f"a step of {mine}, {SIDE}×{SIDE}, beside {other}", *took, target))
    return found


def _process(name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.imagenet50", "--one", name]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def measured(name: str) -> dict[str, float]:
    """Of one process: the median step, and how many parameters the network has."""
    torch.set_num_threads(cores())
    network = NETWORKS[name]().train()
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(1000, (BATCH,))
    step = (_their_step if "'" in name else _our_step)(network, images, labels)
    step()
    took = statistics.median(seconds(step) for _ in range(STEPS))
    return {"seconds": took, "parameters": sum(p.numel() for p in network.parameters())}


def _our_step(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    training = Training(epochs=1, batch_size=BATCH)
    network = network.to(memory_format=torch.channels_last)
    kernels = chosen(AUTO, training, devices.CPU, threads=cores())
    gradients = Gradients(Passes(network, training, kernels=kernels), Loss(training, labels), training)
    learner = Learner(network, training)
    batch = Batch(images.contiguous(memory_format=torch.channels_last), labels, labels, 1.0)

    def step() -> None:
        _step(learner, gradients, batch, 1, 0.01)

    return step


def _their_step(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2])))
    else:
        tell(measure, __doc__)
