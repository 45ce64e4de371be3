"""A grid on a Ray cluster: what is refused, what a node sends, and, slowly, several nodes of which one is removed."""

import contextlib
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cleanpath.errors import RunError, UserError
from cleanpath.grid import cluster, local, plan, pool
from cleanpath.grid.cluster import Files
from cleanpath.grid.driver import News
from cleanpath.grid.local import train_cell
from cleanpath.grid.plan import Cell
from cleanpath.grid.pool import Died, Ended
from cleanpath.locking import acquire
from tests.helpers import (
    ONE,
    TINY,
    assert_same_run,
    assert_user_error,
    here,
    nothing_written,
    outside,
    tiny,
    wait_until,
)
from tests.pool_jobs import die_once_saved, finish

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts as installed; tests that need it skip themselves."""
    monkeypatch.setattr(cluster, "find_spec", lambda name: name)


TOKEN = "7" * 64
_PROBE = """
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
assert ray.get(ray.remote(lambda: 1).remote()) == 1
"""


@pytest.fixture(scope="session")
def ray_starts() -> None:
    """Skip where Ray's own processes do not come up, as where a machine cannot reach itself by its own address.

    In a process that can be ended: Ray tries for ten minutes. With CLEANPATH_TEST_RAY that is a failure.
    """
    if find_spec("ray") is None:  # not imported: it looks at the token's variables once
        pytest.skip("Ray is not installed")
    started = False
    with contextlib.suppress(subprocess.TimeoutExpired):
        probe = [sys.executable, "-c", _PROBE]
        started = not subprocess.run(probe, check=False, timeout=120, capture_output=True, env=_token()).returncode
    assert started or "CLEANPATH_TEST_RAY" not in os.environ
    if not started:
        pytest.skip("Ray does not start on this machine")


def _token() -> dict[str, str]:
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **told, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@pytest.mark.parametrize(
    "address", ["10.0.0.5:6379", "head.example.org:6379", "0.0.0.0:6379", "[2001:db8::1]:6379", "127.0.0.1.evil.org:1"]
)
def test_cluster_beyond_this_machine_needs_a_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(UserError, match=re.escape(f"refusing {address} without RAY_AUTH_MODE=token")):
        cluster.check(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    cluster.check(address)


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "127.3.2.1:1", "localhost:6379", "[::1]:6379"])
def test_cluster_on_this_machine_needs_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    cluster.check(address)


@pytest.mark.parametrize("address", ["auto", "ray://10.0.0.5:10001", "10.0.0.5", ":6379", "10.0.0.5:port"])
def test_address_is_host_and_port(address: str) -> None:
    with pytest.raises(UserError, match="give HOST:PORT"):
        cluster.check(address)


def test_refusals_come_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with nothing_written(tmp_path):
        outcome = here("reproduce", "table2", *TINY, *ONE, "--cluster", "10.0.0.5:6379")
    assert_user_error(outcome, "refusing 10.0.0.5:6379", "docs/cluster.md")


def test_cluster_where_nobody_listens_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the cells are checked: Ray itself tries for ten minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        cluster.check(address)
        monkeypatch.chdir(tmp_path)
        with nothing_written(tmp_path):
            outcome = here("reproduce", "table2", *TINY, *ONE, "--cluster", address)
    assert_user_error(outcome, f"no Ray cluster answers at {address}", "docs/cluster.md")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'cleanpath\[cluster\]'"):
        cluster.check("127.0.0.1:6379")


# What a node sends; without Ray.


def on_a_node(cell: Cell, work: pool.Work[Cell]) -> list[Any]:
    """What the task sends for a cell, with what its folder holds."""
    held = {path.name: path.read_bytes() for path in cell.folder.iterdir()} if cell.folder.is_dir() else {}
    return list(cluster._elsewhere(cell, held, cluster._Place(str(Path.cwd()), None), work))


def gathered(cell: Cell, sent: list[Any]) -> None:
    cell.folder.mkdir(parents=True, exist_ok=True)
    for message in sent:
        if isinstance(message, Files):
            cluster._gather(cell.folder, message)


def test_node_sends_the_files_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PRELOAD", [])
    cell = plan.cell(tiny(), tmp_path)
    sent = on_a_node(cell, finish)
    assert [type(message) for message in sent] == [Files, Ended]
    assert not cell.folder.exists()
    gathered(cell, sent)
    assert cell.status == "finished"


def test_gathering_makes_the_folder_what_the_node_has(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").write_text("old")
    (tmp_path / "failure.txt").write_text("old")
    (tmp_path / "lock").write_text("mine")
    files = Files(
        frozenset({"checkpoint-2", "metrics.jsonl", "result.json"}), {"metrics.jsonl": b"2", "result.json": b"3"}
    )
    (tmp_path / "checkpoint-2").write_text("sent before")
    cluster._gather(tmp_path, files)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "checkpoint-2": "sent before",
        "metrics.jsonl": "2",
        "result.json": "3",
        "lock": "mine",
    }


def test_result_is_written_behind_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(cluster, "write", lambda path, _: order.append(path.name))
    cluster._gather(tmp_path, Files(frozenset(), {"result.json": b"", "weights.safetensors": b"", "a": b""}))
    assert order[-1] == "result.json"


@pytest.mark.slow
def test_cell_that_dies_on_a_node_goes_on_elsewhere_to_the_same_bits(tmp_path: Path) -> None:
    alone, moved = (plan.cell(tiny(iterations=200), tmp_path / name) for name in ("alone", "moved"))
    local.run_cells([alone], workers=1, tell=lambda _: None)
    first = on_a_node(moved, die_once_saved)
    assert first[-1] == Died("SIGKILL")
    gathered(moved, first)
    assert moved.status == "interrupted"
    kept = max(moved.folder.glob("checkpoint-*"))
    second = on_a_node(moved, train_cell)
    assert second[-1] == Ended()
    assert kept.name not in {name for message in second if isinstance(message, Files) for name in message.new}
    gathered(moved, second)
    assert_same_run(moved.folder, alone.folder)
    assert {path.name for path in moved.folder.iterdir()} == {path.name for path in alone.folder.iterdir()}


class Stub:
    """Of Ray's, one task that sends files, and what was cancelled; no process."""

    def __init__(self) -> None:
        self.cancelled: list[Any] = []

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:  # noqa: ARG002
        return tasks[:1], tasks[1:]

    def cancel(self, task: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(task)


def test_cell_that_cannot_be_gathered_is_given_up_with_the_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk of the driver's: no error that ends the grid, no lock that stays."""
    engine, ray, cell = object.__new__(cluster.Cluster), Stub(), plan.cell(tiny(), tmp_path)
    cell.folder.mkdir()
    acquire(cell.folder / "lock")
    engine._ray, engine._refused, engine._running = ray, deque(), {"task": (cell, cell.folder / "lock")}
    monkeypatch.setattr(engine, "_said", lambda _: Files(frozenset(), {"metrics.jsonl": b""}))

    def full(*_: Any) -> None:
        raise RunError("metrics.jsonl cannot be written: No space left on device")

    monkeypatch.setattr(cluster, "write", full)
    assert list(engine.news()) == [(cell, Ended("metrics.jsonl cannot be written: No space left on device"))]
    assert (ray.cancelled, engine.busy, list(cell.folder.iterdir())) == (["task"], False, [])


def test_folder_that_cannot_be_read_is_told_and_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, cell = object.__new__(cluster.Cluster), plan.cell(tiny(), tmp_path)
    engine._refused, engine._running = deque(), {}

    def unreadable(_: Path) -> None:
        raise PermissionError("metrics.jsonl cannot be read")

    monkeypatch.setattr(cluster, "_files", unreadable)
    engine.start(cell)
    assert list(engine.news()) == [(cell, Ended("metrics.jsonl cannot be read"))]
    assert list(cell.folder.iterdir()) == []


# A cluster of several nodes on loopback.


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, ray_starts: None) -> Iterator[Any]:  # noqa: ARG001
    """A cluster of a head without cores, to which nodes can be added; with a token, without a dashboard."""
    for name, value in _token().items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_node_that_is_removed_in_the_middle_costs_nothing_but_time(tmp_path: Path, nodes: Any) -> None:
    made = [tiny(seed=seed, iterations=400) for seed in range(4)]
    calm, hunted = plan.cells(made, tmp_path / "calm"), plan.cells(made, tmp_path / "hunted")
    local.run_cells(calm, workers=1, tell=lambda _: None)
    nodes.add_node(num_cpus=1)
    lost = nodes.add_node(num_cpus=1)
    told: list[News] = []

    def tell(news: News) -> None:
        told.append(news)
        if news.progress is not None and sum(one.progress is not None for one in told) == 4:
            nodes.remove_node(lost, allow_graceful=False)
            nodes.add_node(num_cpus=1)

    cluster.run_cells(hunted, address=nodes.address, workers=2, tell=tell)
    assert "died" in {news.event for news in told}
    assert {cell.status for cell in hunted} == {"finished"}
    for one, other in zip(calm, hunted, strict=True):
        assert_same_run(one.folder, other.folder)
        assert not (other.folder / "lock").exists()
    steps = [news.progress for news in told if news.progress is not None]
    assert all(not math.isnan(progress.loss) for progress in steps)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_starts")
