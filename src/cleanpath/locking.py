"""One process at a time holds a run, by a file that names it; the file is taken over once that process is gone.

Whether a process of this host is gone, the system says. One of another host is gone if it has not renewed its lock for
`SECONDS_UNTIL_DEAD`, by the clock of the file system, which is the same for all, and then not for a further
`_SECONDS_WATCHED` either, by our own: no clock that jumps makes a living one dead. One that stood still meanwhile, and
goes on, finds its lock gone and ends (`still_ours`).
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from cleanpath.errors import HeldError

_SECONDS_BETWEEN = 20.0
"""Between two renewals of a lock."""
SECONDS_UNTIL_DEAD = 600.0
"""Far more than file systems keep what they know of each other's files, and than a busy one makes wait."""
_SECONDS_WATCHED = 3 * _SECONDS_BETWEEN

LEFT = r"\.lock\.[0-9a-f]+\.(new|now)"
"""Names of the files that making and looking at a run's lock takes, which a killed process leaves."""

# One table for each process, as its locks are its own: whoever renews them is another thread than who takes them.
_held: dict[Path, bytes] = {}  # the locks of this process, each with its content
_watched: dict[Path, tuple[int, float]] = {}  # locks that look dead: as of when, and since when we have known it
_renewing: dict[int, threading.Thread] = {}  # by process: a fork has no threads of the one that it is of


def acquire(lock: Path) -> Path:
    """Create the lock; take it over from a process that is gone. Raises `HeldError` if another has it."""
    # No two are alike, so that each knows its own: a file system gives a place on the disk to the next file at once.
    key = os.urandom(8).hex()
    mine = json.dumps({**_this_process(), "key": key, "renewed": _SECONDS_BETWEEN}).encode()
    for _ in range(3):
        if lock.exists():
            _remove_dead(lock)
        with contextlib.suppress(FileExistsError):
            _keep_renewing()
            _create(lock, mine, key)
            _held[lock] = mine
            return lock
    raise _opened(lock)


def release(lock: Path) -> None:
    """Give it back, if it is still ours."""
    mine = _held.pop(lock, None)
    if mine is not None and _content(lock) == mine:
        lock.unlink(missing_ok=True)


def still_ours(lock: Path) -> None:
    """Raise `HeldError` if the lock is no longer ours: somebody took it over, or removed it."""
    if _content(lock) != _held.get(lock, b""):
        raise HeldError(
            f"{lock.parent} was taken over by {holder_of(lock) or 'another process'} while this one stood still, or "
            "its lock was removed; nothing more is written by this one, give the command again"
        )


def remove_left(folder: Path, lock: Path) -> None:
    """Remove what processes that are gone left of making that lock, which is ours."""
    for path in folder.glob(f".{lock.name}.*"):
        with contextlib.suppress(OSError):
            if holder_of(path) is None or lock.stat().st_mtime - path.stat().st_mtime > SECONDS_UNTIL_DEAD:
                path.unlink(missing_ok=True)


def _opened(lock: Path) -> HeldError:
    return HeldError(f"{lock.parent} is being opened by another process; try again")


def _content(lock: Path) -> bytes | None:
    try:
        return lock.read_bytes()
    except FileNotFoundError:
        return None


def _keep_renewing() -> None:
    if os.getpid() not in _renewing:
        _renewing.clear()
        _held.clear()
        _renewing[os.getpid()] = threading.Thread(target=_renew, daemon=True, name="cleanpath-locks")
        _renewing[os.getpid()].start()


def _renew() -> None:
    never = threading.Event()
    while not never.wait(_SECONDS_BETWEEN):
        for lock, mine in list(_held.items()):
            with contextlib.suppress(OSError):
                if _content(lock) == mine:
                    os.utime(lock)  # to what the file system has as now


def _create(lock: Path, content: bytes, key: str) -> None:
    """At once with its content: of one that is created empty nobody could tell whether its process is gone.

    The `key` names the file meanwhile: processes of two hosts may have one number.
    """
    whole = lock.with_name(f".{lock.name}.{key}.new")
    try:
        whole.write_bytes(content)
        try:
            os.link(whole, lock)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with lock.open("xb") as out:
                out.write(content)
    finally:
        whole.unlink(missing_ok=True)


