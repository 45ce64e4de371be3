"""Recipes against the paper's cells, and the statistics of a table's cells against numpy."""

import csv
import io
import json
import math
import re
import statistics
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cleanpath import assemble, settings
from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.experiment import Network, Shortcut
from cleanpath.naming import default_name
from cleanpath.nn.catalog import units_per_stage
from cleanpath.nn.matching import matched, parameters_of
from cleanpath.paper import recipes
from cleanpath.paper.figures import DRAWINGS
from cleanpath.paper.parts import Part, joined
from cleanpath.paper.published import published_table
from cleanpath.paper.scales import SCALES, Scale, scale_of
from cleanpath.paper.seeding import Seeds
from cleanpath.paper.tables import RECIPES, experiments, missing, recipe_of, recipes_of, with_rows
from cleanpath.records import Writer
from cleanpath.report import table as tables
from cleanpath.report import table_text, terminal
from cleanpath.report.collect import collect, facts, in_words
from cleanpath.report.table import DIVERGED, FAILED, FINISHED, MISSING, Cell, SeedResult, Table
from tests.helpers import assert_user_error, examples, here, network_of

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


# Cells that the paper does not print: controls of ours, what it searched and did not print, what it only draws.
NOT_PRINTED = {
    ("table1", "constant_1_half", "ResNet-110"),
    *(("depth", f"plain-{depth}", "CIFAR-10") for depth in (20, 32, 44, 56, 110)),
    ("shortcuts", "conv_1x1", "ResNet-32"),
    *(("gate_bias", f"exclusive_gating_{bias}", "ResNet-110") for bias in (-8, -9, -10)),
    *(("gate_bias", f"shortcut_only_gating_{bias}", "ResNet-110") for bias in (-1, -2, -3, -4, -5, -7, -8, -9, -10)),
    ("warmup", "without", "ResNet-110"),
}
WITHOUT_NUMBERS = ("responses", "truncation", "beyond")
DRAWINGS_ONLY = ("figure2", "figure4", "figure5")
QUICK, PAPER = scale_of("quick"), scale_of("paper")


def networks(name: str) -> dict[tuple[str, str], Network]:
    """The network of every row and column of a table at scale quick."""
    made = experiments(recipe_of(name), QUICK, seeds=[0])
    return {(row, column): network_of(experiment) for (row, column, _), experiment in made.items()}


