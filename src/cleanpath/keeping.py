"""Checkpoints of a run: when to write one, what it holds, and which of those on disk is whole.

A checkpoint is one safetensors file with the weights, the optimizer's state, the random state and, in its header, how
far the run has come. Its name holds the iteration and the start of its own SHA-256, so that a file that was changed
or cut is known from outside, and a name never stands for half a file.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cleanpath.errors import NonFiniteError, Request, Stopped
from cleanpath.records import Run, Writer
from cleanpath.training.state import Course

SECONDS_BETWEEN = 60.0
KEPT = 2
"""The newest, and the one before it in case the newest is damaged."""
_DIGITS = 16


class RunKeeper:
    """Keeps one run: writes checkpoints through its `Writer`, finds the newest one that is whole."""

    def __init__(
        self,
        writer: Writer,
        request: Request,
        *,
        seconds_between: float,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._writer, self._request, self._say = writer, request, say
        self._between, self._last = seconds_between, time.monotonic()

    def restored(self) -> tuple[Course, Mapping[str, Tensor]] | None:
        """The newest checkpoint that is whole, with the metrics cut to its moment; damaged ones are told and left."""
        for path in checkpoints(self._writer.run):
            if not _whole(path):
                self._say(
                    f"{path.name} is damaged (its SHA-256 is not the one in its name); looking for an earlier one"
                )
                continue
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = file.metadata()
            if not self._writer.cut(int(told["metrics"])):
                self._say(f"{path.name} is later than what metrics.jsonl holds; looking for an earlier one")
                continue
            course = Course.from_text(told["course"])
            self._say(f"going on after iteration {course.iteration}")
            return course, tensors
        self._writer.cut(0)
        return None

    @property
    def stopping(self) -> bool:
        """Whether a signal came."""
        return self._request.signal_number is not None

    @property
    def due(self) -> bool:
        """Whether a signal came or the last checkpoint is old."""
        return self.stopping or time.monotonic() - self._last >= self._between

    def save(self, course: Course, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint; raise `Stopped` if that was asked."""
        self.write(course, tensors)
        if self._request.signal_number is not None:
            raise Stopped(self._request.message, signal_number=self._request.signal_number)

    def write(self, course: Course, tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, forget those before the last two."""
        metrics = self._writer.settled()
        data = save(dict(tensors), metadata={"course": course.to_text(), "metrics": str(metrics)})
        self._writer.save_checkpoint(_name(course.iteration, data), data)
        for old in checkpoints(self._writer.run)[KEPT:]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()

    def diverged(self, error: NonFiniteError, tensors: Mapping[str, Tensor], indices: Tensor, epochs: Tensor) -> None:
        """Write the post-mortem: the weights before the step, and the images of its batch."""
        kept = {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
        told = {"reason": str(error), "iteration": str(error.iteration), "tested": str(error.tested).lower()}
        data = save({**kept, "indices": indices, "epochs": epochs}, metadata=told)
        self._writer.save_post_mortem(data)


def checkpoints(run: Run) -> list[Path]:
    """A run's checkpoint files, the newest first."""
    return sorted(run.folder.glob("checkpoint-*.safetensors"), key=lambda path: path.name, reverse=True)


def _name(iteration: int, data: bytes) -> str:
    return f"checkpoint-{iteration:09d}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}.safetensors"


def _whole(path: Path) -> bool:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stem.rpartition("-")[2] == found[:_DIGITS]
