"""What a run's record takes of the time of an epoch of ResNet-20: its lines of metrics and its checkpoints.

    python -m benchmarks.records_cost

Short runs on images of CIFAR's size, made up, through the run's own `Writer` and `RunKeeper`, in which the time inside
both is added up. An epoch of 50,000 images has as many lines as in a run of 64,000 iterations, and a checkpoint a
minute.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import cleanpath
from benchmarks.figures import Figure, number, tell
from cleanpath.data.images import Images
from cleanpath.data.memory import InMemory
from cleanpath.data.preparation import Preparation
from cleanpath.errors import Request
from cleanpath.experiment import Experiment, Training
from cleanpath.keeping import SECONDS_BETWEEN, RunKeeper
from cleanpath.nn import catalog
from cleanpath.records import Writer
from cleanpath.training.loop import MOST_LINES, train
from cleanpath.training.progress import Callback

ROUNDS, BATCH, STEPS, IMAGES, LONG, CIFAR = 5, 128, 20, 6400, 64_000, 50_000


def measure() -> list[Figure]:
    """One figure: the share in percent."""
    experiment = Experiment(
        network=catalog.network("preresnet20"), training=Training(iterations=STEPS, batch_size=BATCH)
    )
    return [number("the record of a run, of an epoch of ResNet-20", _shares(experiment), "records")]


def _shares(experiment: Experiment) -> list[float]:
    shares = []
    for _ in range(ROUNDS):
        network = cleanpath.build("preresnet20").to(memory_format=torch.channels_last)
        with tempfile.TemporaryDirectory() as name, Writer(Path(name) / "run", experiment, {}) as writer:
            lines, steps = _Lines(writer), _Steps()
            keeper = RunKeeper(writer, Request(), seconds_between=0.5)
            with _timed(RunKeeper, "write") as kept:
                train(network, _images(), experiment.training, seed=0, callbacks=[lines, steps], keeper=keeper)
        step = statistics.median(steps.took)
        seconds = CIFAR / BATCH * step
        written = CIFAR / BATCH * min(1.0, MOST_LINES / LONG) * statistics.mean(lines.took)
        saved = seconds / SECONDS_BETWEEN * statistics.mean(kept)
        shares.append(100 * (written + saved) / seconds)
    return shares


class _Lines(Callback):
    """Writes the lines, as a run does, and says how long each took."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self.took = writer, list[float]()

    def measured(self, line: Mapping[str, float | int]) -> None:
        began = time.perf_counter()
        self._writer.append(line)
        self.took.append(time.perf_counter() - began)


class _Steps(Callback):
    """How long each step took."""

    def __init__(self) -> None:
        self._last, self.took = time.perf_counter(), list[float]()

    def stepped(self, progress: Any) -> None:  # noqa: ARG002
        now = time.perf_counter()
        self.took.append(now - self._last)
        self._last = now


@contextmanager
def _timed(of: type, name: str) -> Iterator[list[float]]:
    took, method = list[float](), getattr(of, name)

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        found = method(*given)
        took.append(time.perf_counter() - began)
        return found

    with patch.object(of, name, timed):
        yield took


def _images() -> Images:
    preparation = Preparation(side=32, channels=3, mean=torch.full((3, 32, 32), 0.5), std=torch.ones(3, 32, 32))
    pixels, labels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), torch.arange(IMAGES) % 10
    return Images(
        train=InMemory(pixels=pixels, labels=labels, preparation=preparation, padding=4),
        held_out=InMemory(pixels=pixels[:64], labels=labels[:64], preparation=preparation),
        classes=tuple("0123456789"),
        preparation=preparation,
    )


if __name__ == "__main__":
    tell(measure, __doc__)
