"""Recipes against the paper's cells, and the statistics of a table's cells against numpy."""

import csv
import io
import json
import math
import statistics
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanpath import assemble, settings
from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.experiment import Network, Shortcut
from cleanpath.paper.published import published_table
from cleanpath.paper.tables import RECIPES, SCALES, experiments, recipe_of, scale_of
from cleanpath.records import Writer, default_name
from cleanpath.report import table as tables
from cleanpath.report.collect import collect, facts, in_words
from cleanpath.report.table import DIVERGED, FAILED, FINISHED, MISSING, Cell, SeedResult, Table
from tests.helpers import examples, here, network_of

# Rows that the paper does not print: its theory speaks of the first, no table does.
NOT_PRINTED = {("table1", "constant_1_half")}
# What each row sets, typed from the paper's Tables 1 and 2 once more.
SHORTCUTS = {
    "original": Shortcut(),
    "constant_0_1": Shortcut(kind="scaling", scale=0.0),
    "constant_half_1": Shortcut(kind="scaling", scale=0.5),
    "constant_half_half": Shortcut(kind="scaling", scale=0.5, branch_scale=0.5),
    "exclusive_gating_0": Shortcut(kind="exclusive_gating", bias=0.0, gate_widening=False),
    "exclusive_gating_-6": Shortcut(kind="exclusive_gating", bias=-6.0, gate_widening=False),
    "exclusive_gating_-7": Shortcut(kind="exclusive_gating", bias=-7.0, gate_widening=False),
    "shortcut_only_gating_0": Shortcut(kind="shortcut_only_gating", bias=0.0, gate_widening=False),
    "shortcut_only_gating_-6": Shortcut(kind="shortcut_only_gating", bias=-6.0, gate_widening=False),
    "conv_1x1": Shortcut(kind="conv_1x1", norm=True),
    "dropout": Shortcut(kind="dropout", rate=0.5),
    "constant_1_half": Shortcut(kind="branch_scaling", branch_scale=0.5),
}
PLACEMENTS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
)
BRANCH = {"ResNet-110": "two_layer", "ResNet-164": "bottleneck"}


