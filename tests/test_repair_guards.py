"""What a graph would lose without a word is guarded: gradients, modes, random numbers, state, hooks, shapes, names."""

import copy
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath.errors import UserError
from cleanpath.repair.captured import capture
from cleanpath.repair.comparing import check_same
from cleanpath.repair.edits import edit_of
from cleanpath.repair.fixed import Fixed
from cleanpath.repair.rewritten import Rewritten
from cleanpath.repair.tracing import UnreadableError
from tests.test_repair import VECTORS, Loud, fixed


class Unit(nn.Module):
    """0.5 x + F(x), written in a function that is given."""

    def __init__(self, rule: Callable[["Unit", Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)
        self.register_buffer("number", torch.tensor(0.5))
        self.rule, self.calls = rule, 0

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.relu(self.norm(x)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x) if self.rule is not None else 0.5 * x + self.branch(x)


def net(rule: Callable[[Any, Tensor], Tensor] | None = None, kind: Callable[..., nn.Module] = Unit) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(kind(rule) for _ in range(4)), nn.LayerNorm(8), nn.Linear(8, 3))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def straight(unit: Unit, x: Tensor) -> Tensor:
    signs: Tensor = Straight.apply(unit.branch(x))
    y: Tensor = 0.5 * x + signs
    return y


def frozen(unit: Unit, x: Tensor) -> Tensor:
    with torch.no_grad():
        size: Tensor = unit.norm(x).abs().mean()
    return 0.5 * x + unit.branch(x) * size


def precise(unit: Unit, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return 0.5 * x + unit.branch(x)


def counting(unit: Unit, x: Tensor) -> Tensor:
    unit.calls += 1
    return 0.5 * x + unit.branch(x) * min(1, unit.calls / 4)


def drawing(unit: Unit, x: Tensor) -> Tensor:
    # Never so, but drawn: what is decided once must not be for ever.
    return x if unit.training and random.random() < 0.0 else 0.5 * x + unit.branch(x)  # noqa: S311


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (straight, "Straight has a backward of its own"),
        (frozen, "it turns gradients off"),
        (precise, "it enters autocast"),
        (counting, "it keeps state of its own (calls)"),
        (drawing, "it draws random numbers that decide in Python"),
    ],
)
def test_unit_that_a_graph_would_change_is_called_as_it_is_and_its_edit_is_told(rule: Any, reason: str) -> None:
    found = fixed(net(rule), VECTORS, "CP102")
    assert not found.changes
    assert found.refused
    for one in found.refused:
        assert reason in one.reason
        assert "test_repair_guards.py" in one.edit


def test_graph_with_another_gradient_or_other_random_numbers_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.how = nn.Linear(8, 8), how

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.one(x)
            if self.how == "draws":
                torch.rand(1)
            return y + 0 * y.detach().square() if self.how != "detached" else y.detach() + 0 * self.one.bias.sum()

    check_same(Two("plain"), Two("plain"), VECTORS, 0)
    with pytest.raises(UnreadableError, match=r"gives one\.weight another gradient in training mode"):
        check_same(Two("plain"), Two("detached"), VECTORS, 0)
    with pytest.raises(UnreadableError, match="draws other random numbers"):
        check_same(Two("plain"), Two("draws"), VECTORS, 0)


def test_fix_leaves_the_generators_the_gradients_and_the_modes_as_they_were() -> None:
    model = net(lambda unit, x: 0.5 * x + functional.dropout(unit.branch(x), 0.1, unit.training))
    model(VECTORS).sum().backward()
    model[4].eval()
    gradients = [copy.deepcopy(one.grad) for one in model.parameters()]
    modes = [one.training for one in model.modules()]
    states = torch.get_rng_state(), random.getstate()
    found = cleanpath.fix(model, VECTORS, ["CP102"], unsafe=True)
    assert len(found.changes) == 4
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert [one.training for one in model.modules()] == modes
    kept = [one.grad for one in model.parameters()]
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))


def test_condition_on_a_shape_is_checked_in_the_rewritten_network() -> None:
    class ByShape(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor, size: tuple[int, int] = (2, 4)) -> Tensor:
            y: Tensor = self.layer(x)
            y = 2 * y if x.shape[0] > 4 else y
            return y.view(-1, *size).sum(1)

    again = capture(ByShape(), VECTORS, [""], 0).model()
    assert torch.isfinite(again(VECTORS[:5])).all()
    with pytest.raises(AssertionError, match="a condition on a shape in forward was True"):
        again(VECTORS[:2])
    with pytest.raises(ValueError, match=r"size must be \(2, 4\)"):
        again(VECTORS, (4, 2))
    with pytest.raises(UnreadableError, match="its input size is a object"):
        capture(Opaque(), (VECTORS, object()), [""], 0)


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, size: object) -> Tensor:
        y: Tensor = self.layer(x) if size else x
        return y


