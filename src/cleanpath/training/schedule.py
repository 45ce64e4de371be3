"""Length of a run and learning rate of an iteration; the paper's appendix."""

import math

from cleanpath.errors import SettingError
from cleanpath.experiment import Training


def length(training: Training, images: int) -> int:
    """Iterations of a run. Batches run on across epochs, so that an epoch is images / batch_size of them."""
    if training.batch_size > images:
        raise SettingError(f"training.batch_size is {training.batch_size}, of {images} training images; lower it")
    total = training.iterations
    if total is None:
        assert training.epochs is not None
        total = math.ceil(training.epochs * images / training.batch_size)
    if training.warmup >= total:
        raise SettingError(f"training.warmup is {training.warmup}, and the run has {total} iterations; lower it")
    return total


def learning_rate(training: Training, iteration: int, total: int) -> float:
    """The rate of an iteration, counted from 1: a warm-up, then steps down at the given fractions, or a cosine."""
    if iteration <= training.warmup:
        start, risen = training.warmup_factor, (iteration - 1) / training.warmup
        share = start if training.warmup_shape == "constant" else start + (1 - start) * risen
        return training.lr * share
    if training.schedule == "cosine":
        gone = (iteration - 1 - training.warmup) / (total - training.warmup)
        return training.lr * 0.5 * (1 + math.cos(math.pi * gone))
    drops = sum(iteration > drop * total for drop in training.lr_drops)
    return training.lr * training.lr_drop_factor**drops
