"""What a run asks of whoever keeps it: where to go on, when to save, whether to stop."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from cleanpath.errors import NonFiniteError
from cleanpath.training.state import Course


class Keeper(Protocol):
    """Keeps a run safe; `NoKeeper` keeps nothing."""

    def restored(self) -> tuple[Course, Mapping[str, Tensor]] | None:
        """Where to go on; None: from the start."""
        ...

    @property
    def due(self) -> bool:
        """Whether it is time to save, or somebody asked to stop."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        ...

    def save(self, course: Course, tensors: Mapping[str, Tensor]) -> None:
        """Keep this; if somebody asked to stop, raise `Stopped` once it is kept."""
        ...

    def diverged(self, error: NonFiniteError, tensors: Mapping[str, Tensor], indices: Tensor, epochs: Tensor) -> None:
        """Keep what is needed to look at it: the weights, and which images in which epoch."""
        ...


class NoKeeper:
    """A run that nobody keeps."""

    due = stopping = False

    def restored(self) -> None:
        """From the start."""

    def save(self, course: Course, tensors: Mapping[str, Tensor]) -> None:
        """Never asked for."""

    def diverged(self, error: NonFiniteError, tensors: Mapping[str, Tensor], indices: Tensor, epochs: Tensor) -> None:
        """Nothing is kept."""
