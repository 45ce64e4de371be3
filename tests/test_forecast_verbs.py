"""The verb `forecast`, and the line before a run: what is printed, and that no bit of a run depends on it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cleanpath import costs, forecasted, planning
from cleanpath import reproduction as reproductions
from cleanpath.errors import UserError
from cleanpath.estimate import Tried
from cleanpath.experiment import Data, Experiment, Training
from cleanpath.forecasting.values import FAILS, OUTCOMES, TRAINS, Forecast, is_long
from cleanpath.grid import local
from cleanpath.nn import catalog
from cleanpath.reproduction import reproduction
from tests.helpers import here

SMALL = "cifar-resnet8-2layer"


def experiment(**training: Any) -> Experiment:
    network = catalog.network(SMALL, in_channels=1)
    settings: dict[str, Any] = {"iterations": 40, "batch_size": 32, "lr": 0.05, **training}
    return Experiment(network=network, data=Data(), training=Training(**settings))


def test_the_verb_answers_in_words_and_as_json() -> None:
    found = here("forecast", SMALL, "--set", "training.lr=0.05", "--threads", "1")
    assert found.code == 0
    assert found.out.startswith("forecast: ")
    data = json.loads(here("forecast", SMALL, "--set", "training.lr=0.05", "--threads", "1", "--json").out)
    assert data["schema"] == "cleanpath.forecast"
    assert data["words"] == found.out.rstrip("\n")
    assert data["experiment"]["training"]["lr"] == data["measured"]["rate"] == 0.05
    assert data["outcome"] == TRAINS


def test_an_answer_is_exit_code_0_also_if_it_is_that_the_network_fails() -> None:
    found = here("forecast", SMALL, "--set", "training.lr=1e30", "--threads", "1", "--json")
    assert json.loads(found.out)["outcome"] == FAILS
    assert found.code == 0


def test_what_a_user_can_mend_is_told() -> None:
    found = here("forecast", "resnet21")
    assert found.code == 2
    assert "nearest 20" in found.err


def test_a_forecast_draws_from_nobody_and_is_the_runs_own() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = forecasted.of_experiment(experiment(), threads=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert found == forecasted.of_experiment(experiment(), threads=1)
    # It is asked at the rate behind the warm-up.
    assert found.measured is not None
    slow = forecasted.of_experiment(experiment(warmup=5, warmup_factor=0.01), threads=1)
    assert slow.measured == found.measured


def test_the_losses_of_the_steps_are_those_of_the_run(tmp_path: Path) -> None:
    found = forecasted.measured_of(experiment(), threads=1)
    words = ["train", SMALL, "--set", "training.iterations=40", "--set", "training.batch_size=32", "--kernels", "plain"]
    out = tmp_path / "run"
    assert here(*words, "--set", "training.lr=0.05", "--threads", "1", "--out", str(out)).code == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert found.steps.losses == pytest.approx(losses[: len(found.steps.losses)], rel=1e-4)


def test_a_long_run_is_foretold_and_has_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasted, "is_worth", lambda _: True)
    words = ["train", SMALL, "--set", "training.iterations=6", "--set", "training.batch_size=32", "--threads", "1"]
    told = here(*words, "--out", str(tmp_path / "told"))
    assert "forecast: " in told.err
    assert all(f"{name} " in told.err for name in OUTCOMES)  # each with its probability
    silent = here(*words, "--no-forecast", "--out", str(tmp_path / "silent"))
    assert "forecast: " not in silent.err
    one, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("told", "silent"))
    assert one["weights_sha256"] == other["weights_sha256"]


def test_a_short_run_is_not_foretold(tmp_path: Path) -> None:
    words = ["train", SMALL, "--set", "training.iterations=6", "--set", "training.batch_size=32", "--threads", "1"]
    assert "forecast: " not in here(*words, "--out", str(tmp_path / "run")).err


def test_only_what_takes_a_fiftieth_of_the_runs_is_asked_unasked() -> None:
    assert is_long(1000)
    assert not is_long(999)
    assert is_long(500, 2)


def test_a_dry_run_contains_the_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", SMALL, "--set", "training.iterations=30", "--set", "training.batch_size=32", "--threads", "1"]
    monkeypatch.setattr(costs, "measure", lambda *_, **__: Tried(seconds=1.0, memory=1, disk=1))
    data = json.loads(here(*words, "--dry-run", "--json").out)
    assert data["forecast"]["schema"] == "cleanpath.forecast"
    assert data["forecast"]["words"] in here(*words, "--dry-run").out
    assert json.loads(here(*words, "--dry-run", "--json", "--no-forecast").out)["forecast"] is None


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("none left"), RuntimeError("DefaultCPUAllocator: none left"), UserError("none left")],
)
def test_a_run_does_not_fail_for_its_forecast(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(forecasted, "measured_of", broken)
    assert forecasted.if_possible(experiment(), threads=1, device=torch.device("cpu")) is None
    assert "none left" in capsys.readouterr().err


def test_steps_are_clipped_as_the_runs_are_and_what_differs_is_doubted() -> None:
    free, held = (forecasted.measured_of(experiment(lr=0.5, clip=clip), threads=1).steps for clip in (None, 1e-3))
    assert held.moved < free.moved / 10
    assert held.gradient_norms[0] == free.gradient_norms[0]
    assert forecasted.of_experiment(experiment(), threads=1).doubts == ()
    (doubt,) = forecasted.of_experiment(experiment(bn_group=8, accumulation=2), threads=1).doubts
    assert "training.accumulation, training.bn_group" in doubt


def test_cells_whose_forecast_died_are_left_out_of_the_line(
    job: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproductions, "is_long", lambda *_: True)
    monkeypatch.setattr(local, "forecast_cells", lambda _, **__: {job.cells()[0].folder.name: {"outcome": FAILS}})
    reproductions._foretell(job.cells(), 1, ("cpu",))
    told = capsys.readouterr().err
    assert f"forecast of 1 kinds of cells: fails 1: {job.cells()[0].label}" in told.replace("\n", " ")


@pytest.fixture
def job(tmp_path: Path) -> Any:
    changes = ("training.iterations=4", "training.warmup=0", "network.depth=8")
    asked: dict[str, Any] = {"scale": "quick", "seeds": 1, "all_columns": False}
    return reproduction(["figure6"], **asked, changes=changes, root=tmp_path)


def test_a_plan_has_a_forecast_for_every_kind_of_cells(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Forecast(outcome=FAILS, probabilities=dict(zip(OUTCOMES, (0.05, 0.05, 0.9), strict=True))).to_data()
    asked = []

    def answer(kinds: Any, **_: Any) -> Any:
        asked.extend(kinds)
        return {cell.folder.name: found for cell in kinds}

    monkeypatch.setattr(local, "forecast_cells", answer)
    plan = planning.measured_plan(job, workers=1, fresh=False)
    assert [row["forecast"] for row in plan["cells"]] == [found] * len(plan["cells"])
    assert asked
    plan = planning.measured_plan(job, workers=1, fresh=False, foretold=False)
    assert {row["forecast"] for row in plan["cells"]} == {None}
