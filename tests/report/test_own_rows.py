"""A user's rows beside the original: the paired numbers by hand, and what is said of them."""

import math

import pytest
from scipy import stats

from cleanpath.report.claimed import columns_of, to_data, values_of
from cleanpath.report.own_rows import beside_original
from cleanpath.report.table import FINISHED, SeedResult
from tests.report.example import cell, diverged, table


def runs(*errors: float) -> list[SeedResult]:
    return [
        SeedResult(seed=seed, status=FINISHED, error=error, train_loss=error / 10) for seed, error in enumerate(errors)
    ]


def test_differences_are_paired_by_seed() -> None:
    original, mine = (6.0, 7.0, 6.5, 8.0, 7.2, 6.1), (5.0, 6.5, 6.6, 7.1, 6.0, 5.9)
    shown = table(cell("original", *runs(*original)), cell("mine", *runs(*mine)), cell("dropout", *runs(9.0)))
    error, loss = beside_original(shown, "ResNet-110", values_of([shown]))
    assert (error.quantity, loss.quantity, error.result.n) == ("error", "train_loss", 6)
    assert error.result.differences == pytest.approx([there - here for here, there in zip(original, mine, strict=True)])
    expected = stats.wilcoxon(mine, original, mode="exact").pvalue
    assert error.p == pytest.approx(expected)
    assert error.result.favourable == 5
    (column,) = columns_of(shown)
    assert any(
        sentence.startswith("mine against original, test error: ") and "points lower (median; difference in" in sentence
        for sentence in column.sentences
    )
    (data,) = to_data([shown], [])["columns"]
    assert [one["quantity"] for one in data["own"]] == ["error", "train_loss"]


def test_one_seed_says_that_nothing_follows_and_none_says_nothing() -> None:
    one = table(cell("original", *runs(6.0)), cell("mine", *runs(5.0)))
    error, _ = beside_original(one, "ResNet-110", values_of([one]))
    said = "mine against original, test error: 1.00 points lower with one seed, from which nothing follows"
    assert error.in_words == said
    two = table(cell("original", *runs(6.0, 7.0)), cell("mine", *runs(6.5, 8.0)))
    error, _ = beside_original(two, "ResNet-110", values_of([two]))
    assert error.in_words == (
        "mine against original, test error: 0.75 points higher (median), lower with 0 of 2 seeds; an interval and a "
        "test take 6"
    )
    none = table(cell("original", *runs(6.0)), cell("mine"))
    assert list(beside_original(none, "ResNet-110", values_of([none]))) == []
    paper = table(cell("original", *runs(6.0)), cell("dropout", *runs(9.0)))
    assert list(beside_original(paper, "ResNet-110", values_of([paper]))) == []


def test_run_that_diverged_is_worse_than_any() -> None:
    shown = table(cell("original", *runs(6.0, 6.0)), cell("mine", diverged(0), *runs(5.0, 5.0)[1:]))
    error, *_ = beside_original(shown, "ResNet-110", values_of([shown]))
    assert error.result.differences == (math.inf, -1.0)
