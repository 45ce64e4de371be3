"""What a run asks of whoever keeps it: where to go on, when to save, whether to stop."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Protocol

import torch
from torch import Tensor

from cleanpath.errors import NonFiniteError, Request, Stopped
from cleanpath.training.ranks import Ranks, first
from cleanpath.training.state import Course

_STATES = "random-of-rank-"


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


class Kept(Keeper, Protocol):
    """A keeper that can also only write."""

    def write(self, course: Course, tensors: Mapping[str, Tensor]) -> None:
        """Keep this."""
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


class SharedKeeper:
    """The keeper of a run of several ranks: the first one keeps, and all agree on when, on what, and on stopping.

    Random numbers are each rank's own: the first rank's state is the run's, which one process can go on with; the
    others' stand beside it.
    """

    def __init__(self, ranks: Ranks, keeper: Kept | None, request: Request, seed: int) -> None:
        assert ranks.leads == (keeper is not None)
        self._ranks, self._keeper, self._request, self._seed = ranks, keeper, request, seed

    def restored(self) -> tuple[Course, Mapping[str, Tensor]] | None:
        """What the first rank finds; another number of ranks goes on with other random numbers."""
        keeper = self._keeper
        found = self._ranks.led(lambda: keeper.restored() if keeper else None)
        course = self._ranks.shared(None if found is None else asdict(found[0]))
        if course is None:
            if not self._ranks.leads:
                torch.manual_seed(self._ranks.seed(self._seed, 0))
            return None
        tensors = self._ranks.spread(None if found is None else dict(found[1]))
        states = [tensors.pop(name) for name in sorted(n for n in tensors if n.startswith(_STATES))]
        if self._ranks.rank and len(states) == self._ranks.count - 1:
            tensors["random"] = states[self._ranks.rank - 1]
        elif self._ranks.rank:
            torch.manual_seed(self._ranks.seed(self._seed, course["iteration"]))
            tensors["random"] = torch.get_rng_state()
        return Course(**course), tensors

    @property
    def due(self) -> bool:
        """Whether it is so for any rank."""
        return self._ranks.any(self._asked or (self._keeper is not None and self._keeper.due))

    @property
    def stopping(self) -> bool:
        """Whether any rank was asked to stop."""
        return self._ranks.any(self._asked)

    def save(self, course: Course, tensors: Mapping[str, Tensor]) -> None:
        """The first rank writes; what goes wrong there is raised on all. All stop if one was asked to."""
        asked = first(
            self._ranks.gathered((self._request.signal_number, self._request.message) if self._asked else None)
        )
        states = self._ranks.gathered(tensors["random"])
        others = {f"{_STATES}{rank:05d}": state for rank, state in enumerate(states) if rank}
        if (keeper := self._keeper) is None:
            self._ranks.led(lambda: None)
        else:
            self._ranks.led(lambda: keeper.write(course, {**tensors, **others}))
        if asked is not None:
            number, message = asked
            assert number is not None
            raise Stopped(message, signal_number=number)

    def diverged(self, error: NonFiniteError, tensors: Mapping[str, Tensor], indices: Tensor, epochs: Tensor) -> None:
        """The first rank keeps it: weights and batch are the same on all."""
        keeper = self._keeper
        self._ranks.led(lambda: keeper.diverged(error, tensors, indices, epochs) if keeper else None)

    @property
    def _asked(self) -> bool:
        return self._request.signal_number is not None
