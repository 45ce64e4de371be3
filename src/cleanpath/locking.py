"""One process at a time holds a run: a file that names the process, taken over once that is gone."""

import contextlib
import json
import os
import socket
from pathlib import Path

from cleanpath.errors import HeldError


def acquire(lock: Path) -> Path:
    """Create the lock; take it over from a process of this host that is gone. Raises `HeldError` if another has it."""
    mine = json.dumps({**_here(), "pid": os.getpid(), "started": started(os.getpid())}).encode()
    for _ in range(2):
        if lock.exists():
            _remove_dead(lock)
        with contextlib.suppress(FileExistsError):
            _create(lock, mine)
            return lock
    raise HeldError(f"{lock.parent} is being opened by another process; try again")


def _create(lock: Path, content: bytes) -> None:
    """At once with its content: of one that is created empty nobody could tell whether its process is gone."""
    whole = lock.with_name(f".{lock.name}.{os.getpid()}.new")
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
        return {"host": socket.gethostname(), "processes": str(Path("/proc/self/ns/pid").readlink())}
    return {"host": socket.gethostname(), "processes": ""}


def _remove_dead(lock: Path) -> None:
    """Remove the lock of a process that is gone. Raises `HeldError` if it is alive, or if another was quicker."""
    try:
        seen = lock.read_bytes()
    except FileNotFoundError:
        return
    if holder := holder_of(lock):
        raise HeldError(f"{lock.parent} is being written by {holder}; wait for it, or end it")
    # Between the look and the removal another process may have put its own lock here: look at what was removed.
    aside = lock.with_name(f".{lock.name}.{os.getpid()}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    removed = aside.read_bytes()
    if removed != seen:
        with contextlib.suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink()
    if removed != seen:
        raise HeldError(f"{lock.parent} is being opened by another process; try again")


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
        container = f"a container of {host}" if host == here["host"] else host
        return f"process {pid} on {container} (if it is gone, remove {lock})"
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
