"""Labelled images in two splits, and the order in which a run sees them."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cleanpath.data.preparation import Preparation


class Split(Protocol):
    """Images of one split by their indices, (N, C, H, W) floats, wherever they are kept."""

    @property
    def labels(self) -> Tensor:
        """(N,) classes."""
        ...

    def plain(self, indices: Tensor) -> Tensor:
        """As they are tested."""
        ...

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        """As they are trained on: augmented by random numbers of (seed, epoch, index) alone."""
        ...

    def on(self, device: torch.device) -> Self:
        """With what is kept in memory on a device; itself where that is nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to train on and images held out."""

    train: Split
    held_out: Split
    classes: tuple[str, ...]
    preparation: Preparation

    @property
    def channels(self) -> int:
        """Colour channels of an image."""
        return self.preparation.channels

    def on(self, device: torch.device) -> "Images":
        """With the images that are kept in memory on a device."""
        return replace(self, train=self.train.on(device), held_out=self.held_out.on(device))

    @property
    def side(self) -> int:
        """Pixels."""
        return self.preparation.side


def batch(count: int, size: int, *, seed: int, iteration: int) -> tuple[Tensor, Tensor]:
    """The indices of an iteration's images, and in which epoch each of them comes; iterations are counted from 1.

    Epochs follow each other without a seam: a batch may end one and begin the next, so every batch is full and every
    image comes once per epoch.
    """
    indices, epochs = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        epoch, start = divmod((iteration - 1) * size + filled, count)
        piece = order(count, seed=seed, epoch=epoch)[start : start + size - filled]
        indices[filled : filled + len(piece)] = piece
        epochs[filled : filled + len(piece)] = epoch
        filled += len(piece)
    return torch.from_numpy(indices), torch.from_numpy(epochs)


@lru_cache(maxsize=2)
def order(count: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch visits `count` images: a function of seed and epoch, of nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(count)
