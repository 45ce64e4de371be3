"""Run folders: what is written when, what survives a crash, and who may write."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cleanpath import locking, records, settings, writing
from cleanpath.errors import HeldError, RunError
from cleanpath.experiment import Experiment
from cleanpath.naming import default_name
from cleanpath.records import Run, Writer, check_folder, record_failure, remove_bare, runs_below
from tests.helpers import assert_same_run, nothing_written, tiny, tree

RESULT = {"status": "finished", "error": 1.5, "iterations": 6}


def finished(folder: Path, experiment: Experiment | None = None) -> Run:
    """A run of two measurements, without training."""
    with Writer(folder, experiment or tiny(), {"threads": 1}) as writer:
        writer.append({"iteration": 1, "loss": 2.0})
        writer.append({"iteration": 2, "loss": 1.0})
        writer.save_weights(b"weights")
        writer.finish(RESULT)
    return Run(folder)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_run_gives_back_what_was_written(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    assert (run.experiment, run.environment, run.result) == (tiny(), {"threads": 1}, RESULT)
    assert [line["loss"] for line in run.metrics()] == [2.0, 1.0]
    assert (run.status, run.failure, run.name) == ("finished", None, "run")
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "environment.json",
        "experiment.json",
        "metrics.jsonl",
        "result.json",
        "weights.safetensors",
    ]


def test_experiment_stands_in_the_run_whole(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    assert json.loads((run.folder / "experiment.json").read_text()) == settings.to_data(tiny())


def test_result_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanpath import assemble

    written = []
    plain = writing.write

    def spy(path: Path, data: bytes) -> None:
        written.append(path.name)
        if path.name == "result.json":
            assert (path.parent / "weights.safetensors").is_file()
            assert len((path.parent / "metrics.jsonl").read_text().splitlines()) == 7
            assert Run(path.parent).status == "running"
        plain(path, data)

    monkeypatch.setattr(records, "write", spy)
    run = assemble.run(tiny(), tmp_path / "run", threads=1)
    assert written == [
        "experiment.json",
        "environment.json",
        "weights.safetensors",
        "preparation.safetensors",
        "result.json",
    ]
    assert run.status == "finished"


@pytest.mark.parametrize(
    ("where", "name"), [(os, "fsync"), (Path, "replace"), (Path, "open")], ids=["fsync", "replace", "open"]
)
def test_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    path = tmp_path / "file.json"
    writing.write(path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(where, name, full_disk)
        with pytest.raises(RunError, match=r"file\.json cannot be written: No space left on device"):
            writing.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.json"]


def test_write_syncs_the_data_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def spy_sync(descriptor: int) -> None:
        steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")  # noqa: PTH112
        sync(descriptor)

    def spy_replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        assert path.parent == target.parent
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    writing.write(tmp_path / "file", b"data")
    assert steps == ["sync file", "rename", "sync folder"]


def test_write_that_fails_anywhere_costs_the_try_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nth write of a run fails, for every n: the run does not count as done, and the next try makes it whole."""
    from cleanpath import assemble

    plain = writing.write
    undisturbed = assemble.run(tiny(iterations=2), tmp_path / "undisturbed", threads=1)
    for failing in range(1, 5):
        folder = tmp_path / f"failing{failing}"
        count = 0

        def sometimes(path: Path, data: bytes, failing: int = failing) -> None:
            nonlocal count
            count += 1
            if count == failing:
                raise RunError(f"{path} cannot be written: No space left on device")
            plain(path, data)

        with monkeypatch.context() as patched:
            patched.setattr(records, "write", sometimes)
            with pytest.raises(RunError, match="cannot be written"):
                assemble.run(tiny(iterations=2), folder, threads=1)
        assert Run(folder).status != "finished"
        assert_same_run(assemble.run(tiny(iterations=2), folder, threads=1).folder, undisturbed.folder)


def test_lock_is_given_back_when_the_first_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(RunError, match="No space left"):
            finished(tmp_path / "run")
    assert finished(tmp_path / "run").status == "finished"


