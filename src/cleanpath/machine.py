"""What this machine has: memory, processor; without torch."""

import platform
from pathlib import Path

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""A container's, in the two versions of control groups."""


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def resident_memory() -> int:
    """What it has resident now; the peak where the system does not tell."""
    path = Path("/proc/self/statm")
    if not path.is_file():
        return peak_memory()
    import resource

    return int(path.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def free_memory() -> int | None:
    """Bytes that can be had without swapping, in a container within its limit; None where the system does not tell."""
    found = [value for value in (_available(), *(_below(*pair) for pair in _LIMITS)) if value is not None]
    return min(found, default=None)


def _available() -> int | None:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _below(limit: str, used: str) -> int | None:
    try:
        most, now = (int(Path(path).read_text(encoding="ascii")) for path in (limit, used))
    except (OSError, ValueError):
        return None  # no control group, or "max"
    return max(0, most - now)


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
