"""The batches of a run in their order, made here or by processes ahead of the loop; they are the same."""

import os
import threading
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cleanpath.data.images import Split, batch

_AHEAD = 4
_SECONDS_BETWEEN_LOOKS = 0.5


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Iteration → its batch."""

    def __init__(self, split: Split, size: int, seed: int) -> None:
        self.split, self.size, self.seed = split, size, seed

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        indices, epochs = batch(len(self.split.labels), self.size, seed=self.seed, iteration=iteration)
        return self.split.drawn(indices, epochs, self.seed), self.split.labels[indices]


def batches(
    split: Split, size: int, *, seed: int, start: int, end: int, loaders: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of iterations `start` to `end`; `loaders` processes prepare them, 0: this one does."""
    found = _Batches(split, size, seed)
    if not loaders:
        return (found[iteration] for iteration in range(start, end + 1))
    return iter(
        DataLoader(
            found,
            batch_size=None,
            sampler=range(start, end + 1),
            num_workers=loaders,
            prefetch_factor=_AHEAD,
            worker_init_fn=_Guard(os.getpid()),
            generator=torch.Generator(),  # the global one is dropout's
        )
    )


class _Guard:
    """Ends a loader when the run that it works for is gone.

    torch's own watch ends its loop, but a process that still has a batch to hand over then waits for ever: every
    loader holds the reading end of the pipe that it writes to, so that nobody's death closes it.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, number: int) -> None:  # noqa: ARG002
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)