def keys(name: str) -> set[tuple[str, str]]:
    return {(row.key, column.key) for row, column in RECIPES[name].cells()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_cell_has_a_published_number_and_every_number_that_is_not_external_a_cell(name: str) -> None:
    table = published_table(name)
    published = {(row, column) for row, column in table.cells if row not in table.external}
    assert published - keys(name) == set()
    extra = {(name, *key) for key in keys(name) - published}
    if name not in WITHOUT_NUMBERS:
        assert extra == {cell for cell in NOT_PRINTED if cell[0] == name}
    assert not extra or table.no_numbers or name == "table1"
    assert {row for row, _ in keys(name)} & set(table.external) == set()
    assert tuple(column.key for column in RECIPES[name].columns) == table.columns


@pytest.mark.parametrize("name", RECIPES)
def test_every_cell_runs_at_scale_paper_and_elsewhere_runs_or_says_why_not(name: str) -> None:
    for scale in SCALES.values():
        made = {(row, column) for row, column, _ in experiments(recipe_of(name), scale, seeds=[0])}
        left_out = missing(recipe_of(name), scale)
        assert made | set(left_out) == keys(name)
        assert not made & set(left_out)
        assert all(left_out.values())
    assert missing(recipe_of(name), PAPER) == {}


def test_table_of_any_name_is_found_once_and_all_is_every_one() -> None:
    assert recipes_of(["table2", "table1", "table2"]) == (recipe_of("table2"), recipe_of("table1"))
    assert recipes_of(["depth", "all"])[0] == recipe_of("depth")
    assert recipes_of(["all"]) == tuple(RECIPES.values())
    assert len(recipes_of(["all", "all"])) == len(RECIPES)


def test_rows_have_different_names_and_labels() -> None:
    for recipe in RECIPES.values():
        for names in ([row.key for row in recipe.rows], [row.words for row in recipe.rows]):
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
    for column in published_table(name).columns:
        same = [network for (_, at), network in networks(name).items() if at == column]
        for field in fields(Network):
            values = {getattr(network, field.name) for network in same}
            assert len(values) == (len(same) if field.name == varied else 1), field.name


def digests(name: str, scale: Scale = QUICK, columns: list[str] | None = None) -> set[str]:
    made = experiments(recipe_of(name), scale, columns=columns, seeds=[0])
    return {settings.digest(experiment) for experiment in made.values()}


def test_tables_1_and_2_share_the_original_network_and_nothing_else() -> None:
    one, other = digests("table1"), digests("table2", columns=["ResNet-110"])
    assert len(one & other) == 1
    # 15 rows of the paper and one of ours.
    assert len(one | other) == 16


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize(
    ("figure", "tables"),
    [
        ("figure1", ["table3"]),
        ("figure3", ["table1"]),
        ("figure6", ["table2"]),
        ("truncation", ["table3"]),
        ("responses", ["depth"]),
    ],
)
def test_curves_and_measurements_are_of_runs_that_tables_have(figure: str, tables: list[str], scale: Scale) -> None:
    assert digests(figure, scale) <= {digest for name in tables for digest in digests(name, scale)}
    assert digests(figure, scale)


def test_drawings_train_nothing_and_name_their_panels() -> None:
    assert {name for name, recipe in RECIPES.items() if not recipe.rows} == set(DRAWINGS_ONLY)
    assert set(DRAWINGS) == {*DRAWINGS_ONLY, "figure1"}
    for name, letters in (("figure1", "ab"), ("figure2", "abcdef"), ("figure4", "abcde"), ("figure5", "abc")):
        assert "".join(panel.letter for panel in DRAWINGS[name]) == letters
    after, asymmetric, before = DRAWINGS["figure5"]
    assert (after.network, after.asymmetric) == (asymmetric.network, not asymmetric.asymmetric)
    assert (before.network.placement, before.asymmetric) == ("full_preactivation", False)
    assert [panel.network.placement for panel in DRAWINGS["figure4"]] == list(PLACEMENTS)
    assert [panel.network.shortcut for panel in DRAWINGS["figure2"]] == [
        SHORTCUTS[key]
        for key in (
            *("original", "constant_half_half", "exclusive_gating_-6"),
            *("shortcut_only_gating_-6", "conv_1x1", "dropout"),
        )
    ]


def test_both_columns_have_the_same_number_of_units() -> None:
    assert len({units_per_stage(network) for network in networks("table2").values()}) == 1


def test_networks_of_scale_quick_have_at_most_218_layers() -> None:
    assert max(network.depth for name in RECIPES for network in networks(name).values()) <= 218


def test_paper_s_networks_are_those_that_the_paper_names() -> None:
    made = experiments(recipe_of("table3"), PAPER, seeds=[0])
    depths = {(row, column): (network_of(one).depth, network_of(one).branch) for (row, column, _), one in made.items()}
    assert depths["ResNet-1001 original", "CIFAR-100"] == (1001, "bottleneck")
    assert depths["ResNet-110(1layer) full_preactivation", "CIFAR-10"] == (110, "one_layer")
    assert network_of(made["ResNet-164 original", "CIFAR-100", 0]).num_classes == 100
    for (row, _, _), one in made.items():
        assert network_of(one).placement == row.split()[-1]
        assert one.training == recipes.paper()


def test_plain_rows_have_no_shortcut_and_the_first_paper_s_training() -> None:
    for (row, _, _), one in experiments(recipe_of("depth"), PAPER, seeds=[0]).items():
        kind, depth = row.split("-")
        assert network_of(one).depth == int(depth)
        assert network_of(one).shortcut.kind == {"plain": "none", "ResNet": "identity"}[kind]
        assert one.training == recipes.first_paper()


def test_options_a_b_and_c_differ_as_the_first_paper_says() -> None:
    made = experiments(recipe_of("shortcuts"), PAPER, columns=["ResNet-34"], seeds=[0])
    found = {row: network_of(one) for (row, _, _), one in made.items()}
    assert {row: (n.widening, n.shortcut.kind) for row, n in found.items()} == {
        "option_A": ("A", "identity"),
        "option_B": ("B", "identity"),
        "option_C": ("B", "conv_1x1"),
    }
    assert {(n.depth, n.layout) for n in found.values()} == {(34, "imagenet")}


def test_gate_bias_goes_from_0_to_minus_10_for_both_gates() -> None:
    made = experiments(recipe_of("gate_bias"), PAPER, seeds=[0])
    found = {(network_of(one).shortcut.kind, network_of(one).shortcut.bias) for one in made.values()}
    assert found == {(kind, -float(b)) for kind in ("exclusive_gating", "shortcut_only_gating") for b in range(11)}
    shared = digests("gate_bias", PAPER) & digests("table1", PAPER)
    assert len(shared) == 5


def test_warm_up_is_all_that_the_two_rows_of_warmup_differ_in() -> None:
    for scale in SCALES.values():
        made = {row: one for (row, _, _), one in experiments(recipe_of("warmup"), scale, seeds=[0]).items()}
        assert made["without"].training == replace(made["with"].training, warmup=0)
        assert made["without"].network == made["with"].network
        assert made["with"].training.warmup > 0


def test_batch_of_64_is_the_torch_code_s_command() -> None:
    made = experiments(recipe_of("table4"), PAPER, seeds=[0])
    training = made["ResNet-1001 full_preactivation 64", "CIFAR-10", 0].training
    # Fact 8: drops before 62,560 and 94,622 of 156,400 iterations, 782 an epoch.
    assert (training.epochs, training.batch_size, training.bn_group, training.nesterov) == (200, 64, 32, True)
    assert [round(drop * 200 * 782) for drop in training.lr_drops] == [62_560, 94_622]


def test_table_5_is_trained_by_scale_and_its_last_row_by_scale_and_aspect() -> None:
    made = experiments(recipe_of("table5"), PAPER, columns=["top-1"], seeds=[0])
    ways = {row: one.data.augment for (row, _, _), one in made.items()}
    assert {row for row, way in ways.items() if way != "scale"} == {"ResNet-200 full_preactivation aspect"}
    assert ways["ResNet-200 full_preactivation aspect"] == "scale_aspect"
    # One network with two crops is one run.
    assert len(digests("table5", PAPER)) == 5
    for one in made.values():
        network = network_of(one)
        assert network.widening_norm == (network.placement != "full_preactivation")


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_rows_of_a_table_share_data_and_length_of_training(scale: Scale) -> None:
    for name, recipe in RECIPES.items():
        made = experiments(recipe, scale, seeds=[0, 1])
        for column in recipe.columns:
            apart = {
                (row, seed): (one.data.name, one.training.iterations, one.training.batch_size, one.seed)
                for (row, at, seed), one in made.items()
                if at == column.key and "64" not in row.split()
            }
            assert len(set(apart.values())) in (0, 2), (name, column.key)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"table5"}))
