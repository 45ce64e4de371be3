"""What is minimised: cross-entropy, with smoothed labels, mixed pairs and weights of classes where they are asked."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cleanpath.experiment import Training


@dataclass(frozen=True)
class Batch:
    """Images, their labels, and those of what was mixed into them; `share` of an image is itself."""

    images: Tensor
    labels: Tensor
    mixed_in: Tensor
    share: float


def mixed(x: Tensor, y: Tensor, alpha: float, seed: int, iteration: int) -> Batch:
    """Pairs of images, α·x + (1 − α)·x' with one share per batch (Zhang et al. 2018); alpha 0 mixes nothing."""
    if not alpha:
        return Batch(x, y, y, 1.0)
    share = float(np.random.default_rng([seed, iteration, 1]).beta(alpha, alpha))
    return Batch(share * x + (1 - share) * x.flip(0), y, y.flip(0), share)


class Loss:
    """The mean loss of a batch in nats.

    With `class_weights=balanced` an image of class c counts N / (K·N_c), which is 1 on average over the N training
    images of K classes; the mean divides by the images of the batch, so that micro-batches add up to it.
    """

    def __init__(self, training: Training, labels: Tensor) -> None:
        self._smoothing, self._parts = training.label_smoothing, training.accumulation
        self._weights: Tensor | None = None
        if training.class_weights == "balanced":
            counts = torch.bincount(labels)
            self._weights = (len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).double())).float()

    def __call__(self, logits: Tensor, labels: Tensor, mixed_in: Tensor, share: float) -> Tensor:
        """Of a micro-batch, as it enters the mean over all of them."""
        found = self._mean(logits, labels)
        if share < 1:
            found = share * found + (1 - share) * self._mean(logits, mixed_in)
        return found if self._parts == 1 else found / self._parts

    def _mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        each = functional.cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="none")
        return (each * self._weights[labels]).mean()
