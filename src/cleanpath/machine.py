"""What this machine has: memory, processor; without torch."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cleanpath import allocator

_GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By the controller's name, in the two versions of control groups: the files of a group's limit and use, and which part
of the use is given up when needed (files that are cached)."""


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def forget_peak() -> None:
    """Hand back memory that is free, and count the peak from now on, where the system lets a process do so."""
    allocator.hand_back()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_memory() -> int:
    """What it has resident now; the peak where the system does not tell."""
    path = Path("/proc/self/statm")
    if not path.is_file():
        return peak_memory()
    import resource

    return int(path.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping, within the limits of the process; None where the system does not tell.

    Limits are those of its control groups, of a container or a batch system, and of its addresses (`ulimit -v`).
    """
    found = [value for value in (_available(root), *_below_groups(root), _below_addresses()) if value is not None]
    return min(found, default=None)


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _available(root: Path) -> int | None:
    path = root / "proc/meminfo"
    if not path.is_file():
        return None
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _below_groups(root: Path) -> Iterator[int]:
    """What each group that the process is in has left, from its own up to the outermost."""
    path = root / "proc/self/cgroup"
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        for controller, files in _GROUPS.items():
            if controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / controller
            group = top / place.strip("/")
            for folder in (group, *group.parents):
                if (left := _left(folder, *files)) is not None:
                    yield left
                if folder == top:
                    break


def _left(folder: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
        counted = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, most - now + int(counted[cached]))
    except (OSError, ValueError, KeyError):
        return None  # no such group here, or its limit is "max"


def _below_addresses() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    path = Path("/proc/self/statm")
    if most == resource.RLIM_INFINITY or not path.is_file():
        return None
    return max(0, most - int(path.read_text(encoding="ascii").split()[0]) * resource.getpagesize())


def cache_folder() -> Path | None:
    """The folder for what is kept for later commands; None where nobody has a home, as in some containers.

    CLEANPATH_CACHE, or cleanpath below XDG_CACHE_HOME or ~/.cache.
    """
    if named := os.environ.get("CLEANPATH_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "cleanpath"
    try:
        return Path.home() / ".cache" / "cleanpath"
    except RuntimeError:
        return None


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
