"""Fixes: the function that each makes, written out by hand; the shortcuts that it changes, counted."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath.changed import changed
from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.nn import resnet
from cleanpath.nn.asymmetric import Asymmetric
from cleanpath.repair.fixed import Fixed

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def network(name: str, *settings: str) -> nn.Module:
    torch.manual_seed(0)
    return resnet.build(changed(name, [f"network.{one}" for one in settings]))


def fixed(model: nn.Module, batch: object, code: str) -> Fixed:
    """Mend one code; checkpoints of the original must load, and the original and the generators must be as before."""
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [(one.training, len(one._forward_hooks), len(one._forward_pre_hooks)) for one in model.modules()]
    found = cleanpath.fix(model, batch, [code], unsafe=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert modes == [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    if not found.added:
        copy.deepcopy(found.model).load_state_dict(model.state_dict(), strict=True)
    return found


def units_of(found: Fixed, code: str) -> list[str]:
    return [change.unit for change in found.changes if change.code == code]


def same(here: nn.Module, there: nn.Module, batch: Tensor) -> None:
    """The same bits in both modes, running statistics included."""
    for training in (True, False):
        one, other = copy.deepcopy(here).train(training), copy.deepcopy(there).train(training)
        assert torch.equal(one(batch), other(batch))
        pairs = zip(one.buffers(), other.buffers(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_original_network_rewritten_is_equation_9() -> None:
    original = network("resnet20")
    found = fixed(original, IMAGES, "CP201")
    assert units_of(found, "CP201") == [f"stages.stage{s}.unit{u}" for s in (1, 2, 3) for u in (2, 3)]
    same(found.model, Asymmetric(copy.deepcopy(original)), IMAGES)  # type: ignore[arg-type]
    assert not found.after.findings
    assert all(unit.clean for unit in found.after.units if not unit.changes_shape)


def by_hand(model: nn.Module, images: Tensor) -> Tensor:
    """x_{l+1} = x_l + F(relu(x_l)), with the batch's statistics; where the width changes, both paths read relu(x_l)."""
    weights = dict(model.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        scale, bias = weights[f"{name}.weight"].view(1, -1, 1, 1), weights[f"{name}.bias"].view(1, -1, 1, 1)
        return (x - mean) / (variance + 1e-5).sqrt() * scale + bias

    def branch(x: Tensor, unit: str, stride: int) -> Tensor:
        y = norm(functional.conv2d(x, weights[f"{unit}.conv1.weight"], stride=stride, padding=1), f"{unit}.bn1")
        return norm(functional.conv2d(y.clamp(min=0), weights[f"{unit}.conv2.weight"], padding=1), f"{unit}.bn2")

    x = norm(functional.conv2d(images, weights["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0)
    x = functional.max_pool2d(x, 3, 2, 1)
    activated, first = x, True
    for layer in range(1, 5):
        for index in range(2):
            unit = f"layer{layer}.{index}"
            if f"{unit}.downsample.0.weight" in weights:
                h = norm(
                    functional.conv2d(activated, weights[f"{unit}.downsample.0.weight"], stride=2),
                    f"{unit}.downsample.1",
                )
                x = h + branch(activated, unit, 2)
            else:
                x = (activated if first else x) + branch(activated, unit, 1)
            activated, first = x.clamp(min=0), False
    return functional.linear(activated.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


def torchvision_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = pytest.importorskip("torchvision").models.get_model(name, num_classes=5)
    return made


def test_torchvision_resnet18_has_4_shortcuts_to_route_and_computes_what_is_written_by_hand() -> None:
    original = torchvision_network("resnet18").train()
    batch = torch.randn(4, 3, 64, 64)
    found = fixed(original, batch, "CP201")
    assert units_of(found, "CP201") == ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    wanted = by_hand(original, batch)
    assert torch.allclose(found.model(batch), wanted, atol=1e-4)
    assert not torch.allclose(original(batch), wanted, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("resnet50", 12), ("resnet152", 46)])
def test_deep_torchvision_networks_have_as_many_to_route_as_identity_shortcuts_behind_a_sum(
    name: str, count: int
) -> None:
    found = fixed(torchvision_network(name), torch.randn(2, 3, 32, 32), "CP201")
    assert len(units_of(found, "CP201")) == count


@pytest.mark.slow
def test_resnet110_keeps_its_parameters_and_is_the_asymmetric_network() -> None:
    original = network("resnet110")
    found = fixed(original, IMAGES[:2], "CP201")
    assert len(units_of(found, "CP201")) == 51
    assert sum(p.numel() for p in found.model.parameters()) == 1_727_962
    same(found.model, Asymmetric(copy.deepcopy(original)), IMAGES[:2])  # type: ignore[arg-type]


def test_bn_after_addition_rewritten_has_its_norm_in_the_branch() -> None:
    original = network("resnet20", "placement=bn_after_addition")
    found = fixed(original, IMAGES, "CP202")
    assert len(units_of(found, "CP202")) == 6
    same(found.model, Asymmetric(copy.deepcopy(original)), IMAGES)  # type: ignore[arg-type]


class Unit(nn.Module):
    """A pre-activation unit of linear layers that a test gives one defect."""

    def __init__(self, **defect: float) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.defect, self.drop = defect, nn.Dropout(0.5)
        self.inplace = nn.ReLU(inplace=True)
        self.project = nn.Linear(8, 8) if "project" in defect else None
        self.gate = nn.Linear(8, 8) if "gate" in defect else None

    def branch(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(torch.relu(self.one(self.norm(x))))
        return torch.relu(y) if "relu" in self.defect else y

    def shortcut(self, x: Tensor) -> Tensor:
        h: Tensor = x
        if "scale" in self.defect:
            h = self.defect["scale"] * x
        elif "drop" in self.defect:
            h = self.drop(x)
        elif "functional" in self.defect:
            h = functional.dropout(x, 0.5, training=self.training)
        elif "tanh" in self.defect:
            h = torch.tanh(x)
        elif self.project is not None:
            h = self.project(x)
        elif self.gate is not None:
            g = torch.sigmoid(self.gate(x))
            h = (g if self.defect["gate"] > 0 else 1 - g) * x
        return h

    def forward(self, x: Tensor) -> Tensor:
        if "alpha" in self.defect:
            return torch.add(self.branch(x), x, alpha=self.defect["alpha"])
        if "sum" in self.defect:
            return torch.mul(x + self.branch(x), self.defect["sum"])
        if "inplace" in self.defect:
            y: Tensor = self.two(torch.relu(self.one(self.inplace(x))))
            return x + y
        return self.shortcut(x) + self.branch(x)


class Net(nn.Module):
    """Control flow of Python's own: a loop, a condition on a shape, units in a list."""

    def __init__(self, count: int = 5, *, final: bool = True, **defect: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(8, 8)
        self.units = nn.ModuleList(Unit(**defect) for _ in range(count))
        self.final = nn.LayerNorm(8) if final else None
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.shape[-1] != 8:
            raise ValueError
        for unit in self.units:
            x = unit(x)
        if self.final is not None:
            x = self.final(x)
        scores: Tensor = self.head(x)
        return scores


Planted = tuple[str, dict[str, float], Callable[[Unit, Tensor], Tensor]]
PLANTED: list[Planted] = [
    ("CP102", {"scale": 0.5}, lambda unit, x: x + unit.branch(x)),
    ("CP102", {"alpha": 0.5}, lambda unit, x: x + unit.branch(x)),
    ("CP103", {"drop": 0.5}, lambda unit, x: x + unit.branch(x)),
    ("CP103", {"functional": 0.5}, lambda unit, x: x + unit.branch(x)),
    ("CP101", {"tanh": 1.0}, lambda unit, x: x + unit.branch(x)),
    ("CP203", {"sum": 0.5}, lambda unit, x: x + 0.5 * unit.branch(x)),
    ("CP301", {"relu": 1.0}, lambda unit, x: x + unit.two(torch.relu(unit.one(unit.norm(x))))),
    ("CP204", {"inplace": 1.0}, lambda unit, x: x + unit.two(torch.relu(unit.one(torch.relu(x))))),
]


@pytest.mark.parametrize(("code", "defect", "wanted"), PLANTED, ids=[f"{p[0]}-{next(iter(p[1]))}" for p in PLANTED])
def test_planted_defect_is_mended_into_the_unit_written_by_hand(
    code: str, defect: dict[str, float], wanted: Callable[[Unit, Tensor], Tensor]
) -> None:
    model = Net(5, final=True, **defect).train()
    found = fixed(model, VECTORS, code)
    assert code in {finding.code for finding in found.before.findings}
    assert units_of(found, code) == [f"units.{index}" for index in range(5)]
    assert code not in {finding.code for finding in found.after.findings}
    x = model.stem(VECTORS)
    for unit in model.units:
        assert isinstance(unit, Unit)
        x = wanted(unit, x)
    assert model.final is not None
    expected = model.head(model.final(x))
    for training in (True, False):
        assert torch.allclose(found.model.train(training)(VECTORS), expected, atol=1e-6)
    assert not torch.allclose(model(VECTORS), expected, atol=1e-3)


def test_fix_that_trials_do_not_bear_out_is_made_only_where_it_is_named() -> None:
    left = cleanpath.fix(Net(inplace=1.0), VECTORS, unsafe=True)
    assert "CP204" not in {change.code for change in left.changes}
    assert any(one.code == "CP204" and "only where it is named" in one.reason for one in left.refused)


def test_projections_start_at_the_identity() -> None:
    model = Net(project=1.0)
    found = fixed(model, VECTORS, "CP106")
    assert len(units_of(found, "CP106")) == 5
    assert type(found.model) is Net  # weights only: the class stays
    for unit in found.model.units:
        assert isinstance(unit, Unit)
        assert unit.project is not None
        assert torch.equal(unit.project(VECTORS), VECTORS)


def test_convolution_with_a_norm_behind_it_is_no_identity_and_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *(Bottleneck() for _ in range(4)), nn.Flatten(), nn.LazyLinear(3))
    model(IMAGES)
    found = cleanpath.fix(model, IMAGES, ["CP106"], unsafe=True)
    assert [each.reason for each in found.refused] == [
        "its projection holds a normalisation beside its weights: it cannot be an identity"
    ] * 4


class Bottleneck(nn.Module):
    """A unit whose projection has a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.branch = nn.Sequential(
            nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(x) + self.branch(x)
        return y


@pytest.mark.parametrize(("sign", "bias"), [(1.0, 6.0), (-1.0, -6.0)])
def test_gates_are_opened_by_the_bias_of_the_sign_that_opens_them(sign: float, bias: float) -> None:
    found = fixed(Net(gate=sign), VECTORS, "CP104")
    for index, unit in enumerate(found.model.units):  # type: ignore[arg-type, unused-ignore]
        assert isinstance(unit, Unit)
        assert unit.gate is not None
        assert torch.equal(unit.gate.bias, torch.full((8,), bias))
        assert f"units.{index}.gate.bias" in found.no_decay
    assert all((unit.measurements.shortcut_gain or 0) > 0.98 for unit in found.after.units)
    kept, free = found.parameter_groups(1e-4)
    assert (len(free["params"]), free["weight_decay"], kept["weight_decay"]) == (5, 0.0, 1e-4)
    assert len(kept["params"]) + 5 == len(list(found.model.parameters()))


def test_missing_final_norm_is_added_like_the_branches_own() -> None:
    model = Net(final=False)
    found = fixed(model, VECTORS, "CP501")
    assert found.added == ("final_norm.weight", "final_norm.bias")
    x = model.stem(VECTORS)
    for unit in model.units:
        x = unit(x)
    assert torch.allclose(found.model(VECTORS), model.head(functional.layer_norm(x, (8,))), atol=1e-6)


def test_network_without_norm_starts_with_branches_of_one_over_root_l() -> None:
    model = network_without_norm()
    found = fixed(model, VECTORS, "CP402")
    assert units_of(found, "CP402")
    for mine, theirs in zip(found.model, model, strict=True):  # type: ignore[call-overload]
        if isinstance(mine, Loud):
            assert torch.allclose(mine.two.weight, theirs.two.weight / math.sqrt(12))
            assert torch.equal(mine.one.weight, theirs.one.weight)


class Loud(nn.Module):
    """A unit without norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 8)
        for layer in (self.one, self.two):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + 2 * self.two(torch.relu(self.one(x)))
        return y


def network_without_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Loud() for _ in range(12)), nn.Linear(8, 3))


def test_codes_that_are_not_allowed_or_have_no_fix_are_refused_in_words() -> None:
    model = Net(scale=0.5)
    with pytest.raises(SettingError, match=r"CP102 keeps the weights but changes the function .* allow it by unsafe"):
        cleanpath.fix(model, VECTORS, ["CP102"])
    with pytest.raises(UserError, match="CP303 has no fix: it is a choice, not a defect"):
        cleanpath.fix(model, VECTORS, ["CP303"], unsafe=True)
    with pytest.raises(UnknownNameError, match="did you mean CP10"):
        cleanpath.fix(model, VECTORS, ["CP10"], unsafe=True)
    with pytest.raises(SettingError, match="is one word; give a list"):
        cleanpath.fix(model, VECTORS, "CP102", unsafe=True)
    without = cleanpath.fix(model, VECTORS)
    assert without.changes == ()
    assert (
        without.refused[0].reason
        == "it changes the function (5 units): allow it by unsafe=True, on the command line --unsafe"
    )
    assert [one.relative for one in without.differences] == [0.0, 0.0]
    absent = cleanpath.fix(model, VECTORS, ["CP201"], unsafe=True)
    assert [(one.code, one.reason) for one in absent.refused] == [("CP201", "this was not found in the network")]


def test_safe_fix_frees_gates_from_the_decay_of_a_given_optimizer() -> None:
    model = Net(gate=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
    found = cleanpath.fix(model, VECTORS, ["CP601"], optimizer=optimizer)
    assert found.no_decay == tuple(f"units.{index}.gate.bias" for index in range(5))
    assert [one.relative for one in found.differences] == [0.0, 0.0]
    assert type(found.model) is Net
    blind = cleanpath.fix(model, VECTORS, ["CP601"]).refused[0].reason
    assert blind == 'no optimizer was given; in Python: cleanpath.fix(model, batch, ["CP601"], optimizer=optimizer)'
