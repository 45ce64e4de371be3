"""The grid: what it has to do, and that doing it gives what single runs give, whatever dies meanwhile."""

import contextlib
import copy
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanpath import assemble, measuring
from cleanpath.errors import RunError
from cleanpath.experiment import Experiment
from cleanpath.grid import local, plan
from cleanpath.grid.driver import RETRIES, News
from cleanpath.measures import Wish
from cleanpath.naming import default_name
from cleanpath.paper.scales import scale_of
from cleanpath.paper.tables import RECIPES, experiments, recipe_of
from cleanpath.records import Run, Writer
from tests.helpers import (
    ONE,
    TINY,
    Outcome,
    assert_same_run,
    assert_user_error,
    examples,
    here,
    nothing_written,
    tiny,
    tree,
)

ROWS = ("original", "bn_after_addition", "relu_before_addition", "relu_only_preactivation", "full_preactivation")


def of_tables(*names: str, seeds: Sequence[int] = (0,)) -> list[Experiment]:
    """The experiments of the tables' first columns at scale quick."""
    found: list[Experiment] = []
    for name in names:
        recipe = recipe_of(name)
        found += experiments(recipe, scale_of("quick"), columns=["ResNet-110"], seeds=seeds).values()
    return found


# What is to do.


def test_cell_that_two_tables_share_is_there_once(tmp_path: Path) -> None:
    both = of_tables("table1", "table2")
    cells = plan.cells(both, tmp_path)
    assert (len(both), len(cells)) == (17, 16)
    assert cells == plan.cells(of_tables("table1", "table2", "table2"), tmp_path)
    assert cells[0].label == "table1/original seed 0"
    assert [cell.folder for cell in cells] == [tmp_path / default_name(cell.experiment) for cell in cells]


def test_seeds_are_cells_of_their_own(tmp_path: Path) -> None:
    assert len(plan.cells(of_tables("table2", seeds=range(3)), tmp_path)) == 15


def test_costliest_cell_comes_first_and_ended_ones_not_at_all(tmp_path: Path) -> None:
    made = [tiny("network.depth=8"), tiny("network.depth=20"), tiny("network.depth=14"), tiny(iterations=99)]
    cells = plan.cells(made, tmp_path)
    assert [cell.experiment for cell in plan.to_do(cells)] == [made[3], made[1], made[2], made[0]]
    for cell, status in zip(cells[1:3], ("finished", "diverged"), strict=True):
        with Writer(cell.folder, cell.experiment, {}) as writer:
            writer.finish({"status": status})
    assert [cell.experiment for cell in plan.to_do(cells)] == [made[3], made[0]]


def test_cell_that_crashed_stopped_or_is_damaged_is_to_do(tmp_path: Path) -> None:
    crashed, stopped, damaged = cells = plan.cells([tiny(seed=seed) for seed in range(3)], tmp_path)
    for cell in cells:
        with Writer(cell.folder, cell.experiment, {}) as writer:
            if cell is crashed:
                writer.fail("no memory")
            if cell is damaged:
                writer.finish({"status": "finished"})
    (damaged.folder / "result.json").write_text("{")
    assert [cell.status for cell in (crashed, stopped, damaged)] == ["failed", "interrupted", "damaged"]
    assert set(plan.to_do(cells)) == set(cells)


def test_branches_of_more_layers_and_longer_runs_are_more_work(tmp_path: Path) -> None:
    made = [
        *(tiny(), tiny("training.batch_size=64"), tiny(iterations=24)),
        tiny("network.depth=11", "network.branch=bottleneck"),
    ]
    works = [plan.cell(experiment, tmp_path).work for experiment in made]
    plain, batch, long, deep = works
    assert plain < batch
    assert long == pytest.approx(4 * plain, rel=0.1)
    assert 1.2 < deep / plain < 1.8


