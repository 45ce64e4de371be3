"""How far a grid is, as values: what runs, how fast, what is left, what crashed. A page shows it while runs go on."""

import math
from dataclasses import dataclass

from cleanpath.report.table import clock


@dataclass(frozen=True, kw_only=True)
class Underway:
    """A run that goes on: where its measurements stand."""

    label: str
    iteration: int
    total: int | None
    """None where its length is in epochs."""
    loss: float | None
    error: float | None
    """The last test error in percent; None before the first."""
    images_per_second: float | None
    seconds_left: float | None
    seconds: float = 0.0
    """How long it has been trained."""

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return min(1.0, self.iteration / self.total) if self.total else 0.0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """All cells of a grid, each in one of the four."""

    ended: int
    failed: tuple[tuple[str, str], ...]
    """The cells that crashed, by label, with the reason."""
    underway: tuple[Underway, ...]
    waiting: int
    seconds_left: float | None
    """Until the last is done, going by runs that ended and that go on; None where nothing runs or nothing is known."""
    at: str
    """When it stood so."""
    every: int
    """After how many seconds a browser is to look again."""
    idle: bool = False
    """Whether runs wait and nobody trains: for longer than one run after another takes, no process held any."""

    @property
    def total(self) -> int:
        """How many cells there are."""
        return self.ended + len(self.failed) + len(self.underway) + self.waiting

    @property
    def over(self) -> bool:
        """Whether every cell ended or crashed."""
        return not self.underway and not self.waiting

    @property
    def images_per_second(self) -> float:
        """Of all runs together."""
        return sum(one.images_per_second or 0.0 for one in self.underway)

    @property
    def heading(self) -> str:
        """What goes on, in few words."""
        if self.over:
            return "All runs have ended" if self.failed else "All runs are done"
        return "Nobody trains" if self.idle else "Runs go on" if self.underway else "Runs are awaited"

    def in_words(self) -> str:
        """One sentence."""
        going = len(self.underway)
        parts = [
            f"{self.ended} of {self.total} {'run is' if self.total == 1 else 'runs are'} done",
            *([f"{len(self.failed)} crashed"] if self.failed else []),
            *([] if self.idle or self.over else [f"{going or 'none'} {'goes' if going == 1 else 'go'} on"]),
            *([f"{self.waiting} {'waits' if self.waiting == 1 else 'wait'}"] if self.waiting else []),
            *([f"{self.images_per_second:,.0f} images per second"] if self.images_per_second else []),
        ]
        if self.idle:
            return f"{', '.join(parts)}; nobody trains: no process holds any of the runs."
        left = math.nan if self.seconds_left is None else self.seconds_left
        told = f"; about {clock(left)} left" if math.isfinite(left) else "" if self.over else "; time left not known"
        return f"{', '.join(parts)}{told}."
