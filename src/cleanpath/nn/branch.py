"""F and the placements of BN and ReLU: Table 2, Figure 4."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Network
from cleanpath.nn.catalog import WeightLayer
from cleanpath.nn.layers import ACTIVATION, NORM


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where BN and ReLU stand around the weight layers w of a network.

    F is: lead w between w … between w trail. `after` is f. `stem` follows the first convolution, in addition to
    the lead of unit 1, which stands there before the split (appendix); `tail` follows the last sum.
    """

    lead: tuple[str, ...] = ()
    between: tuple[str, ...] = ("norm", "relu")
    trail: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    stem: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()


PLACEMENTS = {
    # Figure 4(a): w BN ReLU w BN, sum, ReLU
    "original": Placement(trail=("norm",), after=("relu",), stem=("norm", "relu")),
    # Figure 4(b): w BN ReLU w, sum, BN ReLU
    "bn_after_addition": Placement(after=("norm", "relu"), stem=("norm", "relu")),
    # Figure 4(c): w BN ReLU w BN ReLU, sum
    "relu_before_addition": Placement(trail=("norm", "relu"), stem=("norm", "relu")),
    # Figure 4(d): ReLU w BN ReLU w BN, sum; a last ReLU before the head
    "relu_only_preactivation": Placement(lead=("relu",), trail=("norm",), stem=("norm",), tail=("relu",)),
    # Figure 4(e): BN ReLU w BN ReLU w, sum; a last BN ReLU before the head
    "full_preactivation": Placement(lead=("norm", "relu"), tail=("norm", "relu")),
    # Not in the paper: the transformers' order (Vaswani et al. 2017). w ReLU w, sum, BN
    "post_norm": Placement(between=("relu",), after=("norm",), stem=("norm", "relu")),
}


def placement_of(name: str) -> Placement:
    """The row of that name; an unknown one is answered with the nearest."""
    if name not in PLACEMENTS:
        raise UnknownNameError("placement", name, PLACEMENTS)
    return PLACEMENTS[name]


def operations(kinds: Iterable[str], channels: int, of: Network) -> nn.Module:
    """The operations in a row, as one module: an identity for none, the operation itself for one."""
    layers = OrderedDict[str, nn.Module]()
    for index, (kind, layer) in enumerate(_made(kinds, channels, of), start=1):
        layers[kind if kind not in layers else f"{kind}{index}"] = layer
    if len(layers) == 1:
        return next(iter(layers.values()))
    return nn.Sequential(layers) if layers else nn.Identity()


def branch(
    layers: tuple[WeightLayer, ...], placement: Placement, of: Network, *, in_channels: int, lead: bool
) -> nn.Sequential:
    """F: the weight layers with BN and ReLU where the placement says; without its lead where `before` holds it."""
    parts: list[tuple[str, nn.Module]] = []
    channels = in_channels
    for number, layer in enumerate(layers, start=1):
        ahead = placement.between if number > 1 else placement.lead if lead else ()
        parts += [(f"{kind}{number}", made) for kind, made in _made(ahead, channels, of)]
        parts.append((f"conv{number}", convolution(channels, layer)))
        channels = layer.channels
    parts += [(f"{kind}{len(layers) + 1}", made) for kind, made in _made(placement.trail, channels, of)]
    return nn.Sequential(OrderedDict(parts))


def convolution(in_channels: int, layer: WeightLayer) -> nn.Conv2d:
    """A convolution without bias that keeps the map's size, up to its stride."""
    return nn.Conv2d(
        in_channels, layer.channels, layer.kernel, stride=layer.stride, padding=layer.kernel // 2, bias=False
    )


def _made(kinds: Iterable[str], channels: int, of: Network) -> list[tuple[str, nn.Module]]:
    """The operations under their names; norms are left out where the network has none."""
    made = list[tuple[str, nn.Module]]()
    for kind in kinds:
        if kind == "relu":
            made.append((of.activation, ACTIVATION[of.activation]()))
        elif of.normalisation != "none":
            made.append((kind, NORM[of.normalisation](channels)))
    return made
