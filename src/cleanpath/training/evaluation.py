"""How good a network is on a split: the network as it is tested, its outputs, its error and loss."""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanpath import devices
from cleanpath.data.images import Images, Split
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Training
from cleanpath.training.fused import PLAIN, Kernels
from cleanpath.training.keeper import Keeper
from cleanpath.training.nonfinite import first_non_finite
from cleanpath.training.ranks import ALONE, Ranks
from cleanpath.training.state import Learner
from cleanpath.training.statistics import as_tested

_LEAST, _MOST, _PIXELS = 25, 500, 2_048_000
"""A batch has `_MOST` images, or fewer if these had more than `_PIXELS` pixels together, but never below `_LEAST`."""


@dataclass(frozen=True)
class Tested:
    """The network that was tested, its error in percent and mean cross-entropy in nats."""

    network: nn.Module
    error: float
    loss: float


def tested(  # noqa: PLR0913
    learner: Learner,
    images: Images,
    training: Training,
    split: Split,
    quantity: str,
    iteration: int,
    *,
    seed: int,
    keeper: Keeper,
    ranks: Ranks,
    kernels: Kernels,
) -> Tested | None:
    """Test what is learnt on a split; None if the `keeper` was asked to stop meanwhile.

    Raises `NonFiniteError` for a loss, called `quantity`, that is not finite.
    """
    network = as_tested(learner.tested, images.train, training, seed=seed, keeper=keeper)
    found = None if network is None else evaluate(network, split, keeper, ranks, kernels=kernels)
    if network is None or found is None:
        return None
    error, loss = found
    if not math.isfinite(loss):
        network.eval()
        few = torch.arange(min(_MOST, len(images.held_out.labels)))
        device = devices.of(network)
        x, y = images.held_out.plain(few).to(device), images.held_out.labels[few].to(device)
        where = first_non_finite(network, x, lambda logits: functional.cross_entropy(logits, y))
        raise NonFiniteError(quantity, loss, iteration=iteration + 1, where=where, tested=True)
    return Tested(network, error, loss)


def evaluate(
    network: nn.Module, split: Split, keeper: Keeper | None = None, ranks: Ranks = ALONE, *, kernels: Kernels = PLAIN
) -> tuple[float, float] | None:
    """Error in percent and mean cross-entropy in nats, in eval mode; the training flags are as before afterwards.

    Several `ranks` share the batches, and the sums are those of one process. None if the `keeper` was asked to stop
    meanwhile.
    """
    count = -(-len(split.labels) // _batch_size(split))
    wrong, losses = 0, list[float]()
    mine = outputs(network, split, first=ranks.rank, step=ranks.count, kernels=kernels)
    for _ in range(-(-count // ranks.count)):
        if (found := next(mine, None)) is not None:
            logits, y = found
            wrong += int((logits.argmax(dim=1) != y).sum())
            losses.append(float(functional.cross_entropy(logits, y, reduction="sum")))
        if keeper is not None and keeper.stopping:
            mine.close()
            return None
    mine.close()
    theirs = ranks.gathered((wrong, losses))
    loss = sum((theirs[number % ranks.count][1][number // ranks.count] for number in range(count)), 0.0)
    return 100 * sum(one for one, _ in theirs) / len(split.labels), loss / len(split.labels)


def outputs(
    network: nn.Module, split: Split, *, first: int = 0, step: int = 1, kernels: Kernels = PLAIN
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Logits and labels of a split, batch by batch, in eval mode; the training flags are as before afterwards.

    From the `first` batch on, every `step`-th; both are where the network is.
    """
    device = devices.of(network)
    flags = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode(), kernels.of(network)():
            for indices in torch.split(torch.arange(len(split.labels)), _batch_size(split))[first::step]:
                yield network(split.plain(indices).to(device)), split.labels[indices].to(device)
    finally:
        for module, flag in flags.items():
            module.training = flag


def _batch_size(split: Split) -> int:
    """Images that are tested at a time: the larger each is, the fewer, as what every layer gives grows with it."""
    side = split.plain(torch.arange(1)).shape[-1]
    return min(_MOST, max(_LEAST, _PIXELS // side**2))