def test_every_cell_of_the_small_scales_can_run(name: str) -> None:
    """Built on the meta device, on the digits' shapes: CIFAR-10 need not be there."""
    for scale in (QUICK, scale_of("laptop")):
        for experiment in experiments(recipe_of(name), scale, seeds=[0]).values():
            network = replace(network_of(experiment), in_channels=1)
            assemble.check(replace(experiment, network=network, data=QUICK.data["CIFAR-10"]))


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_scale_says_what_differs_from_the_paper(scale: Scale) -> None:
    text = " ".join(remark.text for remark in scale.deviations)
    assert "paper" in text
    if scale.name != "paper":
        training = scale.trainings[""]
        for word in ("CIFAR-10", f"{training.iterations:,}", "cannot"):
            assert word in text, word


def test_networks_that_stand_for_others_are_told_with_their_units() -> None:
    parts = {(row.key, column.key): joined(row, column) for row, column in recipe_of("table2").cells()}
    (line,) = QUICK.translations("table2", parts.values())
    assert "56 layers for ResNet-110 (27 units instead of 54)" in line
    assert "83 layers for ResNet-164 (27 units instead of 54)" in line
    assert PAPER.translations("table2", parts.values()) == ()


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


def test_change_that_makes_rows_the_same_is_refused_and_rows_of_one_run_are_not() -> None:
    with pytest.raises(SettingError, match="makes rows plain-20 and plain-32 of depth the same"):
        experiments(recipe_of("depth"), QUICK, seeds=[0], changes=["network.depth=8"])
    made = experiments(recipe_of("truncation"), QUICK, columns=["ResNet-164"], seeds=[0], changes=["network.width=4"])
    assert len(made) == 2


