"""A run is a folder: what was asked, where it ran, what was measured, how it ended.

    experiment.json    the experiment
    environment.json   versions, threads, machine
    metrics.jsonl      one line per measurement, appended while the run goes on
    checkpoint-ITERATION-SHA256.safetensors   the last two, while the run goes on (`keeping`)
    weights.safetensors
    preparation.safetensors   how images are made ready, and the names of the classes
    post-mortem.safetensors   of a run that diverged: the weights before that step, and which images it saw
    result.json        written last: its presence means that the run ended
    failure.txt        why the last try crashed, if it did

Files are replaced whole: written beside their place, synced, renamed. One process at a time holds a run, by a file
`lock` that names it.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cleanpath import settings
from cleanpath.errors import RunError
from cleanpath.experiment import Experiment
from cleanpath.locking import acquire, holder_of
from cleanpath.nn import catalog
from cleanpath.writing import write

_EXPERIMENT, _ENVIRONMENT, _METRICS, RESULT = "experiment.json", "environment.json", "metrics.jsonl", "result.json"
_WEIGHTS, _FAILURE, _LOCK = "weights.safetensors", "failure.txt", "lock"
# What a process leaves that was killed before it wrote what it was asked, and what a grid then notes of it.
_BEFORE = re.compile(r"lock|failure\.txt|\.(lock|failure\.txt|experiment\.json)\.\d+(\.new)?")
_TORN = re.compile(r"\.(?!lock\.).+\.\d+")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)-.*\.safetensors")
_PREPARATION, _POST_MORTEM = "preparation.safetensors", "post-mortem.safetensors"


_ENDED = ("finished", "diverged")
_NUMERIC = ("processes", "threads", "torch", "device", "cuda", "cudnn", "processor", "instructions", "kernels")


def numeric(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Of an environment, that on which the last bits of a run's numbers depend."""
    told = {"processes": 1, "device": "cpu", "kernels": "plain", **environment}
    return {key: told[key] for key in _NUMERIC if key in told}


