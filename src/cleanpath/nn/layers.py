"""What stands where a placement says BN or ReLU: the norms and activations of a network, by name."""

from collections.abc import Callable

from torch import nn

_MOST_GROUPS, _LEAST_CHANNELS = 32, 2

ACTIVATION: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def group_norm(channels: int) -> nn.Module:
    """Group normalisation (Wu and He 2018) in 32 groups, as there, where each then has at least two channels.

    Deviations: narrower signals, which that paper does not have, are cut into as many groups of equal size as have two
    channels each: 8 groups of the 16 channels of the first stage on small images.
    """
    most = min(_MOST_GROUPS, max(1, channels // _LEAST_CHANNELS))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels)


def layer_norm(channels: int) -> nn.Module:
    """Layer normalisation (Ba, Kiros and Hinton 2016) over all channels and positions of an image: one group.

    Deviations: γ and β are one number per channel, not one per entry, so that any size of image passes.
    """
    return nn.GroupNorm(1, channels)


NORM: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "layer": layer_norm,
    "none": lambda _: nn.Identity(),
}
"""Of so many channels."""