def test_row_and_column_that_decide_the_same_are_refused() -> None:
    with pytest.raises(SettingError, match="network of one is ResNet-20, of other ResNet-32"):
        joined(Part(key="one", network="ResNet-20"), Part(key="other", network="ResNet-32"))
    with pytest.raises(SettingError, match="both set width"):
        joined(Part(key="one", choice={"width": 4}), Part(key="other", choice={"width": 8}))


def test_rows_of_a_user_s_are_in_all_columns_of_small_images() -> None:
    own = Part(key="mine", choice={"shortcut": Shortcut()})
    found = with_rows(recipe_of("shortcuts"), [own])
    assert {column.key for row, column in found.cells() if row == own} == {"ResNet-32", "ResNet-110"}
    assert len(with_rows(recipe_of("table2"), [own]).cells()) == len(recipe_of("table2").cells()) + 2
    with pytest.raises(UserError, match="'original' already"):
        with_rows(recipe_of("table1"), [replace(own, key="original")])


def test_unknown_table_and_scale_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        recipe_of("tabel1")
    with pytest.raises(SettingError, match=r"write --set before each setting: --set training\.lr=0\.1"):
        recipe_of("training.lr=0.1")
    with pytest.raises(UnknownNameError, match="choose one of laptop, paper, quick"):
        scale_of("huge")


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
    text = table_text.to_csv([table(cell(ended(1.5), ended(2.5)), cell(row="dropout"))])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["table"], row["row"], row["n"], row["median"], row["status"]) for row in rows] == [
        ("table1", "original", "2", "2.0", "ok"),
        ("table1", "dropout", "0", "", "missing"),
    ]


def test_csv_has_five_digits_where_json_has_all() -> None:
    one = table(cell(ended(1.5), ended(2.5), ended(2.9)))
    (row,) = csv.DictReader(io.StringIO(table_text.to_csv([one])))
    assert (row["median"], row["mean"], row["std"]) == ("2.5", "2.3", "0.72111")
    (exact,) = tables.to_data([one])["tables"][0]["rows"]
    assert exact["std"] == statistics.stdev([1.5, 2.5, 2.9])


