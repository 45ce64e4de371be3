"""Labelled images in memory, split in two, and the data sets that make them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Data


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to train on and images held out, (N, C, H, W) floats and (N,) labels.

    The per-pixel mean of the training images is subtracted from both.
    """

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Colour channels of an image."""
        return int(self.train_images.shape[1])


def batch(count: int, size: int, *, seed: int, iteration: int) -> Tensor:
    """The indices of an iteration's images, counted from 1.

    Epochs follow each other without a seam: a batch may end one and begin the next, so every batch is full and every
    image comes once per epoch.
    """
    indices = np.empty(size, dtype=np.int64)
    filled = 0
    while filled < size:
        epoch, start = divmod((iteration - 1) * size + filled, count)
        piece = order(count, seed=seed, epoch=epoch)[start : start + size - filled]
        indices[filled : filled + len(piece)] = piece
        filled += len(piece)
    return torch.from_numpy(indices)


@lru_cache(maxsize=2)
def order(count: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch visits `count` images: a function of seed and epoch, of nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def load(data: Data) -> Images:
    """The images that a setting names."""
    from cleanpath.data.digits import digits

    sources: dict[str, Callable[[str], Images]] = {"digits": digits}
    if data.name not in sources:
        raise UnknownNameError("data set", data.name, sources)
    return sources[data.name](data.held_out)
