"""Images that fit in memory: a tensor of pixels, normalised and augmented batch by batch."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cleanpath.data import augment
from cleanpath.data.preparation import Preparation

_MOST_ON_GPU = 4e9
"""Bytes of pixels."""


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """A split whose pixels are in memory."""

    pixels: Tensor
    """(N, C, H, W) bytes, or floats from 0 to 1."""
    labels: Tensor
    preparation: Preparation | None = None
    """None: the pixels are as the network takes them."""
    padding: int = 0
    """Zeros on each side from which training crops are cut; 0: neither crop nor flip."""

    def plain(self, indices: Tensor) -> Tensor:
        """As they are tested."""
        chosen = self.pixels[indices]
        return chosen if self.preparation is None else self.preparation.normalised(chosen)

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        """As they are trained on."""
        chosen = self.plain(indices)
        if not self.padding:
            return chosen
        return augment.crop_and_flip(chosen, self.padding, augment.draws(seed, epochs, indices, 3))

    def on(self, device: torch.device) -> "InMemory":
        """With its pixels on a device, where batches are then made; the labels stay, and so do pixels of gigabytes."""
        if self.pixels.device == device or self.pixels.nbytes > _MOST_ON_GPU:
            return self
        prepared = None if self.preparation is None else self.preparation.on(device)
        return replace(self, pixels=self.pixels.to(device), preparation=prepared)
