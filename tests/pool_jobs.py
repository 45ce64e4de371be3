"""Jobs for the processes of a pool, which import them by name: trivial ones, and cells that train nothing."""

import json
import os
import signal
import time
from multiprocessing.connection import Connection

from cleanpath.grid.plan import Cell
from cleanpath.grid.pool import Ended


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


def finish(cell: Cell, news: Connection) -> None:  # noqa: ARG001
    """A cell that is finished at once."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / "result.json").write_text(json.dumps({"status": "finished", "error": 1.0, "seconds": 0.0}))
