"""Processes that torchrun started for one run: how they meet, who speaks, and what becomes of the rest if one dies."""

import hashlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cleanpath.errors import SAVED, RankLostError, UserError
from cleanpath.locking import started

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from cleanpath.training.ranks import Ranks

PATIENCE = 300.0
"""Seconds that an exchange waits for a process that is alive and does not answer."""
_SOON, _AT_ONCE = 10.0, 2.0
"""Seconds to reach what torchrun keeps, at the start and at the end."""
_QUIET = 15.0
"""Seconds that a process waits for the others to come before it says so."""
_LAUNCHER_GONE = threading.Event()
"""torchrun keeps the store: without it nobody can be asked, and waiting for it takes half a minute."""
_MET = threading.Event()
"""From then on the processes look at each other."""
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""By the kind of device: what carries tensors between the processes."""
_LOOK = 0.25
"""Seconds between two looks at the neighbours."""


def processes() -> int:
    """How many torchrun started on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def processes_here() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes() > 1 else 1


def place_here() -> int:
    """The place of this one among them."""
    return int(os.environ.get("LOCAL_RANK", "0")) if processes() > 1 else 0


def tries_before() -> int:
    """How often torchrun has started this run's processes already."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if processes() > 1 else 0


def with_torchrun(command: str) -> str:
    """A command as this run's processes were started; on several machines torchrun's own words are to be put in."""
    if processes() == 1:
        return command
    here = processes_here()
    words = f"--nproc-per-node {here}" if here == processes() else "… (the same on every machine)"
    return f"torchrun {words} -m {command}"


def check_alone(verb: str) -> None:
    """Raise `UserError` if torchrun started several processes for a verb that is for one."""
    if processes() > 1:
        raise UserError(f"cleanpath {verb} is one process; give it without torchrun (torchrun is for `train`)")


def speaks(message: str) -> bool:
    """Whether this process is the first of a run's that has this to say; all of them may have met the same error."""
    if processes() == 1:
        return True
    if _LAUNCHER_GONE.is_set():
        return os.environ["RANK"] == "0"
    with suppress(Exception):  # with the launcher gone nobody can be asked, and twice is better than never
        digest = hashlib.sha256(message.encode()).hexdigest()
        return _store(_AT_ONCE).add(f"said/{digest}", 1) == 1
    return True


def watch_start() -> None:
    """Until the processes have met: one that torchrun started and now ends says so, and ends at once.

    A handler of Python's would wait for the imports, and for the others to come.
    """
    if processes() == 1 or not hasattr(signal, "sigtimedwait"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch_start, args=(os.getppid(),), daemon=True).start()


def _watch_start(launcher: int) -> None:
    while not _MET.is_set():
        asked = signal.sigtimedwait({signal.SIGTERM}, _LOOK)
        gone = os.getppid() != launcher
        if asked is None and not gone:
            continue
        why = "torchrun, which started it, is gone" if gone else "all were stopped, or another one is gone or says why"
        sys.stderr.write(f"error: process {os.environ['RANK']} of this run ends before it has begun: {why}; {SAVED}\n")
        sys.stderr.flush()
        os._exit(RankLostError.exit_code)