def test_hooks_on_gradients_and_checkpoints_are_not_lost() -> None:
    model, met = net(), list[str]()
    model[1].register_full_backward_hook(lambda *_: met.append("backward"))
    found = fixed(model, VECTORS, "CP102")
    assert [change.unit for change in found.changes] == ["0", "2", "3"]
    met.clear()
    found.model(VECTORS).sum().backward()
    assert met == ["backward"]
    model = net()
    model[0].register_load_state_dict_pre_hook(lambda *_: None)  # type: ignore[no-untyped-call]
    found = fixed(model, VECTORS, "CP102")
    assert not found.changes
    assert "hooks on 0 would be lost" in found.refused[0].reason


def test_unit_that_loads_old_checkpoints_in_its_own_way_is_left() -> None:
    class Old(Unit):
        def _load_from_state_dict(self, *args: Any) -> None:
            super()._load_from_state_dict(*args)

    found = fixed(net(kind=Old), VECTORS, "CP102")
    assert "its class has a _load_from_state_dict of its own" in found.refused[0].reason


class Post(nn.Module):
    def __init__(self, _: object = None) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


def test_shortcut_is_not_routed_around_a_layer_or_a_position_between_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Post(), Post(), nn.Linear(8, 8), Post(), Post(), nn.Linear(8, 3))
    found = fixed(model, VECTORS, "CP201")
    assert [change.unit for change in found.changes] == ["2", "5"]
    assert "a layer or a position stands between the sum and the next unit (addmm)" in [r.reason for r in found.refused]

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.units, self.head = nn.Linear(8, 8), nn.ModuleList(map(Post, range(3))), nn.Linear(8, 3)
            self.place = nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for index, unit in enumerate(self.units):
                x = unit(x + self.place[index])
            y: Tensor = self.head(x)
            return y

    assert not fixed(Placed(), VECTORS, "CP201").changes


FACTORS: list[Callable[[Any, Tensor], Tensor]] = [
    lambda unit, x: (x + unit.branch(x)) * unit.number,
    lambda unit, x: 0.5 * (x + unit.branch(x)),
]


@pytest.mark.parametrize("rule", FACTORS)
def test_factor_of_a_sum_goes_to_the_branch_whatever_it_is_and_wherever_it_stands(rule: Any) -> None:
    model = net(rule)
    found = fixed(model, VECTORS, "CP203")
    assert len(found.changes) == 4
    x = VECTORS
    for unit in model[:4]:
        x = x + unit.branch(x) * 0.5  # type: ignore[operator]
    assert torch.allclose(found.model(VECTORS), model[4:](x), atol=1e-6)


def test_dropout_alone_goes_where_a_factor_stands_beside_it() -> None:
    found = fixed(
        net(lambda unit, x: 0.5 * functional.dropout(x, 0.5, unit.training) + unit.branch(x)), VECTORS, "CP103"
    )
    assert len(found.changes) == 4
    assert found.differences[1].relative == 0.0


def test_final_norm_of_another_width_is_refused() -> None:
    class Wider(Unit):
        def __init__(self, _: object = None) -> None:
            super().__init__()
            self.layer, self.project = nn.Linear(8, 16), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.project(x)
            return y + self.branch(x)

    torch.manual_seed(0)
    rules = [Unit(lambda unit, x: x + unit.branch(x)) for _ in range(6)]
    found = fixed(nn.Sequential(*rules, Wider(), nn.Linear(16, 3)), VECTORS, "CP501")
    assert [r.reason for r in found.refused] == ["the last unit changes the width, which its own norm does not have"]


