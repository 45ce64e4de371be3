"""Length of a run, learning rate of an iteration, and the optimizer; the paper's appendix."""

import math

import torch
from torch import nn

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
    """The rate of an iteration, counted from 1: a constant warm-up, then steps down at the given fractions."""
    if iteration <= training.warmup:
        return training.lr * training.warmup_factor
    drops = sum(iteration > drop * total for drop in training.lr_drops)
    return training.lr * training.lr_drop_factor**drops


def sgd(network: nn.Module, training: Training) -> torch.optim.SGD:
    """SGD with momentum in torch's form, v ← m·v + g and w ← w − lr·v.

    Deviations: the authors' Caffe keeps the rate inside the velocity; the two differ for about ten iterations after
    a step of the rate.
    """
    weights = {
        parameter
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        for parameter in [module.weight]
    }
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in parameters if training.decay_on == "all" or p in weights]
    kept = [p for p in parameters if training.decay_on != "all" and p not in weights]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
    )