def test_markdown_has_a_line_for_every_cell_and_as_many_columns_everywhere() -> None:
    text = table_text.to_markdown(table(cell(ended(1.5), ended(2.5)), cell(ended(None)), cell(row="dropout")))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {10}
    assert lines[2] == "| original | ResNet-110 | 6.61 | 2.0 | 2.0 ± 0.7 | 1.5 to 2.5 | 2 | ok | – |"
    assert lines[3] == "| original | ResNet-110 | 6.61 | – | – | – | 1 | diverged | – |"
    assert "with 2 runs 50% of the time" in text
    assert "- one\n" in text


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
    found = collect(recipe_of("table2"), scale_of("quick"), seeds=Seeds(every=2), changes=[], root=tmp_path)
    of_110 = {c.row: c for c in found.cells if c.column == "ResNet-110"}
    assert [(row, c.n, c.median, c.status) for row, c in of_110.items()] == [
        ("original", 2, 2.5, "ok"),
        ("bn_after_addition", 1, None, "diverged"),
        ("relu_before_addition", 0, None, "failed"),
        ("relu_only_preactivation", 0, None, "unfinished"),
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
    told = facts([found])
    assert (told["runs"], told["time of all runs together"], told["torch"]) == ("3", "2.0 minutes", "2.14")


def test_command_that_fills_a_table_is_the_one_for_its_scale_seeds_and_changes(tmp_path: Path) -> None:
    seeds, changes = Seeds(every=2), ["training.lr=0.5"]
    found = collect(recipe_of("table2"), scale_of("quick"), seeds=seeds, changes=changes, root=tmp_path)
    assert found.fill == (f"cleanpath reproduce table2 --scale quick --seeds 2 --set training.lr=0.5 --runs {tmp_path}")
    assert "training.lr=0.5" in found.deviations[0]


def test_command_that_fills_a_table_can_be_pasted(tmp_path: Path) -> None:
    import shlex

    change = "training.lr_drops=[0.5, 0.75]"
    found = collect(recipe_of("table2"), scale_of("quick"), seeds=Seeds(every=1), changes=[change], root=tmp_path)
    assert change in shlex.split(found.fill)


def test_command_that_fills_a_table_names_the_folder_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_user_error(here("report", "table2", "--runs", "elsewhere"), "none of the 30 runs that were asked for is in")
    Path("elsewhere").mkdir()
    found = here("report", "table2", "--runs", "elsewhere").out
    assert "--runs elsewhere" in next(line for line in found.splitlines() if line.startswith("missing"))


@pytest.mark.parametrize(("table", "gated"), [("table1", 5), ("gate_bias", 22), ("figure3", 2), ("beyond", 1)])
def test_scale_paper_has_its_gates_in_all_units_as_the_caption_says(table: str, gated: int) -> None:
    def gates(scale: Scale) -> set[tuple[str, bool]]:
        made = experiments(recipe_of(table), scale, seeds=[0])
        shortcuts = {row: network_of(one).shortcut for (row, _, _), one in made.items()}
        return {(row, s.gate_widening) for row, s in shortcuts.items() if s.kind.endswith("_gating")}

    at_paper = gates(PAPER)
    assert len(at_paper) == gated
    assert {everywhere for _, everywhere in at_paper} == {True}
    assert {everywhere for _, everywhere in gates(QUICK)} == {False}


def test_scales_say_where_their_gates_stand() -> None:
    assert "all units, as the caption" in " ".join(remark.text for remark in PAPER.notes["table1"])
    assert "that keep the width" in " ".join(remark.text for remark in QUICK.notes["table1"])
    assert set(PAPER.notes) == set(QUICK.notes)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            "shortcuts",
            ["imagenet:data/imagenet augmented by ", "; ResNet-32 and ResNet-110: cifar10, 64000 iterations"],
        ),
        ("table4", ["weight decay 0.0001 on all, last", "; ResNet-1202, original: ", "on weights", "batch of 64: "]),
        (
            "table5",
            ["by scale, ", "; ResNet-200, full pre-activation, scale and aspect: ", "by scale_aspect, ", "Nesterov"],
        ),
        (
            "warmup",
            [
                "after 400 at 0.01",
                "; full pre-activation without warm-up: cifar10, 64000 iterations of batch 128, lr 0.1, ",
            ],
        ),
        ("table3", ["; CIFAR-100: cifar100, "]),
    ],
)
def test_protocol_names_the_cells_that_are_trained_otherwise(table: str, words: list[str], tmp_path: Path) -> None:
    found = collect(recipe_of(table), PAPER, seeds=Seeds(every=1), changes=(), root=tmp_path).protocol
    for word in words:
        assert word in found


def silent(table: str, scale: Scale, root: Path) -> str:
    """What a table says of where the paper says nothing."""
    found = collect(recipe_of(table), scale, seeds=Seeds(every=1), changes=(), root=root).deviations
    return next((line for line in found if line.startswith("Where the paper is silent")), "")


