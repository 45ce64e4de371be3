"""A grid on a Ray cluster: every cell in a process of its own, on whichever node has a core for it.

What a cell writes is gathered by the driver, which holds the run meanwhile: nodes share no folder, and one that is lost
takes with it no more than the steps since the last checkpoint. Ray finds the cores and tells of deaths; which cell is
next, and how often it is tried again, is `driver`'s as on one machine. Whoever starts the cluster decides on its ports.
"""

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from cleanpath.errors import HeldError, RunError, UserError
from cleanpath.grid.driver import News, drive
from cleanpath.grid.local import train_cell
from cleanpath.grid.plan import DONE, Cell
from cleanpath.grid.pool import Died, Ended, Pool, Work
from cleanpath.locking import acquire, release, remove_left, still_ours, watch
from cleanpath.records import RESULT
from cleanpath.writing import remove_torn, write

_CHECKPOINTS, _LOCK, _DATA = "checkpoint-", "lock", "CLEANPATH_DATA"
_SECONDS_OF_WAITING, _SECONDS_BETWEEN_COUNTS, _SECONDS_TO_ANSWER = 1.0, 5.0, 5.0
_TRIES = "1"
"""Of Ray to reach a server that listens, each of half a minute; twenty by itself."""


@dataclass(frozen=True)
class Files:
    """A run's folder on a node as it stands: the names of its files, and what those hold that are new here."""

    names: frozenset[str]
    new: dict[str, bytes]


@dataclass(frozen=True)
class _Place:
    """From where the command names units and data."""

    folder: str
    data: str | None


def run_cells(
    todo: Sequence[Cell],
    *,
    address: str,
    workers: int | None,
    tell: Callable[[News], None],
    work: Work[Cell] | None = None,
    kernels: str = "auto",
) -> None:
    """Run all cells on the cluster at an address, as `drive` says: `workers` at a time, or one per core it has now."""
    with Cluster(address, workers, work or partial(train_cell, kernels=kernels)) as cluster:
        watch(cell.folder / _LOCK for cell in todo)
        drive(todo, cluster, tell)


class Cluster:
    """Cells as tasks of a Ray cluster, of which this machine is a node."""

    def __init__(self, address: str, workers: int | None, work: Work[Cell]) -> None:
        self._ray, self._workers, self._work = _connected(address), workers, work
        # Spread over the nodes, so that a cell that one of them refuses is not given to it again and again.
        options: dict[str, Any] = {"num_returns": "streaming", "scheduling_strategy": "SPREAD"}
        self._task = self._ray.remote(num_cpus=1, max_retries=0, **options)(_elsewhere)
        self._running: dict[Any, tuple[Cell, Path]] = {}
        self._refused = deque[tuple[Cell, Ended]]()
        self._cores, self._counted = 1, -_SECONDS_BETWEEN_COUNTS

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()  # ends the tasks too
        for _, lock in self._running.values():
            release(lock)

    @property
    def busy(self) -> bool:
        """Whether a cell is being done."""
        return bool(self._running or self._refused)

    @property
    def has_room(self) -> bool:
        """Whether another cell can start."""
        if time.monotonic() - self._counted >= _SECONDS_BETWEEN_COUNTS:  # nodes come and go
            self._cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
            self._counted = time.monotonic()
        return len(self._running) < (self._workers or self._cores)

    def start(self, cell: Cell) -> None:
        """Begin a cell, or go on from the last checkpoint that was gathered."""
        try:
            cell.folder.mkdir(parents=True, exist_ok=True)
            lock = acquire(cell.folder / _LOCK)
        except (RunError, OSError) as error:
            self._refused.append((cell, Ended(str(error), held=isinstance(error, HeldError))))
            return
        if (ended := self._begun(cell, lock)) is not None:
            release(lock)
            self._refused.append((cell, ended))

    def _begun(self, cell: Cell, lock: Path) -> Ended | None:
        """None once a task has the cell; else how that ended."""
        if cell.status in DONE:  # another driver was quicker
            return Ended()
        try:
            remove_torn(cell.folder)
            remove_left(cell.folder, lock)
            held = {path.name: path.read_bytes() for path in _files(cell.folder)}
        except OSError as error:
            return Ended(str(error))
        place = _Place(str(Path.cwd()), os.environ.get(_DATA))
        self._running[self._task.remote(cell, held, place, self._work)] = (cell, lock)
        return None

    def news(self) -> Iterator[tuple[Cell, Any]]:
        """Wait until something happens; put what nodes sent into the run folders, and tell the rest."""
        while self._refused:
            yield self._refused.popleft()
        if not self._running:
            return
        ready, _ = self._ray.wait(list(self._running), timeout=_SECONDS_OF_WAITING)
        for task in ready:
            cell, lock = self._running[task]
            message = self._said(task)
            if isinstance(message, Files):
                try:
                    still_ours(lock)
                    _gather(cell.folder, message)
                except (RunError, OSError) as error:
                    # The task is given up: what it goes on to make has no room here.
                    self._ray.cancel(task, force=True)
                    message = Ended(str(error))
                else:
                    continue
            if isinstance(message, Ended) and message.elsewhere:
                message = Died(message.reason, refused=True)
            if isinstance(message, Ended | Died):
                del self._running[task]
                release(lock)
            yield cell, message

    def _said(self, task: Any) -> Any:
        """The next word of a task. Its end without one is a death, of its process or of its node."""
        try:
            return self._ray.get(next(task))
        except self._ray.exceptions.RayTaskError as error:
            # Not the cell's own, which are told: a node without room or of another version. Another may do better.
            return Died(str(error).strip().splitlines()[-1])
        except (self._ray.exceptions.RayError, StopIteration) as error:
            return Died(type(error).__name__)


