"""Two networks with as many parameters as each other, so that a difference between them is not one of size."""

from dataclasses import replace

import torch

from cleanpath.errors import SettingError
from cleanpath.experiment import Network
from cleanpath.nn.catalog import LAYERS
from cleanpath.nn.resnet import build

_WIDEST = 4
"""Times their usual width that inner layers may have."""


def parameters_of(of: Network) -> int:
    """How many numbers the network learns; counted without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(of).parameters())


def matched(of: Network, to: Network, *, within: float = 0.02) -> Network:
    """`of` with the `inner` with which it has as many parameters as `to`, as near as whole channels allow.

    Units keep their width, so that both networks add signals of the same size; only F's inner layers (and those of a
    gate as deep as F) become narrower or wider. The inner width of the last stage is a whole number of channels, the
    stages before it have a half and a quarter of that, rounded.

    Raises `SettingError` if the nearest differs by more than `within` of `to`'s, or if F has no inner layer.
    """
    if LAYERS[of.branch] == 1:
        raise SettingError(f"{of.branch} units have no inner layer to make narrower; use two_layer or bottleneck units")
    wanted, widest = parameters_of(to), of.width * 2 ** (3 if of.layout == "imagenet" else 2)

    def narrowed(channels: int) -> Network:
        return replace(of, inner=channels / widest)

    low, high = 1, _WIDEST * widest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters_of(narrowed(middle)) < wanted else (low, middle)
    counts = {channels: parameters_of(narrowed(channels)) for channels in (low, high)}
    nearest = min(counts, key=lambda channels: abs(counts[channels] - wanted))
    if abs(counts[nearest] - wanted) > within * wanted:
        between = " and ".join(f"{count:,}" for count in counts.values())
        raise SettingError(
            f"no inner width has {wanted:,} parameters to within {within:.1%}; the nearest have {between}"
        )
    return narrowed(nearest)
