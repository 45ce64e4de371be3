"""What the features of a network keep of its inputs, and how much two passes of one batch differ: no gradients.

The features are what goes into the last linear or convolutional layer; with their inner products K and those of the
inputs K₀, both centred over the images of a batch, the memory is ⟨K, K₀⟩ / (‖K‖ ‖K₀‖): 1 where images lie to each other
as they did at the input, near 0 where the layers have scattered them at random, which no gradient can put in order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.auditing.patient import drawing_from
from cleanpath.auditing.record import tensors_in
from cleanpath.forecasting.probing import called

_SMALL = 1e-30


def memory_and_noise(model: nn.Module, inputs: Any, *, seed: int) -> tuple[float | None, float | None]:
    """Both, from two passes; None where there are no images beside each other in a floating input."""
    found = list[Tensor]()
    with torch.no_grad(), _watched(model, found):
        for draw in range(2):
            with drawing_from(seed + draw):
                called(model, inputs)
    given = _first(inputs)
    if given is None or len(found) != 2:
        return None, None
    first, again = (one.detach().double() for one in found)
    if len(first) != len(given) or len(given) < 3:
        return None, None
    spread = _rms(first - first.mean(0))
    if not spread > _SMALL:  # nor if it is nan
        return None, None
    return alignment(given.double(), first), _rms(again - first) / spread


def alignment(inputs: Tensor, features: Tensor) -> float:
    """⟨K, K₀⟩ / (‖K‖ ‖K₀‖) of the centred inner products; rows are images."""
    one, other = (_centred(each) for each in (inputs, features))
    return float((one * other).sum() / (one.norm() * other.norm()).clamp(min=_SMALL))


def _centred(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    flat = flat - flat.mean(0)
    return flat @ flat.T


@contextmanager
def _watched(model: nn.Module, found: list[Tensor]) -> Iterator[None]:
    """Keep what goes into the last layer; the caller has the model's hooks put back should this be interrupted."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    handle = layers[-1].register_forward_pre_hook(lambda _, given: found.append(given[0])) if layers else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _first(inputs: Any) -> Tensor | None:
    """The first floating tensor among the inputs."""
    found = (one for one in tensors_in(inputs) if one.is_floating_point() and one.dim() > 1)
    return next(found, None)


def _rms(values: Tensor) -> float:
    return float(values.pow(2).mean().sqrt())
