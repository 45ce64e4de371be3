"""The paper's augmentations, and the random numbers behind them: functions of (seed, epoch, index), of nothing else.

So neither the number of workers nor the size of a batch changes what an image looks like in an epoch.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draws(seed: int, epochs: Tensor, indices: Tensor, count: int) -> npt.NDArray[np.float64]:
    """(N, count) numbers in [0, 1): for every image of a batch its own.

    SplitMix64 (Steele, Lea and Flood 2014), whose output n is a mix of the state plus n times a constant, so that any
    of its numbers is there without the ones before.
    """
    with np.errstate(over="ignore"):
        state = _mixed(np.uint64(seed) + _GOLDEN)
        state = _mixed(state ^ epochs.numpy().astype(np.uint64))
        state = _mixed(state ^ indices.numpy().astype(np.uint64))
        numbers = _mixed(state[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(z: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def crop_and_flip(images: Tensor, padding: int, numbers: npt.NDArray[np.float64]) -> Tensor:
    """Zeros on each side, a crop of the old size anywhere in it, mirrored or not (first paper, Section 4.2).

    `images` is (N, C, H, W) with the mean subtracted, so that the zeros are its mean; `numbers` (N, 3): row, column,
    flip.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    top, left = (torch.from_numpy((numbers[:, at] * (2 * padding + 1)).astype(np.int64)) for at in (0, 1))
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(torch.from_numpy(numbers[:, 2] < 0.5)[:, None], columns.flip(1), columns) + left[:, None]
    rows, columns = rows.to(images.device), columns.to(images.device)
    place = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[place, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
