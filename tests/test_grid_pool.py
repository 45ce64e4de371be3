"""The pool of processes, the driver and its estimate, without training: engines that pretend, jobs that do little."""

import contextlib
import heapq
import json
import math
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cleanpath.errors import RunError
from cleanpath.grid import driver, local, plan, pool
from cleanpath.grid.driver import RETRIES, Engine, News, drive
from cleanpath.grid.plan import Cell
from cleanpath.grid.pool import Died, Ended, Pool, each
from cleanpath.grid.remaining import Attempt, Remaining
from cleanpath.naming import default_name
from cleanpath.paper.scales import scale_of
from cleanpath.paper.tables import RECIPES, experiments
from cleanpath.records import Run, Writer, record_failure
from cleanpath.training.progress import Progress
from tests.helpers import tiny
from tests.pool_jobs import act, finish, where

QUICK = Path(__file__).parents[1] / "results" / "quick.json"


@pytest.fixture(autouse=True)
def no_preload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of these processes need not load torch."""
    monkeypatch.setattr(pool, "_PRELOAD", [])


# Processes.


def said(jobs: list[str]) -> tuple[list[tuple[str, int]], list[tuple[str, Any]]]:
    """Which process did each job, and how each ended; one at a time."""
    heard = list(each(act, jobs, 1))
    processes = [(job, message) for job, message in heard if isinstance(message, int)]
    return processes, [(job, message) for job, message in heard if not isinstance(message, int)]


def test_process_does_one_job_after_another_and_one_that_dies_costs_its_job_alone() -> None:
    processes, ends = said(["a", "b", "die", "c", "d"])
    (_, one), (_, same), (_, dead), (_, other), (_, again) = processes
    assert one == same == dead
    assert other == again != one
    assert ends == [("a", Ended()), ("b", Ended()), ("die", Died("SIGKILL")), ("c", Ended()), ("d", Ended())]


def test_error_is_told_and_its_process_does_nothing_else() -> None:
    processes, ends = said(["raise", "a", "spend", "b"])
    assert ends[0] == ("raise", Ended("ValueError: planted", spent=True))
    assert [type(message) for _, message in ends] == [Ended] * 4
    numbers = [number for _, number in processes]
    assert numbers[0] != numbers[1] == numbers[2] != numbers[3]


def test_processes_have_places_and_one_that_replaces_another_takes_its_place() -> None:
    """With two GPUs the places take turns, so that a death does not put all runs onto one."""
    with Pool(where, 3) as three:
        for at in range(3):
            three.start(("hold", str(at)))
        places = {message for _, message in heard_of(three, 3)}
        assert places == {0, 1, 2}
        victim = next(worker for worker in three._busy if worker.place == 1)
        victim.process.kill()
        assert [message for _, message in heard_of(three, 1)] == [Died("SIGKILL")]
        three.start(("hold", "3"))
        assert [message for _, message in heard_of(three, 1)] == [1]
    devices = ("cuda:0", "cuda:1")
    assert local._mine(devices) == "cuda:0"
    for place, expected in ((1, "cuda:1"), (2, "cuda:0"), (5, "cuda:1")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool, "_at", place)
            assert local._mine(devices) == expected


def heard_of(pool: Pool[Any], count: int) -> list[tuple[Any, Any]]:
    found = list[tuple[Any, Any]]()
    while len(found) < count:
        found += pool.news()
    return found


def heard_until_idle(pool: Pool[Any]) -> list[Any]:
    found = list[Any]()
    while pool.busy:
        found += [message for _, message in pool.news()]
    return found


def test_process_that_died_while_idle_is_replaced() -> None:
    with Pool(act, 1) as one:
        one.start("a")
        number = next(message for message in heard_until_idle(one) if isinstance(message, int))
        os.kill(number, signal.SIGKILL)
        next(child for child in multiprocessing.active_children() if child.pid == number).join()
        one.start("b")
        heard = heard_until_idle(one)
    assert [type(message) for message in heard] == [int, Ended]
    assert heard[0] != number


def test_whatever_ends_a_pool_ends_its_processes() -> None:
    heard = set[int]()
    with contextlib.suppress(ZeroDivisionError), Pool(act, 2) as both:
        both.start("sleep")
        both.start("sleep")
        while len(heard) < 2:
            heard |= {message for _, message in both.news()}
        raise ZeroDivisionError
    assert not heard & {child.pid for child in multiprocessing.active_children()}


def test_hundred_cells_end_in_two_processes(tmp_path: Path) -> None:
    cells = plan.cells([tiny(seed=seed) for seed in range(100)], tmp_path)
    ended = Counter[str]()
    local.run_cells(
        cells, workers=2, tell=lambda news: ended.update([news.cell.label] * (news.event == "ended")), work=finish
    )
    assert set(ended.values()) == {1}
    assert {cell.status for cell in cells} == {"finished"}


# The driver.


class Pretended:
    """An engine in which every cell ends at once, or as a script says: a list of messages for each try."""

    def __init__(self, script: dict[str, list[Any]] | None = None, room: int = 2) -> None:
        self.script, self.room, self.tries = script or {}, room, Counter[str]()
        self.running: list[Cell] = []

    @property
    def busy(self) -> bool:
        return bool(self.running)

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.room

    def start(self, cell: Cell) -> None:
        self.running.append(cell)

    def news(self) -> Iterator[tuple[Cell, Any]]:
        cell = self.running.pop(0)
        said = self.script.get(cell.label, [])
        message = said[min(self.tries[cell.label], len(said) - 1)] if said else Ended()
        self.tries[cell.label] += 1
        if isinstance(message, Ended) and not message.reason and not cell.run.holder:
            cell.folder.mkdir(parents=True, exist_ok=True)
            (cell.folder / "result.json").write_text('{"status": "finished"}')
        yield cell, message


def three(root: Path) -> tuple[Cell, ...]:
    return plan.cells([tiny(seed=seed) for seed in range(3)], root)


def events(todo: Sequence[Cell], engine: Engine) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    drive(todo, engine, lambda news: told.append((news.event, news.cell.label)))
    return told


def test_dead_cell_is_tried_three_times_more_behind_the_others_and_then_shown_with_reason_and_count(
    tmp_path: Path,
) -> None:
    cells = three(tmp_path)
    poison = cells[0].label
    engine = Pretended({poison: [Died("SIGKILL")]}, room=1)
    told = events(cells, engine)
    assert engine.tries == {poison: 1 + RETRIES, cells[1].label: 1, cells[2].label: 1}
    assert [label for event, label in told if event == "ended"] == [cells[1].label, cells[2].label, poison]
    assert [label for event, label in told if event == "died"] == [poison] * RETRIES
    assert [cell.status for cell in cells] == ["failed", "finished", "finished"]
    assert cells[0].run.failure == "its process ended with SIGKILL, as 3 times before"


def test_dead_cell_that_comes_through_is_finished(tmp_path: Path) -> None:
    cells = three(tmp_path)
    engine = Pretended({cells[1].label: [Died("SIGSEGV"), Died("SIGKILL"), Ended()]})
    told = events(cells, engine)
    assert {cell.status for cell in cells} == {"finished"}
    assert engine.tries[cells[1].label] == 3
    assert sum(event == "ended" for event, _ in told) == 3


def test_error_of_a_cell_is_not_tried_again(tmp_path: Path) -> None:
    cells = three(tmp_path)
    engine = Pretended({cells[0].label: [Ended("no such file", spent=True), Ended()]})
    events(cells, engine)
    assert engine.tries[cells[0].label] == 1
    assert (cells[0].status, cells[0].run.failure) == ("failed", "no such file")


def test_reason_of_this_try_is_told_and_noted_in_place_of_an_earlier_one(tmp_path: Path) -> None:
    cells = three(tmp_path)
    record_failure(cells[0].folder, "its process ended with SIGKILL, as 3 times before")
    told: list[News] = []
    drive(cells, Pretended({cells[0].label: [Ended("No space left on device")]}), told.append)
    assert [news.reason for news in told if news.event == "ended"].count("No space left on device") == 1
    assert cells[0].run.failure == "No space left on device"


def test_cell_that_machines_refuse_is_tried_elsewhere_and_its_reason_is_theirs(tmp_path: Path) -> None:
    cells = three(tmp_path)
    refusal = Died("it was begun on fused kernels", refused=True)
    engine = Pretended({cells[0].label: [refusal, Ended()], cells[1].label: [refusal] * 4})
    told = events(cells, engine)
    assert ("refused", cells[0].label) in told
    assert cells[0].status == "finished"
    assert cells[1].run.failure == "it was begun on fused kernels, as 3 times before"
    assert not [event for event, _ in told if event == "died"]


class Elsewhere(Pretended):
    """Another driver has the first cell, until so many others have ended."""

    def __init__(self, writer: Writer, until: int, ends: dict[str, list[Any]] | None = None) -> None:
        super().__init__(ends, room=1)
        self.writer, self.until = writer, until

    def news(self) -> Iterator[tuple[Cell, Any]]:
        yield from super().news()
        if sum(self.tries.values()) == self.until:
            self.writer.__exit__(None, None, None)


def test_cell_of_another_driver_is_left_to_it_and_named(tmp_path: Path) -> None:
    cells = three(tmp_path)
    with Writer(cells[0].folder, cells[0].experiment, {}):
        engine = Pretended()
        with pytest.raises(RunError, match=f"{cells[0].label} is being written by process {os.getpid()}; wait for it"):
            events(cells, engine)
    assert engine.tries[cells[0].label] == 1
    assert [cell.status for cell in cells] == ["interrupted", "finished", "finished"]


def test_cell_that_dies_behind_its_result_is_finished(tmp_path: Path) -> None:
    cells = three(tmp_path)

    class Late(Pretended):
        def start(self, cell: Cell) -> None:
            super().start(cell)
            cell.folder.mkdir(parents=True)
            (cell.folder / "result.json").write_text('{"status": "finished"}')

    engine = Late({cells[0].label: [Died("SIGKILL")]})
    assert [event for event, label in events(cells, engine) if label == cells[0].label] == ["started", "ended"]
    assert (engine.tries[cells[0].label], cells[0].run.failure) == (1, None)


def test_cell_that_another_driver_left_is_done_by_this_one(tmp_path: Path) -> None:
    cells = three(tmp_path)
    with Writer(cells[0].folder, cells[0].experiment, {}) as writer:
        engine = Elsewhere(writer, until=3)
        events(cells, engine)
    assert engine.tries[cells[0].label] == 2
    assert {cell.status for cell in cells} == {"finished"}


def test_death_of_one_that_never_had_the_cell_is_not_noted_in_it(tmp_path: Path) -> None:
    """Another driver trains it: what was seen here is no failure of that run."""
    cells = three(tmp_path)
    with Writer(cells[0].folder, cells[0].experiment, {}) as writer:
        engine = Elsewhere(writer, until=3, ends={cells[0].label: [Died("SIGKILL"), Ended()]})
        told = events(cells, engine)
        assert (cells[0].folder / "failure.txt").exists() is False
    assert ("held", cells[0].label) in told
    assert ("died", cells[0].label) not in told
    assert cells[0].status == "finished"


def test_refusal_whose_holder_is_gone_meanwhile_is_no_failure_but_tried_again(tmp_path: Path) -> None:
    cells = three(tmp_path)
    engine = Pretended({cells[0].label: [Ended("process 7 writes it", held=True), Ended()]})
    told = events(cells, engine)
    assert [event for event, label in told if label == cells[0].label] == ["started", "held", "started", "ended"]
    assert {cell.status for cell in cells} == {"finished"}


def test_cell_that_is_let_go_of_between_two_looks_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the moment at which the other driver leaves it: it is done here, or named."""
    for until in range(1, 6):
        cells = three(tmp_path / str(until))
        looks = Counter[Path]()

        def holder(run: Run, held: Path = cells[0].folder, last: int = until, looks: Counter[Path] = looks) -> Any:
            looks[run.folder] += 1
            return "process 7" if run.folder == held and looks[run.folder] <= last else None

        monkeypatch.setattr(Run, "holder", property(holder))
        engine = Pretended({cells[0].label: [*[Ended("held", held=True)] * until, Ended()]})
        named = False
        try:
            events(cells, engine)
        except RunError as error:
            named = cells[0].label in str(error)
        assert named or cells[0].status == "finished", until


