"""Jobs for the processes of a pool, which import them by name: trivial ones, and cells that train nothing."""

import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from cleanpath.grid.plan import Cell
from cleanpath.grid.pool import Ended, place
from cleanpath.training.progress import Callback, Progress


def act(job: str, news: Connection) -> Ended | None:
    """Say the number of the process, and end as the job says."""
    news.send(os.getpid())
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "raise":
        raise ValueError("planted")
    if job == "sleep":
        time.sleep(600)
    return Ended(spent=True) if job == "spend" else None


def where(job: tuple[str, str], news: Connection) -> None:  # noqa: ARG001
    """Say the place of the process, and stay."""
    news.send(place())
    time.sleep(600)


def finish(cell: Cell, news: Connection) -> None:  # noqa: ARG001
    """A cell that is finished at once."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "result.json").write_text(json.dumps({"status": "finished", "error": 1.0, "seconds": 0.0}))


class _Saved(Callback):
    """Kills its process in the middle, after it was told."""

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told

    def stepped(self, progress: Progress) -> None:
        if progress.iteration == 100:
            self._told()
            time.sleep(2)
            os.kill(os.getpid(), signal.SIGKILL)


def die_once_saved(cell: Cell, news: Connection) -> None:
    """Train with a checkpoint after every step, and die after a hundred."""
    from cleanpath import assemble

    def told() -> None:
        news.send(Progress(iteration=100, total=200, loss=1.0, images_per_second=1.0, error=1.0))

    saved = _Saved(told)
    assemble.run(cell.experiment, cell.folder, threads=1, callbacks=[saved], seconds_between=0.0)