def networks(name: str) -> dict[tuple[str, str], Network]:
    """The network of every row and column of a table at scale quick."""
    recipe = recipe_of(name)
    made = experiments(recipe, scale_of("quick"), columns=recipe.columns, seeds=[0])
    return {(row, column): network_of(experiment) for (row, column, _), experiment in made.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_has_a_published_number_and_every_number_a_row(name: str) -> None:
    rows = {(row, column) for row, _, _ in RECIPES[name].rows for column in RECIPES[name].columns}
    published = set(published_table(name).cells)
    extra = {(row, column) for row, column in rows if (name, row) in NOT_PRINTED}
    assert rows - published == extra
    assert published - rows == set()
    assert RECIPES[name].columns == published_table(name).columns


def test_the_named_row_only_is_not_in_the_paper() -> None:
    published = published_table("table1")
    assert [row for row, _, _ in RECIPES["table1"].rows if (row, "ResNet-110") not in published.cells] == [
        "constant_1_half"
    ]


def test_rows_have_different_names_and_labels() -> None:
    for recipe in RECIPES.values():
        for part in (0, 1):
            names = [row[part] for row in recipe.rows]
            assert len(names) == len(set(names))


def test_table_1_is_made_of_the_paper_s_shortcuts() -> None:
    made = networks("table1")
    assert {row: network.shortcut for (row, _), network in made.items()} == SHORTCUTS
    assert {network.placement for network in made.values()} == {"original"}


def test_table_2_is_made_of_the_paper_s_placements_and_both_units() -> None:
    made = networks("table2")
    assert {(row, column): network.placement for (row, column), network in made.items()} == {
        (row, column): row for row in PLACEMENTS for column in BRANCH
    }
    assert {(column, network.branch) for (_, column), network in made.items()} == set(BRANCH.items())
    assert {network.shortcut for network in made.values()} == {Shortcut()}


@pytest.mark.parametrize(("name", "varied"), [("table1", "shortcut"), ("table2", "placement")])
def test_rows_of_a_column_differ_in_one_setting_only(name: str, varied: str) -> None:
    for column in RECIPES[name].columns:
        same = [network for (_, at), network in networks(name).items() if at == column]
        for field in fields(Network):
            values = {getattr(network, field.name) for network in same}
            assert len(values) == (len(same) if field.name == varied else 1), field.name


def test_both_tables_share_the_original_network_and_nothing_else() -> None:
    digests: dict[str, set[str]] = {}
    for name, recipe in RECIPES.items():
        made = experiments(recipe, scale_of("quick"), columns=recipe.columns[:1], seeds=[0])
        digests[name] = {settings.digest(experiment) for experiment in made.values()}
    assert len(digests["table1"] & digests["table2"]) == 1
    # 15 rows of the paper and one of ours.
    assert len(digests["table1"] | digests["table2"]) == 16


def test_both_columns_have_the_same_number_of_units() -> None:
    from cleanpath.nn.catalog import units_per_stage

    for scale in SCALES.values():
        assert set(scale.networks) == {column for recipe in RECIPES.values() for column in recipe.columns}
    assert len({units_per_stage(network) for network in networks("table2").values()}) == 1


def test_every_cell_of_every_scale_can_run() -> None:
    changes = ["network.depth=20", "network.width=4"]
    for scale in SCALES.values():
        for recipe in RECIPES.values():
            for column in recipe.columns:
                made = experiments(recipe, scale, columns=[column], seeds=[0])
                one = next(iter(made.values()))
                assemble.check(one)
                for experiment in made.values():
                    assemble.check(settings.override(experiment, changes))


def test_scale_says_what_differs_from_the_paper() -> None:
    for scale in SCALES.values():
        text = " ".join(scale.deviations)
        for word in (scale.data.name, str(scale.training.iterations), f"lr {scale.training.lr:g}", "0.2%"):
            assert word in text, word


def test_seeds_and_changes_reach_every_cell() -> None:
    made = experiments(
        recipe_of("table2"), scale_of("quick"), columns=["ResNet-110"], seeds=[0, 7], changes=["training.lr=0.5"]
    )
    assert {(seed, experiment.seed) for (_, _, seed), experiment in made.items()} == {(0, 0), (7, 7)}
    assert {experiment.training.lr for experiment in made.values()} == {0.5}
    assert {experiment.source for experiment in made.values()} == {f"table2/{row}" for row in PLACEMENTS}


def test_seed_cannot_be_set_for_all_seeds_of_a_row() -> None:
    with pytest.raises(SettingError, match="--seeds N"):
        experiments(recipe_of("table2"), scale_of("quick"), columns=["ResNet-110"], seeds=[0, 1], changes=["seed=3"])


def test_unknown_table_and_scale_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        recipe_of("tabel1")
    with pytest.raises(UnknownNameError, match="choose one of quick"):
        scale_of("paper")


# Statistics of a cell.

PERCENT = st.floats(0, 100)
SEEDS = st.lists(
    st.one_of(
        st.builds(SeedResult, seed=st.integers(0, 99), status=st.just(FINISHED), error=PERCENT),
        st.builds(SeedResult, seed=st.integers(0, 99), status=st.sampled_from((DIVERGED, FAILED, MISSING))),
    ),
    max_size=7,
)


def cell(*seeds: SeedResult, row: str = "original", column: str = "ResNet-110") -> Cell:
    return Cell(row=row, label=row, column=column, paper=6.61, seeds=seeds)


def ended(error: float | None) -> SeedResult:
    """A run that ended with an error, or diverged."""
    return SeedResult(seed=0, status=FINISHED if error is not None else DIVERGED, error=error)


def table(*cells: Cell) -> Table:
    return Table(
        name="table1",
        title="title",
        source="source",
        quantity="quantity",
        scale="quick",
        protocol="protocol",
        deviations=("one",),
        columns=("ResNet-110",),
        cells=cells,
        fill="cleanpath reproduce table1",
    )


@examples
@given(st.lists(PERCENT, min_size=1, max_size=9))
def test_statistics_of_runs_that_finished_are_numpy_s(errors: list[float]) -> None:
    found = cell(*map(ended, errors))
    assert found.n == len(errors)
    assert found.median == pytest.approx(float(np.median(errors)))
    assert found.mean == pytest.approx(float(np.mean(errors)))
    if len(errors) > 1:
        assert found.std == pytest.approx(float(np.std(errors, ddof=1)), abs=1e-9)
    else:
        assert found.std is None
    assert found.status == ("fail" if float(np.median(errors)) > 20 else "ok")


@examples
@given(SEEDS)
def test_statistics_of_any_runs_are_those_of_infinite_errors(seeds: list[SeedResult]) -> None:
    found = cell(*seeds)
    errors = [math.inf if seed.error is None else seed.error for seed in seeds if seed.status in (FINISHED, DIVERGED)]
    assert found.n == len(errors)
    median = statistics.median(errors) if errors else math.inf
    assert found.median == (median if math.isfinite(median) else None)
    assert (found.mean is None) == (not errors or math.inf in errors)
    assert (found.std is None) == (found.n < 2 or found.mean is None)
    assert found.status in ("ok", "fail", "diverged", "failed", "missing")
    crashed = any(seed.status == FAILED for seed in seeds)
    assert (found.status == "failed") == crashed
    assert (found.status == "missing") == (not errors and not crashed)
    assert (found.status == "diverged") == (bool(errors) and found.median is None and not crashed)


@examples
@given(st.lists(SEEDS, max_size=4))
def test_json_of_a_table_holds_no_nan_and_comes_back(many: list[list[SeedResult]]) -> None:
    one = table(*(cell(*seeds, row=f"row{index}") for index, seeds in enumerate(many)))
    data = tables.to_data([one])
    text = json.dumps(data, allow_nan=False)
    assert tables.from_data(json.loads(text)) == [one]
    rows = json.loads(text)["tables"][0]["rows"]
    assert [set(row) >= {"row", "column", "paper", "n", "median", "mean", "std", "status"} for row in rows] == [
        True for _ in many
    ]


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([20.0], "ok"),
        ([20.01], "fail"),
        ([1.0, 2.0, 90.0], "ok"),
        ([1.0, 90.0, 90.0], "fail"),
        ([None], "diverged"),
        ([1.0, None], "diverged"),
        ([1.0, 2.0, None], "ok"),
        ([90.0, 91.0, None], "fail"),
    ],
)
def test_status_is_the_paper_s_limit_on_the_median(errors: list[float | None], status: str) -> None:
    assert cell(*map(ended, errors)).status == status


