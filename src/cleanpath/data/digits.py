"""The digits that come with scikit-learn: 1,797 real images of 8×8 pixels, nothing to download."""

from functools import lru_cache

import numpy as np
import torch
from sklearn.datasets import load_digits

from cleanpath.data.images import Images
from cleanpath.data.memory import InMemory
from cleanpath.data.preparation import Preparation
from cleanpath.experiment import Data

_SPLIT_SEED = 20160316  # the date of the paper's first version; the split never changes
TEST_IMAGES = 500
VALIDATION_IMAGES = 250


def digits(data: Data) -> Images:
    """1,297 training and 500 test images; or 1,047 and 250 of the training images, to choose settings on.

    Pixels 0 to 16 become 0 to 1; the training images' per-pixel mean is subtracted, as in the first paper.

    Deviations: the split is at random over images, so both parts hold digits of the same writers, and the error is
    lower than on writers not seen.
    """
    return _digits(data.held_out)


@lru_cache(maxsize=2)
def _digits(held_out: str) -> Images:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    images = torch.from_numpy(pixels[order].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    targets = torch.from_numpy(labels[order].astype(np.int64))
    if held_out == "validation":
        images, targets = images[TEST_IMAGES:], targets[TEST_IMAGES:]
    count = VALIDATION_IMAGES if held_out == "validation" else TEST_IMAGES
    mean = images[count:].mean(dim=0)
    preparation = Preparation(side=8, channels=1, mean=mean, std=torch.ones_like(mean))
    return Images(
        train=InMemory(pixels=images[count:], labels=targets[count:], preparation=preparation),
        held_out=InMemory(pixels=images[:count], labels=targets[:count], preparation=preparation),
        classes=tuple(str(digit) for digit in range(10)),
        preparation=preparation,
    )
