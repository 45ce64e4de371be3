"""The shipped rule is what its records give; what is measured today is what was recorded; what was claimed holds."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import forecast_cases, forecast_cells, forecast_fit, forecast_kinds, forecast_recorded
from benchmarks.forecast_cases import Case, cases
from benchmarks.forecast_fit import Table, area, balanced, fitted
from cleanpath.data.images import batch
from cleanpath.errors import SettingError
from cleanpath.forecasted import measured_of
from cleanpath.forecasting.foresee import measured
from cleanpath.forecasting.rule import TERMS, Rule, the_rule
from cleanpath.forecasting.values import FAILS, STARTS_SLOWLY, STEPS, Measured, Steps

RECORDED = [json.loads(line) for line in forecast_cases.RECORDED.read_text(encoding="utf-8").splitlines()]
CELLS = [json.loads(line) for line in forecast_cases.CELLS.read_text(encoding="utf-8").splitlines()]
ACCURACY: dict[str, Any] = json.loads(forecast_fit.ACCURACY.read_text(encoding="utf-8"))


def test_the_rule_fitted_again_is_the_file() -> None:
    again, shipped = fitted(Table(cases())), the_rule()
    assert (again.cells, again.unsure) == (shipped.cells, shipped.unsure)
    for one, other in (
        (again.weights, shipped.weights),
        (again.slow_weights, shipped.slow_weights),
        (again.usual, shipped.usual),
        (again.highest, shipped.highest),
        (again.lowest, shipped.lowest),
    ):
        assert one == pytest.approx(other, abs=0.011)  # a last digit may be another library's
    assert again.fails_from == pytest.approx(shipped.fails_from, abs=0.011)
    assert again.slow_from == pytest.approx(shipped.slow_from, abs=0.011)


def test_the_rule_is_small_and_every_term_makes_it_worse() -> None:
    rule = the_rule()
    assert len({*rule.weights, *rule.slow_weights}) == len(TERMS) <= 6
    assert all(weight > 0 for weights in (rule.weights, rule.slow_weights) for weight in weights.values())


@pytest.mark.slow
def test_the_recorded_accuracy_is_what_the_records_give() -> None:
    _, found = forecast_fit.accuracy(cases())
    assert json.loads(json.dumps(found)) == ACCURACY


def case(score: float, *, fails: bool, slow: bool | None = False, agreement: float = 0.2) -> Case:
    """With one measurement for each question, the movement and the agreement; the others as where networks train."""
    steps = Steps(
        losses=(2.0,) * STEPS,
        gradient_norms=(5.0,) * STEPS,
        moved=10**score,
        apart=(0.5,) * STEPS,
        agreement=(agreement,) * STEPS,
    )
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


def drawn(height: float) -> bool:
    """Of a logistic distribution about 0."""
    return height > math.log(1 / RANDOM.uniform() - 1)


RANDOM = np.random.default_rng(0)


def test_a_fit_finds_the_weights_that_outcomes_were_drawn_from() -> None:
    scores, agreements = RANDOM.uniform(-1.5, 1.5, 1500), RANDOM.uniform(0.0, 0.4, 1500)
    table = Table(
        case(score, fails=drawn(3 * score - 2), slow=drawn(20 * (0.4 - agreement) - 4), agreement=agreement)
        for score, agreement in zip(scores, agreements, strict=True)
    )
    rule = fitted(table, ("moved",))
    assert rule.weights["moved"] == pytest.approx(3, abs=0.4)
    assert rule.fails_from == pytest.approx(2, abs=0.4)
    assert rule.slow_weights["unrelated"] == pytest.approx(20, abs=3)
    # The other terms of the second question are the same in all cells, and weigh nothing.
    assert rule.slow_from == pytest.approx(4, abs=0.7)


def test_what_is_known_only_of_failing_is_used_as_that() -> None:
    scores = RANDOM.uniform(-1.5, 1.5, 800)
    known = [case(score, fails=drawn(3 * score - 1), slow=at % 4 == 0) for at, score in enumerate(scores[:400])]
    unknown = [case(score, fails=drawn(3 * score - 1), slow=None) for score in scores[400:]]
    rule = fitted(Table([*known, *unknown]), ("moved",))
    assert rule.weights["moved"] == pytest.approx(3, abs=0.6)
    assert rule.fails_from == pytest.approx(1, abs=0.4)
    slow = rule.probabilities({"moved": -9.0, "unlearnt": 2.0 / math.log(10), "merged": 1.0, "unrelated": 0.2})
    share = np.mean([bool(one.slow) for one in known if not one.fails])
    assert slow[STARTS_SLOWLY] == pytest.approx(share, abs=0.02)  # not halved by those of which it is not known


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
    assert again.steps.apart[:3] == pytest.approx(recorded["steps"]["apart"][:3], rel=0.05)
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
    recorded = forecast_cases.measured(row)
    for name in ("gradient_norm", "memory", "alike", "gradient_ratio"):
        assert getattr(again, name) == pytest.approx(getattr(recorded, name), rel=1e-2), name
    assert again.steps.moved == pytest.approx(recorded.steps.moved, rel=0.1)
    assert again.steps.losses[0] == pytest.approx(recorded.steps.losses[0], rel=1e-3)
    assert again.steps.apart[:3] == pytest.approx(recorded.steps.apart[:3], rel=0.05)
    assert again.steps.agreement[:3] == pytest.approx(recorded.steps.agreement[:3], abs=0.05)


def test_the_claimed_hit_rates_are_recorded() -> None:
    decided = ACCURACY["left_out_decided"]
    for by in ("depth", "rate", "variant"):
        assert decided[by]["the rule"]["balanced_answered"] >= 0.9
        assert decided[by]["the rule"]["balanced"] >= 0.85
    others = ACCURACY["other_kinds_decided"]["the rule"]
    assert min(others["balanced_answered"], others["balanced"]) >= 0.85
    for by, scores in ACCURACY["left_out"].items():
        others = [one["balanced"] for name, one in scores.items() if name.startswith(("gradient ratio", "loss after"))]
        assert scores["the rule"]["balanced"] > max(others), by


def test_only_seeds_of_one_cell_are_seeds_of_it() -> None:
    groups = forecast_cases.ends_of_seeds()
    assert sum(map(len, groups.values())) >= len(CELLS)
    row = next(row for row in CELLS if row["seed"] == 0)
    same = [one for one in CELLS if forecast_kinds.Cell.key_of({**one, "seed": 0}) == forecast_kinds.Cell.key_of(row)]
    assert len(groups[forecast_cases.seedless(row)]) == len(same)
    several = [many for many in groups.values() if len(many) > 1]
    assert (ACCURACY["seeds"]["cells"], ACCURACY["seeds"]["runs"]) == (len(several), sum(map(len, several)))


def test_later_cells_are_no_earlier_ones_and_are_asked_of_a_rule_that_has_not_seen_them() -> None:
    earlier, later = ({cell.key for cell in of()} for of in (forecast_kinds.cells, forecast_kinds.later_cells))
    assert not earlier & later
    recorded = {forecast_kinds.Cell.key_of(row): row.get("later", False) for row in CELLS}
    assert {key for key, is_later in recorded.items() if is_later} <= later
    found = ACCURACY["later"]
    assert found["fitted_to"] + found["all"]["the rule"]["cells"] == ACCURACY["cells"] - ACCURACY["not_asked"]


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
    assert Rule.from_data(shipped).probabilities(dict.fromkeys(TERMS, 100.0))[FAILS] == pytest.approx(1.0)
