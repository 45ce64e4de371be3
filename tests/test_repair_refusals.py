"""What is not mended: the reason, the units, and the line of the source to edit."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from tests.test_repair import VECTORS
from tests.test_repair_forwards import Ways


class Deciding(Ways):
    """A number decides, in one of these ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "item" and x.mean().item() > 1e9:
            x = x * 2
        if self.how == "chance" and self.training and torch.rand(1).item() > 2:
            x = x * 2
        if self.how == "length":
            x = x[: int(x.abs().sum())]
        return self.head(self.units(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("item", "a number that comes from values decides in Python"),
        ("chance", "it draws random numbers that decide in Python"),
        ("length", "a number that comes from values decides in Python"),
    ],
)
def test_what_numbers_decide_is_refused(how: str, why: str) -> None:
    found = cleanpath.fix(Deciding(how), VECTORS, ["CP201"], unsafe=True)
    assert found.changes == ()
    assert why in found.refused[0].reason


class Loop(Ways):
    """Its sums stand in a loop, behind others; chance decides whether a unit runs."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        for layer in self.layers:
            if random.random() < 2:  # noqa: S311
                x = functional.relu(x + layer(x))
        x = x + 2
        return self.head(x)  # type: ignore[no-any-return]


def test_refusal_names_every_unit_once_and_the_line_of_the_sum() -> None:
    found = cleanpath.fix(Loop(), VECTORS, ["CP201"], unsafe=True)
    assert [each.unit for each in found.refused] == [f"layers.{place}" for place in range(4)]
    text = str(found)
    assert text.count("it draws random numbers that decide in Python") == 1
    assert "CP201 layers.0, layers.1, layers.2, layers.3: its forward cannot be read" in text
    assert text.count("x = functional.relu(x + layer(x))\n") == 1


def test_refusal_is_told_at_the_unit_in_which_it_was_found() -> None:
    class Between(Ways):
        between: nn.Module

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = self.between(functional.relu(x + layer(x)))
            return self.head(x)  # type: ignore[no-any-return]

    model = Between()
    model.between = nn.Linear(8, 8)
    found = cleanpath.fix(model, VECTORS, ["CP201"], unsafe=True)
    (finding,) = [one for one in found.before.findings if one.code == "CP201"]
    assert [each.unit for each in found.refused] == sorted(finding.units)
    assert "a layer or a position stands between" in found.refused[0].reason


def test_many_units_that_are_refused_alike_are_counted() -> None:
    found = cleanpath.fix(Deciding("item"), VECTORS, ["CP201"], unsafe=True)
    more = tuple(dataclasses.replace(found.refused[0], unit=f"layers.{place}") for place in range(4, 9))
    assert "CP201 layers.0, layers.1, layers.2 and 6 more: " in str(
        dataclasses.replace(found, refused=(*found.refused, *more))
    )


class Noted:
    """No tensor, and no table of some."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Noting(Ways):
    """It gives an object of its own."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.units(x)), Noted(x)


class Freezing(Ways):
    """Its norms stay in evaluation mode, whatever is asked."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.units(x))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Freezing":  # noqa: FBT001, FBT002 (torch has it so)
        super().train(mode)
        self.norms.eval()
        return self


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Noting, "it hands on an object of Noted, which no graph holds"), (Freezing, "its class has a train of its own")],
)
def test_network_that_a_graph_would_not_be_is_refused(kind: Callable[[], nn.Module], why: str) -> None:
    found = cleanpath.fix(kind(), VECTORS, ["CP201"], unsafe=True)
    assert found.changes == ()
    assert why in found.refused[0].reason