@dataclass(frozen=True)
class Run:
    """A run folder as it stands on disk; nothing is kept in memory."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def experiment(self) -> Experiment:
        """What was asked. Raises `RunError` if the folder holds no experiment."""
        path = self.folder / _EXPERIMENT
        if not path.is_file():
            raise RunError(f"{self.folder} is not a run (no {_EXPERIMENT}); nothing was touched")
        return settings.read(path)

    @property
    def environment(self) -> dict[str, Any]:
        """Where it ran: versions, threads, machine."""
        return _read_json(self.folder / _ENVIRONMENT) or {}

    @property
    def result(self) -> dict[str, Any] | None:
        """How it ended; None while it has not."""
        path = self.folder / RESULT
        result = _read_json(path)
        if result is not None and result.get("status") not in ("finished", "diverged"):
            raise RunError(f"{path} is damaged (no status); remove the run's folder and train again")
        return result

    @property
    def failure(self) -> str | None:
        """Why the last try crashed; None if it did not."""
        path = self.folder / _FAILURE
        return path.read_text(encoding="utf-8") if path.is_file() else None

    @property
    def weights(self) -> Path:
        """The file with the weights at the end."""
        return self.folder / _WEIGHTS

    @property
    def preparation(self) -> Path:
        """The file that says how images are made ready."""
        return self.folder / _PREPARATION

    @property
    def post_mortem(self) -> Path:
        """The file with the weights and the images with which a value was not finite."""
        return self.folder / _POST_MORTEM

    @property
    def status(self) -> str:
        """`finished` or `diverged` once it ended, `running` while held, `failed` if it crashed, else `interrupted`.

        A result that cannot be read makes it `damaged`: it is trained again.
        """
        try:
            result = self.result
        except RunError:
            return "damaged"
        if result is not None:
            return str(result["status"])
        if self.holder:
            return "running"
        return "interrupted" if self.failure is None else "failed"

    @property
    def saved(self) -> int:
        """The iteration of its newest checkpoint, going by the names; 0 without any."""
        found = map(_CHECKPOINT.fullmatch, (path.name for path in self.folder.glob("checkpoint-*")))
        return max((int(one[1]) for one in found if one), default=0)

    @property
    def holder(self) -> str | None:
        """The living process that writes the run, in words; None if there is none."""
        return holder_of(self.folder / _LOCK)

    def to_data(self) -> dict[str, Any]:
        """The run as plain data: the schema of `cleanpath train --json` and `cleanpath show RUN --json`."""
        return {
            "schema": "cleanpath.run",
            "version": 1,
            "name": self.name,
            "folder": str(self.folder),
            "status": self.status,
            "experiment": settings.to_data(self.experiment),
            "environment": self.environment,
            "result": self.result,
        }

    def metrics(self) -> list[dict[str, Any]]:
        """The measurements in the order of their making; a line that was cut off by a crash ends them."""
        path = self.folder / _METRICS
        if not path.is_file():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            # At once: a line at a time takes five times as long, and a report reads those of all runs.
            found: list[dict[str, Any]] = json.loads(b"[" + b",".join(lines) + b"]")
        except ValueError:
            found = []
        if len(found) != len(lines):
            raise RunError(f"{path} is damaged; remove the run's folder and train again")
        return found


def recent(run: Run, *, size: int = 32_768) -> list[dict[str, Any]]:
    """The last measurements of a run that goes on: those that lie whole in the last `size` bytes."""
    path = run.folder / _METRICS
    if not path.is_file():
        return []
    with path.open("rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - size)
        file.seek(start)
        lines = file.read().split(b"\n")[1 if start else 0 : -1]  # the last is empty, or not written to its end
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        return []


class Writer:
    """The one process that writes a run: opens the folder, appends measurements, writes the result last.

    Raises `RunError` if the folder holds something else, another experiment, a run that has ended (`forget` it first),
    or is held by another process.
    """

    def __init__(
        self, folder: Path, experiment: Experiment, environment: Mapping[str, Any], *, resume: bool = False
    ) -> None:
        self.run = Run(folder)
        self._resume = resume
        self._environment = environment
        self._experiment = experiment
        check_folder(folder, experiment)

    def __enter__(self) -> "Writer":
        folder = self.run.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = acquire(folder / _LOCK)
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror}; choose another place with --out") from None
        try:
            self._check_goes_on()
            for stale in (RESULT, _FAILURE, _WEIGHTS, _PREPARATION, _POST_MORTEM):
                (folder / stale).unlink(missing_ok=True)
            remove_torn(folder)
            _write_json(folder / _EXPERIMENT, settings.to_data(self._experiment))
            _write_json(folder / _ENVIRONMENT, self._environment)
            if not self._resume:
                _remove_checkpoints(folder)
                (folder / _METRICS).unlink(missing_ok=True)
            self._metrics = (folder / _METRICS).open("ab")
        except BaseException:
            self._lock.unlink(missing_ok=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._metrics.close()
        except OSError:
            if error is None:
                raise
        finally:
            self._lock.unlink(missing_ok=True)

    def _check_goes_on(self) -> None:
        """Only with the lock in hand: another process may have brought the run to its end a moment ago."""
        if self.run.status in _ENDED:
            raise RunError(f"{self.run.folder} has ended; there is nothing to do (--fresh trains it again)")

    def append(self, line: Mapping[str, float]) -> None:
        """Add one measurement."""
        try:
            self._metrics.write((json.dumps(line, allow_nan=False) + "\n").encode())
            self._metrics.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def settled(self) -> int:
        """Bring the measurements safely to the disk; how many bytes they are."""
        try:
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            return os.fstat(self._metrics.fileno()).st_size
        except OSError as error:
            raise self._unwritable(error) from error

    def cut(self, size: int) -> bool:
        """Forget the measurements beyond this many bytes; False if there are fewer."""
        try:
            if os.fstat(self._metrics.fileno()).st_size < size:
                return False
            self._metrics.truncate(size)
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"{self.run.folder / _METRICS} cannot be written: {error.strerror}")

    def save_checkpoint(self, name: str, data: bytes) -> None:
        """Write a checkpoint under its name."""
        write(self.run.folder / name, data)

    def save_weights(self, data: bytes) -> str:
        """Write the weights; their SHA-256."""
        write(self.run.weights, data)
        return hashlib.sha256(data).hexdigest()

    def save_preparation(self, data: bytes) -> None:
        """Write how images are made ready."""
        write(self.run.preparation, data)

    def save_post_mortem(self, data: bytes) -> None:
        """Write what a run was like when a value was not finite."""
        write(self.run.post_mortem, data)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write how the run ended; from now on it counts as done."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        _write_json(self.run.folder / RESULT, result)
        if result["status"] == "finished":
            _remove_checkpoints(self.run.folder)

    def fail(self, reason: str) -> None:
        """Write why this try crashed; the next one goes on from the last checkpoint."""
        record_failure(self.run.folder, reason)


def forget(runs: Iterable[Run]) -> None:
    """Make runs ones that have not ended; all of them, or none if a process holds one. Raises `HeldError` then."""
    with contextlib.ExitStack() as stack:
        runs = [run for run in runs if run.folder.is_dir()]
        for run in runs:
            stack.callback(acquire(run.folder / _LOCK).unlink)
        for run in runs:
            for name in (RESULT, _FAILURE):
                (run.folder / name).unlink(missing_ok=True)
            _remove_checkpoints(run.folder)


def remove_bare(folder: Path, experiment: Experiment) -> None:
    """Remove an experiment's folder in which nothing was measured or kept; not while a process holds it."""
    bare = {_EXPERIMENT, _ENVIRONMENT, _METRICS, _FAILURE}
    with contextlib.suppress(RunError, OSError):
        check_folder(folder, experiment)
        if {path.name for path in folder.iterdir()} <= bare and (folder / _METRICS).stat().st_size == 0:
            lock = acquire(folder / _LOCK)
            for name in bare:
                (folder / name).unlink(missing_ok=True)
            lock.unlink()
            folder.rmdir()


