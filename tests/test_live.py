"""Pages that are written while runs go on: how far a grid is, from folders alone, and when the writing ends."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cleanpath import live
from cleanpath.errors import Stopped
from cleanpath.experiment import Experiment
from cleanpath.grid.plan import Cell
from cleanpath.grid.remaining import Attempt, Remaining
from cleanpath.locking import acquire
from cleanpath.pages import Page
from cleanpath.recorded import record
from cleanpath.records import Run, Writer, recent, record_failure
from cleanpath.report.collect import seed_result
from cleanpath.report.table import UNFINISHED
from cleanpath.reproduction import Reproduction, reproduction
from tests.helpers import wait_until

N, BATCH = 200, 64
SECOND = 0.5  # of an iteration
CHANGES = (f"training.iterations={N}", f"training.batch_size={BATCH}", "network.depth=8")
ROWS = ("original", "bn_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation")


def made(root: Path) -> Reproduction:
    """Five cells of equal cost."""
    return reproduction(["table2"], scale="quick", seeds=1, all_columns=False, changes=CHANGES, root=root)


def cells(root: Path) -> dict[str, Cell]:
    return {cell.experiment.source.split("/")[1]: cell for cell in made(root).cells()}


def begun(cell: Cell, iterations: int, *, held: bool) -> None:
    """A run that has come so far; `held` by this process, as one that goes on is."""
    with Writer(cell.folder, cell.experiment, {}) as writer:
        for at in range(1, iterations + 1):
            writer.append({"iteration": at, "loss": 2.0 - at / N, "seconds": SECOND * at})
            if at % 50 == 0:
                writer.append({"iteration": at, "error": 90.0 - at / 10, "seconds": SECOND * at})
    if held:
        acquire(cell.folder / "lock")


def ended(cell: Cell, error: float = 2.0) -> None:
    with Writer(cell.folder, cell.experiment, {"torch": "2.14"}, resume=True) as writer:
        writer.finish({"status": "finished", "error": error, "train_error": 0.0, "train_loss": 0.1, "iterations": N})


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """One run done, two that go on (of which one has only begun), one that crashed, one that waits."""
    of = cells(tmp_path)
    ended(of["original"])
    begun(of["bn_after_addition"], 150, held=True)
    begun(of["relu_before_addition"], 1, held=False)
    record_failure(of["relu_only_preactivation"].folder, "MemoryError: no <memory>")
    return tmp_path


def test_standing_is_what_the_folders_say(half: Path) -> None:
    found = live.standing(made(half).cells(), every=7)
    assert (found.ended, found.waiting, found.total, found.every) == (1, 2, 5, 7)
    assert found.failed == (("table2/relu_only_preactivation seed 0", "MemoryError: no <memory>"),)
    (one,) = found.underway
    assert (one.label, one.iteration, one.total) == ("table2/bn_after_addition seed 0", 150, N)
    assert (one.loss, one.error) == (2.0 - 150 / N, 75.0)
    assert one.images_per_second == pytest.approx(BATCH / SECOND)
    assert one.seconds_left == pytest.approx(50 * SECOND)
    # Two whole runs wait, and a quarter of one that goes on is left, at its speed.
    assert found.seconds_left == pytest.approx((2 + 0.25) * N * SECOND)
    assert found.in_words() == (
        "1 of 5 runs are done, 1 crashed, 1 goes on, 2 wait, 128 images per second; about 3:45 left."
    )
    assert not found.over


def test_time_is_shared_by_runs_that_go_on_side_by_side(half: Path) -> None:
    going = cells(half)["bn_after_addition"].folder / "lock"
    acquire(cells(half)["relu_before_addition"].folder / "lock")
    going.unlink()
    before = live.standing(made(half).cells(), every=1)
    assert before.seconds_left is None  # one iteration says nothing of its speed
    assert "; time left not known." in before.in_words()
    acquire(going)
    (cells(half)["relu_before_addition"].folder / "lock").unlink()
    begun(cells(half)["relu_before_addition"], 100, held=True)
    found = live.standing(made(half).cells(), every=1)
    assert found.seconds_left == pytest.approx(
        N * SECOND
    )  # one takes the run that waits, the other what is left of two


def test_page_and_terminal_expect_the_same_time_of_runs_that_ended(tmp_path: Path) -> None:
    of = cells(tmp_path)
    for name, seconds in (("original", 40.0), ("bn_after_addition", 60.0)):
        with Writer(of[name].folder, of[name].experiment, {}, resume=True) as writer:
            writer.finish({"status": "finished", "error": 2.0, "iterations": N, "seconds": seconds})
    begun(of["relu_before_addition"], 1, held=True)
    remaining = Remaining(of.values())
    for name, seconds in (("original", 40.0), ("bn_after_addition", 60.0)):
        remaining.started(of[name])
        remaining.ended(of[name], seconds)
    remaining.started(of["relu_before_addition"])
    at = Attempt(began=0.0, share=1 / N)
    expected = remaining.seconds([(of["relu_before_addition"], at)], SECOND)
    assert live.standing(made(tmp_path).cells(), every=1).seconds_left == pytest.approx(expected)
    assert expected == pytest.approx(150, rel=0.1)  # three runs, about 50 s each


def test_grid_that_nobody_works_on_says_so(tmp_path: Path) -> None:
    found = live.standing(made(tmp_path).cells(), every=1)
    assert found.in_words() == "0 of 5 runs are done, none go on, 5 wait; time left not known."


def test_last_measurements_are_those_that_were_written_whole(tmp_path: Path) -> None:
    cell = cells(tmp_path)["original"]
    begun(cell, 150, held=False)
    every = list(cell.run.metrics())
    assert recent(cell.run) == every
    some = recent(cell.run, size=500)
    assert 5 < len(some) < len(every)
    assert some == every[-len(some) :]
    with (cell.folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 15')
    assert recent(cell.run) == every
    assert recent(Run(tmp_path / "none")) == []


def test_run_that_goes_on_has_its_curves_so_far_and_no_number(half: Path) -> None:
    result = seed_result((one := cells(half)["bn_after_addition"]).run, one.experiment)
    assert (result.status, result.error, len(result.loss_curve), len(result.error_curve)) == (UNFINISHED, None, 150, 3)
    (table,) = made(half).tables()
    of = {cell.row: cell for cell in table.cells if cell.column == "ResNet-110"}
    assert [of[row].status for row in ROWS] == ["ok", "unfinished", "unfinished", "failed", "missing"]
    assert (of["bn_after_addition"].n, of["bn_after_addition"].median) == (0, None)


def test_run_is_read_again_only_when_it_changed(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def reading(run: Run, experiment: Experiment, view: str = "") -> object:
        seen.append(run.name)
        return seed_result(run, experiment, view)

    monkeypatch.setattr(live, "seed_result", reading)
    read = live.Reading()
    first = made(half).outcome(read)
    count = len(seen)
    assert made(half).outcome(read) == first == made(half).outcome()
    assert len(seen) == count
    changed = cells(half)["bn_after_addition"]
    (changed.folder / "lock").unlink()
    ended(changed)
    again = made(half).outcome(read)
    assert seen[count:] == [changed.folder.name]
    assert again == made(half).outcome() != first


@dataclass
class Clock:
    """Time that passes only in sleep, in which something happens to the runs."""

    then: list[Callable[[], None]]
    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.then:
            self.then.pop(0)()


@dataclass
class Seen:
    """A folder in which pages are written, what they were each time, and the clock."""

    page: Page
    clock: Clock
    texts: list[str]


@pytest.fixture
def seen(half: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    clock, texts = Clock([]), []
    page = Page(job=made(half), path=half / "reports" / "page.html", command="cleanpath report runs --live")
    whole = Page.write

    def write(self: Page, *arguments: object) -> None:
        whole(self, *arguments)  # type: ignore[arg-type]
        texts.append(self.path.read_text(encoding="utf-8"))

    monkeypatch.setattr(Page, "write", write)
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    monkeypatch.setattr("time.sleep", clock.sleep)
    return Seen(page, clock, texts)


def end_all(root: Path) -> None:
    for row, cell in cells(root).items():
        (cell.folder / "lock").unlink(missing_ok=True)
        if row != "relu_only_preactivation" and cell.status != "finished":
            ended(cell)


def test_page_is_written_anew_until_every_run_is_done_or_crashed(seen: Seen, half: Path) -> None:
    seen.clock.then = [lambda: None, lambda: begun_further(half), lambda: end_all(half)]
    (found,) = live.follow([seen.page], every=5.0)
    # Nothing changed in the first rest; when all had ended, nobody measured, and the last is the page of a report.
    assert [text.count('http-equiv="refresh"') for text in seen.texts] == [1, 1, 1, 0]
    assert [text.count('id="live"') for text in seen.texts] == [1, 1, 1, 0]
    assert "150 of 200" in seen.texts[0]
    assert "180 of 200" in seen.texts[1]
    assert "MemoryError: no &lt;memory&gt;" in seen.texts[0]
    assert found.tables[0].cells[1].n == 1
    assert min(seen.clock.slept) >= 5.0
    last = seen.texts[-1]
    live.written([seen.page])
    assert seen.texts[-1] == last


def begun_further(root: Path) -> None:
    cell = cells(root)["bn_after_addition"]
    (cell.folder / "lock").unlink()
    begun(cell, 180, held=True)


def test_page_and_terminal_say_when_nobody_trains_any_more(
    seen: Seen, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def left() -> None:
        (cells(half)["bn_after_addition"].folder / "lock").unlink()

    rest = [lambda: None] * 3
    seen.clock.then = [left, *rest, lambda: end_all(half)]
    live.follow([seen.page], every=5.0)
    # Between two runs of a grid none is held for a moment: it is said after a while.
    assert ["Nobody trains" in text for text in seen.texts] == [False, False, True, False, False]
    assert "1 of 5 runs are done, 1 crashed, 3 wait; nobody trains: no process" in seen.texts[2]
    lines = [line.partition("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "1 of 5 runs are done, 1 crashed, 1 goes on, 2 wait, 128 images per second; about 3:45 left.",
        "1 of 5 runs are done, 1 crashed, 3 wait; nobody trains: no process holds any of the runs.",
        "4 of 5 runs are done, 1 crashed.",
    ]


def test_a_single_look_at_a_grid_between_two_runs_does_not_mean_that_nobody_trains(seen: Seen, half: Path) -> None:
    def left() -> None:
        (cells(half)["bn_after_addition"].folder / "lock").unlink()

    def goes_on() -> None:
        begun(cells(half)["bn_after_addition"], 180, held=True)

    seen.clock.then = [left, goes_on, lambda: end_all(half)]
    live.follow([seen.page], every=20.0)
    assert not any("Nobody trains" in text for text in seen.texts)


def test_ends_of_runs_are_said_twice_a_minute_at_most(
    seen: Seen, half: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = cells(half)
    seen.clock.then = [lambda: ended(of["relu_before_addition"]), *[lambda: None] * 5]
    seen.clock.then += [lambda: ended(of["full_preactivation"]), *[lambda: None] * 2, lambda: end_all(half)]
    live.follow([seen.page], every=5.0)
    counts = [line.partition("  ")[2].partition(" ")[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["1", "2", "4"]


def test_grid_that_measures_its_last_runs_is_waited_for_but_not_for_ever(seen: Seen, half: Path) -> None:
    end_all(half)
    wishes = [3, 2, *[1] * 1000]
    object.__setattr__(seen.page.job, "wishes", lambda: [None] * wishes.pop(0))
    live.follow([seen.page], every=5.0)
    assert 60.0 <= seen.clock.now - 10.0 <= 70.0  # the last of the three is never measured
    assert seen.texts[-1].count('http-equiv="refresh"') == 0


def test_whoever_stops_it_leaves_a_page_that_no_longer_loads_itself(seen: Seen) -> None:
    def stop() -> None:
        raise Stopped("stopped by SIGINT; so", signal_number=2)

    seen.clock.then = [stop]
    with pytest.raises(Stopped):
        live.follow([seen.page], every=5.0)
    assert [text.count('http-equiv="refresh"') for text in seen.texts] == [1, 0]
    assert "not finished" in seen.texts[-1]


def test_writing_takes_a_fifth_of_the_time_at_most(seen: Seen, half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(cells: object, *, every: int) -> object:
        seen.clock.now += 3.0
        return before(cells, every=every)  # type: ignore[arg-type]

    before = live.standing
    monkeypatch.setattr(live, "standing", slow)
    seen.clock.then = [lambda: end_all(half)]
    live.follow([seen.page], every=5.0)
    assert seen.clock.slept[0] == 12.0


def test_ctrl_c_ends_it_with_a_sentence(half: Path) -> None:
    record(made(half), "cleanpath reproduce table2")
    command = [sys.executable, "-m", "cleanpath", "report", str(half), "--live", "--page", "page.html"]
    child = subprocess.Popen(command, cwd=half, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((half / "page.html").is_file, "the page")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (130, "")
    first, now, last = err.splitlines()
    assert now.endswith("1 of 5 runs are done, 1 crashed, 1 goes on, 2 wait, 128 images per second; about 3:45 left.")
    assert first == "page: page.html, written anew until the runs are done; Ctrl-C ends that"
    assert last.startswith(
        "error: stopped by SIGINT; page.html stands as the runs do now; go on with: cleanpath report"
    )
    page = (half / "page.html").read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in page
    assert "not finished" in page


def test_folder_that_vanishes_while_it_is_read_is_looked_at_again(half: Path) -> None:
    read, cell = live.Reading(), cells(half)["original"]
    found = read(cell.run, cell.experiment, "")
    assert found.status == "finished"
    away = cell.folder.rename(half / "away")
    assert read(cell.run, cell.experiment, "").status == "missing"
    away.rename(cell.folder)
    assert read(cell.run, cell.experiment, "") == found


def test_what_is_said_of_runs_agrees_in_every_state(half: Path) -> None:
    """Heading, sentence and rows, from before the first run to the last."""
    whole = made(half)
    page = Page(job=whole, path=half / "page.html", command="cleanpath report runs --live")

    def state(root: Path, **changes: object) -> tuple[str, str]:
        found = replace(live.standing(made(root).cells(), every=1), **changes)  # type: ignore[arg-type]
        return found.heading, found.in_words()

    fresh = half / "fresh"
    assert state(fresh) == (
        "Runs are awaited",
        "0 of 5 runs are done, none go on, 5 wait; time left not known.",
    )
    assert state(fresh, idle=True) == (
        "Nobody trains",
        "0 of 5 runs are done, 5 wait; nobody trains: no process holds any of the runs.",
    )
    begun(cells(fresh)["original"], 1, held=True)
    assert state(fresh) == ("Runs go on", "0 of 5 runs are done, 1 goes on, 4 wait; time left not known.")
    assert state(half)[0] == "Runs go on"

    page.write(whole.outcome(), live.standing(whole.cells(), every=1))
    text = page.path.read_text(encoding="utf-8")
    rows = re.findall(r'<td class="gap"[^>]*>(.*?)</td>', text)
    # Two that wait or go on, the crashed one, one that waits; then the column that nobody asked for.
    assert [row.partition("<")[0].strip() for row in rows] == ["to come", "filled by", "to come", "filled by"]
    page.write(whole.outcome(), replace(live.standing(whole.cells(), every=1), idle=True, underway=()))
    assert "to come" not in page.path.read_text(encoding="utf-8")

    end_all(half)
    assert state(half) == ("All runs have ended", "4 of 5 runs are done, 1 crashed.")
    page.write(whole.outcome(), live.standing(whole.cells(), every=1))
    text = page.path.read_text(encoding="utf-8")
    assert "Runs go on" not in text
    assert "none go on" not in text
    assert "to come" not in text


def test_nothing_that_is_about_to_run_is_to_be_filled_by_a_command(tmp_path: Path) -> None:
    whole = made(tmp_path / "runs")
    page = Page(job=whole, path=tmp_path / "page.html", command="cleanpath report runs --live")
    page.write(whole.outcome(), live.standing(whole.cells(), every=1))
    text = page.path.read_text(encoding="utf-8")
    assert "Nothing has a result yet.</strong>" in text
    page.write(whole.outcome())
    assert "Nothing has a result yet; cleanpath reproduce table2" in page.path.read_text(encoding="utf-8")