def test_status_without_an_ended_run_is_failed_or_missing() -> None:
    crashed, none = SeedResult(seed=0, status=FAILED), SeedResult(seed=1, status=MISSING)
    assert cell().status == cell(none).status == "missing"
    assert cell(crashed).status == cell(none, crashed).status == "failed"


def test_crash_of_one_seed_of_several_is_seen() -> None:
    assert cell(ended(1.0), SeedResult(seed=1, status=FAILED)).status == "failed"


def test_csv_has_a_line_for_every_cell() -> None:
    text = tables.to_csv([table(cell(ended(1.5), ended(2.5)), cell(row="dropout"))])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["table"], row["row"], row["n"], row["median"], row["status"]) for row in rows] == [
        ("table1", "original", "2", "2.0", "ok"),
        ("table1", "dropout", "0", "", "missing"),
    ]


def test_markdown_has_a_line_for_every_cell_and_as_many_columns_everywhere() -> None:
    text = tables.to_markdown(table(cell(ended(1.5), ended(2.5)), cell(ended(None)), cell(row="dropout")))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {8}
    assert lines[2] == "| original | ResNet-110 | 6.61 | 2.0 | 2.0 ± 0.7 | 2 | ok |"
    assert lines[3] == "| original | ResNet-110 | 6.61 | – | – | 1 | diverged |"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01"), (math.nan, "?"), (math.inf, "?")],
)
def test_clock_is_minutes_and_seconds(seconds: float, words: str) -> None:
    assert tables.clock(seconds) == words


# From run folders to a table.