@contextmanager
def joined(patience: float, device: str = "cpu") -> Iterator["Ranks"]:
    """The ranks of this run, for as long as it lasts; this process alone if torchrun did not start it.

    Whoever dies on this machine takes the others with it within half a second, whatever they are doing: they say so
    and end, and what was saved is kept. One that is stopped, or dies elsewhere, is found by the next exchange, after
    `patience` seconds at most. If torchrun itself is gone, the run saves and ends.

    Raises `RankLostError` if the others do not come.
    """
    from cleanpath.training.ranks import ALONE, Ranks, lost

    if processes() == 1:
        yield ALONE
        return
    from torch import distributed

    rank, count = int(os.environ["RANK"]), processes()
    launcher = os.getppid()
    try:
        store = _store(_SOON)
        store.add("came", 1)
        store.set_timeout(timedelta(seconds=patience))
        group: Any = distributed.PrefixStore("group", store)  # type: ignore[attr-defined]
        with _telling(count, patience):
            distributed.init_process_group(
                _BACKENDS[device], store=group, rank=rank, world_size=count, timeout=timedelta(seconds=patience)
            )
            ranks = Ranks(rank, count)
            neighbours = _neighbours(ranks)
    except OSError:
        raise RankLostError("torchrun, which started this process, is gone; give the same command again") from None
    except RuntimeError as error:
        if gone := lost(error):
            raise gone from None
        if not isinstance(error, distributed.DistStoreError) and "imed out" not in str(error):
            raise UserError(
                f"the {count} processes do not reach each other: {str(error).splitlines()[0]}; "
                "if the machine has several network interfaces, name one in GLOO_SOCKET_IFNAME"
            ) from None
        raise RankLostError(
            f"{_came()} of {count} processes came within {patience:g} seconds; look for the error of the others, or "
            "give more time with --patience"
        ) from None
    _MET.set()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(neighbours, launcher, store, ended), daemon=True)
    watch.start()
    try:
        yield ranks
    except RuntimeError as error:
        gone = lost(error)
        if gone is None:
            raise
        # torchrun is about to end this process, which has something to say first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise gone from None
    finally:
        if not _LAUNCHER_GONE.is_set():
            with suppress(Exception):  # it may go at this moment
                store.set(f"left/{rank}", "")
        ended.set()
        watch.join()
        distributed.destroy_process_group()


def _came() -> int | str:
    """How many processes of the run are here; not known once the store is gone."""
    with suppress(Exception):
        return _store(_AT_ONCE).add("came", 0)
    return "not all"


@contextmanager
def _telling(count: int, patience: float) -> Iterator[None]:
    """Have it said, once for all, if the others are long in coming."""

    def tell() -> None:
        told = f"{_came()} of {count} processes are here; waiting for the others, {patience:g} seconds in all"
        if speaks(told):
            sys.stderr.write(f"{told} (--patience)\n")
            sys.stderr.flush()

    waiting = threading.Timer(_QUIET, tell)
    waiting.daemon = True
    waiting.start()
    try:
        yield
    finally:
        waiting.cancel()


def _store(seconds: float) -> "Store":
    """What torchrun keeps for its processes, under a name of this try's own: it outlives the tries.

    It was there before they started: if it does not answer, torchrun is gone.
    """
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if of_torchrun:  # else a store that is gone would be tried for half a minute
        socket.create_connection((address, port), timeout=seconds).close()
    hosts = not of_torchrun and os.environ["RANK"] == "0"
    found = TCPStore(address, port, is_master=hosts, timeout=timedelta(seconds=seconds), wait_for_workers=False)
    name = f"cleanpath/{tries_before()}"
    return PrefixStore(name, found)


@dataclass(frozen=True)
class _Neighbour:
    """Another process of the run on this machine."""

    rank: int
    pid: int
    since: str | None

    @property
    def alive(self) -> bool:
        return started(self.pid) == self.since


def _neighbours(ranks: "Ranks") -> list[_Neighbour]:
    here = socket.gethostname()
    told = ranks.gathered((here, os.getpid(), started(os.getpid())))
    found = [_Neighbour(rank, pid, since) for rank, (host, pid, since) in enumerate(told) if host == here]
    return [one for one in found if one.rank != ranks.rank]


def _watch(neighbours: list[_Neighbour], launcher: int, store: "Store", ended: threading.Event) -> None:
    while not ended.wait(_LOOK):
        if os.getppid() != launcher and not _LAUNCHER_GONE.is_set():
            _LAUNCHER_GONE.set()
            os.kill(os.getpid(), signal.SIGTERM)
        for one in [one for one in neighbours if not one.alive]:
            neighbours.remove(one)
            try:
                if _LAUNCHER_GONE.is_set():
                    return  # all were told to save and end
                left, first = store.check([f"left/{one.rank}"]), store.add(f"lost/{one.rank}", 1) == 1
            except Exception:  # noqa: BLE001 (with the launcher gone nobody can be asked)
                left, first = False, True
            if left or ended.is_set():
                continue
            if first:
                which = f"process {one.rank} of this run (pid {one.pid})"
                sys.stderr.write(f"error: {which} is gone, and the others end with it; {SAVED}\n")
                sys.stderr.flush()
            os._exit(RankLostError.exit_code)
