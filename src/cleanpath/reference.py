"""A healthy network of the same depth as an audited one: what its gains are beside, where every path is clean."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cleanpath.auditing.examine import audit
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.values import UnitRow
from cleanpath.nn.branch import branch, operations, placement_of
from cleanpath.nn.catalog import WeightLayer, network
from cleanpath.nn.init import initialise
from cleanpath.nn.shortcut import PaddedIdentity
from cleanpath.nn.unit import ResidualUnit
from cleanpath.targeting.seeded import seeded

_WIDTH, _LEAST_WIDTH = 64, 4
_SIDE, _LEAST_SIDE = 16, 4
_DEEP, _SMALL = 200, (16, 8)  # units beyond which width and side are smaller, and what they then are
_BATCH, _TOKENS, _HEADS = 4, 16, 4
_NETWORK = network("preresnet20")
_PLACEMENT = placement_of(_NETWORK.placement)


def reference_for(profile: Profile, seed: int = 0) -> Profile | None:
    """The profile of a small network of full pre-activation units, or of pre-norm attention and MLP, at its start.

    It has as many units outside other units' branches as the profile (an even number if they are of sequences), and
    widens where they do. None where their shapes are neither images nor sequences. The global generators of random
    numbers are left as they were.
    """
    units = [unit for unit in profile.units if unit.parent is None and unit.shape]
    if not units:
        return None
    (axes, _), *_ = Counter(len(unit.shape) for unit in units).most_common(1)
    with seeded(seed), _one_thread():
        if axes == 3:
            network, batch = _sequences(units)
        elif axes in (4, 5):
            network, batch = _images([unit for unit in units if len(unit.shape) == axes], len(units))
        else:
            return None
        return audit(network, batch, seed=seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _images(units: Sequence[UnitRow], count: int) -> tuple[nn.Module, Tensor]:
    """Full pre-activation units, of which those widen and halve the map that do in the profile."""
    most, side = _SMALL if count > _DEEP else (_WIDTH, _SIDE)
    widest = max(unit.shape[1] for unit in units)
    width = _fitted(units[0], most, widest)
    batch = torch.randn(_BATCH, width, side, side)
    built = list[nn.Module]()
    before = units[0]
    for unit in [*units, *[units[-1]] * (count - len(units))]:
        out = max(width, _fitted(unit, most, widest))
        halves = unit.shape[-1] < before.shape[-1] and side // 2 >= _LEAST_SIDE
        built.append(_unit(width, out, 2 if halves else 1))
        width, side, before = out, side // 2 if halves else side, unit
    head = nn.Sequential(operations(_PLACEMENT.tail, width, _NETWORK), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    whole = nn.Sequential(*built, head, nn.Linear(width, 10))
    initialise(whole)
    return whole, batch


def _fitted(unit: UnitRow, most: int, widest: int) -> int:
    """The unit's width, all of them scaled so that the widest has `most` channels or fewer."""
    return max(_LEAST_WIDTH, round(unit.shape[1] * min(1.0, most / widest)))


def _unit(width: int, out: int, stride: int) -> ResidualUnit:
    layers = (WeightLayer(kernel=3, channels=out, stride=stride), WeightLayer(kernel=3, channels=out, stride=1))
    same = width == out and stride == 1
    return ResidualUnit(
        before=nn.Identity(),
        shortcut=nn.Identity() if same else PaddedIdentity(width, out, stride, side="behind"),
        branch=branch(layers, _PLACEMENT, _NETWORK, in_channels=width, lead=True),
        after=nn.Identity(),
    )


def _sequences(units: Sequence[UnitRow]) -> tuple[nn.Module, Tensor]:
    """A transformer with the norm first: attention and MLP, two units a layer, and a norm at the end."""
    most = _SMALL[0] if len(units) > _DEEP else _WIDTH
    width = max(_HEADS, min(most, units[0].shape[-1]) // _HEADS * _HEADS)
    layers = [
        nn.TransformerEncoderLayer(width, _HEADS, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        for _ in range(max(1, len(units) // 2))
    ]
    return nn.Sequential(*layers, nn.LayerNorm(width)), torch.randn(_BATCH, _TOKENS, width)
