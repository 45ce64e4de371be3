"""Numbers of a run's loss curve, from its folder."""

import math
from pathlib import Path

import pytest

from cleanpath.experiment import Experiment, Training
from cleanpath.nn import catalog
from cleanpath.paper.claims import EARLY
from cleanpath.paper.scales import QUICK
from cleanpath.records import Run, Writer
from cleanpath.report.claimed import values_of
from cleanpath.report.collect import seed_result
from tests.report.example import cell, table

N, WARMUP = 320, 80
FIRST, LAST = 81, 130  # the 50 iterations behind the warm-up: EARLY of 320


def recorded(folder: Path, training: Training, iterations: int, *, diverged: bool = False) -> Run:
    """A run whose loss is 100 in the warm-up, then 3 up to iteration 130, then 1."""
    experiment = Experiment(network=catalog.network("resnet20"), training=training)
    with Writer(folder, experiment, {"torch": "2.14"}) as writer:
        for at in range(1, iterations + 1):
            writer.append({"iteration": at, "loss": 100.0 if at < FIRST else 3.0 if at <= LAST else 1.0})
        if diverged:
            writer.finish({"status": "diverged", "reason": "loss is nan", "iterations": iterations})
        else:
            writer.finish({"status": "finished", "error": 9.0, "train_error": 8.0, "train_loss": 0.5})
    return Run(folder)


def early(run: Run) -> float | None:
    """What `judge` reads as the run's early loss."""
    found = values_of([table(cell("original", seed_result(run, run.experiment)))])
    return found.get(("table1", "original", "ResNet-110", "early_loss"), {}).get(0)


def of(warmup: int = WARMUP, **length: int) -> Training:
    return Training(**(length or {"iterations": N}), warmup=warmup)  # type: ignore[arg-type]


def test_early_loss_is_that_of_the_first_iterations_behind_the_warm_up(tmp_path: Path) -> None:
    assert EARLY * N == LAST - WARMUP
    assert early(recorded(tmp_path / "a", of(), N)) == 3.0
    assert early(recorded(tmp_path / "b", of(warmup=0), N)) == 100.0
    assert early(recorded(tmp_path / "c", of(warmup=81), N)) == pytest.approx((49 * 3 + 1) / 50)
    assert early(recorded(tmp_path / "d", of(epochs=3), N)) == 3.0


def test_run_that_diverges_behind_the_beginning_has_its_early_loss(tmp_path: Path) -> None:
    """The beginning is one of the planned iterations, not of those that the run came to."""
    assert early(recorded(tmp_path / "late", of(), 200, diverged=True)) == 3.0
    assert early(recorded(tmp_path / "at its end", of(), LAST, diverged=True)) == 3.0
    assert early(recorded(tmp_path / "within", of(), LAST - 1, diverged=True)) == math.inf
    assert early(recorded(tmp_path / "at once", of(), 0, diverged=True)) == math.inf
    # Of so many epochs it is not known how many iterations they were to be.
    assert early(recorded(tmp_path / "epochs", of(epochs=3), 200, diverged=True)) == math.inf


def test_deviations_of_quick_say_how_long_its_beginning_is() -> None:
    training = QUICK.trainings[""]
    assert training.iterations is not None
    told = " ".join(remark.text for remark in QUICK.deviations)
    assert f"{math.ceil(EARLY * training.iterations)} iterations behind this warm-up" in told