def recorded(root: Path, row: str, seed: int, result: dict[str, Any] | None, failure: str = "") -> Path:
    """A run folder of a cell of table2's first column, as training leaves it."""
    made = experiments(recipe_of("table2"), scale_of("quick"), columns=["ResNet-110"], seeds=[seed])
    experiment = made[row, "ResNet-110", seed]
    folder = root / default_name(experiment)
    with Writer(folder, experiment, {"torch": "2.14", "threads": 1}) as writer:
        writer.append({"iteration": 1, "loss": 2.0, "seconds": 0.1})
        writer.append({"iteration": 1, "error": 88.0, "seconds": 0.1})
        if failure:
            writer.fail(failure)
        if result is not None:
            writer.finish(result)
    return folder


def test_table_is_collected_from_run_folders(tmp_path: Path) -> None:
    recorded(tmp_path, "original", 0, {"status": "finished", "error": 2.0, "train_error": 0.0, "seconds": 90.0})
    recorded(tmp_path, "original", 1, {"status": "finished", "error": 3.0, "train_error": 0.0, "seconds": 30.0})
    recorded(tmp_path, "bn_after_addition", 0, {"status": "diverged", "reason": "loss is nan", "iterations": 4})
    recorded(tmp_path, "relu_before_addition", 0, None, failure="MemoryError: no memory")
    recorded(tmp_path, "relu_only_preactivation", 0, None)
    damaged = recorded(tmp_path, "full_preactivation", 0, {"status": "finished", "error": 1.0})
    (damaged / "result.json").write_text("{")
    found = collect(recipe_of("table2"), scale_of("quick"), seeds=[0, 1], changes=[], root=tmp_path)
    of_110 = {c.row: c for c in found.cells if c.column == "ResNet-110"}
    assert [(row, c.n, c.median, c.status) for row, c in of_110.items()] == [
        ("original", 2, 2.5, "ok"),
        ("bn_after_addition", 1, None, "diverged"),
        ("relu_before_addition", 0, None, "failed"),
        ("relu_only_preactivation", 0, None, "missing"),
        ("full_preactivation", 0, None, "missing"),
    ]
    assert {c.status for c in found.cells if c.column == "ResNet-164"} == {"missing"}
    assert of_110["original"].seeds[0].loss_curve == ((1, 2.0),)
    assert of_110["original"].seeds[0].error_curve == ((1, 88.0),)
    assert of_110["relu_before_addition"].seeds[0].reason == "MemoryError: no memory"
    assert of_110["bn_after_addition"].seeds[0].reason == "loss is nan"
    assert {c.row: c.paper for c in of_110.values()} == {
        row: published_table("table2").cells[row, "ResNet-110"] for row in PLACEMENTS
    }
    told = facts(tmp_path, [found])
    assert (told["runs"], told["time of all runs together"], told["torch"]) == ("3", "2.0 minutes", "2.14")


def test_command_that_fills_a_table_is_the_one_for_its_scale_seeds_and_changes(tmp_path: Path) -> None:
    found = collect(recipe_of("table2"), scale_of("quick"), seeds=[0, 1], changes=["training.lr=0.5"], root=tmp_path)
    assert found.fill == (
        f"cleanpath reproduce table2 --scale quick --columns all --seeds 2 --set training.lr=0.5 --runs {tmp_path}"
    )
    assert "training.lr=0.5" in found.deviations[0]


def test_command_that_fills_a_table_can_be_pasted(tmp_path: Path) -> None:
    import shlex

    change = "training.lr_drops=[0.5, 0.75]"
    found = collect(recipe_of("table2"), scale_of("quick"), seeds=[0], changes=[change], root=tmp_path)
    assert change in shlex.split(found.fill)


def test_command_that_fills_a_table_names_the_folder_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = here("report", "table2", "--runs", "elsewhere").out
    assert "--runs elsewhere" in next(line for line in found.splitlines() if line.startswith("missing"))


def test_protocol_says_how_a_run_trains() -> None:
    training = scale_of("quick").training
    words = in_words(training)
    for part in (f"{training.iterations} iterations", f"batch {training.batch_size}", f"lr {training.lr:g}"):
        assert part in words
    assert in_words(replace(training, iterations=None, epochs=3)).startswith("3 epochs")