class Gated(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm, self.layer, self.how = nn.LayerNorm(8), nn.Linear(8, 16 if how == "halves" else 8), how
        self.one, self.two = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "halves":
            value, gate = self.layer(x).chunk(2, -1)
            gate = torch.sigmoid(gate)
            mixed: Tensor = x * (1 - gate) + torch.relu(value) * gate
            return mixed
        gated = torch.sigmoid(self.two(torch.relu(self.one(x)))) * x
        y: Tensor = gated + self.layer(torch.relu(self.norm(x)))
        return y


def test_gate_has_only_its_last_bias_set_and_none_that_the_branch_shares() -> None:
    def gated(how: str) -> Fixed:
        return fixed(nn.Sequential(*(Gated(how) for _ in range(4)), nn.LayerNorm(8), nn.Linear(8, 3)), VECTORS, "CP104")

    torch.manual_seed(0)
    assert gated("layers").no_decay == tuple(f"{index}.two.bias" for index in range(4))
    halves = gated("halves")
    assert not halves.no_decay
    assert "also gives the branch" in halves.refused[0].reason


def test_shared_branch_is_made_smaller_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*([Loud()] * 12), nn.Linear(8, 3))
    found = fixed(model, VECTORS, "CP402")
    assert len(found.changes) == 1
    here, there = found.model.get_parameter("0.two.weight"), model.get_parameter("0.two.weight")
    assert torch.allclose(here, there / math.sqrt(12))


def test_child_whose_name_is_a_word_of_python_or_ours() -> None:
    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.parts, self.units, self.name = nn.ModuleDict({"in": nn.Linear(8, 8)}), net(), name
            self.add_module(name, nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.units(self.get_submodule(self.name)(self.parts["in"](x)))
            return y

    found = fixed(Named("other"), VECTORS, "CP102")
    assert (found.read, len(found.changes)) == ("the whole", 4)
    assert isinstance(found.model, Rewritten)
    assert 'getattr(self.parts, "in")' in found.model.source.text
    found = fixed(Named("source"), VECTORS, "CP102")
    assert (found.read, len(found.changes)) == ("units", 4)


def test_network_that_cannot_be_copied_is_refused_in_words() -> None:
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0].get_submodule("layer"))
    model(VECTORS)
    with pytest.raises(UserError, match=r"use torch\.nn\.utils\.parametrizations\.weight_norm"):
        cleanpath.fix(model, VECTORS, ["CP102"], unsafe=True)


class Edited(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        # fmt: off
        #       a comment at the margin
        # fmt: on
        return 0.5 * x + torch.relu(x)


class Nested(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = 0.5 * x + torch.relu(x)
        start = 0
        y = x[:, (start + 0) :]
        return y * [1.0, 1.0 + 0][0]


def test_edit_names_the_sum_of_the_shortcut_or_only_the_function() -> None:
    assert "x = 0.5 * x + torch.relu(x)\n" in edit_of("CP102", Nested())
    assert edit_of("CP102", Edited()).endswith("instead of λ * x + F(x) write x + F(x)")


def test_report_tells_what_is_computed_out_of_place() -> None:
    model = net(lambda unit, x: 0.5 * x + unit.layer(unit.act(unit.norm(x))))
    for unit in model[:4]:
        unit.act = nn.ReLU(inplace=True)
    found = fixed(model, VECTORS, "CP102")
    assert found.out_of_place == tuple(f"{index}.act" for index in range(4))
    assert "computed out of place from now on: 0.act" in str(found)


class Placed(nn.Module):
    """An encoder with a norm after each addition and a table of places, cut to the length of its input."""

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        places = torch.randn(12, 8)
        if learned:
            self.places = nn.Parameter(places)
        else:
            self.register_buffer("places", places)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.places[: words.shape[1]]
        for branch, norm in zip(self.branches, self.norms, strict=True):
            x = norm(x + branch(x))
        scores: Tensor = self.head(x.mean(1))
        return scores


@pytest.mark.parametrize("learned", [True, False])
def test_a_table_may_be_cut_to_the_length_of_the_input(learned: bool) -> None:  # noqa: FBT001
    model = Placed(learned=learned).eval()
    found = cleanpath.fix(model, torch.randint(20, (4, 10)), ["CP202"], unsafe=True)
    assert len(found.changes) == 3
    words = torch.randint(20, (3, 7))
    with torch.no_grad():
        x = model.words(words) + model.places[:7]
        x = x + model.branches[0](x)
        for branch, before in zip(list(model.branches)[1:], model.norms, strict=False):
            x = x + branch(before(x))
        torch.testing.assert_close(found.model(words), model.head(model.norms[-1](x).mean(1)))


def test_a_scripted_network_is_refused_with_a_reason() -> None:
    class Post(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.relu(x + layer(x))
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Post())
        found = cleanpath.fix(scripted, torch.randn(4, 8), ["CP201"], unsafe=True)
    assert not found.changes
    assert all(one.reason for one in found.refused)
