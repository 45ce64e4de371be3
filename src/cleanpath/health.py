"""Is this machine fit: versions, threads, devices, memory, disk, and what is wrong with them."""

import os
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import cleanpath

Check = dict[str, str]
_LEAST_DISK, _LEAST_MEMORY, _LEAST_FILES = 1e9, 2e9, 256
_LEAST_TORCH = (2, 11)


def checks(folder: Path) -> list[Check]:
    """Every check with `name`, `status` (ok, warn, fail), what was `found`, and a `remedy` where one is needed."""
    return [check(folder) for check in (_versions, _torch, _devices, _memory, _disk, _files, _writable)]


def _check(name: str, status: str, found: str, remedy: str = "") -> Check:
    return {"name": name, "status": status, "found": found, "remedy": remedy}


def _versions(folder: Path) -> Check:  # noqa: ARG001
    system = f"{platform.system()} {platform.machine()}"
    found = f"cleanpath {cleanpath.__version__}, Python {platform.python_version()}, {system}"
    return _check("versions", "ok", found)


def _torch(folder: Path) -> Check:  # noqa: ARG001
    try:
        import torch
    except ImportError as error:
        return _check("torch", "fail", f"cannot be imported: {error}", "pip install torch")
    found = (
        f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), numpy {metadata.version('numpy')}, "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    )
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _LEAST_TORCH:
        return _check("torch", "fail", found, "cleanpath needs torch 2.11 or newer: pip install -U torch")
    if torch.get_num_threads() > (os.cpu_count() or 1):
        return _check("torch", "warn", found, "more threads than cores; unset OMP_NUM_THREADS")
    return _check("torch", "ok", found)


def _devices(folder: Path) -> Check:  # noqa: ARG001
    try:
        import torch
    except ImportError:
        return _check("devices", "fail", "unknown without torch", "pip install torch")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return _check("devices", "ok", ", ".join(["cpu", *names]))


def _memory(folder: Path) -> Check:  # noqa: ARG001
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _check("memory", "ok", "not told by this system")
    found = f"{free / 1e9:.1f} GB free"
    return _check("memory", *_enough(free, _LEAST_MEMORY, found, "a worker of the quick scale needs about 0.7 GB"))


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return _check("disk", *_enough(free, _LEAST_DISK, f"{free / 1e9:.1f} GB free", "a run takes about 10 MB"))


def _files(folder: Path) -> Check:  # noqa: ARG001
    try:
        import resource
    except ImportError:
        return _check("open files", "ok", "not limited by this system")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _check(
        "open files", *_enough(soft, _LEAST_FILES, f"at most {soft}", f"raise it: ulimit -n {_LEAST_FILES * 4}")
    )


def _writable(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    except OSError as error:
        return _check("this folder", "fail", f"cannot be written: {error.strerror}", "work in another folder")
    return _check("this folder", "ok", "can be written")


def _enough(found: float, least: float, words: str, remedy: str) -> tuple[str, str, str]:
    return ("ok", words, "") if found >= least else ("warn", words, remedy)
