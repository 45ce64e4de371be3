"""What the features of a network keep of its inputs: one pass, no gradients.

The features are what goes into the last linear or convolutional layer; with their inner products K and those of the
inputs K₀, both centred over the images of a batch, the memory is ⟨K, K₀⟩ / (‖K‖ ‖K₀‖): 1 where images lie to each other
as they did at the input, near 0 where the layers have scattered them at random, which no gradient can put in order.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.auditing.patient import drawing_from
from cleanpath.auditing.record import tensors_in
from cleanpath.forecasting.probing import called

_SMALL = 1e-30
_FEWEST = 8
"""Images, so that how they lie to each other says something."""
_MOST_PLACES = 512
"""Of a text, at its beginning."""


def memory_of(model: nn.Module, inputs: Any, *, seed: int) -> float | None:
    """From one pass; None where there are no images beside each other, in the inputs or in the features."""
    found = list[Tensor]()
    with torch.no_grad(), _watched(model, found), drawing_from(seed):
        called(model, inputs)
    given = _first(inputs)
    if given is None or len(found) != 1 or len(found[0]) != len(given) or len(given) < _FEWEST:
        return None
    value = alignment(_rows(given), _rows(found[0].detach()))
    return value if math.isfinite(value) else None


def alignment(inputs: Tensor, features: Tensor) -> float:
    """⟨K, K₀⟩ / (‖K‖ ‖K₀‖) of the centred inner products of rows."""
    one, other = (rows - rows.mean(0) for rows in (inputs, features))
    one, other = one @ one.T, other @ other.T
    return float((one * other).sum() / (one.norm() * other.norm()).clamp(min=_SMALL))


def _rows(values: Tensor) -> Tensor:
    """A row for each image; of whole numbers, which are names of tokens, one entry for each token at each place."""
    if values.is_floating_point():
        return values.flatten(1).double()
    places = values.flatten(1)[:, :_MOST_PLACES]
    return torch.cat([(column[:, None] == column.unique()).double() for column in places.T], dim=1)


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
    """The first tensor among the inputs that has rows of several numbers."""
    return next((one for one in tensors_in(inputs) if one.dim() > 1 and not one.is_complex()), None)
