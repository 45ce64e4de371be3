"""Recipes against the numbers that the papers print, and that they train."""

from pathlib import Path

import pytest

from cleanpath import settings, single
from cleanpath.errors import UnknownNameError
from cleanpath.paper.recipes import RECIPES, recipe
from cleanpath.training.schedule import learning_rate, length
from tests.helpers import assert_user_error, here


def test_paper_s_recipe_is_the_appendix() -> None:
    training = recipe("paper")
    rates = {i: learning_rate(training, i, 64_000) for i in (1, 400, 401, 32_000, 32_001, 48_000, 48_001, 64_000)}
    expected = {1: 0.01, 400: 0.01, 401: 0.1, 32_000: 0.1, 32_001: 0.01, 48_000: 0.01, 48_001: 0.001, 64_000: 0.001}
    assert rates == pytest.approx(expected)
    assert length(training, 50_000) == 64_000
    assert (training.batch_size, training.momentum, training.weight_decay) == (128, 0.9, 1e-4)
    assert (training.optimizer, training.bn_group, training.decay_on) == ("caffe_sgd", 64, "all")


def test_authors_code_drops_before_epochs_81_and_122() -> None:
    training = recipe("authors_code")
    total = length(training, 50_000)
    assert total == 64_063  # 164 epochs of 390.625 iterations, batches running on across epochs
    per_epoch = 50_000 / 128
    for epochs, before, after in ((80, 0.1, 0.01), (121, 0.01, 0.001)):
        assert learning_rate(training, int(epochs * per_epoch), total) == pytest.approx(before)
        assert learning_rate(training, int(epochs * per_epoch) + 2, total) == pytest.approx(after)
    assert training.nesterov
    assert not training.warmup


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_listed_and_trains(name: str, tmp_path: Path) -> None:
    assert any(row["name"] == name and row["what"] for row in here("list", "recipes", "--json").json()["recipes"])
    changes = ("--set", "training.iterations=3", "--set", "training.warmup=1", "--set", "network.width=4")
    group = ("--set", "training.batch_size=128")
    outcome = here(
        "train", "preresnet8", "--recipe", name, *changes, *group, "--threads", "1", "--out", f"{tmp_path}/r"
    )
    assert outcome.code == 0, outcome.err


def test_settings_replace_what_a_recipe_says_and_a_file_can_be_given_one(tmp_path: Path) -> None:
    experiment = single.experiment_of("preresnet8", ["training.lr=0.2"], "modern")
    assert (experiment.training.lr, experiment.training.schedule) == (0.2, "cosine")
    path = tmp_path / "e.toml"
    path.write_text(settings.to_toml(experiment))
    assert single.experiment_of(str(path), []).training == experiment.training
    assert single.experiment_of(str(path), [], "paper").training == recipe("paper")


def test_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="no recipe 'papers'; did you mean paper"):
        recipe("papers")
    assert_user_error(here("train", "preresnet8", "--recipe", "old"), "no recipe 'old'")
