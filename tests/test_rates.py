"""What the recorded rates of findings say, and that they are of today's rules."""

import json
from pathlib import Path
from typing import Any

import pytest

from cleanpath.auditing.judging import every_rule
from cleanpath.paper.published import FAIL, published_table
from cleanpath.paper.tables import RECIPES

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "results" / "finding-rates.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
HEALTHY = [row for row in ROWS if not row["target"].startswith("table")]
SUFFERS = 12.0
"""Test error in percent: every row of the paper that does not fail is below 10 or above this."""


def errors(row: dict[str, Any]) -> set[str]:
    return {code for code, severity, *_ in row["findings"] if severity == "error"}


def test_every_row_of_both_tables_is_recorded() -> None:
    recipes = [RECIPES[name] for name in ("table1", "table2")]
    cells = {f"{recipe.name}/{row.key}/{column.key}" for recipe in recipes for row, column in recipe.cells()}
    assert {row["target"] for row in ROWS if row["target"].startswith("table")} == cells


@pytest.mark.parametrize("row", [row for row in ROWS if row["target"].startswith("table")], ids=lambda r: r["target"])
def test_rows_that_suffer_in_the_paper_have_an_error_before_training_and_no_others(row: dict[str, Any]) -> None:
    name, key, column = row["target"].split("/")
    paper = published_table(name).cells.get((key, column))
    suffers = paper == FAIL or (isinstance(paper, int | float) and paper > SUFFERS)
    assert bool(errors(row)) == suffers, (row, paper)


def test_at_most_two_in_a_hundred_healthy_networks_have_an_error() -> None:
    assert len(HEALTHY) > 300
    assert sum(bool(errors(row)) for row in HEALTHY) <= 0.02 * len(HEALTHY)


def test_no_rule_fires_on_half_of_the_healthy_networks() -> None:
    known = {one.code for one in every_rule()}
    fired = [{code for code, *_ in row["findings"]} for row in HEALTHY]
    assert {code for codes in fired for code in codes} <= known
    assert all(sum(code in codes for codes in fired) < len(HEALTHY) / 2 for code in known)


def test_the_gallery_shows_what_it_names_and_all_that_it_draws() -> None:
    root = Path(__file__).parent.parent
    entries = json.loads((root / "results" / "gallery.json").read_text(encoding="utf-8"))
    drawn = {entry["drawing"] for entry in entries if "drawing" in entry}
    assert drawn == {file.name for file in (root / "docs" / "gallery").iterdir()}
    assert {code for entry in entries for code, *_ in entry["findings"]} <= {one.code for one in every_rule()}