def test_full_disk_takes_no_note_and_stops_no_other_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RunError("failure.txt cannot be written: No space left on device")

    cells, reasons = three(tmp_path), dict[str, str]()
    monkeypatch.setattr(driver, "record_failure", full)
    engine = Pretended({cells[0].label: [Ended("no space")]})
    drive(cells, engine, lambda news: reasons.update({news.cell.label: news.reason} if news.event == "ended" else {}))
    assert reasons == {cells[0].label: "no space", cells[1].label: "", cells[2].label: ""}
    assert [cell.status for cell in cells[1:]] == ["finished"] * 2


def test_death_behind_a_newer_checkpoint_starts_the_count_anew(tmp_path: Path) -> None:
    """Where machines come and go a long cell dies often, and gets on each time."""
    cells = three(tmp_path)

    class Further(Pretended):
        def start(self, cell: Cell) -> None:
            super().start(cell)
            if cell == cells[0]:
                cell.folder.mkdir(parents=True, exist_ok=True)
                (cell.folder / f"checkpoint-{self.tries[cell.label]:09d}-ab.safetensors").write_bytes(b"")

    engine = Further({cells[0].label: [*[Died("NodeDiedError")] * 10, Ended()]})
    told = events(cells, engine)
    assert told.count(("died", cells[0].label)) == 10
    assert cells[0].status == "finished"