@pytest.mark.parametrize(
    ("table", "there", "not_there"),
    [
        (
            "table1",
            ["a BN follows the 1×1 conv", "not inverted", "decay acts on all parameters."],
            ["projection", "ottleneck"],
        ),
        (
            "table2",
            ["no BN follows the projection", "on the first 1×1", "is shared where"],
            ["dropout", "a BN follows"],
        ),
        ("depth", ["weight decay acts on the weights of layers only."], ["all parameters", "projection"]),
        ("responses", ["weight decay acts on the weights of layers only."], ["all parameters"]),
        ("table4", ["on all parameters (weight decay acts on the weights of layers only: ResNet-1202, original)"], []),
        ("beyond", ["(weight decay acts on all parameters but the gates' bias: exclusive gating, b = −6, without"], []),
        ("beyond", ["stride on the 3×3 (bottlenecks have their stride on the first 1×1: original in ResNet-164)"], []),
    ],
)
def test_sentence_of_the_paper_s_silence_is_of_the_table_s_own_cells(
    table: str, there: list[str], not_there: list[str], tmp_path: Path
) -> None:
    found = silent(table, PAPER, tmp_path)
    assert [words for words in there if words not in found] == []
    assert [words for words in not_there if words in found] == []


def test_table_5_says_which_projections_have_a_bn(tmp_path: Path) -> None:
    """The first paper's ImageNet models have one, pre-activated projections none."""
    pattern = r"(\w+) BN follows the projection where the width changes \((\w+) BN .*?: (.*?)\)"
    found = re.search(pattern, silent("table5", PAPER, tmp_path))
    assert found is not None
    usual, rest, named = found.groups()
    assert {usual, rest} == {"a", "no"}
    originals = {"a": True, "no": False}[rest]
    assert named == " and ".join(row.words for row in recipe_of("table5").rows if (not row.choice) == originals)


def test_resnet_101_of_the_text_is_tested_on_one_crop_of_224() -> None:
    recipe = recipe_of("resnet101")
    made = experiments(recipe, PAPER, seeds=[0])
    for (row, _, _), one in made.items():
        network = network_of(one)
        assert (network.depth, network.layout, network.placement) == (101, "imagenet", row)
        assert (one.data.name, one.data.augment) == ("imagenet:data/imagenet", "scale")
        assert one.training == recipes.paper_imagenet()
    assert {joined(row, column).view for row, column in recipe.cells()} == {"middle"}
    assert set(missing(recipe, QUICK).values()) == {QUICK.reasons["ImageNet"]}


def test_drawings_say_nothing_of_it(tmp_path: Path) -> None:
    assert silent("figure2", PAPER, tmp_path) == ""
    assert collect(recipe_of("figure5"), QUICK, seeds=Seeds(every=1), changes=(), root=tmp_path).deviations == ()


def test_protocol_of_one_way_names_no_cells(tmp_path: Path) -> None:
    found = collect(recipe_of("table2"), QUICK, seeds=Seeds(every=2), changes=(), root=tmp_path).protocol
    assert found == f"digits, {in_words(QUICK.trainings[''])}, last iteration"


def test_protocol_says_how_a_run_trains() -> None:
    training = QUICK.trainings[""]
    words = in_words(training)
    for part in (f"{training.iterations} iterations", f"batch {training.batch_size}", f"lr {training.lr:g}"):
        assert part in words
    assert in_words(replace(training, iterations=None, epochs=3)).startswith("3 epochs")


