"""A run that was stopped, killed or damaged anywhere ends as one that was not: every bit of its metrics and weights."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cleanpath import assemble
from cleanpath.errors import Request, RunError, Stopped
from cleanpath.experiment import Experiment
from cleanpath.keeping import RunKeeper, checkpoints
from cleanpath.records import Run
from cleanpath.training.progress import Progress, Stepped
from tests.helpers import PATIENCE, measured, small_disk, tiny, wait_until

# An epoch of the digits is 40.5 batches of 32: the run is tested in the middle and at its end.
LENGTH = 50
OPTIMIZERS: Sequence[tuple[str, ...]] = (
    ("training.nesterov=true",),
    ("training.optimizer=caffe_sgd",),
    ("training.optimizer=adamw", "training.lr=0.002"),
)
SCHEDULES: Sequence[tuple[str, ...]] = (
    ("training.warmup=5",),
    ("training.schedule=cosine", "training.warmup=5", "training.warmup_shape=linear"),
)
EXTRAS: Sequence[tuple[str, ...]] = (
    (),
    ("training.average=0.9",),
    ("training.accumulation=4", "training.bn_group=4"),
    ("training.mixup=0.3", "training.label_smoothing=0.1", "training.class_weights=balanced"),
    ("training.bn_images=200", "training.average=0.8"),
    ("network.shortcut.kind=dropout", "network.shortcut.rate=0.2"),
)
COMBINATIONS = [(*a, *b, *c) for a, b, c in itertools.product(OPTIMIZERS, SCHEDULES, EXTRAS)]
# Every fifth is in the default tier: all optimizers, schedules and extras are among them.
SOME = [
    pytest.param(changes, id=" ".join(changes), marks=[pytest.mark.slow] if at % 5 else [])
    for at, changes in enumerate(COMBINATIONS)
]


def run(folder: Path, experiment: Experiment, stops: Sequence[int] = (), loaders: int = 0) -> list[str]:
    """Train, asked to stop after these iterations and started again each time; what was said."""
    said = list[str]()
    for stop in (*stops, None):
        request = Request()

        def on_step(progress: Progress, stop: int | None = stop, request: Request = request) -> None:
            if progress.iteration == stop:
                request.signal_number = int(signal.SIGTERM)

        if stop is None:
            assemble.run(experiment, folder, threads=1, loaders=loaders, say=said.append)
        else:
            with pytest.raises(Stopped):
                assemble.run(
                    experiment, folder, threads=1, callbacks=[Stepped(on_step)], request=request, say=said.append
                )
            assert Run(folder).status == "interrupted"
    return said


def assert_same(one: Path, other: Path) -> None:
    assert measured(one) == measured(other)
    assert Run(one).weights.read_bytes() == Run(other).weights.read_bytes()
    results = [
        {k: v for k, v in (Run(f).result or {}).items() if k not in {"seconds", "peak_memory"}} for f in (one, other)
    ]
    assert results[0] == results[1]
    assert not checkpoints(Run(one))


@pytest.mark.parametrize("changes", SOME)
def test_resumed_is_uninterrupted_bitwise(tmp_path: Path, changes: tuple[str, ...]) -> None:
    experiment = tiny(*changes, iterations=LENGTH)
    run(tmp_path / "whole", experiment)
    said = run(tmp_path / "stopped", experiment, stops=(1, 40, 41, LENGTH))
    assert said == [f"going on after iteration {stop}" for stop in (1, 40, 41, LENGTH)]
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(
    "changes",
    [
        ("training.precision=bf16", "training.clip=0.5", "training.fused=true"),
        ("training.precision=bf16", "training.memory=recompute", "network.depth=20", "training.accumulation=2"),
        pytest.param(
            ("training.compile=true", "training.clip=0.5", "training.fused=true", "training.bn_group=8"),
            # torch's own compiler looks at a gradient that it says not to look at.
            marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not")],
        ),
    ],
    ids=" ".join,
)
def test_resumed_is_uninterrupted_however_the_passes_are_made(tmp_path: Path, changes: tuple[str, ...]) -> None:
    experiment = tiny(*changes, iterations=12)
    run(tmp_path / "whole", experiment)
    run(tmp_path / "stopped", experiment, stops=(1, 7))
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_processes_that_prepare_batches_change_nothing(tmp_path: Path) -> None:
    experiment = tiny(iterations=12)
    run(tmp_path / "here", experiment)
    run(tmp_path / "there", experiment, stops=(5,), loaders=2)
    assert_same(tmp_path / "there", tmp_path / "here")


def test_a_stop_amid_a_test_is_obeyed_and_the_test_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny(iterations=LENGTH)
    run(tmp_path / "whole", experiment)
    request, asked = Request(), 0

    def stopping(_: RunKeeper) -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first is asked at the end of no step: only tests ask without saving
            request.signal_number = int(signal.SIGINT)
        return request.signal_number is not None

    monkeypatch.setattr(RunKeeper, "stopping", property(stopping))
    monkeypatch.setattr(RunKeeper, "due", property(lambda _: request.signal_number is not None))
    with pytest.raises(Stopped):
        assemble.run(experiment, tmp_path / "stopped", threads=1, request=request)
    monkeypatch.undo()
    run(tmp_path / "stopped", experiment)
    assert_same(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_loaders_end_with_a_run_that_is_killed(tmp_path: Path, method: str) -> None:
    """From a server they are children of the server, for which torch's own watch takes their run."""
    psutil = pytest.importorskip("psutil")
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {method} here")
    code = (
        "import multiprocessing, sys\n"
        "from cleanpath.cli import main\n"
        f"multiprocessing.set_start_method({method!r})\n"
        "main()"
    )
    words = [sys.executable, "-c", code, "train", "preresnet8", "--threads", "1", "--out", "run", "--loaders", "2"]
    words += ["--set", "network.width=4", "--set", "training.iterations=100000"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "the first measurement")
    loaders = psutil.Process(process.pid).children(recursive=True)
    assert len(loaders) >= 2
    process.kill()
    process.wait()

    def running() -> list[Any]:
        return [one for one in loaders if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    deadline = time.monotonic() + 30
    while running() and time.monotonic() < deadline:
        time.sleep(0.2)
    left = running()
    for one in left:
        one.kill()
    assert not left, f"{len(left)} of {len(loaders)} go on"


def stopped_twice(folder: Path) -> tuple[Path, Path]:
    """A run with two checkpoints; the newer and the older one."""
    with pytest.raises(Stopped):
        _until(folder, 10)
    with pytest.raises(Stopped):
        _until(folder, 20)
    newer, older = checkpoints(Run(folder))
    return newer, older


def _until(folder: Path, last: int) -> None:
    request = Request()

    def on_step(progress: Progress) -> None:
        if progress.iteration == last:
            request.signal_number = int(signal.SIGTERM)

    assemble.run(tiny(iterations=LENGTH), folder, threads=1, callbacks=[Stepped(on_step)], request=request)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty])