def test_run_that_another_process_ended_is_not_opened_again(tmp_path: Path) -> None:
    cell = plan.cell(tiny(), tmp_path)
    with Writer(cell.folder, cell.experiment, {}) as writer:
        writer.finish({"status": "finished"})
    before = (cell.folder / "result.json").read_bytes()
    with pytest.raises(RunError, match="has ended"), Writer(cell.folder, cell.experiment, {}, resume=True):
        pass
    assert (cell.folder / "result.json").read_bytes() == before
    assert not (cell.folder / "lock").exists()


# What is left.


class Simulated(Pretended):
    """Cells that take as long as was recorded, by a clock of their own; steps are told at a half."""

    def __init__(self, seconds: dict[Path, float], workers: int) -> None:
        super().__init__(room=workers)
        self.seconds, self.now = seconds, 0.0
        self.ends: list[tuple[float, int, Cell]] = []

    @property
    def busy(self) -> bool:
        return bool(self.ends)

    @property
    def has_room(self) -> bool:
        return len(self.ends) < self.room

    def start(self, cell: Cell) -> None:
        heapq.heappush(self.ends, (self.now + self.seconds[cell.folder], id(cell), cell))

    def news(self) -> Iterator[tuple[Cell, Any]]:
        self.now, _, cell = heapq.heappop(self.ends)
        yield cell, Ended()


