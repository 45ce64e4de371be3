"""Many runs read for a report: an index may say nothing that the folders do not."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cleanpath import live, reading, settings
from cleanpath.pages import Page
from cleanpath.records import Run, gone_on, numeric
from cleanpath.report.collect import seed_result
from cleanpath.reproduction import Reproduction, reproduction

SEEDS = 4
ENDED = {"status": "finished", "train_error": 1, "iterations": 40}


def job_of(root: Path) -> Reproduction:
    return reproduction(["table2"], scale="quick", seeds=SEEDS, all_columns=False, changes=[], root=root)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of all kinds, at rest since an hour; an index is kept of any number of them."""
    monkeypatch.setattr(reading, "_FROM", 1)
    monkeypatch.setattr(reading, "_NANOSECONDS_AT_REST", 0)
    monkeypatch.setenv("CLEANPATH_CACHE", str(tmp_path / "cache"))
    for at, cell in enumerate(job_of(tmp_path / "runs").cells()):
        if at % 5 == 4:
            continue
        cell.folder.mkdir(parents=True)
        put(cell.folder, "experiment.json", settings.to_data(cell.experiment))
        put(cell.folder, "environment.json", {"torch": "2.14", "threads": 1, "commit": "é"})
        lines = [{"iteration": i, "loss": 2.5 - i / 100 + at / 7, "error": 80 - i, "seconds": i} for i in range(40)]
        (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if at % 5 < 2:
            put(cell.folder, "result.json", {**ENDED, "error": 40.0 + at})
            put(cell.folder, "measured.json", {"version": 1, "end": {"gain": 1.5}, "start": {}})
        if at % 5 == 2:
            put(cell.folder, "result.json", {"status": "diverged", "reason": "loss is nan", "iterations": 40})
        if at % 10 == 3:
            (cell.folder / "failure.txt").write_text("no memory")
    return tmp_path / "runs"


def put(folder: Path, name: str, data: dict[str, object]) -> None:
    (folder / name).write_text(json.dumps(data))


def page_of(root: Path) -> str:
    """The page as a command would write it, which reads what earlier commands left."""
    page = root.parent / "page.html"
    live.written([Page(job=job_of(root), path=page, command="cleanpath report")])
    return page.read_text()


def plain_page_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page where nothing can be kept."""
    with monkeypatch.context() as without:
        without.setattr(reading, "cache_folder", lambda: None)
        return page_of(root)


def index(root: Path) -> Path:
    (found,) = (root.parent / "cache").glob("runs-*.index")
    return found


def from_index(root: Path) -> list[bool]:
    """Of which runs the index is believed."""
    fresh = reading.Index(root)
    return [fresh.run(cell.folder).known > 0 for cell in job_of(root).cells() if cell.folder.is_dir()]


def test_page_from_an_index_is_the_page_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_page_of(root, monkeypatch)
    assert not (root.parent / "cache").exists()
    assert page_of(root) == plain
    assert all(from_index(root))
    opened: list[str] = []
    monkeypatch.setattr(Run, "read", lambda run, name: opened.append(f"{run.name}/{name}"))
    assert page_of(root) == plain
    there = {path.name for path in root.iterdir()}
    assert not [name for name in opened if name.partition("/")[0] in there]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(b"40.0") if b"40.0" in data else len(data) // 2
    data[place] ^= 1
    path.write_bytes(bytes(data))


def resealed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """An index with other lines, whose digest is theirs."""

    def spoil(path: Path) -> None:
        import hashlib

        body = change(path.read_bytes().partition(b"\n")[2])
        path.write_bytes(reading._FORMAT + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    return spoil


def other_stamps(body: bytes) -> bytes:
    """As of runs that were changed since, with other errors."""
    lines = []
    for line in body.splitlines():
        key, _, text = line.partition(b"\t")
        stamps, texts, curves = json.loads(text.replace(b"finished", b"diverged").replace(b"40.0", b"99.0"))
        stamps[next(name for name in reversed(stamps) if name)][2] += 1
        lines.append(key + b"\t" + json.dumps([stamps, texts, curves]).encode() + b"\n")
    return b"".join(lines)


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        cut,
        flipped,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"cleanpath.runs 9" + path.read_bytes()[16:]),
        resealed(other_stamps),
        resealed(lambda body: body.replace(b"\t[{", b'\t["')),
        resealed(lambda body: b"".join(line.partition(b"\t")[0] + b"\t[{}, {}, []]\n" for line in body.splitlines())),
        resealed(lambda _: b"\xff\n\t\n\n"),
    ],
    ids=["missing", "half", "flipped", "empty", "of another version", "stale", "no json", "lines of nothing", "noise"],
)
def test_index_that_is_wrong_changes_nothing_and_is_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    plain = page_of(root)
    spoil(index(root))
    assert not any(from_index(root))
    assert page_of(root) == plain == plain_page_of(root, monkeypatch)
    assert all(from_index(root))


def test_index_of_another_folder_is_not_believed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_of(root)
    there = root.parent / "there"
    shutil.copytree(root, there)
    for path in there.glob("*/result.json"):
        path.write_text(path.read_text().replace('"error": 4', '"error": 3'))
    mine = index(root)
    mine.rename(reading.Index(there)._path or mine)
    assert not any(from_index(there))
    assert page_of(there) == plain_page_of(there, monkeypatch)


def in_place(path: Path, old: str, new: str) -> None:
    """Of the same size, with the same time of change as before."""
    stat = path.stat()
    path.write_text(path.read_text().replace(old, new))
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: in_place(folder / "result.json", '"error": 40.0', '"error": 77.0'),
        lambda folder: in_place(folder / "metrics.jsonl", '"loss": 2.5', '"loss": 9.5'),
        lambda folder: in_place(folder / "environment.json", "2.14", "2.99"),
        lambda folder: (folder / "result.json").unlink(),
        shutil.rmtree,
        lambda folder: put(folder, "evaluation-middle.json", {"version": 1, "error": 5.0}),
    ],
    ids=["result", "metrics", "environment", "result gone", "folder gone", "another file"],
)
def test_run_that_changed_after_indexing_is_shown_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    plain = page_of(root)
    folder = job_of(root).cells()[0].folder
    change(folder)
    now = page_of(root)
    assert now == plain_page_of(root, monkeypatch)
    assert (now != plain) is not (folder / "evaluation-middle.json").exists()


def test_run_that_ends_after_indexing_is_shown_as_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = page_of(root)
    folder = next(cell.folder for cell in job_of(root).cells() if cell.status == "failed")
    put(folder, "result.json", {**ENDED, "error": 12.0})
    assert page_of(root) == plain_page_of(root, monkeypatch) != plain


def test_run_that_changed_a_moment_ago_is_not_indexed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_NANOSECONDS_AT_REST", 3600 * 10**9)
    page_of(root)
    assert not list((root.parent / "cache").glob("*"))


def test_file_that_changes_while_it_is_read_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = job_of(root).cells()[0].folder
    read = Run.read

    def slowly(run: Run, name: str) -> bytes | None:
        found = read(run, name)
        if run.folder == folder and name == "result.json":
            put(folder, "result.json", {**ENDED, "error": 3.0})
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Run, "read", slowly)
        page_of(root)
    cell = job_of(root).cells()[0]
    assert live.Reading()(cell.run, cell.experiment, "").error == 3.0


def test_few_runs_have_no_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FROM", 200)
    page_of(root)
    assert not (root.parent / "cache").exists()


def test_where_nothing_can_be_kept_the_runs_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "cache").write_text("no folder")
    assert page_of(root) == page_of(root) == plain_page_of(root, monkeypatch)


def test_several_that_write_one_index_at_once_leave_a_whole_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_page_of(root, monkeypatch)
    cells = job_of(root).cells()

    def read_all() -> None:
        for _ in range(5):
            read = live.Reading()
            for cell in cells:
                read(cell.run, cell.experiment, "")
            read.save()

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert page_of(root) == plain
    assert all(from_index(root))


def test_indices_that_nobody_wrote_for_a_month_are_removed(root: Path) -> None:
    cache = root.parent / "cache"
    cache.mkdir()
    old, other = cache / "runs-0123456789abcdef.index", cache / "speed.json"
    for path in (old, other):
        path.write_text("")
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    page_of(root)
    assert not old.exists()
    assert other.exists()
    assert index(root).exists()


def test_a_run_read_once_says_what_a_run_says(root: Path) -> None:
    for cell in job_of(root).cells():
        noted = reading.Noted(cell.folder)
        assert seed_result(noted, cell.experiment) == seed_result(cell.run, cell.experiment)
        if (line := noted.to_line()) is not None:
            again = reading.Noted.from_line(cell.folder, line)
            assert again is not None
            assert seed_result(again, cell.experiment) == seed_result(cell.run, cell.experiment)
            assert not again.is_new


def test_damaged_run_is_read_as_damaged_and_is_in_no_index(root: Path) -> None:
    cell = job_of(root).cells()[0]
    for name in ("result.json", "metrics.jsonl"):
        (cell.folder / name).write_bytes(b'{not\n{"iteration": 2, "loss": 1.0}\n')
        os.utime(cell.folder / name, (time.time() - 3600,) * 2)
    noted = reading.Noted(cell.folder)
    assert seed_result(noted, cell.experiment) == seed_result(cell.run, cell.experiment)
    assert noted.to_line() is None
    assert page_of(root)


def test_run_that_went_on_elsewhere_says_so_in_its_record_and_in_the_report(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"threads": 1, "torch": "2.14", "processor": "EPYC", "cores": 2}
    other = {**first, "processor": "Xeon"}
    assert gone_on(first, {}) == first
    assert gone_on(first, {**first, "cores": 64}) == first
    moved = gone_on(other, first)
    assert moved == {**other, "earlier": [numeric(first)]}
    assert gone_on(other, moved) == moved
    assert gone_on(first, moved)["earlier"] == [numeric(first), numeric(other)]
    plain = plain_page_of(root, monkeypatch)
    assert "went on elsewhere" not in plain
    cell = job_of(root).cells()[0]
    put(cell.folder, "environment.json", moved)
    page = page_of(root)
    assert f"went on elsewhere, so that last bits may differ: seed {cell.experiment.seed} (before: " in page
    assert "1 run: their last bits may not be those of a run that was left alone" in page
    told = job_of(root).outcome().to_data()["measured_on"]
    assert told["went on elsewhere"].startswith("1 run")
    assert "earlier" not in told