@pytest.mark.parametrize("both", [False, True], ids=["the newer", "both"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path, damage: Any, *, both: bool) -> None:
    run(tmp_path / "whole", tiny(iterations=LENGTH))
    newer, older = stopped_twice(tmp_path / "run")
    damage(newer)
    if both:
        damage(older)
    said = run(tmp_path / "run", tiny(iterations=LENGTH))
    assert said[0].startswith(f"{newer.name} is damaged")
    assert said[-1] == ("going on after iteration 10" if not both else said[1])
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_metrics_that_are_shorter_than_a_checkpoint_send_it_back(tmp_path: Path) -> None:
    run(tmp_path / "whole", tiny(iterations=LENGTH))
    stopped_twice(tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-30])
    said = run(tmp_path / "run", tiny(iterations=LENGTH))
    assert said[-1] == "going on after iteration 10"
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", tiny(iterations=LENGTH))
    with pytest.raises(Stopped):
        _until(tmp_path / "run", 10)
    (before,) = checkpoints(Run(tmp_path / "run"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        _until(tmp_path / "run", 20)
    monkeypatch.undo()
    assert checkpoints(Run(tmp_path / "run")) == [before]
    assert not list((tmp_path / "run").glob(".*"))
    run(tmp_path / "run", tiny(iterations=LENGTH))
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "name", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGUSR1"))]
)
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path, name: str) -> None:
    words = [sys.executable, "-m", "cleanpath", "train", "preresnet8", "--threads", "1", "--out", "run"]
    words += ["--set", "network.width=4", "--set", "training.iterations=400"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "the first measurement")
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + getattr(signal, name), said
    assert said.splitlines()[-1].startswith(f"error: stopped by {name}; go on with: cleanpath train preresnet8")
    (kept,) = checkpoints(Run(tmp_path / "run"))
    reached = int(kept.name.split("-")[1])
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True, timeout=PATIENCE)
    assert f"going on after iteration {reached}" in done.stderr
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["iteration"] for line in lines if "lr" in line] == list(range(1, 401))


def test_a_run_begun_anew_forgets_its_checkpoints(tmp_path: Path) -> None:
    from cleanpath.records import forget

    stopped_twice(tmp_path / "run")
    forget([Run(tmp_path / "run")])
    assert not checkpoints(Run(tmp_path / "run"))
    assert run(tmp_path / "run", tiny(iterations=LENGTH)) == []


def test_random_state_of_the_caller_is_as_before(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(tmp_path / "run", tiny(iterations=6), stops=(3,))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    """As on a disk that is full: the system refuses the write in the middle of a file."""
    resource = pytest.importorskip("resource")
    words = [
        sys.executable,
        "-m",
        "cleanpath",
        "train",
        "preresnet8",
        "--threads",
        "1",
        "--out",
        "run",
        "--save-every",
        "0",
    ]
    words += ["--set", "network.width=4", "--set", "training.iterations=20"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=PATIENCE, preexec_fn=limited
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written: File too large" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run").glob(".*")), "no half file is left"
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True, timeout=PATIENCE)
    assert "error" in again.stdout
    assert Run(tmp_path / "run").status == "finished"


DISK = """
set -e
mount -t tmpfs -o size=1m tmpfs disk
cd disk
dd if=/dev/zero of=filler bs=1k count=650 2> /dev/null
if "$@" --out run --save-every 0 2> ../full; then exit 3; fi
rm -f filler
"$@" --out run 2> ../on
cp -r run ../done
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_once_there_is_room(tmp_path: Path) -> None:
    """On a file system of 1 MB, most of it taken, in a namespace of its own, where the system lets us mount one."""
    words = [sys.executable, "-m", "cleanpath", "train", "preresnet20", "--threads", "1"]
    words += ["--set", "network.width=4", "--set", "training.iterations=30"]
    (tmp_path / "disk").mkdir()
    unshare = small_disk(tmp_path / "disk")
    whole = subprocess.run([*words, "--out", "whole"], cwd=tmp_path, capture_output=True, check=False, timeout=PATIENCE)
    assert whole.returncode == 0
    done = subprocess.run(
        [*unshare, "sh", "-c", DISK, "sh", *words],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in (tmp_path / "full").read_text()
    assert (tmp_path / "full").read_text().splitlines()[-1].startswith("error: ")
    assert_same(tmp_path / "done", tmp_path / "whole")