# The rows beyond the paper, typed from the references that their notes name: placement, shortcut, what else differs.
_CLEAN, _POST, _NO_RELU = "full_preactivation", "original", "relu_before_addition"
_HIGHWAY = Shortcut(kind="highway", bias=-6.0)
BEYOND: dict[str, tuple[str, Shortcut, dict[str, object]]] = {
    "original": (_POST, Shortcut(), {}),
    "full_preactivation": (_CLEAN, Shortcut(), {}),
    "highway": (_NO_RELU, _HIGHWAY, {"widening": "B", "width": 14}),
    "highway_matched": (_NO_RELU, _HIGHWAY, {"widening": "B", "inner": 0.5}),
    "exclusive_gating_-6_free": (_POST, SHORTCUTS["exclusive_gating_-6"], {}),
    "rezero": (_CLEAN, Shortcut(kind="skip_init"), {}),
    "skip_init": (_CLEAN, Shortcut(kind="skip_init"), {"normalisation": "none"}),
    "fixup": (_POST, Shortcut(kind="fixup"), {"normalisation": "none"}),
    "layer_scale": (_CLEAN, Shortcut(kind="layer_scale", start=1e-6), {}),
    "weighted_residual": (_NO_RELU, Shortcut(kind="weighted_residual"), {}),
    "stochastic_depth": (_POST, Shortcut(kind="stochastic_depth", rate=0.5), {}),
    "squeeze_excitation": (_POST, Shortcut(kind="squeeze_excitation"), {}),
    "deepnorm": ("post_norm", Shortcut(kind="deepnorm"), {"normalisation": "layer"}),
    "group_norm": (_POST, Shortcut(), {"normalisation": "group"}),
    "layer_norm": (_POST, Shortcut(), {"normalisation": "layer"}),
    "gelu": (_CLEAN, Shortcut(), {"activation": "gelu"}),
    "silu": (_CLEAN, Shortcut(), {"activation": "silu"}),
    "hyper_connections": (_CLEAN, Shortcut(kind="hyper_connections", streams=4), {}),
    "manifold_hyper_connections": (_CLEAN, Shortcut(kind="manifold_hyper_connections", streams=4), {}),
    "resnet_b": (_POST, Shortcut(), {"stride_on": "middle"}),
    "resnet_d": (_POST, Shortcut(), {"stride_on": "middle", "widening": "D"}),
}


def test_rows_beyond_the_paper_set_what_their_references_say_and_no_more() -> None:
    made = experiments(recipe_of("beyond"), QUICK, seeds=[0])
    assert {row for row, _, _ in made} == set(BEYOND)
    for (row, column, _), one in made.items():
        placement, shortcut, others = BEYOND[row]
        base = made["original", column, 0]
        expected = replace(network_of(base), placement=placement, shortcut=shortcut, **others)  # type: ignore[arg-type]
        assert one.network == expected, row
        free = {"decay_on": "all_but_gate_bias"} if row == "exclusive_gating_-6_free" else {}
        assert one.training == replace(base.training, **free), row  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [QUICK, pytest.param(PAPER, marks=pytest.mark.slow)], ids=lambda scale: scale.name)
def test_matched_highway_has_the_parameters_of_the_original_of_its_table(scale: Scale) -> None:
    made = experiments(recipe_of("beyond"), scale, columns=["ResNet-110"], seeds=[0])
    highway, original = (network_of(made[row, "ResNet-110", 0]) for row in ("highway_matched", "original"))
    assert original.widening == "A"
    # Half is the nearest with the paper's depth; in a shallow network it is off by one inner channel of 64.
    assert abs(matched(replace(highway, inner=1.0), original).inner - 0.5) <= (0 if scale is PAPER else 1 / 64)
    assert abs(parameters_of(highway) / parameters_of(original) - 1) < 0.02


def test_highway_is_said_to_be_trained_as_the_other_rows() -> None:
    row = recipe_of("beyond").row("highway")
    assert row.label == "highway, its author's network"
    assert "trained as the other rows" in row.note
    assert not row.training


def of_runs(*errors: float | None) -> Cell:
    return cell(*(replace(ended(error), seed=seed) for seed, error in enumerate(errors)))


@pytest.mark.parametrize(("count", "ends", "share"), [(2, 1, 0.5), (3, 1, 0.75), (5, 1, 0.9375), (6, 1, 0.96875)])
def test_interval_of_few_runs_is_their_range_and_named_so(count: int, ends: int, share: float) -> None:
    found = of_runs(*(10.0 + seed for seed in range(count)))
    assert found.interval == (10.0, 10.0 + count - ends)
    assert found.coverage == pytest.approx(share)
    assert found.is_range == (count < 6)
    assert table_text.interval(found) == f"10.0 to {9 + count}.0"
    assert table_text.interval_head([found]) == ("min–max" if count < 6 else "interval")


