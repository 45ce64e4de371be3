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
from cleanpath.errors import HeldError, RunError
from cleanpath.experiment import Experiment
from cleanpath.locking import LEFT, acquire, holder_of, release, remove_left, still_ours, watch
from cleanpath.writing import document, remove_torn, write

_EXPERIMENT, _ENVIRONMENT, METRICS, RESULT = "experiment.json", "environment.json", "metrics.jsonl", "result.json"
_WEIGHTS, _FAILURE, _LOCK = "weights.safetensors", "failure.txt", "lock"
# What a process leaves that was killed before it wrote what it was asked, and what a grid then notes of it.
_BEFORE = re.compile(rf"lock|failure\.txt|{LEFT}|\.(failure\.txt|experiment\.json)\.\d+(\.new)?")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)-.*\.safetensors")
_PREPARATION, _POST_MORTEM = "preparation.safetensors", "post-mortem.safetensors"


_ENDED = ("finished", "diverged")
EARLIER = "earlier"
_NUMERIC = ("processes", "threads", "torch", "device", "cuda", "cudnn", "processor", "instructions", "kernels")


def numeric(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Of an environment, that on which the last bits of a run's numbers depend."""
    told = {"processes": 1, "device": "cpu", "kernels": "plain", **environment}
    return {key: told[key] for key in _NUMERIC if key in told}


def gone_on(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run is that goes on: with where its `earlier` parts were, as far as bits depend on it and it was other.

    The last bits of such a run may not be those of one that was left alone.
    """
    earlier, place = list(before.get(EARLIER, ())), numeric(before) if before else {}
    if any(value != numeric(now).get(key, value) for key, value in place.items()) and place not in earlier:
        earlier.append(place)
    return {**now, EARLIER: earlier} if earlier else dict(now)


@dataclass(frozen=True)
class Run:
    """A run folder as it stands on disk; nothing is kept in memory."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def read(self, name: str) -> bytes | None:
        """What a file of its folder holds; None if there is none."""
        try:
            with open(f"{self.folder}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 (half the time, of thousands)
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def table(self, name: str) -> dict[str, Any] | None:
        """What a JSON file of its folder holds; None if there is none. Raises `RunError` if it is damaged."""
        text = self.read(name)
        return None if text is None else _table(self.folder / name, text)

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
        return self.table(_ENVIRONMENT) or {}

    @property
    def result(self) -> dict[str, Any] | None:
        """How it ended; None while it has not."""
        result = self.table(RESULT)
        if result is not None and result.get("status") not in _ENDED:
            raise RunError(f"{self.folder / RESULT} is damaged (no status); remove the run's folder and train again")
        return result

    @property
    def failure(self) -> str | None:
        """Why the last try crashed; None if it did not."""
        text = self.read(_FAILURE)
        return None if text is None else text.decode()

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
        lines = (self.read(METRICS) or b"").split(b"\n")[:-1]
        try:
            # At once: a line at a time takes five times as long, and a report reads those of all runs.
            found: list[dict[str, Any]] = json.loads(b"[" + b",".join(lines) + b"]")
        except ValueError:
            found = []
        if len(found) != len(lines):
            raise RunError(f"{self.folder / METRICS} is damaged; remove the run's folder and train again")
        return found


def recent(run: Run, *, size: int = 32_768) -> list[dict[str, Any]]:
    """The last measurements of a run that goes on: those that lie whole in the last `size` bytes."""
    path = run.folder / METRICS
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
            remove_left(folder, self._lock)
            _write_json(folder / _EXPERIMENT, settings.to_data(self._experiment))
            _write_json(folder / _ENVIRONMENT, self._environment)
            if not self._resume:
                _remove_checkpoints(folder)
                (folder / METRICS).unlink(missing_ok=True)
            self._metrics = (folder / METRICS).open("ab")
        except BaseException:
            release(self._lock)
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
            release(self._lock)

    def _check_goes_on(self) -> None:
        """Only with the lock in hand: another process may have brought the run to its end a moment ago."""
        if self.run.status in _ENDED:
            raise RunError(f"{self.run.folder} has ended; there is nothing to do (--fresh trains it again)")

    def append(self, line: Mapping[str, float]) -> None:
        """Add one measurement."""
        try:
            still_ours(self._lock)
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
        return RunError(f"{self.run.folder / METRICS} cannot be written: {error.strerror}")

    def save_checkpoint(self, name: str, data: bytes) -> None:
        """Write a checkpoint under its name."""
        self._save(self.run.folder / name, data)

    def note(self, **facts: str) -> None:
        """Have the environment say it otherwise."""
        self._environment = {**self._environment, **facts}
        self._save(self.run.folder / _ENVIRONMENT, document(self._environment))

    def save_weights(self, data: bytes) -> str:
        """Write the weights; their SHA-256."""
        self._save(self.run.weights, data)
        return hashlib.sha256(data).hexdigest()

    def save_preparation(self, data: bytes) -> None:
        """Write how images are made ready."""
        self._save(self.run.preparation, data)

    def save_post_mortem(self, data: bytes) -> None:
        """Write what a run was like when a value was not finite."""
        self._save(self.run.post_mortem, data)

    def _save(self, path: Path, data: bytes) -> None:
        still_ours(self._lock)
        write(path, data)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write how the run ended; from now on it counts as done."""
        still_ours(self._lock)
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        _write_json(self.run.folder / RESULT, result)
        if result["status"] == "finished":
            _remove_checkpoints(self.run.folder)

    def fail(self, reason: str) -> None:
        """Write why this try crashed, if it still holds the run; the next one goes on from the last checkpoint."""
        with contextlib.suppress(HeldError):
            still_ours(self._lock)
            record_failure(self.run.folder, reason)


def forget(runs: Iterable[Run]) -> None:
    """Make runs ones that have not ended; all of them, or none if a process holds one. Raises `HeldError` then."""
    with contextlib.ExitStack() as stack:
        runs = [run for run in runs if run.folder.is_dir()]
        watch(run.folder / _LOCK for run in runs)
        for run in runs:
            stack.callback(release, acquire(run.folder / _LOCK))
        for run in runs:
            for name in (RESULT, _FAILURE):
                (run.folder / name).unlink(missing_ok=True)
            _remove_checkpoints(run.folder)


def remove_bare(folder: Path, experiment: Experiment) -> None:
    """Remove an experiment's folder in which nothing was measured or kept; not while a process holds it."""
    bare = {_EXPERIMENT, _ENVIRONMENT, METRICS, _FAILURE}
    with contextlib.suppress(RunError, OSError):
        check_folder(folder, experiment)
        if {path.name for path in folder.iterdir()} <= bare and (folder / METRICS).stat().st_size == 0:
            lock = acquire(folder / _LOCK)
            for name in bare:
                (folder / name).unlink(missing_ok=True)
            release(lock)
            folder.rmdir()


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


def runs_below(root: Path) -> tuple[Run, ...]:
    """Every run folder directly below `root`, by name."""
    if not root.is_dir():
        return ()
    return tuple(Run(path.parent) for path in sorted(root.glob(f"*/{_EXPERIMENT}")))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write(path, document(data))


def _table(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); remove the run's folder and train again") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} holds no table; remove the run's folder and train again")
    return data
