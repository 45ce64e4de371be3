"""The shipped rule is what its records give; what is measured today is what was recorded; what was claimed holds."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import forecast_cells, forecast_fit, forecast_kinds, forecast_recorded
from benchmarks.forecast_fit import Case, Table, area, balanced, cases, fitted
from cleanpath.data.images import batch
from cleanpath.errors import SettingError
from cleanpath.forecasted import measured_of
from cleanpath.forecasting.foresee import measured
from cleanpath.forecasting.rule import TERMS, Rule, the_rule
from cleanpath.forecasting.values import FAILS, STEPS, Measured, Steps

RECORDED = [json.loads(line) for line in forecast_fit.RECORDED.read_text(encoding="utf-8").splitlines()]
CELLS = [json.loads(line) for line in forecast_fit.CELLS.read_text(encoding="utf-8").splitlines()]
ACCURACY: dict[str, Any] = json.loads(forecast_fit.ACCURACY.read_text(encoding="utf-8"))


def test_the_rule_fitted_again_is_the_file() -> None:
    again, shipped = fitted(Table(cases())), the_rule()
    assert (again.cells, again.unsure) == (shipped.cells, shipped.unsure)
    for one, other in (
        (again.weights, shipped.weights),
        (again.usual, shipped.usual),
        (again.highest, shipped.highest),
        (again.lowest, shipped.lowest),
    ):
        assert one == pytest.approx(other, abs=0.011)  # a last digit may be another library's
    assert again.fails_from == pytest.approx(shipped.fails_from, abs=0.011)
    assert again.slow_from == pytest.approx(shipped.slow_from, abs=0.011)


def test_the_rule_is_small_and_every_term_makes_it_worse() -> None:
    rule = the_rule()
    assert len(rule.weights) == len(TERMS) <= 6
    assert all(weight > 0 for weight in rule.weights.values())


@pytest.mark.slow
def test_the_recorded_accuracy_is_what_the_records_give() -> None:
    _, found = forecast_fit.accuracy(cases())
    assert json.loads(json.dumps(found)) == ACCURACY


def case(score: float, *, fails: bool, slow: bool | None = False) -> Case:
    """With one measurement, the movement; the others as in a network that trains."""
    steps = Steps(losses=(2.0,) * STEPS, gradient_norms=(5.0,) * STEPS, moved=10**score)
    given: dict[str, Any] = {"rate": 0.1, "optimizer": "SGD", "classes": 10, "units": 9, "gradient_ratio": 1.0}
    found = Measured(**given, gradient_norm=5.0, memory=0.5, alike=0.5, steps=steps)
    usual: dict[str, Any] = {
        "kind": "tables",
        "variant": "original",
        "network": "",
        "depth": 20,
        "rate": 0.1,
        "seed": 0,
        "error": 0.0,
    }
    return Case(**usual, measured=found, fails=fails, slow=slow, decided=True)


def test_a_fit_finds_the_weights_that_outcomes_were_drawn_from() -> None:
    random = np.random.default_rng(0)
    drawn = []
    for score in random.uniform(-1.5, 1.5, 1500):
        noise = math.log(1 / random.uniform() - 1)
        height = 3 * score + noise
        drawn.append(case(score, fails=height > 2, slow=0 < height <= 2))
    rule = fitted(Table(drawn), ("moved",))
    assert rule.weights["moved"] == pytest.approx(3, abs=0.4)
    assert rule.fails_from == pytest.approx(2, abs=0.4)
    assert rule.slow_from == pytest.approx(0, abs=0.3)


def test_what_is_known_only_of_failing_is_used_as_that() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(-1.5, 1.5, 800)
    drawn = [case(s, fails=3 * s + math.log(1 / random.uniform() - 1) > 1, slow=None) for s in scores]
    rule = fitted(Table(drawn), ("moved",))
    assert rule.weights["moved"] == pytest.approx(3, abs=0.6)
    assert rule.fails_from == pytest.approx(1, abs=0.4)


def test_area_and_balanced_accuracy_are_their_definitions() -> None:
    fails = np.array([True, True, False, False, False])
    chances = np.array([0.9, 0.3, 0.3, 0.1, 0.6])
    assert area(fails, chances) == pytest.approx((3 + 0.5 + 1) / 6)
    assert balanced(fails, chances > 0.5) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(balanced(np.array([True]), np.array([True])))


@pytest.mark.parametrize(
    "run", [next(row for row in RECORDED if (row["variant"], row["depth"], row["seed"]) == ("original", 20, 0))]
)
def test_a_recorded_run_measured_again_is_the_record(run: dict[str, Any]) -> None:
    experiment = next(one for name, _, one in forecast_recorded.runs(1) if name == run["run"])
    again = measured_of(experiment, threads=1)
    recorded = run["measured"]
    for name in ("gradient_norm", "memory", "gradient_ratio"):
        assert getattr(again, name) == pytest.approx(recorded[name], rel=1e-2), name
    assert again.steps.moved == pytest.approx(recorded["steps"]["moved"], rel=0.05)


def test_the_campaigns_own_measurements_are_those_of_a_forecast() -> None:
    row = next(r for r in CELLS if (r["row"], r["depth"], r["kind"]) == ("original", 20, "tables") and r["rate"] <= 0.1)
    cell = forecast_kinds.Cell(**{name: row[name] for name in forecast_kinds.Cell.__dataclass_fields__})
    torch.manual_seed(cell.seed)
    given = forecast_kinds.task(cell.data, None)
    network = forecast_kinds.build(cell, given)
    batches = []
    for iteration in range(1, STEPS + 1):
        chosen, _ = batch(len(given.labels), forecast_cells.BATCH, seed=cell.seed, iteration=iteration)
        batches.append((given.images[chosen], given.labels[chosen]))
    optimizer = torch.optim.SGD(network.parameters(), lr=cell.rate, momentum=0.9, weight_decay=1e-4)
    again = measured(network, batches, optimizer=optimizer, loss=cross_entropy)
    recorded = forecast_fit.measured(row)
    for name in ("gradient_norm", "memory", "alike", "gradient_ratio"):
        assert getattr(again, name) == pytest.approx(getattr(recorded, name), rel=1e-2), name
    assert again.steps.moved == pytest.approx(recorded.steps.moved, rel=0.1)
    assert again.steps.losses[0] == pytest.approx(recorded.steps.losses[0], rel=1e-3)


def test_the_claimed_hit_rates_are_recorded() -> None:
    decided = ACCURACY["left_out_decided"]
    for by in ("depth", "rate"):
        assert decided[by]["the rule"]["balanced"] >= 0.9
    assert decided["variant"]["the rule"]["balanced"] >= 0.85
    for by, scores in ACCURACY["left_out"].items():
        others = [one["balanced"] for name, one in scores.items() if name.startswith(("gradient ratio", "loss after"))]
        assert scores["the rule"]["balanced"] > max(others), by


def test_only_seeds_of_one_cell_are_seeds_of_it() -> None:
    assert len({forecast_kinds.Cell.key_of({**row, "seed": 0}) for row in CELLS}) == len(CELLS)
    # No cell of the campaign has a second seed: all pairs are runs of scale quick.
    several = [many for many in forecast_fit._of_seeds().values() if len(many) > 1]
    assert (ACCURACY["seeds"]["cells"], ACCURACY["seeds"]["runs"]) == (len(several), sum(map(len, several)))


def test_blocks_of_the_campaign_have_every_row_and_every_pair() -> None:
    block = list(forecast_kinds.cells())[: len(forecast_kinds.ROWS)]
    assert {cell.row for cell in block} == {*forecast_kinds.ROWS}
    assert len({(cell.depth, cell.rate) for cell in block}) == len(block)
    every = [cell.key for cell in forecast_kinds.cells()]
    assert len(set(every)) == len(every)


def test_a_rule_with_a_term_that_does_not_exist_is_refused() -> None:
    shipped = json.loads(Path(forecast_fit.COEFFICIENTS).read_text(encoding="utf-8"))
    with pytest.raises(SettingError, match="no term 'luck'"):
        Rule.from_data({**shipped, "weights": {**shipped["weights"], "luck": 1.0}})
    assert Rule.from_data(shipped).probabilities(100.0)[FAILS] == pytest.approx(1.0)
