"""Where a run stands, for whoever watches it; without torch, so that a watcher need not load it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step of a run: the batch's loss in nats, the last evaluation's error in percent (nan before the first)."""

    iteration: int
    total: int
    loss: float
    images_per_second: float
    error: float
