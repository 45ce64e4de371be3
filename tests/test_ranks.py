"""One run shared by several processes is the run of one process, and ends well when one of them does not."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from benchmarks.rank_kills import lives
from cleanpath import assemble, launched, settings
from cleanpath.errors import RankLostError, RunError, SettingError
from cleanpath.experiment import Training
from cleanpath.launched import joined, speaks
from cleanpath.naming import default_name
from cleanpath.records import Run
from cleanpath.training.losses import Loss, Mixing
from cleanpath.training.ranks import ALONE, Ranks, lost
from tests.helpers import (
    PATIENCE,
    assert_same_run,
    assert_user_error,
    examples,
    here,
    measured,
    outside,
    tiny,
    wait_until,
)
from tests.ranks_child import CASES, diverged, trained

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ("train", "preresnet8", "--threads", "1", "--set", "network.width=4", "--set", "training.batch_size=32")
GROUPS = ("--set", "training.bn_group=8")
LONG = ("--set", "training.iterations=100000", "--save-every", "0.5")
LOST = re.compile(
    r"error: (process \d of this run \(pid \d+\)|another process of this run) is gone.* what was saved is kept"
)
LAUNCHED: list[subprocess.Popen[str]] = []


def launch(count: int, *words: str, cwd: Path, restarts: int = 0) -> subprocess.Popen[str]:
    """Have torchrun start so many processes of a module."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", f"--max-restarts={restarts}"]
    LAUNCHED.append(
        subprocess.Popen(
            [sys.executable, "-m", *torchrun, "-m", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    )
    return LAUNCHED[-1]


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """What a test that failed had started is ended."""
    yield
    for process in LAUNCHED:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
        process.communicate()
    LAUNCHED.clear()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How it ended, and what it said."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def workers(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes that torchrun started, by rank."""
    found = {}
    for child in psutil.Process(process.pid).children():
        try:
            found[int(child.environ()["RANK"])] = child
        except (psutil.Error, KeyError):
            continue
    return found


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes came to in every case."""
    folder = tmp_path_factory.mktemp("two")
    code, _, err = ended(launch(2, "tests.ranks_child", str(folder), cwd=ROOT))
    assert code == 0, err
    return folder


def assert_as_alone(folder: Path, count: int, name: str) -> None:
    """All ranks have the same bits, and those of one process to the rounding of sums."""
    number = list(CASES).index(name)
    files = [load_file(folder / f"{number}-{rank}.safetensors") for rank in range(count)]
    alone = trained(CASES[name], ALONE)
    for other in files[1:]:
        assert all(torch.equal(files[0][key], other[key]) for key in alone if key != "result")
    for key, expected in alone.items():
        found = files[0][key]
        if expected.is_floating_point():
            scale = max(1.0, float(expected.abs().max()))
            assert float((found - expected).abs().max()) <= 1e-9 * scale, (key, float((found - expected).abs().max()))
        else:
            assert torch.equal(found, expected), key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_come_to_what_one_comes_to(of_two: Path, name: str) -> None:
    assert_as_alone(of_two, 2, name)


def test_ranks_that_diverge_say_the_same_as_one_process(of_two: Path) -> None:
    said = [(of_two / f"said-{rank}.txt").read_text(encoding="utf-8").splitlines() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0] == [diverged(what, ALONE) for what in ("image", "gradient", "weight")]
    assert ["the images of the batch" in said[0][0], "gradient norm" in said[0][1], "parameter" in said[0][2]] == [
        True
    ] * 3


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 4])
def test_more_processes_come_to_what_one_comes_to(count: int, tmp_path: Path) -> None:
    code, _, err = ended(launch(count, "tests.ranks_child", str(tmp_path), cwd=ROOT))
    assert code == 0, err
    for name in CASES:
        assert_as_alone(tmp_path, count, name)


@pytest.mark.slow
def test_torchrun_shares_a_run_that_one_process_goes_on_with(tmp_path: Path) -> None:
    words = (*TRAIN, *GROUPS, "--set", "training.iterations=60", "--out", "run")
    code, out, err = ended(launch(2, "cleanpath", *words, "--json", cwd=tmp_path))
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert err.count("1/1 done") == 1
    assert Run(tmp_path / "run").environment["processes"] == 2
    whole = measured(tmp_path / "run")
    assert [line["iteration"] for line in whole if "loss" in line] == list(range(1, 61))
    # Again, and nothing is done; with another experiment, one sentence.
    code, _, err = ended(launch(2, "cleanpath", *words, cwd=tmp_path))
    assert code == 0
    assert err.count("ended before; nothing to do") == 1
    code, _, err = ended(launch(2, "cleanpath", *words, "--set", "training.lr=0.3", cwd=tmp_path))
    assert code == 1
    assert err.count("error: run holds another experiment") == 1
    assert (
        "Traceback (most recent call last):\n  File"
        not in err.partition("ChildFailedError")[0].partition("Traceback")[0]
    )


def test_what_is_for_one_process_is_refused_under_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr("cleanpath.cli.speaks", lambda _: True)
    monkeypatch.chdir(tmp_path)
    assert_user_error(here("reproduce", "table1"), "cleanpath reproduce is one process", "torchrun is for `train`")
    assert_user_error(here("list", "networks"), "cleanpath list is one process")
    assert_user_error(here("train", "preresnet8", "--dry-run"), "cleanpath train --dry-run is one process")


@pytest.mark.slow
def test_more_processes_than_groups_are_refused_once(tmp_path: Path) -> None:
    words = (*TRAIN, "--set", "training.iterations=9", "--set", "training.bn_group=32", "--out", "run")
    code, _, err = ended(launch(2, "cleanpath", *words, cwd=tmp_path))
    assert code == 1
    assert err.count("error: 2 processes share 1 group of training.bn_group=32 that pass at once") == 1


IDLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        self.idle = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x):
        return self.body(x)

def make(num_classes):
    return Net(num_classes)
"""


@pytest.mark.slow
def test_weights_without_a_gradient_are_named_and_no_run_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(IDLE, encoding="utf-8")
    words = ("train", "net.py:make", "--threads", "1", "--set", "training.iterations=1", "--out", "run")
    code, _, err = ended(launch(2, "cleanpath", *words, cwd=tmp_path))
    assert code == 1
    named = "4 of 6 weights get no gradient: idle.0.weight, idle.0.bias, idle.1.weight, …; several processes"
    assert err.count(f"error: {named} would wait for it: freeze such weights") == 1
    assert "frozen." not in err
    assert not (tmp_path / "run").exists()
    # One process has nobody to wait for it.
    monkeypatch.chdir(tmp_path)
    assert here(*words).code == 0


@given(
    count=st.integers(1, 8),
    size=st.none() | st.integers(2, 6),
    groups=st.integers(1, 12),
    parts=st.integers(1, 3),
    mixup=st.sampled_from((0.0, 0.4)),
)
@examples
def test_shares_are_whole_groups_and_make_the_batch(
    count: int, size: int | None, groups: int, parts: int, mixup: float
) -> None:
    micro = groups * (size or 2)
    training = Training(iterations=1, batch_size=micro * parts, accumulation=parts, bn_group=size, mixup=mixup)
    if (groups if size else micro) < count:
        with pytest.raises(SettingError, match=f"{count} processes share"):
            Ranks(0, count).share(training)
        return
    ranks = [Ranks(rank, count) for rank in range(count)]
    shares = [one.share(training) for one in ranks]
    assert [place for share in shares for place in share] == list(range(micro))
    assert all(share.start % (size or 1) == 0 and share.stop % (size or 1) == 0 for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= (size or 1)
    own = [one.places(training) for one in ranks]
    assert sorted(torch.cat(own).tolist()) == list(range(micro * parts))
    # Losses of the ranks have the batch's as their mean, and every image meets the partner that it has alone.
    x, y = torch.rand(micro * parts, 1), torch.zeros(micro * parts, dtype=torch.long)
    whole = Mixing(training, 3)(x, y, 1)
    logits = torch.rand(micro * parts, 4)
    labels = torch.randint(4, (micro * parts,))
    losses = []
    for one, places in zip(ranks, own, strict=True):
        mixing = Mixing(training, 3, one)
        assert torch.equal(mixing(x[mixing.places], y[mixing.places], 1).images, whole.images[places])
        loss = Loss(training, labels, one)
        pieces = zip(logits[places].chunk(parts), labels[places].chunk(parts), strict=True)
        losses.append(sum(float(loss(a, b, b, 1.0)) for a, b in pieces))
    alone = Loss(training, labels)
    expected = sum(float(alone(a, b, b, 1.0)) for a, b in zip(logits.chunk(parts), labels.chunk(parts), strict=True))
    assert sum(losses) / count == pytest.approx(expected, rel=1e-5)


def test_an_exchange_that_fails_is_told_in_words() -> None:
    closed = "[/torch/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:29"
    late = "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete"
    assert "is gone" in str(lost(RuntimeError(closed)))
    assert "does not answer" in str(lost(RuntimeError(late)))
    assert lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert RankLostError("x").exit_code == 1


def test_a_launcher_that_is_gone_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2", "RANK": "1"}
    for name, value in {**found, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(RankLostError, match="torchrun, which started this process, is gone"), joined(300):
        pass
    assert speaks("with nobody to ask it is told")
    assert time.monotonic() - began < 60  # an unanswered store of torch's is tried for 5 minutes


def test_a_process_whose_others_do_not_come_says_how_many_are_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # as torchrun keeps it
    found = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "3", "RANK": "1"}
    for name, value in {**found, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launched, "_QUIET", 0.5)
    with pytest.raises(RankLostError, match="1 of 3 processes came within 3 seconds; look for the error"), joined(3):
        pass
    del server
    assert capfd.readouterr().err.count("1 of 3 processes are here; waiting for the others, 3 seconds in all") == 1


class Second(Ranks):
    """The second of two, which is alone here."""

    def same(self, what: str, value: object) -> None:
        """The other one has the same."""

    def led(self, act: Callable[[], object]) -> None:
        """The other one does it."""


def test_a_folder_that_the_first_rank_is_writing_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment.json").write_text('{"half', encoding="utf-8")
    (tmp_path / "checkpoint-000000001-0.safetensors").write_bytes(b"")

    def reach(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(assemble, "train", reach)
    with pytest.raises(Reached):
        assemble.run(tiny(iterations=3), tmp_path, threads=1, ranks=Second(1, 2))


class Reached(Exception):  # noqa: N818 (no error)
    """The training would begin."""


def test_ranks_draw_other_numbers() -> None:
    seeds = {Ranks(rank, 4).seed(seed, iteration) for rank in range(4) for seed in range(3) for iteration in (0, 7)}
    assert len(seeds) == 24


def started(
    process: subprocess.Popen[str], run: Path, beyond: int = 0, count: int = 2
) -> tuple[dict[int, psutil.Process], int]:
    """The workers, once there is a checkpoint beyond an iteration; and its iteration."""
    wait_until(lambda: _saved(run) > beyond or process.poll() is not None, "a checkpoint")
    assert process.poll() is None, process.communicate()[1]
    found = workers(process)
    assert sorted(found) == list(range(count))
    return found, _saved(run)


def _saved(run: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoint-*")), default=0)


@pytest.mark.slow
def test_a_killed_rank_takes_the_others_with_it_in_seconds(tmp_path: Path) -> None:
    process = launch(2, "cleanpath", *TRAIN, *GROUPS, *LONG, "--out", "run", cwd=tmp_path)
    found, _ = started(process, tmp_path / "run")
    found[1].kill()
    began = time.monotonic()
    wait_until(lambda: not lives(found[0]), "the survivor's end")
    took = time.monotonic() - began
    code, _, err = ended(process)
    assert code == 1
    assert LOST.search(err), err
    assert took < 60  # seconds; results/rank-kills.jsonl has the figures of an idle machine
    assert Run(tmp_path / "run").status == "interrupted"


@pytest.mark.slow
def test_a_rank_killed_at_the_very_start_takes_the_others_with_it_in_words(tmp_path: Path) -> None:
    process = launch(2, "cleanpath", *TRAIN, *GROUPS, *LONG, "--out", "run", cwd=tmp_path)
    wait_until(lambda: len(workers(process)) == 2, "the processes")
    found = workers(process)
    # Its signals are blocked once it watches its start.
    wait_until(lambda: _blocks_sigterm(found[0]), "the watch")
    found[1].kill()
    wait_until(lambda: not lives(found[0]), "the other's end")
    code, _, err = ended(process)
    assert code == 1
    assert "error: process 0 of this run ends before it has begun: all were stopped, or another one is gone" in err


def _blocks_sigterm(process: psutil.Process) -> bool:
    words = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").split()
    return bool(int(words[words.index("SigBlk:") + 1], 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed_and_the_run_is_the_same(tmp_path: Path) -> None:
    words: tuple[str, ...] = (*TRAIN, *GROUPS, "--set", "training.iterations=1500", "--save-every", "0.3")
    words += ("--set", "network.shortcut.kind=dropout", "--set", "network.shortcut.rate=0.1")
    code, _, err = ended(launch(2, "cleanpath", *words, "--out", "whole", cwd=tmp_path))
    assert code == 0, err
    # `--fresh` is for the first try.
    process = launch(2, "cleanpath", *words, "--out", "hunted", "--fresh", cwd=tmp_path, restarts=2)
    at = 0
    for victim in (1, 0):
        found, at = started(process, tmp_path / "hunted", beyond=at)
        found[victim].kill()
        wait_until(
            lambda found=found: (
                process.poll() is not None
                or not set(map(_pid, workers(process).values())) & set(map(_pid, found.values()))
            ),  # type: ignore[misc]
            "torchrun's next try",
        )
    code, _, err = ended(process)
    assert code == 0, err
    assert "going on after iteration" in err
    assert_same_run(tmp_path / "whole", tmp_path / "hunted")


def _pid(process: psutil.Process) -> int:
    return int(process.pid)


@pytest.mark.slow
def test_with_the_launcher_gone_the_run_saves_and_ends(tmp_path: Path) -> None:
    process = launch(2, "cleanpath", *TRAIN, *GROUPS, *LONG, "--out", "run", cwd=tmp_path)
    found, _ = started(process, tmp_path / "run")
    process.kill()
    wait_until(lambda: not any(map(lives, found.values())), "the end of both")
    process.communicate()
    assert Run(tmp_path / "run").status == "interrupted"
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.slow
def test_a_stopped_rank_is_found_by_the_time_limit(tmp_path: Path) -> None:
    process = launch(2, "cleanpath", *TRAIN, *GROUPS, *LONG, "--patience", "5", "--out", "run", cwd=tmp_path)
    found, _ = started(process, tmp_path / "run")
    found[1].send_signal(signal.SIGSTOP)
    wait_until(lambda: process.poll() is not None or not lives(found[0]), "the end of the other")
    found[1].send_signal(signal.SIGCONT)
    code, _, err = ended(process)
    assert code == 1
    assert "another process of this run does not answer" in err or LOST.search(err)
    assert Run(tmp_path / "run").status == "interrupted"


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    words = (*TRAIN, *GROUPS, "--set", "training.iterations=900", "--save-every", "0.3", "--out", "run")
    process = launch(2, "cleanpath", *words, cwd=tmp_path)
    started(process, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code != 0
    assert err.count("stopped by SIGTERM; go on with: torchrun --nproc-per-node 2 -m cleanpath train") == 1
    run = tmp_path / "run"
    at = _saved(run)
    shutil.copytree(run, tmp_path / "three")
    code, _, err = ended(launch(3, "cleanpath", *words[:-1], "three", cwd=tmp_path))
    assert code == 0, err
    assert "processes was 2 and is now 3" in err
    one = outside(*words, cwd=tmp_path)
    assert one.code == 0
    assert f"going on after iteration {at}" in one.err
    assert "processes was 2 and is now 1" in one.err
    first, second = (Run(tmp_path / name).result or {} for name in ("run", "three"))
    assert first["iterations"] == second["iterations"] == 900
    assert abs(first["error"] - second["error"]) < 5


def test_other_experiments_on_two_machines_are_refused() -> None:
    with pytest.raises(RunError, match="process 1 has other experiment than process 0"):
        _Pretended(["a", "b"]).same("experiment", "a")
    _Pretended(["a", "a"]).same("experiment", "a")


class _Pretended(Ranks):
    """Two ranks, of which one is made up."""

    def __init__(self, values: list[str]) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "values", values)

    def gathered(self, value: object) -> list[object]:  # type: ignore[override]
        return [value, *self.values[1:]]  # type: ignore[attr-defined]


def test_the_folder_of_ranks_has_a_name_of_its_own() -> None:
    name = default_name(tiny(), ranks=True)
    assert name == f"{default_name(tiny())}-ranks"
    assert settings.digest(tiny()) in name