def test_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them starts Ray; it is ended by its own processes' numbers, not by `ray stop`, which ends all."""
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- run -->\n```sh\n(.*?)```", text, re.DOTALL)
    mode, token, start, run = (shlex.split(line) for line in block.strip().splitlines())
    assert (token[:2], start[:2], run[:2]) == (["ray", "get-auth-token"], ["ray", "start"], ["cleanpath", "reproduce"])
    name, _, value = mode[1].partition("=")
    for variable, given in ((name, value), ("HOME", str(tmp_path)), ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")):
        monkeypatch.setenv(variable, given)
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    made, closed = token[: token.index("&&")], token[token.index("&&") + 1 :]
    subprocess.run([*ray, *made[1:]], check=True, capture_output=True, timeout=60)
    subprocess.run([part.replace("~", str(tmp_path)) for part in closed], check=True)
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    with (tmp_path / "ray").open("wb") as out:
        process = subprocess.Popen([*ray, *start[1:], "--block"], stdout=out, stderr=out, start_new_session=True)
    try:
        wait_until(lambda: "Ray runtime started" in (tmp_path / "ray").read_text(), "Ray")
        outcome = outside(*run[1:], *TINY, "--json", cwd=tmp_path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    assert outcome.code == 0, outcome.err
    found = {row["status"] for row in outcome.json()["tables"][0]["rows"] if row["column"] == "ResNet-110"}
    assert found <= {"ok", "fail"}
