"""What several tests share: tiny experiments, the command line in this process and outside it, folders by content."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
import torch

from cleanpath import settings
from cleanpath.cli import main
from cleanpath.data.images import Split
from cleanpath.experiment import Experiment, Network, Training
from cleanpath.nn import catalog

SOURCE = Path(__file__).resolve().parent.parent / "src" / "cleanpath"
# Property tests are the same on every machine and every day.
examples = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
# Table 1 or 2 in seconds: 3 units, 4 channels, a few steps.
TINY = (
    *("--set", "network.depth=8", "--set", "network.width=4"),
    *("--set", "training.iterations=4", "--set", "training.warmup=1"),
)
# Of a table, one seed of the first column.
ONE = ("--seeds", "1", "--columns", "first")
# Seconds; others may use the machine too.
PATIENCE = 600.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, as data."""
        return json.loads(self.out, parse_constant=_refuse)


def tiny(*changes: str, iterations: int = 6, seed: int = 0) -> Experiment:
    """A pre-activation network of 3 units and 4 channels on the digits, a few iterations long."""
    network = catalog.network("preresnet8", in_channels=1, width=4)
    training = Training(iterations=iterations, batch_size=32, lr=0.05)
    return settings.override(Experiment(network=network, training=training, seed=seed), changes)


def network_of(experiment: Experiment) -> Network:
    """The network of an experiment that is the paper's."""
    assert isinstance(experiment.network, Network)
    return experiment.network


def pixels_of(split: Split) -> torch.Tensor:
    """All images of a split, as they are tested."""
    return split.plain(torch.arange(len(split.labels)))


def here(*words: str) -> Outcome:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: object = "main returned"
    with (
        patch.object(sys, "argv", ["cleanpath", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = 0 if end.code is None else end.code
    assert isinstance(code, int), code
    return Outcome(code, out.getvalue(), err.getvalue())


def outside(*words: str, cwd: Path, **environment: str) -> Outcome:
    """Run the command as `python -m cleanpath` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "cleanpath", *words],
        capture_output=True,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"),
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
        timeout=PATIENCE,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder below a folder: when it was written, and the digest of what it holds.

    When a lock was written is nothing: its holder renews it.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        held = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
        found[str(path.relative_to(folder))] = (0 if path.name == "lock" else path.stat().st_mtime_ns, held)
    return found


def measured(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics without their clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def without_clock(lines: bytes) -> bytes:
    """A metrics file, byte for byte, but for the numbers of its clock."""
    head, *rest = lines.split(b'"seconds": ')
    return b"".join([head, *(piece.lstrip(b"0123456789.e-") for piece in rest)])


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look again and again until it holds; give up after minutes."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


def small_disk(place: Path) -> list[str]:
    """Words before a command that may then mount a file system there, in a namespace of its own; else skip."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    mount = [*unshare, "mount", "-t", "tmpfs", "tmpfs", str(place)]
    if shutil.which("unshare") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return unshare


@contextlib.contextmanager
def nothing_written(*folders: Path) -> Iterator[None]:
    """Fail if a file or folder below comes, goes or changes while the block runs."""
    before = [tree(folder) for folder in folders]
    yield
    assert [tree(folder) for folder in folders] == before


def assert_user_error(outcome: Outcome, *words: str) -> None:
    """Exit code 2, nothing on stdout, one or two lines on stderr that start with `error:` and hold the words."""
    lines = outcome.err.splitlines()
    assert outcome.code == 2, outcome
    assert 1 <= len(lines) <= 2, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.err
    assert not outcome.out
    for word in words:
        assert word in outcome.err, f"{word!r} not in {outcome.err!r}"


def assert_same_run(one: Path, other: Path) -> None:
    """Same measurements, byte for byte but for the clock, and the same weights, byte for byte."""
    first, second = ((folder / "metrics.jsonl").read_bytes() for folder in (one, other))
    assert without_clock(first) == without_clock(second)
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
