"""The driver of a grid: which cell is next, and what becomes of one whose process dies.

What does the cells is somewhere else, a pool of processes (`pool`) or a cluster (`cluster`). The state of a grid is its
run folders; nothing of it depends on a clock.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from cleanpath.errors import RunError
from cleanpath.grid.plan import DONE, Cell
from cleanpath.grid.pool import Died, Ended
from cleanpath.records import record_failure
from cleanpath.training.progress import Progress

RETRIES = 3
"""How often a cell is begun again whose process died; it goes on from its last checkpoint."""
_NAMED, _HELD = 5, "another process"


@dataclass(frozen=True, kw_only=True)
class News:
    """What happened to a cell: it `started`, made a `step`, or `ended`, for a `reason` if that is no result.

    Or it waits again: its process `died`, a machine `refused` it, or another driver has it `held`; the `reason` says
    how, why, or who.
    """

    cell: Cell
    event: str
    progress: Progress | None = None
    reason: str = ""


class Engine(Protocol):
    """What does cells, several at a time."""

    @property
    def busy(self) -> bool:
        """Whether a cell is being done."""

    @property
    def has_room(self) -> bool:
        """Whether another cell can start."""

    def start(self, cell: Cell) -> None:
        """Begin a cell, or go on with it."""

    def news(self) -> Iterable[tuple[Cell, Any]]:
        """Wait until something happens: `Progress` of cells, and last of each `Ended` or `Died`."""


def drive(todo: Sequence[Cell], engine: Engine, tell: Callable[[News], None]) -> None:
    """Have an engine do all cells; what became of each stands in its run folder.

    A cell that another driver holds is left to it. Raises `RunError` at the end, which names those, if there are any.
    A death counts if nothing was saved since the one before it: where machines come and go, a long cell dies often.
    """
    waiting, held = deque(todo), list[Cell]()
    deaths, saved, again = Counter[Cell](), Counter[Cell](), Counter[Cell]()
    before = dict[Cell, str | None]()
    while waiting or engine.busy:
        while waiting and engine.has_room:
            cell = waiting.popleft()
            tell(News(cell=cell, event="started"))
            before[cell] = cell.run.failure
            engine.start(cell)
        for cell, message in engine.news():
            if isinstance(message, Progress):
                tell(News(cell=cell, event="step", progress=message))
                continue
            # Whoever holds it is told before what was seen here is noted in its folder.
            if holder := cell.run.holder or (_HELD if isinstance(message, Ended) and message.held else ""):
                held.append(cell)
                tell(News(cell=cell, event="held", reason=holder))
                continue
            reason = ""
            if isinstance(message, Died) and cell.status not in DONE:
                deaths[cell] = deaths[cell] + 1 if cell.run.saved <= saved[cell] else 1
                saved[cell] = cell.run.saved
                if deaths[cell] <= RETRIES:
                    # Behind the others: what killed it, a lack of memory say, may be over by then.
                    waiting.append(cell)
                    tell(News(cell=cell, event="refused" if message.refused else "died", reason=message.how))
                    continue
                how = message.how if message.refused else f"its process ended with {message.how}"
                reason = f"{how}, as {RETRIES} times before"
            elif isinstance(message, Ended) and message.reason and cell.status not in DONE:
                # What the run itself noted of this try says more; what stood there before is of another.
                noted = cell.run.failure
                reason = noted if noted and noted != before[cell] else message.reason
            if reason:
                with suppress(RunError):  # a full disk takes no note; it is told all the same
                    record_failure(cell.folder, reason)
            tell(News(cell=cell, event="ended", reason=reason))
        if not waiting and not engine.busy:
            # What another driver held and let go of is for this one.
            left = [cell for cell in held if cell.status not in DONE]
            free = {cell for cell in left if not cell.run.holder and again[cell] < RETRIES}
            held = [cell for cell in left if cell not in free]
            waiting.extend(cell for cell in left if cell in free)
            again.update(free)
    if holders := [(cell, cell.run.holder or _HELD) for cell in held]:
        names = [f"{cell.label} is being written by {holder}" for cell, holder in holders[:_NAMED]]
        more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
        raise RunError(f"{', '.join(names)}{more}; wait for it, and give this command again")
