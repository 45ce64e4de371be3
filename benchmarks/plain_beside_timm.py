"""Whether the plain network, beside which ours are timed, is as fast as timm's blocks of the same shape.

    python -m benchmarks.plain_beside_timm

The plain ResNet-164 (benchmarks/plain_networks.py) beside timm's `PreActBottleneck`s in the same three stages, behind
the same stem: a step's two passes on 32 random images of 32×32, all cores, fp32, torch's usual layout. The parameters
differ by nothing but timm's last norm, which has an activation of its own; their counts are compared.
"""

from functools import partial

import torch
from timm.layers import BatchNormAct2d
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.figures import Figure, alternated, ratio, tell
from benchmarks.plain_networks import twin
from cleanpath.grid.local import cores

ROUNDS, BATCH, UNITS = 7, 32, (18, 18, 18)


def measure() -> list[Figure]:
    """One figure."""
    torch.set_num_threads(cores())
    plain, theirs = twin("preresnet164")[1].train(), of_timm().train()
    counts = [sum(p.numel() for p in network.parameters()) for network in (plain, theirs)]
    assert counts[0] == counts[1], f"{counts[0]:,} parameters against {counts[1]:,}"
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    took = alternated(
        {"plain": partial(_passes, plain, images, labels), "timm": partial(_passes, theirs, images, labels)}, ROUNDS
    )
    return [ratio("the plain ResNet-164 beside timm's blocks of the same shape", took["plain"], took["timm"], "plain")]


def of_timm() -> nn.Module:
    """Timm's pre-activation bottlenecks as the ResNet-164 for small images."""
    network = ResNetV2(
        list(UNITS),
        channels=(64, 128, 256),
        num_classes=10,
        stem_chs=16,
        conv_layer=partial(_convolution),
        norm_layer=BatchNormAct2d,
    )
    network.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return network


def _convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1, **options: int) -> nn.Conv2d:
    groups = options.get("groups") or 1
    return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


def _passes(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
    network.zero_grad()


if __name__ == "__main__":
    tell(measure, __doc__)
