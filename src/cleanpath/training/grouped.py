"""BN over groups of a batch, as on several cards: each takes its statistics over its own images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def bn_groups(network: nn.Module, size: int | None) -> Iterator[None]:
    """While it lasts, every BN of the network normalises `size` images at a time in training mode.

    Deviations: the running statistics follow all groups one after another; cards keep those of the first.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)] if size else []
    for norm in norms:
        assert size is not None
        norm.forward = _in_groups(norm.forward, norm, size)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # what the class has comes back


def _in_groups(forward: Callable[[Tensor], Tensor], norm: nn.Module, size: int) -> Callable[[Tensor], Tensor]:
    def of(x: Tensor) -> Tensor:
        return (
            torch.cat([forward(part) for part in torch.split(x, size)])
            if norm.training and len(x) > size
            else forward(x)
        )

    return of
