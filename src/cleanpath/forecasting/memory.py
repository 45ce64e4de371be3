"""What the features of a network keep of its inputs: two passes, no gradients.

The features are what goes into the last linear or convolutional layer. With their inner products K and those of the
inputs K₀, both centred over the images of a batch, their alignment is ⟨K, K₀⟩ / (‖K‖ ‖K₀‖): 1 where images lie to each
other as they did at the input, near 0 where the layers have scattered them at random. Where two passes differ, as with
dropout, only a share ρ = 1 − d²/2 of what tells images apart is the images' own; d is the rms of the difference of the
outputs / the rms of what the images of the batch differ by in them. The memory is alignment · ρ.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.auditing.passes import tensors_of
from cleanpath.auditing.patient import drawing_from
from cleanpath.auditing.record import tensors_in
from cleanpath.forecasting.likeness import alignment, cosine, repeated, rows_of
from cleanpath.forecasting.probing import called, logits_of
from cleanpath.forecasting.values import FEWEST

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def memory_of(model: nn.Module, inputs: Any, *, seed: int) -> tuple[float | None, float | None]:
    """The memory, and the mean cosine between the features of two images.

    None where there are no images beside each other, in the inputs or in the features.
    """
    found, outputs, given = list[Tensor | None](), list[Tensor](), _telling(inputs)
    for draw in range(2):
        with torch.no_grad(), drawing_from(seed + draw), _watched(model) as last:
            outputs += [one.detach() for one in islice(tensors_of(logits_of(called(model, inputs))), 1)]
        found.append(last[0] if last else None)
    if given is None or found[0] is None or len(outputs) != 2 or len(found[0]) != len(given):
        return None, None
    features = rows_of(found[0])
    value = alignment(given, features) * repeated(*outputs)
    alike = cosine(features)
    return (value, alike) if math.isfinite(value) and math.isfinite(alike) else (None, None)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what goes into the layer that is called last, wherever it is registered; hooks are gone afterwards."""
    last = list[Tensor]()

    def keep(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = args[0] if args else named.get("input")
        if isinstance(given, Tensor) and given.dim() > 1:
            last[:] = [given.detach()]

    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()


def _telling(inputs: Any) -> Tensor | None:
    """The rows of the first tensor among the inputs that tells its rows apart, as a mask of ones does not."""
    every = (rows_of(one) for one in tensors_in(inputs) if one.dim() > 1 and len(one) >= FEWEST)
    return next((rows for rows in every if (rows - rows.mean(0)).any()), None)