def recorded() -> tuple[list[Cell], dict[Path, float]]:
    """The cells of scale quick whose seconds stand in `results/quick.json`, and those seconds."""
    data = json.loads(QUICK.read_text(encoding="utf-8"))
    took = {
        seed["run"]: seed["seconds"]
        for table in data["tables"]
        for row in table["rows"]
        for seed in row["seeds"]
        if seed["seconds"]
    }
    made = [
        one for recipe in RECIPES.values() for one in experiments(recipe, scale_of("quick"), seeds=range(3)).values()
    ]
    cells = [cell for cell in plan.cells(made, Path("nowhere")) if default_name(cell.experiment) in took]
    return cells, {cell.folder: took[cell.folder.name] for cell in cells}


def simulated(cells: Sequence[Cell], seconds: dict[Path, float], workers: int) -> list[tuple[float, float]]:
    """At every end of a cell: how much of all time is gone, and what is expected to be left by what is left."""
    todo, engine, remaining = plan.to_do(cells), Simulated(seconds, workers), Remaining(cells)
    attempts: dict[Cell, Attempt] = {}
    expected: list[tuple[float, float]] = []

    def tell(news: News) -> None:
        if news.event == "started":
            remaining.started(news.cell)
            attempts[news.cell] = Attempt(began=engine.now)
            return
        remaining.ended(news.cell, engine.now - attempts.pop(news.cell).began)
        for cell, attempt in attempts.items():
            attempt.share = (engine.now - attempt.began) / seconds[cell.folder]
        expected.append((engine.now, remaining.seconds(list(attempts.items()), engine.now)))

    drive(todo, engine, tell)
    return [(now / engine.now, left / (engine.now - now)) for now, left in expected if now < engine.now]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_after_a_tenth_of_the_work_the_estimate_is_within_a_fifth(workers: int) -> None:
    cells, seconds = recorded()
    assert len(cells) > 150
    found = simulated(cells, seconds, workers)
    ratios = [ratio for share, ratio in found if 0.1 <= share <= 0.9]
    assert len(ratios) > 90
    assert max(abs(ratio - 1) for ratio in ratios) < 0.2


