"""The processes that train one network together, each on its share of every batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torch.autograd import Function

from cleanpath.errors import SAVED, CleanpathError, RankLostError, RunError, SettingError
from cleanpath.experiment import Training

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; every method that exchanges something is called by all of them in the same order."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def share(self, training: Training) -> range:
        """Its places in a micro-batch: whole groups of BN, in the order of the ranks.

        Raises `SettingError` if there are fewer groups, or images, than ranks.
        """
        micro, size = training.batch_size // training.accumulation, training.bn_group or 1
        groups = micro // size
        if groups < self.count:
            what = f"{groups} image{'s' if groups > 1 else ''}"
            if training.bn_group:
                what = f"{groups} group{'s' if groups > 1 else ''} of training.bn_group={size}"
            raise SettingError(
                f"{self.count} processes share {what} that pass at once; start no more than {groups}, or "
                "raise training.batch_size"
            )
        return range(groups * self.rank // self.count * size, groups * (self.rank + 1) // self.count * size)

    def places(self, training: Training) -> Tensor:
        """Its places in a batch, micro-batch by micro-batch."""
        micro, own = training.batch_size // training.accumulation, self.share(training)
        starts = range(0, training.batch_size, micro)
        return torch.tensor([*chain.from_iterable(range(s + own.start, s + own.stop) for s in starts)])

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each; gradients go back to all of them."""
        found: Tensor = tensor if self.count == 1 else _Total.apply(tensor)
        return found

    def mean(self, value: float) -> float:
        """The mean over all ranks."""
        return value if self.count == 1 else float(self.total(torch.tensor(value, dtype=torch.float64))) / self.count

    def any(self, holds: bool) -> bool:  # noqa: FBT001
        """Whether it holds on any rank."""
        return holds if self.count == 1 else bool(self.total(torch.tensor(int(holds))))

    def gathered(self, value: T) -> list[T]:
        """What each rank has, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def shared(self, value: T) -> T:
        """What the first rank has."""
        if self.count == 1:
            return value
        found = [value]
        distributed.broadcast_object_list(found, src=0)
        return found[0]

    def led(self, act: Callable[[], T]) -> T | None:
        """What the first rank gets from doing it, None on the others; what it raises on purpose is raised on all."""
        found, wrong, error = None, None, None
        if self.leads:
            try:
                found = act()
            except CleanpathError as raised:
                if self.count == 1:
                    raise
                wrong, error = str(raised), raised
        if (said := self.shared(wrong)) is not None:
            raise error or RunError(said)
        return found

    def spread(self, tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Tensors that the first rank has, on each."""
        shapes = self.shared(None if tensors is None else {n: (t.shape, t.dtype) for n, t in tensors.items()})
        assert shapes is not None
        found = tensors or {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        if self.count > 1:
            for tensor in found.values():
                distributed.broadcast(tensor, src=0)
        return found

    def seed(self, seed: int, iteration: int) -> int:
        """Of random numbers that are this rank's alone."""
        return int(np.random.SeedSequence([seed, self.rank, iteration]).generate_state(1, np.uint64)[0])

    def same(self, what: str, value: object) -> None:
        """Raise `RunError` unless all ranks have the same."""
        found = self.gathered(value)
        if other := [rank for rank, theirs in enumerate(found) if theirs != found[0]]:
            raise RunError(
                f"process {other[0]} has other {what} than process 0; all must have the same: check the command, the "
                "files and the versions of each machine"
            )


ALONE = Ranks()


class _Total(Function):
    """Every rank's loss depends on every rank's summand: the gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient


def lost(error: RuntimeError) -> RankLostError | None:
    """What an exchange that failed means, if it is one."""
    said = str(error)
    if not any(word in said for word in ("gloo/", "Connection closed by peer", "Connection reset by peer")):
        return None
    how = "does not answer" if "imed out" in said else "is gone"
    return RankLostError(f"another process of this run {how}; {SAVED}")


def first(values: Sequence[T | None]) -> T | None:
    """The first that is something."""
    return next((value for value in values if value is not None), None)