def test_order_of_the_paper_s_own_runs_goes_by_their_images_and_epochs(tmp_path: Path) -> None:
    """ResNet-200 for 90 epochs of ImageNet comes before all, though its length is not given in iterations."""
    made = [one for name in RECIPES for one in experiments(recipe_of(name), scale_of("paper"), seeds=[0]).values()]
    cells = plan.cells(made, tmp_path)
    ordered = sorted(cells, key=lambda cell: -cell.work)
    on_imagenet = [cell.experiment.data.name.startswith("imagenet") for cell in ordered]
    assert any(on_imagenet)
    assert on_imagenet == sorted(on_imagenet, reverse=True)
    assert plan.to_do(cells)[0].work == plan.in_order(cells)[0].work == ordered[0].work
    assert ordered[0].experiment.training.epochs == 90


@examples
@given(st.lists(st.floats(0, 1000), max_size=12), st.integers(1, 6))
def test_makespan_is_between_the_bounds_of_any_order(seconds: list[float], workers: int) -> None:
    found = plan.makespan(seconds, workers)
    least = max([sum(seconds) / workers, *seconds], default=0.0)
    assert least - 1e-6 <= found <= sum(seconds) / workers + max(seconds, default=0.0) + 1e-6
    assert plan.makespan(seconds, 1) == pytest.approx(sum(seconds))


def test_makespan_takes_the_costliest_job_first() -> None:
    assert plan.makespan([1, 1, 1, 1, 4], 2) == 4
    assert plan.makespan([3, 2, 2], 2) == 4
    assert plan.makespan([], 3) == 0


# Doing it.


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def reproduce(folder: Path, *words: str) -> Outcome:
    """Table 2, tiny, as JSON, with its runs in the folder."""
    with inside(folder):
        return here("reproduce", "table2", *TINY, *ONE, "--workers", "2", "--json", *words)


def cells_below(folder: Path, iterations: int | None = None) -> dict[str, plan.Cell]:
    """The cells of that table by row; longer ones, if asked."""
    sets = [word for word in TINY if word != "--set"]
    if iterations is not None:
        sets = [word for word in sets if "iterations" not in word] + [f"training.iterations={iterations}"]
    made = experiments(recipe_of("table2"), scale_of("quick"), columns=["ResNet-110"], seeds=[0], changes=sets)
    return {row: plan.cell(experiment, folder / "runs") for (row, _, _), experiment in made.items()}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder in which table2 was run undisturbed, and what the command printed."""
    folder = tmp_path_factory.mktemp("calm")
    outcome = reproduce(folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome.json()


def rows(data: Any, column: str = "ResNet-110") -> dict[str, dict[str, Any]]:
    """The rows of a printed table's column by name, without what a clock says."""
    found = {row["row"]: copy.deepcopy(row) for row in data["tables"][0]["rows"] if row["column"] == column}
    for row in found.values():
        for seed in row["seeds"]:
            del seed["seconds"]
    return found


def test_reproduce_prints_the_stated_schema(calm: tuple[Path, Any]) -> None:
    _, data = calm
    assert (data["schema"], data["version"]) == ("cleanpath.tables", 1)
    assert [table["name"] for table in data["tables"]] == ["table2"]
    found = data["tables"][0]["rows"]
    assert [(row["row"], row["column"]) for row in found] == [
        (row, column) for column in ("ResNet-110", "ResNet-164") for row in ROWS
    ]
    for row in found:
        ran = row["column"] == "ResNet-110"
        assert isinstance(row["paper"], float)
        assert (row["n"], row["std"]) == (int(ran), None)
        assert row["status"] in (("ok", "fail") if ran else ("missing",))
        assert row["mean"] == row["median"] == (row["seeds"][0]["error"] if ran else None)


def test_every_cell_of_the_first_column_is_a_finished_run(calm: tuple[Path, Any]) -> None:
    folder, _ = calm
    cells = cells_below(folder)
    assert {cell.status for cell in cells.values()} == {"finished"}
    beside = {path.name for path in (folder / "runs").iterdir() if path.is_file()}
    assert {path.name for path in (folder / "runs").iterdir()} - beside == {cell.folder.name for cell in cells.values()}
    assert [name.partition("-")[0] for name in beside] == ["reproduction"]  # what was asked
    assert {cell.run.environment["threads"] for cell in cells.values()} == {1}