def test_interval_of_ten_runs_leaves_out_the_least_and_the_greatest() -> None:
    found = of_runs(*(float(error) for error in (9, 1, 2, 3, 4, 5, 6, 7, 8)), None)
    assert found.interval == (2.0, 9.0)
    assert found.coverage == pytest.approx(1 - 2 * 11 / 1024)
    assert not found.is_range
    assert table_text.interval(of_runs(*[1.0] * 8, None, None)) == "1.0 to diverged"
    assert (of_runs(1.0).interval, of_runs(1.0).coverage, table_text.interval(of_runs(1.0))) == (None, None, "–")


def test_intervals_are_explained_by_number_of_runs() -> None:
    few, many = of_runs(1.0, 2.0, 3.0), of_runs(*map(float, range(10)))
    assert table_text.interval_head([few, many, cell()]) == "interval; n < 6: min–max"
    assert table_text.about_intervals([few, many, few, cell()]) == (
        "An interval holds the median over seeds, however they are distributed: of 10 runs from the 2nd least to the "
        "2nd greatest, 97.9% of the time. Min–max is the whole range of the runs, not an interval of 95%, which takes "
        "6: it holds the median over seeds with 3 runs 75% of the time."
    )
    assert table_text.about_intervals([cell(), of_runs(1.0)]) == ""


def test_interval_and_letters_are_in_csv_and_json() -> None:
    one = replace(of_runs(1.0, 2.0, None), deviates=("d", "t"))
    (row,) = csv.DictReader(io.StringIO(table_text.to_csv([table(one)])))
    assert (row["interval"], row["low"], row["high"], row["coverage"]) == ("min–max", "1.0", "inf", "0.75")
    assert (row["deviates"], row["deviates_in"]) == ("d t", "data, training")
    data = json.loads(json.dumps(tables.to_data([replace(table(one), letters=("d",))]), allow_nan=False))
    (row,) = data["tables"][0]["rows"]
    assert (row["interval"], row["coverage"], row["deviates"]) == ([1.0, "diverged"], 0.75, ["d", "t"])
    (again,) = tables.from_data(data)
    assert again.cells[0].deviates == ("d", "t")
    assert again.marked == (("d", "one"),)


@pytest.mark.parametrize("width", [80, 200])
def test_rows_on_a_terminal_keep_to_its_width_and_their_numbers_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The widest table that there is: rows of ten runs beside rows of three, one diverged, all letters."""
    monkeypatch.setattr(terminal, "_console", lambda: Console(width=width))
    words = "constant scaling: shortcut 0.5, F 0.5"
    wide = replace(of_runs(12.5, 34.4, None), label=words, deviates=("c", "n", "d", "t", "g"))
    many = replace(of_runs(*(60.0 + seed for seed in range(10))), paper="fail", label="many")
    terminal.print_tables([replace(table(wide, many), columns=("ResNet-110", "ResNet-164"))])
    lines = capsys.readouterr().out.splitlines()
    head = next(place for place, line in enumerate(lines) if line.split()[:2] == ["row", "paper"])
    rows = lines[head - 1 : head + 5]
    assert max(map(len, rows)) <= width
    assert "12.5 to diverged" in "".join(rows)
    assert "64.5 64.5 ± 3.0     61.0 to 68.0 10" in " ".join(rows) or width > 80
    assert "ResNet-110" in rows[2]


def test_notes_of_rows_are_told_once_in_text_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    mine = [cell(ended(1.5), row="mine", column=column) for column in ("A", "B")]
    one = table(cell(ended(1.5)), *(replace(c, label="mine (u.py)", note="y = x + [F](x)") for c in mine))
    terminal.print_tables([one])
    assert capsys.readouterr().out.count("mine (u.py): y = x + [F](x)\n") == 1
    assert table_text.to_markdown(one).count("- mine (u.py): y = x + [F](x)\n") == 1
