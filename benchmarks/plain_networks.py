"""Pre-activation networks as they are commonly written: the baseline beside which ours are timed.

The same networks as `preresnet110` and `preresnet164` of the catalog: the same weights in the same order, and the same
outputs to rounding, which `twin` checks. Eager, NCHW, one operation after another.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath.nn import catalog

_AGREES = 1e-4


class Unit(nn.Module):
    """Norm, ReLU, convolution, twice or three times; a unit that changes the width feeds its shortcut what F reads."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, *, bottleneck: bool, shared: bool) -> None:
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (inputs, width, width, outputs) if bottleneck else (inputs, outputs, outputs)
        self.shared, self.stride, self.added = shared, stride, outputs - inputs
        self.bn1 = nn.BatchNorm2d(inputs)
        if bottleneck and self.added:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        for number, kernel in enumerate(kernels, start=1):
            if number > 1:
                setattr(self, f"bn{number}", nn.BatchNorm2d(widths[number - 1]))
            step = stride if number == 1 else 1
            convolution = nn.Conv2d(widths[number - 1], widths[number], kernel, step, kernel // 2, bias=False)
            setattr(self, f"conv{number}", convolution)
        self.layers = len(kernels)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(x))
        h = out if self.shared else x
        if hasattr(self, "shortcut"):
            h = self.shortcut(h)
        elif self.added:
            h = functional.pad(h[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        out = self.conv1(out)
        for number in range(2, self.layers + 1):
            out = getattr(self, f"conv{number}")(functional.relu(getattr(self, f"bn{number}")(out)))
        return out + h


class PlainNetwork(nn.Module):
    """Three stages of units, 16 channels at first."""

    def __init__(self, units: Sequence[int], *, bottleneck: bool, in_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        rows, inputs = list[nn.Module](), 16
        for stage, count in enumerate(units):
            width = 16 * 2**stage
            outputs = 4 * width if bottleneck else width
            for number in range(count):
                stride, shared = (2 if stage and not number else 1), not number
                rows.append(Unit(inputs, width, outputs, stride, bottleneck=bottleneck, shared=shared))
                inputs = outputs
        self.units = nn.Sequential(*rows)
        self.bn, self.linear = nn.BatchNorm2d(inputs), nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.units(self.conv(x))))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def twin(name: str, **settings: Any) -> tuple[nn.Module, PlainNetwork]:
    """A network of the catalog and the plain one with the same weights; checked to give the same."""
    ours = cleanpath.build(name, **settings)
    network = catalog.network(name, **settings)
    bottleneck = network.branch == "bottleneck"
    plain = PlainNetwork(catalog.units_per_stage(network), bottleneck=bottleneck, in_channels=network.in_channels)
    given, taken = list(ours.state_dict().values()), plain.state_dict()
    assert [tuple(v.shape) for v in given] == [tuple(v.shape) for v in taken.values()], f"{name}: other weights"
    plain.load_state_dict(dict(zip(taken, given, strict=True)))
    images = torch.randn(4, network.in_channels, 32, 32)
    with torch.no_grad():
        expected, found = ours.train()(images), plain.train()(images)
    apart = float((found - expected).norm() / expected.norm())
    assert apart < _AGREES, f"{name}: the plain network gives something else, {apart:.1e} apart"
    plain.load_state_dict(dict(zip(taken, given, strict=True)))
    return ours, plain
