"""BN's mean and variance taken anew before a test, over many training images with the weights as they are now."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cleanpath import devices
from cleanpath.data.images import Split, order
from cleanpath.experiment import Training
from cleanpath.training.keeper import Keeper


def as_tested(network: nn.Module, split: Split, training: Training, *, seed: int, keeper: Keeper) -> nn.Module | None:
    """The network as it is tested: itself, or with `bn_images` a copy with new statistics.

    These are plain averages over batches of training images as they are tested, "strictly computed using average, not
    moving average" (README of the first paper's Caffe models). None if the `keeper` was asked to stop meanwhile.

    Deviations: the variance is the average of the batches' own; that README does not say which.
    """
    if not training.bn_images:
        return network
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.reset_running_stats()
            module.momentum = None
            module.train()
    size = min(training.bn_group or training.batch_size // training.accumulation, training.bn_images)
    places = torch.from_numpy(order(len(split.labels), seed=seed, epoch=0)[: training.bn_images])
    with torch.no_grad():
        for indices in torch.split(places, size):
            if len(indices) == size:  # an average gives each batch the same say
                network(split.plain(indices).to(devices.of(network)))
            if keeper.stopping:
                return None
    return network
