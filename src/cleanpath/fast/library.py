"""`layers.c` as a library: built on first use by the machine's own compiler, and kept in the user's cache folder.

kernels-DIGEST.so          by a digest of the source, the compiler, its flags and the processor
kernels-DIGEST.so.sha256   of the file's own bytes: the system kills who calls into a library that is cut short
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache as once
from importlib.util import find_spec
from pathlib import Path

from cleanpath.errors import RunError
from cleanpath.machine import cache_folder, processor
from cleanpath.writing import write

_SOURCE = Path(__file__).with_name("layers.c")
# -ffast-math would let values pass that are not finite.
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 60
_DIGITS = 12


@dataclass(frozen=True)
class Library:
    """The library, loaded; the digest of what it was made from; channels come in multiples of its `lanes`."""

    calls: ctypes.CDLL
    digest: str
    lanes: int
    threaded: bool
    """Whether it shares torch's threads: one of its own would wait for those."""


class NoLibraryError(Exception):
    """Why there is no library here, in words that follow "no kernels: "."""


def library(threads: int = 1) -> Library:
    """The library of this process, for so many threads; several processes may build it at once.

    Raises `NoLibraryError`.
    """
    found = _library()
    if isinstance(found, str):
        raise NoLibraryError(found)
    if threads > 1 and not found.threaded:
        raise NoLibraryError(f"they share no threads with this torch, and {threads} are asked for; give --threads 1")
    return found


@once
def _library() -> Library | str:
    """What is missing is not looked for again: a run keeps to its path."""
    try:
        return _loaded(_built())
    except NoLibraryError as error:
        return str(error)


def _loaded(path: Path) -> Library:
    try:
        calls = ctypes.CDLL(str(path))
    except OSError as error:
        raise NoLibraryError(f"{path} cannot be loaded ({error})") from None
    pointer, number = ctypes.c_void_p, ctypes.c_double
    calls.forward.argtypes = [pointer] * 12 + [number] * 2
    calls.backward.argtypes = [pointer] * 12
    calls.prepare.argtypes = [pointer] * 8 + [number]
    calls.applied.argtypes = [pointer] * 7
    for call in (calls.forward, calls.backward, calls.prepare, calls.applied):
        call.restype = None
    return Library(calls, path.stem.rpartition("-")[2], calls.lanes(), bool(calls.threaded()))


def _built() -> Path:
    """The file; made now if it is not there."""
    if sys.platform != "linux":
        raise NoLibraryError(f"they are for Linux, and this is {platform.system()}")
    compiler, folder = _compiler(), cache_folder()
    if folder is None:
        raise NoLibraryError("there is no home directory to keep them in; set CLEANPATH_CACHE")
    version = _run([*compiler, "--version"])
    threads = _threads_of_torch()
    made_from = (_SOURCE.read_text(encoding="utf-8"), *compiler, version, *_FLAGS, threads.name if threads else "")
    digest = hashlib.sha256("\n".join((*made_from, processor(), _instructions())).encode()).hexdigest()[:_DIGITS]
    path = folder / f"kernels-{digest}.so"
    if not _is_whole(path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as aside:
                data = _compiled(compiler, threads, Path(aside)).read_bytes()
                write(path, data)
                write(_beside(path), hashlib.sha256(data).hexdigest().encode())
        except (OSError, RunError) as error:
            raise NoLibraryError(f"they cannot be kept in {folder} ({error}); set CLEANPATH_CACHE") from None
    return path


def _is_whole(path: Path) -> bool:
    """Whether the file is there, byte for byte as it was built; a damaged one is built anew."""
    try:
        return _beside(path).read_bytes() == hashlib.sha256(path.read_bytes()).hexdigest().encode()
    except OSError:
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _compiler() -> list[str]:
    """The command of CC, or the first compiler of C that is found."""
    for command in filter(None, (os.environ.get("CC"), *_COMPILERS)):
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise NoLibraryError(f"CC is '{command}' ({error}); set it to a compiler, or not at all") from None
        if words and shutil.which(words[0]):
            return words
    raise NoLibraryError(f"there is no C compiler ({', '.join(_COMPILERS)}); install one, or set CC")


def _compiled(compiler: list[str], threads: Path | None, aside: Path) -> Path:
    """With torch's own threads where they are to be had, else for one thread."""
    made = aside / "kernels.so"
    if threads is not None:
        part = aside / "kernels.o"
        try:
            _run([*compiler, *_FLAGS, "-fopenmp", "-c", str(_SOURCE), "-o", str(part)])
            # Linked without -fopenmp, which might bring another runtime, whose threads would wait for torch's.
            _run([*compiler, "-shared", "-Wl,-z,defs", str(part), str(threads), "-lm", "-o", str(made)])
        except NoLibraryError:
            pass
        else:
            return made
    _run([*compiler, *_FLAGS, "-shared", str(_SOURCE), "-lm", "-o", str(made)])
    return made


def _threads_of_torch() -> Path | None:
    """The runtime of OpenMP that torch brings along."""
    torch = find_spec("torch")
    where = [] if torch is None or torch.origin is None else sorted(Path(torch.origin).parent.glob("lib/libgomp*.so*"))
    return next(iter(where), None)


def _instructions() -> str:
    """Which instructions the processor has: a cache folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 (the user's compiler)
            command, capture_output=True, text=True, check=False, timeout=_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(f"{command[0]} cannot be run ({error})") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[0]
        raise NoLibraryError(f"{command[0]} failed: {said}")
    return done.stdout