def test_full_disk_amid_a_run_is_named_and_the_lock_given_back(tmp_path: Path) -> None:
    """/dev/full takes the place of the metrics: every write to it fails as on a full disk, its closing too."""

    def measure() -> None:
        with Writer(tmp_path / "run", tiny(), {}) as writer:
            writer._metrics.close()
            writer._metrics = Path("/dev/full").open("wb")  # noqa: SIM115
            writer.append({"iteration": 1, "loss": 2.0})

    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written: No space left on device"):
        measure()
    assert not (tmp_path / "run" / "lock").exists()


def test_last_line_that_was_cut_ends_the_metrics(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    path = run.folder / "metrics.jsonl"
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert len(list(run.metrics())) == whole[:end].count(b"\n")


def test_damaged_line_of_metrics_is_named(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (run.folder / "metrics.jsonl").write_bytes(b'{"iteration": 1, "loss": 2.0}\n\0\0\0\n{"iteration": 3}\n')
    with pytest.raises(RunError, match="damaged"):
        list(run.metrics())


def test_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert list(Run(tmp_path).metrics()) == []


KILLED = """
import os, pathlib, signal, sys
from cleanpath import locking, records
from tests.helpers import tiny
folder, last = pathlib.Path(sys.argv[1]), sys.argv[2]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if last == "mkdir":
    records.acquire = die
elif last == "link":
    os.link = die
elif last == "look":
    folder.mkdir()
    pathlib.Path.unlink = die
    locking._now_there(folder / "lock")
elif last == "lock":
    records._write_json = die
else:
    pathlib.Path.replace = die
with records.Writer(folder, tiny(), {}):
    pass
"""


def test_status_follows_the_life_of_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    writer = Writer(run.folder, tiny(), {})
    with writer:
        assert run.status == "running"
    assert run.status == "interrupted"
    with Writer(run.folder, tiny(), {}) as writer:
        writer.fail("out of memory")
    assert (run.status, run.failure) == ("failed", "out of memory")
    assert finished(run.folder).status == "finished"
    assert run.failure is None
    (run.folder / "result.json").write_bytes(b'{"status": "fini')
    assert run.status == "damaged"
    with pytest.raises(RunError, match=r"result\.json is damaged .*train again"):
        _ = run.result


def test_run_that_has_ended_is_not_written_again_unasked(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    before = tree(run.folder)
    with pytest.raises(RunError, match="has ended; there is nothing to do"), Writer(run.folder, tiny(), {}):
        pass
    assert tree(run.folder) == before


def test_run_that_is_trained_again_does_not_count_as_done_meanwhile(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    records.forget([run])
    with Writer(run.folder, tiny(), {}):
        assert (run.result, run.status, run.weights.exists()) == (None, "running", False)
        assert list(run.metrics()) == []


def test_forgotten_run_is_one_to_train(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    records.forget([run])
    assert (run.status, run.result) == ("interrupted", None)
    with Writer(run.folder, tiny(), {}), pytest.raises(RunError, match="is being written by process"):
        records.forget([run])


def lock(folder: Path, **changes: Any) -> None:
    """Write a lock as this process would, with changes."""
    folder.mkdir(exist_ok=True)
    mine = {**locking._here(), "pid": os.getpid(), "started": locking.started(os.getpid())}
    (folder / "lock").write_text(json.dumps({**mine, **changes}))


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    lock(tmp_path / "run", pid=process.pid)
    assert Run(tmp_path / "run").status != "running"
    assert finished_again(tmp_path / "run") == "finished"


def test_lock_of_an_earlier_process_with_our_number_is_taken_over(tmp_path: Path) -> None:
    lock(tmp_path / "run", started="1")
    assert finished_again(tmp_path / "run") == "finished"


def finished_again(folder: Path) -> str:
    """The status after the folder, which was a run, is written once more."""
    (folder / "experiment.json").write_text(json.dumps(settings.to_data(tiny())))
    return finished(folder).status


def test_lock_of_a_living_process_is_refused_with_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with (
        Writer(folder, tiny(), {}),
        nothing_written(tmp_path),
        pytest.raises(RunError, match=rf"is being written by process {os.getpid()}; wait for it, or end it"),
    ):
        finished(folder)
    assert finished(folder).status == "finished"


def test_lock_of_another_host_is_refused_with_the_file_to_remove(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run").folder
    lock(folder, host="elsewhere", pid=4711)
    with nothing_written(tmp_path), pytest.raises(RunError, match=r"process 4711 on elsewhere .*remove .*run/lock"):
        finished(folder)


def test_lock_of_another_container_of_this_host_is_no_dead_process_s(tmp_path: Path) -> None:
    """Its numbers of processes are others than ours: one that we do not see may live."""
    folder = finished(tmp_path / "run").folder
    lock(folder, processes="pid:[1]", pid=999_999_999)
    with (
        nothing_written(tmp_path),
        pytest.raises(
            HeldError, match=r"process 999999999 on .*, in another container or before it was started anew .*run/lock"
        ),
    ):
        finished(folder)


def test_lock_is_there_with_its_content_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a kill at any moment, leaves no empty one, which nobody could tell from a living process's."""
    lock_file, seen = tmp_path / "lock", list[bytes]()
    plain = os.link

    def spy(one: Path, other: Path) -> None:
        assert not lock_file.exists()
        plain(one, other)
        seen.append(lock_file.read_bytes())

    monkeypatch.setattr(os, "link", spy)
    locking.acquire(lock_file)
    assert json.loads(seen[0])["pid"] == os.getpid()
    lock_file.unlink()
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        locking.acquire(lock_file)
    assert list(tmp_path.iterdir()) == []


def test_lock_on_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    locking.acquire(tmp_path / "lock")
    assert locking.holder_of(tmp_path / "lock") == f"process {os.getpid()}"
    with pytest.raises(HeldError):
        locking.acquire(tmp_path / "lock")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_lock_that_was_cut_names_the_file_to_remove(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run").folder
    (folder / "lock").write_bytes(b"")
    with pytest.raises(RunError, match="run/lock"):
        finished(folder)


@pytest.mark.parametrize("content", [b"5", b"{}", b"[]", b'{"host": "elsewhere"}'])
def test_lock_of_another_kind_names_the_file_to_remove(tmp_path: Path, content: bytes) -> None:
    folder = finished(tmp_path / "run").folder
    (folder / "lock").write_bytes(content)
    with pytest.raises(RunError, match="run/lock"):
        finished(folder)


def test_dead_lock_is_taken_over_by_one_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(tmp_path / "run").folder
    lock(folder, started="1")
    plain = locking.holder_of
    first: list[Path] = []

    def slow(path: Path) -> str | None:
        holder = plain(path)
        if not first:  # the other process is through while this one has read the dead lock and not yet removed it
            first.append(path)
            locking.acquire(path)
        return holder

    monkeypatch.setattr(locking, "holder_of", slow)
    with pytest.raises(RunError):
        locking.acquire(folder / "lock")


def test_folder_of_another_experiment_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run").folder
    with nothing_written(tmp_path), pytest.raises(RunError) as caught:
        finished(folder, tiny("training.lr=0.2", "network.depth=14"))
    message = str(caught.value)
    assert "holds another experiment: network.depth 8 (asked 14), training.lr 0.05 (asked 0.2)" in message
    assert "choose another --out" in message


def test_folder_of_the_same_experiment_under_another_label_is_accepted(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run").folder
    check_folder(folder, tiny("source=table1/original"))


def test_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with nothing_written(tmp_path), pytest.raises(RunError, match=r"is not a run \(no experiment\.json\)"):
        finished(tmp_path)


def test_empty_folder_becomes_a_run(tmp_path: Path) -> None:
    assert finished(tmp_path).status == "finished"


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("last", ["mkdir", "link", "look", "lock", ".experiment.json"])
def test_folder_of_a_run_that_was_killed_before_it_said_what_it_is_becomes_that_run(
    tmp_path: Path,
    last: str,
    noted: bool,  # noqa: FBT001
) -> None:
    """Else no later command would train it: a campaign of kills found one such cell in two hundred."""
    made = tmp_path / "run"
    words = [sys.executable, "-c", KILLED, str(made), last]
    assert subprocess.run(words, check=False, cwd=Path(__file__).parents[1]).returncode == -signal.SIGKILL
    if noted:
        record_failure(made, "its process ended with SIGKILL")
    assert not (made / "experiment.json").exists()
    assert finished(made).status == "finished"
    assert Run(made).failure is None
    assert not list(made.glob(".*"))


def test_what_killed_processes_did_not_write_to_its_end_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run").folder
    (folder / "result.json").unlink()
    torn = (".checkpoint-5-ab.safetensors.123", ".metrics.jsonl.7", ".result.json.99999")
    kept = (".lock.123", ".hidden", "notes.123", ".note.txt")
    for name in (*torn, *kept):
        (folder / name).write_text("x")
    with Writer(folder, tiny(), {}, resume=True):
        there = {path.name for path in folder.iterdir()}
    assert not there & {*torn}
    assert there >= {*kept}


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with nothing_written(tmp_path), pytest.raises(RunError, match="is a file; choose another folder with --out"):
        finished(tmp_path / "run")


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with nothing_written(tmp_path), pytest.raises(RunError, match="cannot be written: Not a directory"):
        finished(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["experiment.json", "environment.json", "result.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]"], ids=["empty", "cut", "no text", "a list"])
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    run = finished(tmp_path / "run")
    (run.folder / name).write_bytes(content)
    readers: dict[str, Callable[[], Any]] = {
        "experiment.json": lambda: run.experiment,
        "environment.json": lambda: run.environment,
        "result.json": lambda: run.result,
    }
    with pytest.raises(Exception, match=name) as caught:
        readers[name]()
    assert getattr(caught.value, "exit_code", None) == 2


def test_runs_are_listed_by_name_and_other_folders_are_not(tmp_path: Path) -> None:
    for name in ("b", "a"):
        finished(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    assert [run.name for run in runs_below(tmp_path)] == ["a", "b"]
    assert runs_below(tmp_path / "nowhere") == ()


def test_run_is_named_by_network_data_seed_and_digest() -> None:
    experiment = tiny(seed=3)
    assert default_name(experiment) == f"preresnet8-digits-s3-{settings.digest(experiment)}"
    assert default_name(tiny("source=label")) == default_name(tiny())


def test_a_folder_in_which_nothing_was_measured_is_removed(tmp_path: Path) -> None:
    with Writer(tmp_path / "run", tiny(), {}) as writer:
        writer.fail("a setting is wrong")
    remove_bare(tmp_path / "run", tiny())
    assert not (tmp_path / "run").exists()
    remove_bare(tmp_path / "none", tiny())


@pytest.mark.parametrize("with_it", ["a measurement", "a result", "a checkpoint", "a file of the user's"])
def test_a_folder_with_anything_else_stays_as_it_is(with_it: str, tmp_path: Path) -> None:
    with Writer(tmp_path / "run", tiny(), {}) as writer:
        if with_it == "a measurement":
            writer.append({"iteration": 1, "loss": 2.0})
        elif with_it == "a result":
            writer.finish(RESULT)
        elif with_it == "a checkpoint":
            writer.save_checkpoint("checkpoint-000000001-0.safetensors", b"")
        else:
            (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    with nothing_written(tmp_path):
        remove_bare(tmp_path / "run", tiny())


def test_a_folder_of_another_experiment_or_that_is_held_is_not_removed(tmp_path: Path) -> None:
    with Writer(tmp_path / "run", tiny(), {}), nothing_written(tmp_path):
        remove_bare(tmp_path / "run", tiny())
    with nothing_written(tmp_path):
        remove_bare(tmp_path / "run", tiny(seed=1))
    remove_bare(tmp_path / "run", tiny())
    assert not (tmp_path / "run").exists()
