"""Signals to real processes: what is kept, what is said, what is left running."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanpath import measures
from cleanpath.records import Run, runs_below
from tests.helpers import ONE, PATIENCE, Outcome, here, tree, wait_until

# Five cells, each long enough that a signal finds some of them ended and some not.
WORDS = (
    *("reproduce", "table2", "--workers", "2", "--json", *ONE),
    *("--set", "network.depth=8", "--set", "network.width=4", "--set", "training.warmup=1"),
    *("--set", "training.iterations=400"),
)
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


class Driver:
    """The command in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cleanpath", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            cwd=folder,
            start_new_session=True,
        )

    def end(self) -> Outcome:
        """Wait for the driver, whatever its workers do."""
        self.process.wait(PATIENCE)
        wait_until(lambda: not self.group(), "the end of all processes")
        out, err = self.process.communicate()
        return Outcome(self.process.returncode, out, err)

    def group(self) -> dict[int, str]:
        """The living processes of the group with their command lines."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid and fields[0] != "Z":
                    found[int(stat.parent.name)] = (stat.parent / "cmdline").read_text().replace("\0", " ")
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def finished(self) -> list[Run]:
        """The runs that have ended."""
        return [run for run in runs_below(self.folder / "runs") if run.result is not None]

    def amid(self) -> None:
        """Wait until a cell has ended and another is on its way, with more to come.

        Not until exactly two run: between two cells a quick machine may never show that to a slow look.
        """

        def now() -> bool:
            assert self.process.poll() is None, self.end()
            running = [run for run in runs_below(self.folder / "runs") if run.status == "running"]
            return bool(self.finished()) and bool(running)

        wait_until(now, "a finished cell and a running one")


def to_group(driver: Driver) -> None:
    os.killpg(driver.process.pid, signal.SIGINT)


def to_driver(driver: Driver) -> None:
    driver.process.terminate()


def rows(data: Any) -> Any:
    """The printed tables without what a clock says."""
    for table in data["tables"]:
        for row in table["rows"]:
            for seed in row["seeds"]:
                seed.pop("seconds")
    return data


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the command prints when nobody stops it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        outcome = here(*WORDS)
    assert outcome.code == 0, outcome.err
    return rows(outcome.json())


def trained(run: Run) -> dict[str, tuple[int, str]]:
    """What the training of a run left in its folder."""
    return {name: at for name, at in tree(run.folder).items() if name not in (measures.MEASURED, *measures.PROFILES)}


def go_on(folder: Path, command: str, kept: list[Run], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command as it was printed; the runs that had ended must stay as they were, but for being measured."""
    before = {run.name: trained(run) for run in kept}
    monkeypatch.chdir(folder)
    program, *words = shlex.split(command)
    assert program == "cleanpath"
    outcome = here(*words)
    assert outcome.code == 0, outcome.err
    assert {run.name: trained(run) for run in kept} == before
    return rows(outcome.json())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "name", "code"),
    [
        pytest.param(to_group, "SIGINT", 130, id="Ctrl-C"),
        pytest.param(to_driver, "SIGTERM", 143, id="SIGTERM"),
    ],
)
def test_stopped_reproduction_keeps_what_ended_and_goes_on(
    tmp_path: Path,
    undisturbed: Any,
    monkeypatch: pytest.MonkeyPatch,
    send: Callable[[Driver], None],
    name: str,
    code: int,
) -> None:
    driver = Driver(tmp_path, *WORDS)
    driver.amid()
    send(driver)
    outcome = driver.end()
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    last = outcome.err.splitlines()[-1]
    assert last.startswith(
        f"error: stopped by {name}; finished cells are kept; the tables as they stand: cleanpath report"
    )
    assert "; go on with: cleanpath reproduce" in last
    kept = driver.finished()
    assert 1 <= len(kept) < 5
    assert go_on(tmp_path, last.partition("go on with: ")[2], kept, monkeypatch) == undisturbed


@pytest.mark.slow
def test_killed_driver_leaves_no_worker_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(tmp_path, *WORDS)
    driver.amid()
    driver.process.kill()
    driver.end()
    kept = driver.finished()
    assert 1 <= len(kept) < 5
    assert not [run for run in runs_below(tmp_path / "runs") if run.failure is not None]
    assert go_on(tmp_path, shlex.join(["cleanpath", *WORDS]), kept, monkeypatch) == undisturbed


@pytest.mark.slow
def test_workers_of_a_killed_driver_end_amid_their_cells(tmp_path: Path) -> None:
    """They do not train to the end for nobody: cells of ten thousand iterations are left within a few."""
    driver = Driver(tmp_path, *WORDS[:-1], "training.iterations=10000")

    def running() -> list[Run]:
        return [run for run in runs_below(tmp_path / "runs") if any(run.metrics())]

    wait_until(lambda: len(running()) == 2, "two cells at work")
    driver.process.kill()
    driver.end()
    assert driver.finished() == []
    assert {run.status for run in running()} == {"interrupted"}


@pytest.mark.slow
def test_ctrl_c_at_the_very_start_prints_no_traceback(tmp_path: Path) -> None:
    driver = Driver(tmp_path, *WORDS)
    wait_until(lambda: any("forkserver" in line for line in driver.group().values()), "the fork server")
    # Python itself is up and on its way into torch when it has mapped numpy's or torch's libraries.
    wait_until(lambda: imports_torch(driver), "the import of torch")
    to_group(driver)
    outcome = driver.end()
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


def imports_torch(driver: Driver) -> bool:
    """Whether the fork server has begun to load torch."""
    for pid, line in driver.group().items():
        if "forkserver" in line:
            try:
                return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
            except FileNotFoundError:
                return False
    return False


def test_stopped_training_says_how_to_go_on_and_does_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "preresnet8", "--threads", "1", "--set", "network.width=4", "--set", "training.iterations=200")
    driver = Driver(tmp_path, *words, "--out", "a run")
    metrics = tmp_path / "a run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "the first measurement")
    driver.process.send_signal(signal.SIGINT)
    outcome = driver.end()
    assert outcome.code == 130, outcome
    assert "Traceback" not in outcome.err
    assert Run(tmp_path / "a run").status == "interrupted"
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: stopped by SIGINT; go on with: cleanpath train")
    monkeypatch.chdir(tmp_path)
    again = here(*shlex.split(last.partition("go on with: ")[2])[1:], "--json")
    assert again.json()["status"] == "finished"
    assert not Run(tmp_path / "a run").failure
    assert json.loads(again.out)["result"]["iterations"] == 200


@pytest.mark.slow
def test_two_trainings_of_one_folder_are_one_and_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "preresnet8", "--threads", "1", "--set", "network.width=4", "--set", "training.iterations=2000")
    driver = Driver(tmp_path, *words, "--out", "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "the first measurement")
    monkeypatch.chdir(tmp_path)
    second = here(*words, "--out", "run")
    driver.process.terminate()
    first = driver.end()
    assert first.code == 143
    assert second.code == 2
    assert f"is being written by process {driver.process.pid}" in second.err
