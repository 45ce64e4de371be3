"""Where a run stands, and the protocol of whoever watches one; without torch, so that a watcher need not load it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Progress:
    """One step of a run: the batch's loss in nats, the last evaluation's error in percent (nan before the first)."""

    iteration: int
    total: int
    loss: float
    images_per_second: float
    error: float


class Callback:
    """Told what happens in a run; override what you need. What it raises ends the run, which goes on afterwards."""

    def began(self, network: "nn.Module", iteration: int) -> None:
        """The run starts, or goes on after `iteration`."""

    def stepped(self, progress: Progress) -> None:
        """A step was made."""

    def measured(self, line: Mapping[str, float | int]) -> None:
        """A line of `metrics.jsonl`: `iteration` with `loss`, `lr`, `gradient_norm`, or with `error`, `test_loss`."""

    def ended(self) -> None:
        """The run ended or was stopped; nothing else is told."""


class Stepped(Callback):
    """Tells a function of every step."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell

    def stepped(self, progress: Progress) -> None:
        """Pass it on."""
        self._tell(progress)