def remove_torn(folder: Path) -> None:
    """Remove what killed processes did not write to its end; `acquire` may be moving a lock."""
    for path in folder.glob(".*"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _remove_checkpoints(folder: Path) -> None:
    for path in folder.glob("checkpoint-*.safetensors"):
        path.unlink(missing_ok=True)


def record_failure(folder: Path, reason: str) -> None:
    """Note in a run's folder that its process died, which it could not do itself."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / _FAILURE, reason.encode())


def check_folder(folder: Path, experiment: Experiment) -> None:
    """Refuse a folder that is a file, holds something that is not a run, or holds another experiment's run."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another folder with --out")
    if not folder.is_dir() or all(_BEFORE.fullmatch(path.name) for path in folder.iterdir()):
        return
    found = Run(folder).experiment
    if settings.digest(found) == settings.digest(experiment):
        return
    different = settings.differences(found, experiment)
    for key in ("source", *settings.free()):
        different.pop(key, None)
    if different:
        listed = ", ".join(f"{key} {old} (asked {new})" for key, (old, new) in different.items())
        raise RunError(f"{folder} holds another experiment: {listed}; choose another --out, or drop the change")


def default_name(experiment: Experiment, *, threads: int = 1, ranks: bool = False, gpu: bool = False) -> str:
    """A run's name: network, data, seed, digest, and on what its bits depend: threads or a GPU, and several ranks.

    Not how many of these: a run goes on with another number of them.
    """
    network, data = _plain(catalog.name_of(experiment.network)), _plain(experiment.data.name)
    name = f"{network}-{data}-s{experiment.seed}-{settings.digest(experiment)}"
    name = f"{name}-gpu" if gpu else name if threads == 1 else f"{name}-t{threads}"
    return f"{name}-ranks" if ranks else name


def _plain(name: str) -> str:
    """Of `folder:/data/photos`, or `nets/mine.py:make`, what a folder's name may hold."""
    kind, colon, rest = name.rpartition(":")
    return re.sub(r"[^\w.+]+", "-", f"{Path(kind).stem}{colon}{Path(rest).name}").strip("-")


def runs_below(root: Path) -> tuple[Run, ...]:
    """Every run folder directly below `root`, by name."""
    if not root.is_dir():
        return ()
    return tuple(Run(path.parent) for path in sorted(root.glob(f"*/{_EXPERIMENT}")))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write(path, (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); remove the run's folder and train again") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} holds no table; remove the run's folder and train again")
    return data
