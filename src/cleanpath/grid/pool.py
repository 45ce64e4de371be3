"""Long-lived processes, each doing one job after another; one that dies is replaced.

They are forked from a server that has torch loaded, which the driver never does. A job is a value that can be pickled;
what is done with it is one function for all jobs of a pool, `work(job, news)`, which may send messages by `news`.
"""

import contextlib
import gc
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

from cleanpath.machine import forget_peak

# The last is what torch imports when a network is first built on the meta device, as each cell's check does: 2 seconds.
_PRELOAD = [
    "cleanpath.assemble",
    "cleanpath.data.sources",
    "cleanpath.grid.local",
    "cleanpath.measuring",
    "torch._dynamo",
]
_SECONDS_TO_END = 5.0

_at = 0

Job = TypeVar("Job")


@dataclass(frozen=True)
class Ended:
    """A job came to its end; with a `reason`, to an orderly one that is no result.

    It was not begun if it is `held` by somebody, nor if it can only be done `elsewhere`, on a machine like the one that
    it was begun on. Its process takes no further job if it is `spent`: another may not find it as it was at first.
    """

    reason: str = ""
    spent: bool = False
    held: bool = False
    elsewhere: bool = False


@dataclass(frozen=True)
class Died:
    """The process of a job is gone; or the machine that was tried has not what it needs, and it was `refused`."""

    how: str
    refused: bool = False


Work = Callable[[Job, Connection], Ended | None]


@dataclass(frozen=True, eq=False)
class _Worker:
    process: BaseProcess
    line: Connection
    place: int


class Pool(Generic[Job]):
    """So many processes at most, started when they are needed; whatever ends the block ends them."""

    def __init__(self, work: Work[Job], workers: int) -> None:
        self._context, self._work, self._most = _context(), work, workers
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Job] = {}

    def __enter__(self) -> "Pool[Job]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers = [*self._idle, *self._busy]
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + _SECONDS_TO_END
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            _reap(worker)

    @property
    def busy(self) -> bool:
        """Whether a job is being done."""
        return bool(self._busy)

    @property
    def has_room(self) -> bool:
        """Whether another job can start."""
        return len(self._busy) < self._most

    def start(self, job: Job) -> None:
        """Have a process do it."""
        worker = self._idle.pop() if self._idle else self._started()
        try:
            worker.line.send(job)
        except BrokenPipeError:  # it died while it had nothing to do
            _reap(worker)
            self.start(job)
        else:
            self._busy[worker] = job

    def news(self) -> Iterator[tuple[Job, Any]]:
        """Wait until something happens: what jobs sent, and last of each `Ended` or `Died`."""
        wait([each for worker in self._busy for each in (worker.line, worker.process.sentinel)])
        for worker, job in list(self._busy.items()):
            alive = worker.process.is_alive()  # before the look for messages: a dead one sends no more
            with contextlib.suppress(EOFError, OSError):  # cut off, if it died meanwhile
                while worker in self._busy and worker.line.poll():
                    message = worker.line.recv()
                    if isinstance(message, Ended):
                        self._release(worker, spent=message.spent)
                    yield job, message
            if not alive and self._busy.pop(worker, None) is not None:
                yield job, Died(_reap(worker))

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        place = min({*range(self._most)} - {worker.place for worker in (*self._idle, *self._busy)})
        process = self._context.Process(target=_serve, args=(self._work, theirs, place))  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        return _Worker(process, ours, place)

    def _release(self, worker: _Worker, *, spent: bool) -> None:
        del self._busy[worker]
        if spent:
            worker.process.join(_SECONDS_TO_END)
            _reap(worker)
        else:
            self._idle.append(worker)


def each(work: Work[Job], jobs: list[Job], workers: int) -> Iterator[tuple[Job, Any]]:
    """Do all jobs; what they sent, as it comes."""
    waiting = jobs[::-1]
    with Pool(work, workers) as pool:
        while waiting or pool.busy:
            while waiting and pool.has_room:
                pool.start(waiting.pop())
            yield from pool.news()


def place() -> int:
    """Which of its pool's processes this is, from 0; one that replaces another has its place."""
    return _at


def _serve(work: Work[Job], line: Connection, place: int) -> None:
    """In a process of the pool: one job after another, until nobody sends any."""
    global _at  # noqa: PLW0603 (of this process, as its number is)
    _at = place
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    gc.collect()
    gc.freeze()  # what is there from the start is not looked through after every job
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = line.recv()
            try:
                ended = work(job, line) or Ended()
            except (BrokenPipeError, ConnectionResetError):
                return
            except Exception as error:  # noqa: BLE001 (told as it is)
                traceback.print_exc()
                ended = Ended(reason=f"{type(error).__name__}: {error}", spent=True)
            line.send(ended)
            if ended.spent:
                return
            del job
            gc.collect()
            forget_peak()


def _reap(worker: _Worker) -> str:
    """End a process if it has not ended by itself; how it ended."""
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()
    worker.line.close()
    code = worker.process.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _context() -> BaseContext:
    """A server that forks from an image with torch loaded; a fresh interpreter where there is no such server."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    # The server is to be deaf to Ctrl-C from its first moment: what it should end with is up to the driver. The
    # tracker of resources starts before it and, once started, makes its starter listen to Ctrl-C again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