@pytest.mark.parametrize("row", ["original", "full_preactivation"])
def test_cell_of_a_grid_is_the_single_run_bit_for_bit(calm: tuple[Path, Any], tmp_path: Path, row: str) -> None:
    cell = cells_below(calm[0])[row]
    assert_same_run(assemble.run(cell.experiment, tmp_path / "run", threads=1).folder, cell.folder)


def test_cell_of_a_grid_can_be_trained_from_its_file(calm: tuple[Path, Any], tmp_path: Path) -> None:
    cell = cells_below(calm[0])["original"]
    file = str(cell.folder / "experiment.json")
    outcome = here("train", file, "--out", str(tmp_path / "run"), "--threads", "1", "--json")
    assert outcome.code == 0, outcome.err
    assert_same_run(tmp_path / "run", cell.folder)


def test_second_run_trains_nothing_and_prints_the_same(calm: tuple[Path, Any]) -> None:
    folder, data = calm
    with nothing_written(folder / "runs"):
        again = reproduce(folder)
    assert again.code == 0
    assert again.json() == data
    assert "started" not in again.err
    assert "left" not in again.err


def test_report_prints_the_same_table_and_writes_no_run(calm: tuple[Path, Any]) -> None:
    folder, data = calm
    with inside(folder), nothing_written(folder / "runs"):
        outcome = here("report", "table2", *TINY, "--seeds", "1", "--json")
    assert outcome.json()["tables"] == data["tables"]