def _here() -> dict[str, str]:
    """Where numbers of processes mean the same: this host, and on it this container."""
    with contextlib.suppress(OSError):
        # Two hosts may have one name, and their first containers one number.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {"host": socket.gethostname(), "processes": f"{Path('/proc/self/ns/pid').readlink()} {boot}"}
    return {"host": socket.gethostname(), "processes": ""}


def _this_process() -> dict[str, str | int | None]:
    """What tells it from all others."""
    return {**_here(), "pid": os.getpid(), "started": started(os.getpid())}


def _remove_dead(lock: Path) -> None:
    """Remove the lock of a process that is gone. Raises `HeldError` if it is alive, or if another was quicker.

    Only who has the system's lock on that very file removes it, and only while it stands there: of many that find a
    dead one, one removes it, and nobody a living one. That lock goes with its process; nothing is left of it.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX
        if holder := holder_of(lock):
            raise HeldError(f"{lock.parent} is being written by {holder}; wait for it, or end it") from None
        raise HeldError(f"{lock} is of a process that is gone; remove it") from None
    try:
        file = lock.open("r+b")
    except FileNotFoundError:
        return
    with file:
        if (holder := holder_of(lock)) and not _is_silent(lock):
            raise HeldError(f"{lock.parent} is being written by {holder}; wait for it, or end it")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _opened(lock) from None
        except OSError as error:
            raise HeldError(
                f"{lock} is of a process that is gone, and cannot be taken over: its file system has no locks "
                f"({error.strerror}); remove it"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                lock.unlink()


def _is_silent(lock: Path) -> bool:
    """Whether a process of another host has not renewed its lock for long, nor does while it is watched."""
    before = _looks_dead(lock)
    if before is None:
        return False
    seen, since = _watched.setdefault(lock, (before, time.monotonic()))
    if seen != before:
        seen, since = _watched[lock] = before, time.monotonic()
    until = since + _SECONDS_WATCHED
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        if _renewed(lock) != before:
            return False
    return _renewed(lock) == before


def watch(locks: Iterable[Path]) -> None:
    """Begin to watch those that look dead, all at once: whoever then acquires them waits once, not for each."""
    for lock in locks:
        if lock.exists() and (before := _looks_dead(lock)) is not None:
            _watched.setdefault(lock, (before, time.monotonic()))


def _looks_dead(lock: Path) -> int | None:
    """When a lock of another host was renewed last, if that is long ago; else None."""
    before = _renewed(lock)
    return None if before is None or _now_there(lock) - before < SECONDS_UNTIL_DEAD * 10**9 else before


def _renewed(lock: Path) -> int | None:
    """When a lock was renewed last; None if it is not there, or of a process of this place, or of no such kind."""
    try:
        held = json.loads(lock.read_bytes())
        elsewhere = {key: held[key] for key in _here()} != _here()
        return lock.stat().st_mtime_ns if elsewhere and "renewed" in held else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _now_there(lock: Path) -> int:
    """The time that the file system of a lock has now, in nanoseconds; 0 where nothing can be written."""
    probe = lock.with_name(f".{lock.name}.{os.getpid()}.now")
    try:
        probe.write_bytes(json.dumps(_this_process()).encode())
        return probe.stat().st_mtime_ns
    except OSError:
        return 0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def holder_of(lock: Path) -> str | None:
    """The living process that holds a lock, in words; None if there is none."""
    try:
        held = json.loads(lock.read_bytes())
        host, pid, since = held["host"], held["pid"], held["started"]
        here = _here()
        elsewhere = held["processes"] != here["processes"]
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return f"a process that is just starting (if there is none, remove {lock})"
    if host != here["host"] or elsewhere:
        container = f"{host}, in another container or before it was started anew" if host == here["host"] else host
        wait = f"its lock is taken over {SECONDS_UNTIL_DEAD / 60:.0f} minutes after; or " if "renewed" in held else ""
        return f"process {pid} on {container} (if it is gone, {wait}remove {lock})"
    return f"process {pid}" if since is not None and started(pid) == since else None


def started(pid: int) -> str | None:
    """When a process started, to tell it from a later one with the same number; None if there is none, or it ended."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state, *rest = stat.read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "unknown"
    return "unknown"
