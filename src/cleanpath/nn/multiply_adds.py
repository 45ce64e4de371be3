"""Multiply-adds of a network from its shapes alone: what a list of costs needs, without torch and without building it.

Those of convolutions and linear layers, as `summary` counts them on the network itself; the two agree (a test).
"""

from functools import cache

from cleanpath.experiment import Network
from cleanpath.nn.catalog import UnitShape, stages

_GATES_AS_DEEP_AS_F = ("highway",)
_GATES = ("exclusive_gating", "shortcut_only_gating")
_USUAL_REDUCTION = 16


@cache
def multiply_adds(of: Network, side: int) -> int:
    """Multiply-adds of one image of `side` pixels; what a user's own unit adds to h and F is not known and left out."""
    kernel, stride = (3, 1) if of.layout == "cifar" else (7, 2)
    side = _halved(side, stride)
    total = of.in_channels * of.width * kernel**2 * side**2
    side = side if of.layout == "cifar" else _halved(side, 2)  # the max pool
    channels = of.width
    for stage in stages(of):
        for shape in stage:
            total += _branch(shape, side) * (2 if of.shortcut.kind in _GATES_AS_DEEP_AS_F else 1)
            side = _halved(side, shape.stride)
            total += _shortcut(of, shape, side) + _excitation(of, shape)
            channels = shape.out_channels
    return total + channels * of.num_classes


@cache
def layers(of: Network) -> int:
    """Weighted layers one after the other: what a step takes at the least, however small the images."""
    return 2 + sum(len(shape.layers) for stage in stages(of) for shape in stage)


def _branch(shape: UnitShape, side: int) -> int:
    total, channels = 0, shape.in_channels
    for layer in shape.layers:
        side = _halved(side, layer.stride)
        total += channels * layer.channels * layer.kernel**2 * side**2
        channels = layer.channels
    return total


def _shortcut(of: Network, shape: UnitShape, side: int) -> int:
    """1×1 convolutions on the shortcut: options B, C and D, and the paper's gates; `side` is the output's."""
    kind, one = of.shortcut.kind, shape.in_channels * shape.out_channels * side**2
    if kind == "none":
        return 0
    if kind == "conv_1x1":
        return one
    projected = one if shape.changes_width and of.widening != "A" else 0
    gated = kind in _GATES and (of.shortcut.gate_widening or not shape.changes_width)
    return projected * (of.shortcut.streams or 1) + (one if gated else 0)


def _excitation(of: Network, shape: UnitShape) -> int:
    if of.shortcut.kind != "squeeze_excitation":
        return 0
    return 2 * shape.out_channels * max(1, shape.out_channels // (of.shortcut.reduction or _USUAL_REDUCTION))


def _halved(side: int, stride: int) -> int:
    return -(-side // stride)
