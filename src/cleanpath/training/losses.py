"""What is minimised: cross-entropy, with smoothed labels, mixed pairs and weights of classes where they are asked."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cleanpath.experiment import Training
from cleanpath.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Batch:
    """Images, their labels, and those of what was mixed into them; `share` of an image is itself."""

    images: Tensor
    labels: Tensor
    mixed_in: Tensor
    share: float


class Mixing:
    """Pairs of images, α·x + (1 − α)·x' with one share per batch (Zhang et al. 2018); `mixup=0` mixes nothing.

    The partner of an image is the one as far from the batch's end as it is from its beginning.
    """

    def __init__(self, training: Training, seed: int, ranks: Ranks = ALONE) -> None:
        self._alpha, self._seed, self._apart = training.mixup, seed, ranks.count > 1
        own = ranks.places(training)
        self.places = torch.cat([own, training.batch_size - 1 - own]) if self._alpha and self._apart else own
        """Which images of a batch are needed: this rank's, and where others have their partners, these."""

    def __call__(self, x: Tensor, y: Tensor, iteration: int) -> Batch:
        """The rank's part of an iteration's batch, of the images at `places`."""
        if not self._alpha:
            return Batch(x, y, y, 1.0)
        share = float(np.random.default_rng([self._seed, iteration, 1]).beta(self._alpha, self._alpha))
        if self._apart:
            (x, other), (y, of_other) = x.chunk(2), y.chunk(2)
        else:
            other, of_other = x.flip(0), y.flip(0)
        return Batch(share * x + (1 - share) * other, y, of_other, share)


class Loss:
    """The mean loss of a batch in nats.

    With `class_weights=balanced` an image of class c counts N / (K·N_c), which is 1 on average over the N training
    images of K classes; the mean divides by the images of the batch, so that micro-batches add up to it. Of several
    ranks the mean over all of them is the batch's, however many images each has.
    """

    def __init__(self, training: Training, labels: Tensor, ranks: Ranks = ALONE) -> None:
        self._smoothing, self._parts = training.label_smoothing, training.accumulation
        self._part = len(ranks.share(training)) * ranks.count / (training.batch_size // training.accumulation)
        self._weights: Tensor | None = None
        if training.class_weights == "balanced":
            counts = torch.bincount(labels)
            self._weights = (len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).double())).float()

    def __call__(self, logits: Tensor, labels: Tensor, mixed_in: Tensor, share: float) -> Tensor:
        """Of a micro-batch, as it enters the mean over all of them."""
        found = self._mean(logits, labels)
        if share < 1:
            found = share * found + (1 - share) * self._mean(logits, mixed_in)
        found = found if self._part == 1 else self._part * found
        return found if self._parts == 1 else found / self._parts

    def _mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        each = functional.cross_entropy(logits, labels, label_smoothing=self._smoothing, reduction="none")
        self._weights = self._weights.to(labels.device)
        return (each * self._weights[labels]).mean()