def check(address: str, *, listening: bool = False) -> None:
    """Raise `UserError` without Ray, for what is no HOST:PORT, and for a cluster elsewhere that asks for no token.

    If it should be `listening`, also where nobody does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise UserError(f"--cluster {address}: give HOST:PORT of the cluster's head, and run this on one of its nodes")
    if not _is_loopback(host.strip("[]")) and os.environ.get("RAY_AUTH_MODE") != "token":
        raise UserError(
            f"refusing {address} without RAY_AUTH_MODE=token: whoever reaches a Ray cluster that asks for no token can "
            "run programs on it; give its nodes and this command one token, as docs/cluster.md says"
        )
    if find_spec("ray") is None:
        raise UserError("Ray is not installed: pip install 'cleanpath[cluster]'")
    if listening:
        _answers(address)


def _answers(address: str) -> None:
    """Raise `UserError` if nobody listens there: Ray itself would try for ten minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, str(error)) from None


def _nobody(address: str, said: str) -> UserError:
    return UserError(f"no Ray cluster answers at {address}: {said}; docs/cluster.md says how to start one")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connected(address: str) -> Any:
    """Ray, once it is connected. Raises `UserError` if it does not answer, and as `check`."""
    check(address, listening=True)
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", _TRIES)
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _nobody(address, " ".join(str(error).split())[:200]) from None
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray has put its own in its place
    return ray


def _elsewhere(cell: Cell, held: dict[str, bytes], place: _Place, work: Work[Cell]) -> Iterator[Any]:
    """On a node: one cell in a process as on one machine; what that says, and `Files` at checkpoints and at the end."""
    with tempfile.TemporaryDirectory(prefix="cleanpath-") as root, Pool(_work_in, 1) as pool:
        folder = Path(root) / cell.folder.name
        folder.mkdir()
        for name, data in held.items():
            (folder / name).write_bytes(data)
        known = {name for name in held if name.startswith(_CHECKPOINTS)}
        pool.start((replace(cell, folder=folder), place, work))
        while pool.busy:
            for _, message in pool.news():
                checkpoints = {path.name for path in _files(folder) if path.name.startswith(_CHECKPOINTS)}
                if checkpoints - known or isinstance(message, Ended | Died):
                    yield _snapshot(folder, known)
                    known |= checkpoints
                yield _told(message, folder, cell.folder)


def _told(message: Any, here: Path, there: Path) -> Any:
    """A node's own folder says nothing to who reads it."""
    if not isinstance(message, Ended):
        return message
    return replace(message, reason=message.reason.replace(str(here), str(there)))


def _work_in(job: tuple[Cell, _Place, Work[Cell]], news: Connection) -> Ended | None:
    """The work, in the folder that the command was given in if the node has it: units and data are named from there."""
    cell, place, work = job
    with contextlib.suppress(OSError):
        os.chdir(place.folder)
    if place.data is not None:
        os.environ[_DATA] = place.data
    return work(cell, news)


def _snapshot(folder: Path, known: set[str]) -> Files:
    """Checkpoints are read before the measurements that belong to them: more of those do no harm."""
    names = sorted((path.name for path in _files(folder)), key=lambda name: not name.startswith(_CHECKPOINTS))
    new = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
            if name not in known:
                new[name] = (folder / name).read_bytes()
    return Files(frozenset(names), new)


def _gather(folder: Path, files: Files) -> None:
    """Make a run's folder what it is on the node; the result comes last, as where it was written."""
    for name in sorted(files.new, key=lambda name: name == RESULT):
        write(folder / name, files.new[name])
    for path in _files(folder):
        if path.name not in files.names:
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    """The files of a run but its lock and those that are not written to their end."""
    return [
        path for path in folder.iterdir() if path.name != _LOCK and not path.name.startswith(".") and path.is_file()
    ]
