"""What a batch may be: any structure of tensors, which the audit copies, for a model may write to its inputs."""

# mypy: disable-error-code="no-any-return"

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cleanpath.auditing.examine import audit
from cleanpath.errors import UserError


class Named(NamedTuple):
    x: Tensor
    scale: float


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    scale: float


class Greedy(nn.Module):
    """Reads x from a structure by `take`, writes to it, and passes it through two units."""

    def __init__(self, take: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.take, self.a, self.b = take, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, given: Any) -> Tensor:
        x = self.take(given).mul_(2.0)
        x = x + self.a(x)
        return x + self.b(x)


STRUCTURES: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda x: x, lambda given: given),
    "named tuple": (lambda x: Named(x, 1.0), lambda given: given.x),
    "dataclass": (lambda x: Frozen(x, 1.0), lambda given: given.x),
    "list": (lambda x: [x, None], lambda given: given[0]),
    "tuple in a tuple": (lambda x: ((x, 3),), lambda given: given[0]),
    "dictionary in a tuple": (lambda x: ({"x": x},), lambda given: given["x"]),
    "ordered dictionary in a tuple": (lambda x: (OrderedDict(x=x),), lambda given: given["x"]),
    "nested": (lambda x: ([{"x": Frozen(x, 1.0)}],), lambda given: given[0]["x"].x),
    "user dictionary in a tuple": (lambda x: (UserDict(x=x),), lambda given: given["x"]),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_any_structure_is_passed_on_and_stays_as_it_was(kind: str) -> None:
    pack, take = STRUCTURES[kind]
    x = torch.randn(4, 8)
    given = pack(x)
    before, version = x.clone(), x._version
    profile = audit(Greedy(take), given)
    assert [unit.h.kind for unit in profile.units] == ["identity"] * 2
    assert profile.units[0].measurements.backward_gain is not None
    assert torch.equal(x, before)
    assert x._version == version
    assert not x.requires_grad


def test_a_mapping_is_keywords() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, *, x: Tensor, scale: float) -> Tensor:
            return x + scale * self.a(x)

    x = torch.randn(4, 8)
    for batch in ({"x": x, "scale": 2.0}, UserDict(x=x, scale=2.0)):
        assert len(audit(Keywords(), batch).units) == 1


def test_further_batches_are_a_list_of_batches() -> None:
    model, x = Greedy(lambda given: given), torch.randn(4, 8)
    assert audit(model, x, further_batches=[torch.randn(2, 8), torch.randn(7, 8)]).network.draws == 3
    with pytest.raises(UserError, match="a list of batches, this is a Tensor"):
        audit(model, x, further_batches=torch.randn(2, 8))  # type: ignore[arg-type]


def test_what_cannot_be_measured_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_tensor: Tensor) -> Tensor:
        raise NotImplementedError("no norm for such a tensor")

    monkeypatch.setattr("cleanpath.auditing.forward.norm", fails)
    profile = audit(Greedy(lambda given: given), torch.randn(4, 8))
    assert len(profile.units) == 2
    assert profile.units[0].measurements.forward_gain is None
    reasons = {entry.what: entry.reason for entry in profile.not_seen}
    assert "no norm for such a tensor" in reasons["measurements"]


class Asks(nn.Module):
    """Makes a leaf of what it was given, as speech models do for gradient checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        x.requires_grad = True
        x = x + self.a(x)
        return x + self.b(x)


def test_a_leaf_that_the_model_makes_of_its_input_counts_as_input() -> None:
    x = torch.randn(4, 8)
    profile = audit(Asks(), x)
    assert [unit.h.kind for unit in profile.units] == ["identity"] * 2
    assert profile.not_seen == ()
    assert not x.requires_grad