def test_cell_that_was_removed_is_the_only_one_that_runs_again(calm: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(calm[0], tmp_path / "copy", copy_function=shutil.copy2)
    cells = cells_below(folder)
    shutil.rmtree(cells["original"].folder)
    before = tree(folder / "runs")
    assert rows(reproduce(folder).json()) == rows(calm[1])
    after = tree(folder / "runs")
    gone = cells["original"].folder.name
    assert {name: at for name, at in after.items() if not name.startswith(gone)} == before
    assert_same_run(cells["original"].folder, cells_below(calm[0])["original"].folder)


def test_fresh_trains_every_cell_again_to_the_same_result(calm: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(calm[0], tmp_path / "copy", copy_function=shutil.copy2)
    before = tree(folder / "runs")
    outcome = reproduce(folder, "--fresh")
    after = tree(folder / "runs")
    assert rows(outcome.json()) == rows(calm[1])
    assert before.keys() == after.keys()
    for name, (written, _) in after.items():
        kept = "." not in name or name.startswith("reproduction-")
        assert kept or written > before[name][0], f"{name} was not written again"
    for row, cell in cells_below(folder).items():
        assert_same_run(cell.folder, cells_below(calm[0])[row].folder)


def test_plan_names_the_cells_and_their_cost_and_writes_nothing(calm: tuple[Path, Any]) -> None:
    folder, _ = calm
    with nothing_written(folder):
        whole = reproduce(folder, "--dry-run", "--fresh").json()
        rest = reproduce(folder, "--dry-run", "--seeds", "2").json()
        nothing = reproduce(folder, "--dry-run").json()
    assert (whole["schema"], whole["version"], whole["workers"]) == ("cleanpath.plan", 1, 2)
    assert (whole["to_do"], rest["to_do"], nothing["to_do"]) == (5, 5, 0)
    assert [row["status"] for row in rest["cells"]].count("finished") == 5
    assert whole["seconds"] > 0
    assert whole["memory"] > 1e8
    assert whole["seconds"] <= whole["worker_seconds"] <= 2 * whole["seconds"]
    kept = sum(path.stat().st_size for cell in cells_below(folder).values() for path in cell.folder.iterdir())
    each = [row["disk"] for row in whole["cells"]]
    assert kept < sum(each) < whole["disk"] == sum(each) + 6 * (max(each) + sorted(each)[-2]) < whole["free_disk"]
    assert [nothing[key] for key in ("seconds", "worker_seconds", "memory", "disk")] == [0, 0, 0, 0]
    assert {row["run"] for row in whole["cells"]} == {cell.folder.name for cell in cells_below(folder).values()}


def test_plan_says_when_the_disk_is_too_small(calm: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cleanpath.planning.free_disk", lambda _: 2_000)
    words = (*TINY, *ONE, "--workers", "2", "--dry-run", "--fresh", "--runs", str(calm[0] / "runs"))
    told = here("reproduce", "table2", *words).out
    assert re.search(r"5 of 5 to do on 2 workers: about \d+:\d\d \(until .* if begun now\), 0\.\d core-hours", told)
    assert "only 0.0 MB are free where the runs go: choose another --runs" in told


@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=str)
def test_page_that_is_a_folder_is_refused_before_anything_is_trained(tmp_path: Path, words: tuple[str, ...]) -> None:
    with nothing_written(tmp_path):
        assert_user_error(reproduce(tmp_path, "--page", ".", *words), "--page . is a folder; name a file")


def test_plan_for_a_cluster_needs_its_number_of_cores(tmp_path: Path) -> None:
    with nothing_written(tmp_path), inside(tmp_path):
        outcome = here("reproduce", "table2", *TINY, *ONE, "--dry-run", "--cluster", "127.0.0.1:6379")
    assert_user_error(outcome, "--dry-run asks no cluster: give --workers")


def test_setting_that_no_cell_can_have_is_refused_before_any_runs(tmp_path: Path) -> None:
    with nothing_written(tmp_path):
        assert_user_error(
            reproduce(tmp_path, "--set", "training.warmup=1", "--set", "training.batch_size=1298"), "1298"
        )
        assert_user_error(reproduce(tmp_path, "--columns", "all"), "depth 8 is not 9n+2")


class Killer:
    """Kills the process of one cell with SIGKILL when the driver hears of a step, at the first or a later one on.

    So many times; without a number, whenever it is tried again.
    """

    def __init__(self, label: str, step: int = 1, times: int | None = None) -> None:
        self.label, self.step, self.times = label, step, times
        self.ended: list[str] = []
        self.died: list[str] = []

    def __call__(self, news: News) -> None:
        if news.event == "ended":
            self.ended.append(news.cell.label)
        if news.event == "died":
            self.died.append(news.reason)
        at_it = news.progress is not None and news.progress.iteration >= self.step and news.cell.label == self.label
        if at_it and (self.times is None or len(self.died) < self.times):
            for process in multiprocessing.active_children():
                assert process.pid is not None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)


def test_killed_worker_costs_its_cell_only_and_the_next_call_trains_it(tmp_path: Path, calm: tuple[Path, Any]) -> None:
    made = list(cells_below(tmp_path).values())
    # The victim is long enough to be caught; it is run alone, one process at a time.
    long = cells_below(tmp_path, 400)["original"]
    todo = [made[1], long, made[2]]
    killer = Killer(long.label)
    local.run_cells(todo, workers=1, tell=killer)
    assert killer.ended == [made[1].label, made[2].label, long.label]
    assert killer.died == ["SIGKILL"] * RETRIES
    assert [cell.status for cell in todo] == ["finished", "failed", "finished"]
    assert long.run.failure == "its process ended with SIGKILL, as 3 times before"
    assert plan.to_do(todo) == [long]
    local.run_cells(plan.to_do(todo), workers=1, tell=lambda _: None)
    assert long.status == "finished"
    assert Run(long.folder).failure is None
    assert_same_run(made[1].folder, cells_below(calm[0])["bn_after_addition"].folder)


@pytest.mark.slow
def test_killed_cell_is_tried_again_within_the_same_call_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    killed, alone = (plan.cell(tiny(iterations=200), tmp_path / name) for name in ("killed", "alone"))
    killer, told, saved = Killer(killed.label, step=20, times=2), list[News](), list[int]()

    def tell(news: News) -> None:
        told.append(news)
        killer(news)
        if news.event == "died":
            saved.append(killed.run.saved)

    local.run_cells([killed], workers=1, tell=tell, work=partial(local.train_cell, seconds_between=0.0))
    assert (killer.died, killed.status) == (["SIGKILL"] * 2, "finished")
    deaths = [at for at, news in enumerate(told) if news.event == "died"]
    for death, kept in zip(deaths, saved, strict=True):
        first = next(news.progress.iteration for news in told[death:] if news.progress is not None)
        assert first > kept > 0
    local.run_cells([alone], workers=1, tell=lambda _: None)
    assert_same_run(killed.folder, alone.folder)


LIKE_NO_OTHER = (
    tiny(),
    tiny("network.shortcut.kind=dropout", "network.shortcut.rate=0.3"),
    tiny("training.optimizer=adamw", "training.lr=0.001", "training.average=0.9"),
    tiny("training.precision=bf16", "training.mixup=0.2"),
    tiny("training.memory=recompute", "training.clip=1.0"),
    tiny("training.lr=1e38"),
    tiny(seed=1),
)


def test_cells_of_one_process_are_what_each_is_in_its_own(tmp_path: Path) -> None:
    """Nothing that one leaves behind (random states, precision, averages, a crash) is in the numbers of the next."""
    together = plan.cells(LIKE_NO_OTHER, tmp_path / "together")
    apart = plan.cells(LIKE_NO_OTHER, tmp_path / "apart")
    local.run_cells(together, workers=1, tell=lambda _: None)
    for cell in apart:
        local.run_cells([cell], workers=1, tell=lambda _: None)  # a pool, and so a process, of its own
    assert [cell.status for cell in together].count("diverged") == 1
    for one, other in zip(together, apart, strict=True):
        assert one.status == other.status
        if one.status == "finished":
            assert_same_run(one.folder, other.folder)


def test_peak_of_memory_is_the_cell_s_own(tmp_path: Path) -> None:
    """A small run behind a large one does not have the peak of that."""
    large = tiny("network.width=64", "training.batch_size=512", iterations=2)
    first, small, again = plan.cells([large, tiny(), large], tmp_path / "large"), tiny(seed=3), tiny(seed=4)
    cells = [first[0], plan.cell(small, tmp_path), plan.cell(again, tmp_path)]
    local.run_cells(cells, workers=1, tell=lambda _: None)
    peaks = [(cell.run.result or {})["peak_memory"] for cell in cells]
    assert max(peaks[1:]) < peaks[0] - 20_000_000


def test_failed_cell_is_shown_with_its_reason_and_the_next_call_mends_it(
    tmp_path: Path, calm: tuple[Path, Any]
) -> None:
    """A cell that cannot be written crashes; the others are trained, the command ends with 1 and says why."""
    cell = cells_below(tmp_path)["original"]
    cell.folder.mkdir(parents=True)
    (cell.folder / "weights.safetensors").mkdir()  # a folder in the place of the weights cannot be replaced
    (cell.folder / "experiment.json").write_bytes(
        (cells_below(calm[0])["original"].folder / "experiment.json").read_bytes()
    )
    outcome = reproduce(tmp_path)
    assert outcome.code == 1
    found = rows(outcome.json())
    assert [found[row]["status"] == "failed" for row in ROWS] == [row == "original" for row in ROWS]
    assert found["original"]["seeds"][0]["reason"]
    assert "failed" in outcome.err
    (cell.folder / "weights.safetensors").rmdir()
    assert rows(reproduce(tmp_path).json()) == rows(calm[1])


def test_diverged_cell_is_shown_as_that_and_is_an_answer(tmp_path: Path) -> None:
    outcome = reproduce(tmp_path, "--set", "training.lr=1e38")
    assert outcome.code == 0
    assert {row["status"] for row in rows(outcome.json()).values()} == {"diverged"}
    assert {(row["n"], row["median"], row["mean"]) for row in rows(outcome.json()).values()} == {(1, None, None)}


def held(folder: Path) -> tuple[Outcome, bool]:
    """The command while another process holds a cell, and whether it left that cell alone."""
    cell = cells_below(folder)["original"]
    with Writer(cell.folder, cell.experiment, {}):
        before = tree(cell.folder)
        with inside(folder):
            outcome = here("reproduce", "table2", *TINY, *ONE, "--workers", "2")
        return outcome, tree(cell.folder) == before


def test_second_driver_leaves_a_held_cell_alone_and_says_who_holds_it(tmp_path: Path) -> None:
    outcome, alone = held(tmp_path)
    assert alone
    assert outcome.code == 2
    assert f"is being written by process {os.getpid()}" in outcome.err


def test_progress_is_told_in_order(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def tell(news: News) -> None:
        seen.append((news.event, news.progress.iteration if news.progress else 0))

    local.run_cells([plan.cell(tiny(), tmp_path)], workers=3, tell=tell)
    assert seen[0] == ("started", 0)
    assert seen[-1] == ("ended", 0)
    steps = [iteration for event, iteration in seen if event == "step"]
    assert steps == sorted(steps)
    assert steps[-1] == 6


def test_run_whose_unit_raises_while_it_is_measured_leaves_the_others_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = plan.cells([tiny(seed=seed) for seed in range(3)], tmp_path)
    errors = (ZeroDivisionError("my\nunit"), None, RunError("no weights"))
    raised = {cell.run.folder: error for cell, error in zip(cells, errors, strict=True)}

    def measured(run: Run, _: Wish) -> None:
        if (error := raised[run.folder]) is not None:
            raise error

    monkeypatch.setattr(measuring, "measure", measured)
    _, theirs = multiprocessing.Pipe(duplex=False)
    told = [local._observe((cell, Wish()), theirs).reason for cell in cells]
    assert told[1:] == ["", "no weights"]
    assert told[0].startswith("ZeroDivisionError: my unit; test_grid.py, line ")


def test_cells_outside_their_grid_keep_their_experiment(tmp_path: Path) -> None:
    local.run_cells([plan.cell(tiny("source=mine"), tmp_path)], workers=1, tell=lambda _: None)
    run = Run(tmp_path / default_name(tiny()))
    assert run.experiment == replace(tiny(), source="mine")
    assert json.loads((run.folder / "experiment.json").read_text())["source"] == "mine"


@pytest.mark.slow
def test_cell_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    calm, often = (plan.cell(tiny(iterations=120), tmp_path / name) for name in ("calm", "often"))
    local.run_cells([calm], workers=1, tell=lambda _: None)
    for step in (1, *range(2, 120, 20), 120):
        killer = Killer(often.label, step)
        local.run_cells([often], workers=1, tell=killer)
        assert often.status in ("failed", "finished")
        assert_no_torn_file(often.folder)
    if often.status != "finished":
        local.run_cells([often], workers=1, tell=lambda _: None)
    assert_same_run(often.folder, calm.folder)


def assert_no_torn_file(folder: Path) -> None:
    """Whatever stands in the folder under its own name is whole."""
    run = Run(folder)
    assert (run.experiment, run.environment["threads"]) == (tiny(iterations=120), 1)
    assert run.result is None or run.result["status"] == "finished"
    assert all("iteration" in line for line in run.metrics())


@pytest.mark.slow
def test_quick_scale_shows_the_paper_s_effect(tmp_path: Path) -> None:
    """Rows that the paper trains are trained, rows that fail fail, at the setting that is shipped; one seed."""
    recipe, scale = recipe_of("table1"), scale_of("quick")
    made = experiments(recipe, scale, columns=["ResNet-110"], seeds=[0])
    cells = {row: plan.cell(experiment, tmp_path) for (row, _, _), experiment in made.items()}
    chosen = {row: cells[row] for row in ("original", "shortcut_only_gating_-6", "exclusive_gating_0", "dropout")}
    local.run_cells(list(chosen.values()), workers=local.cores(), tell=lambda _: None)
    errors = {row: (cell.run.result or {})["error"] for row, cell in chosen.items()}
    assert max(errors["original"], errors["shortcut_only_gating_-6"]) < 10
    assert min(errors["exclusive_gating_0"], errors["dropout"]) > 20
