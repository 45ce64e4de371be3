"""The paper's numbers, typed here once more from its page."""

import json

import pytest

from cleanpath.paper.published import FAIL, FAIL_ABOVE, published_table

TABLE_1 = {
    "original": 6.61,
    "constant_0_1": "fail",
    "constant_half_1": "fail",
    "constant_half_half": 12.35,
    "exclusive_gating_0": "fail",
    "exclusive_gating_-6": 8.70,
    "exclusive_gating_-7": 9.81,
    "shortcut_only_gating_0": 12.86,
    "shortcut_only_gating_-6": 6.91,
    "conv_1x1": 12.22,
    "dropout": "fail",
}
TABLE_2 = {
    "original": (6.61, 5.93),
    "bn_after_addition": (8.17, 6.50),
    "relu_before_addition": (7.84, 6.14),
    "relu_only_preactivation": (6.71, 5.91),
    "full_preactivation": (6.37, 5.46),
}


def test_table_1_has_the_printed_numbers() -> None:
    assert published_table("table1").cells == {(row, "ResNet-110"): error for row, error in TABLE_1.items()}


def test_table_2_has_the_printed_numbers() -> None:
    columns = ("ResNet-110", "ResNet-164")
    expected = {
        (row, column): error for row, both in TABLE_2.items() for column, error in zip(columns, both, strict=True)
    }
    assert published_table("table2").cells == expected


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_numbers_say_where_they_come_from_and_what_they_are(name: str) -> None:
    table = published_table(name)
    assert table.name == name
    assert "2016" in table.source
    assert table.source.endswith(f"Table {name[-1]}")
    assert "test error in percent" in table.quantity
    assert {column for _, column in table.cells} == set(table.columns)


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_value_is_a_percentage_below_the_limit_or_a_failure(name: str) -> None:
    assert FAIL_ABOVE == 20.0
    for value in published_table(name).cells.values():
        assert value == FAIL if isinstance(value, str) else 0 < value < FAIL_ABOVE


def test_table_as_data_keeps_every_cell() -> None:
    table = published_table("table2")
    data = json.loads(json.dumps(table.to_data(), allow_nan=False))
    assert (data["schema"], data["version"], data["name"]) == ("cleanpath.published", 1, "table2")
    assert {(row["row"], row["column"]): row["paper"] for row in data["rows"]} == table.cells
