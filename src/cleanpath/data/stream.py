"""The batches of a run in their order, made here or by processes ahead of the loop; they are the same."""

import multiprocessing
import os
import threading
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cleanpath.data.images import Split, batch

_AHEAD = 4


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Iteration → its batch, or the images at some places of it."""

    def __init__(self, split: Split, size: int, seed: int, places: Tensor) -> None:
        self.split, self.size, self.seed, self.places = split, size, seed, places

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor]:
        whole = batch(len(self.split.labels), self.size, seed=self.seed, iteration=iteration)
        indices, epochs = (one[self.places] for one in whole)
        return self.split.drawn(indices, epochs, self.seed), self.split.labels[indices]


def batches(  # noqa: PLR0913
    split: Split, size: int, *, seed: int, start: int, end: int, loaders: int, places: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of iterations `start` to `end`, at these places of each batch; None: all.

    `loaders` processes prepare them, 0: this one does; they need a split on the processor.
    """
    found = _Batches(split, size, seed, torch.arange(size) if places is None else places)
    if not loaders:
        return (found[iteration] for iteration in range(start, end + 1))
    return iter(
        DataLoader(
            found,
            batch_size=None,
            sampler=range(start, end + 1),
            num_workers=loaders,
            prefetch_factor=_AHEAD,
            worker_init_fn=_guard,
            generator=torch.Generator(),  # the global one is dropout's
        )
    )


def _guard(number: int) -> None:  # noqa: ARG001
    """End a loader when the run that it works for is gone, whoever started it.

    torch's own watch asks for the parent in the system's sense. Where processes start from a server (Python 3.14's
    usual way, and the grid's), that is the server, and the loaders of a run that was killed would wait for ever.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