def test_every_tenth_cell_first_makes_a_grid_no_longer() -> None:
    cells, seconds = recorded()

    def ends(todo: Sequence[Cell]) -> float:
        engine = Simulated(seconds, 4)
        drive(todo, engine, lambda _: None)
        return engine.now / (sum(seconds.values()) / 4)

    assert ends(plan.to_do(cells)) < 1.015 < ends(plan.to_do(cells)[::-1])


def test_first_comes_every_tenth_cell_the_costliest_before_all(tmp_path: Path) -> None:
    cells = plan.cells([tiny(iterations=count) for count in range(1, 26)], tmp_path)
    lengths = [cell.experiment.training.iterations for cell in plan.to_do(cells)]
    assert lengths[:3] == [25, 15, 5]
    assert lengths[3:] == [length for length in range(24, 0, -1) if length not in (15, 5)]


def test_nothing_is_known_before_a_cell_has_begun_and_then_its_own_speed_tells(tmp_path: Path) -> None:
    one, other = plan.cells([tiny(iterations=100), tiny(iterations=50)], tmp_path)
    remaining = Remaining([one, other])
    remaining.started(one)
    attempt = Attempt(began=10.0)
    assert math.isnan(remaining.seconds([(one, attempt)], 20.0))
    attempt.share = 0.5
    assert remaining.seconds([(one, attempt)], 20.0) == pytest.approx(10 + 10)  # half as long as the first


def test_attempt_that_goes_on_counts_its_own_part_only() -> None:
    attempt = Attempt(began=0.0, first=0.5, share=0.75)
    assert attempt.whole(10.0) == pytest.approx(40.0)
    assert Attempt(began=0.0, first=0.5, share=0.51).whole(10.0) is None


def test_cell_of_which_a_like_one_ended_is_expected_to_take_as_long(tmp_path: Path) -> None:
    cells = plan.cells([tiny(seed=0), tiny(seed=1), tiny(iterations=12)], tmp_path)
    remaining = Remaining(cells)
    for cell in (cells[0], cells[2]):
        remaining.started(cell)
        remaining.ended(cell, 7.0 if cell is cells[0] else 100.0)
    assert remaining.seconds([], 0.0) == pytest.approx(7.0)


def test_progress_is_passed_on(tmp_path: Path) -> None:
    cell = plan.cell(tiny(), tmp_path)
    progress = Progress(iteration=1, total=6, loss=1.0, images_per_second=1.0, error=math.nan)

    class Stepping(Pretended):
        def news(self) -> Iterator[tuple[Cell, Any]]:
            yield cell, progress
            yield from super().news()

    told: list[News] = []
    drive([cell], Stepping(), told.append)
    assert [news.event for news in told] == ["started", "step", "ended"]
    assert told[1].progress == progress
