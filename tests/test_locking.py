"""The lock of a run: one holder, whatever dies, stands still, or has another clock."""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from cleanpath import locking
from cleanpath.errors import HeldError
from cleanpath.records import Writer
from tests.helpers import tiny

PROCESSES, ROUNDS = 16, 40
OURS = {**locking._here(), "pid": os.getpid()}
"""Of a process that had our number, and is gone."""


def put(folder: Path, *, ago: float = 0.0, changes: dict[str, Any] | None = None) -> Path:
    """A lock that a process of another host renewed so many seconds ago, by the file system's clock."""
    folder.mkdir(exist_ok=True)
    lock = folder / "lock"
    told = {**locking._here(), "pid": 4711, "started": "1", "renewed": 20.0, "host": "elsewhere", **(changes or {})}
    lock.write_text(json.dumps(told))
    at = locking._now_there(lock) - round(ago * 1e9)
    os.utime(lock, ns=(at, at))
    return lock


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_SECONDS_WATCHED", 0.3)


def contend(folder: Path, start: Barrier, told: "Queue[tuple[int, int]]", done: Event) -> None:
    """Take the dead lock of every round if nobody else does, and hold it until all are over; be slow to judge it."""
    plain = locking.holder_of

    def slow(lock: Path) -> str | None:
        holder = plain(lock)
        time.sleep(random.random() / 250)  # noqa: S311
        return holder

    locking.holder_of = slow
    for at in range(ROUNDS):
        start.wait()
        try:
            locking.acquire(folder / str(at) / "lock")
        except HeldError:
            continue
        told.put((at, os.getpid()))
    done.wait()


def test_of_many_that_take_over_one_dead_lock_at_once_one_has_it(tmp_path: Path) -> None:
    for at in range(ROUNDS):
        put(tmp_path / str(at), changes=OURS)
    context = multiprocessing.get_context("fork")
    start, told, done = context.Barrier(PROCESSES), context.Queue(), context.Event()
    children = [context.Process(target=contend, args=(tmp_path, start, told, done)) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    winners = [told.get(timeout=100) for _ in range(ROUNDS)]
    time.sleep(0.5)  # for who has it too
    assert told.empty()
    assert sorted(at for at, _ in winners) == list(range(ROUNDS))
    for at, pid in winners:
        assert json.loads((tmp_path / str(at) / "lock").read_bytes())["pid"] == pid
        assert [path.name for path in (tmp_path / str(at)).iterdir()] == ["lock"]
    done.set()
    for child in children:
        child.join()


def test_lock_that_another_took_over_meanwhile_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = put(tmp_path / "run", changes=OURS)
    plain = locking.holder_of

    def slow(path: Path) -> str | None:
        holder = plain(path)
        monkeypatch.setattr(locking, "holder_of", plain)
        locking.acquire(lock)  # the other is through while this one has seen a dead one
        return holder

    monkeypatch.setattr(locking, "holder_of", slow)
    with pytest.raises(HeldError):
        locking.acquire(lock)
    locking.still_ours(lock)
    locking.release(lock)
    assert not lock.exists()


def test_many_dead_locks_are_watched_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(locking, "_keep_renewing", lambda: None)
    monkeypatch.setattr("cleanpath.locking.time.monotonic", lambda: now[0])
    monkeypatch.setattr("cleanpath.locking.time.sleep", sleep)
    locks = [put(tmp_path / str(at), ago=86400) for at in range(5)]
    locking.watch(locks)
    for lock in locks:
        locking.acquire(lock)
    assert sum(slept) == locking._SECONDS_WATCHED
    for lock in locks:
        locking.release(lock)
    # One that was renewed since it was watched is another's again.
    again = put(tmp_path / "renewed", ago=86400)
    locking.watch([again])
    now[0] += 2 * locking._SECONDS_WATCHED
    os.utime(again)
    with pytest.raises(HeldError):
        locking.acquire(again)


@pytest.mark.usefixtures("quick")
def test_lock_of_another_host_that_nobody_renews_is_taken_over(tmp_path: Path) -> None:
    lock = put(tmp_path / "run", ago=locking.SECONDS_UNTIL_DEAD + 1)
    locking.acquire(lock)
    locking.still_ours(lock)
    assert [path.name for path in lock.parent.iterdir()] == ["lock"]
    locking.release(lock)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("ago", [locking.SECONDS_UNTIL_DEAD - 60, 0.0, -7200.0])
def test_lock_of_another_host_that_was_renewed_is_not(tmp_path: Path, ago: float) -> None:
    lock = put(tmp_path / "run", ago=ago)
    before = lock.read_bytes(), lock.stat().st_mtime_ns
    with pytest.raises(HeldError, match=r"process 4711 on elsewhere \(if it is gone, its lock is taken over 10 min"):
        locking.acquire(lock)
    assert (lock.read_bytes(), lock.stat().st_mtime_ns) == before


def test_clock_of_the_file_system_that_jumps_makes_nobody_dead_who_renews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks old at once, and is renewed while it is watched."""
    monkeypatch.setattr(locking, "_SECONDS_WATCHED", 10.0)
    lock = put(tmp_path / "run", ago=86400)
    looks = locking._renewed
    seen: list[int | None] = []

    def renewing(path: Path) -> int | None:
        seen.append(looks(path))
        os.utime(lock)
        return seen[-1]

    monkeypatch.setattr(locking, "_renewed", renewing)
    with pytest.raises(HeldError):
        locking.acquire(lock)
    assert len(seen) > 1


@pytest.mark.usefixtures("quick")
def test_lock_of_another_kind_is_never_silent(tmp_path: Path) -> None:
    lock = put(tmp_path / "run", ago=86400)
    told = json.loads(lock.read_bytes())
    del told["renewed"]
    lock.write_text(json.dumps(told))
    os.utime(lock, (0, 0))
    with pytest.raises(HeldError, match=r"elsewhere \(if it is gone, remove"):
        locking.acquire(lock)


def test_who_holds_a_lock_renews_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_SECONDS_BETWEEN", 0.05)
    monkeypatch.setattr(locking, "_renewing", {})
    lock = locking.acquire(tmp_path / "lock")
    os.utime(lock, (1, 1))
    until = time.monotonic() + 60
    while lock.stat().st_mtime == 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert abs(lock.stat().st_mtime_ns - locking._now_there(lock)) < 60 * 1e9
    locking.release(lock)


def test_run_that_was_taken_over_while_it_stood_still_ends_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Writer(folder, tiny(), {}) as writer:
        writer.append({"iteration": 1, "loss": 1.0})
        (folder / "lock").unlink()
        put(folder)
        writes: tuple[Callable[[], object], ...] = (
            lambda: writer.append({"iteration": 2, "loss": 1.0}),
            lambda: writer.save_checkpoint("checkpoint-000000001-ab.safetensors", b""),
            lambda: writer.save_weights(b""),
            lambda: writer.finish({"status": "finished"}),
        )
        for write in writes:
            with pytest.raises(HeldError, match="taken over by process 4711 on elsewhere"):
                write()
        writer.fail("HeldError")
    assert (folder / "lock").exists()
    assert len(writer.run.metrics()) == 1
    assert not {"weights.safetensors", "result.json", "failure.txt"} & {path.name for path in folder.iterdir()}


def test_what_a_killed_process_left_of_making_a_lock_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    put(folder, changes=locking._here()).rename(folder / ".lock.4711.new")
    put(folder).rename(folder / ".lock.99.new")  # of a living process of another host
    with Writer(folder, tiny(), {}):
        left = {path.name for path in folder.glob(".lock*")}
    assert left == {".lock.99.new"}
