"""Defects planted one at a time in healthy networks of nine families: each is found, and nothing in their absence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cleanpath import Profile, Shortcut, audit, build
from cleanpath.auditing.judging import every_rule
from tests.auditing.planting import FAMILIES, Do, Family, behind, images, replace_at

Plant = Callable[[nn.Module, Family], Any]


@dataclass(frozen=True)
class Defect:
    """What is planted, and what must be said."""

    code: str
    severity: str
    plant: Plant
    fits: Callable[[Family], bool] = lambda _: True
    local: bool = True
    """Whether the finding names the planted unit."""


def profile_of(family: Family, plant: Plant | None = None) -> Profile:
    torch.manual_seed(1)
    model = family.model()
    if plant is not None:
        plant(model, family)
    return audit(model, family.inputs(), loss=guess)


def guess(logits: Tensor) -> Tensor:
    """The loss of a classifier on labels that it cannot know."""
    return nn.functional.cross_entropy(logits, torch.arange(len(logits)))


def end(what: Callable[[Tensor], Tensor]) -> Plant:
    """Something done at the end of one branch."""
    return lambda model, family: behind(model, family.ends, what)


def after(what: Callable[[Tensor], Tensor]) -> Plant:
    """Something done to one sum."""
    return lambda model, family: behind(model, family.block, what)


def on_shortcut(h: Callable[[Family], nn.Module]) -> Plant:
    """A module on one shortcut."""
    return lambda model, family: family.shortcut(model.get_submodule(family.block), h(family))


def projection(family: Family) -> nn.Module:
    convolves = family.block.startswith(("stages", "layer"))
    return nn.Conv2d(family.width, family.width, 1, bias=False) if convolves else nn.Linear(family.width, family.width)


def normalise(y: Tensor) -> Tensor:
    shape = y.shape[1:] if y.dim() == 4 else y.shape[-1:]
    return nn.functional.layer_norm(y, shape)


def zero_weights(model: nn.Module, family: Family) -> None:
    for parameter in model.get_submodule(family.ends).parameters():
        nn.init.zeros_(parameter)


def drop_final_norm(model: nn.Module, family: Family) -> None:
    replace_at(model, family.final_norm, lambda _: nn.Identity())


def ahead_in_place(model: nn.Module, family: Family) -> None:
    replace_at(model, family.norm, lambda norm: nn.Sequential(nn.ReLU(inplace=True), norm))


def freeze(model: nn.Module, family: Family) -> None:
    model.get_submodule(family.block).requires_grad_(requires_grad=False)


def add_unused(model: nn.Module, family: Family) -> None:
    model.get_submodule(family.block).unused = nn.Linear(3, 3)


def enlarge_head(model: nn.Module, family: Family) -> None:
    with torch.no_grad():
        for parameter in model.get_submodule(family.head).parameters():
            parameter.mul_(500.0)


def spoil(model: nn.Module, family: Family) -> None:
    with torch.no_grad():
        next(model.get_submodule(family.ends).parameters()).view(-1)[0] = float("nan")


def shut(model: nn.Module, family: Family) -> None:
    """No ReLU of the branch is open: the norm before it takes everything below zero."""
    replace_at(model, family.ends, lambda last: nn.Sequential(Do(lambda x: x - 1e3), nn.ReLU(), last))


def pre(family: Family) -> bool:
    return bool(family.norm and family.final_norm)


DEFECTS: Mapping[str, Defect] = {
    "function on h": Defect("CP101", "warning", on_shortcut(lambda _: Do(torch.tanh))),
    "h × 0.5": Defect("CP102", "warning", on_shortcut(lambda _: Do(lambda x: 0.5 * x))),
    "h × 1.2": Defect("CP102", "warning", on_shortcut(lambda _: Do(lambda x: 1.2 * x))),
    "h × 0.01": Defect("CP102", "error", on_shortcut(lambda _: Do(lambda x: 0.01 * x))),
    "dropout on h": Defect("CP103", "warning", on_shortcut(lambda _: nn.Dropout(0.5))),
    "gate on h, closed": Defect("CP104", "error", on_shortcut(lambda _: Do(lambda x: x * torch.sigmoid(x.mean() - 6)))),
    "gate on h, half open": Defect("CP105", "note", on_shortcut(lambda _: Do(lambda x: x * torch.sigmoid(x)))),
    "projection on h": Defect("CP106", "warning", on_shortcut(projection)),
    "relu behind a sum": Defect("CP201", "warning", after(torch.relu), lambda family: "CP201" not in family.notes),
    "gelu behind a sum": Defect(
        "CP201", "warning", after(nn.functional.gelu), lambda family: "CP201" not in family.notes
    ),
    "dropout behind a sum": Defect(
        "CP201", "warning", after(nn.Dropout(0.3)), lambda family: "CP201" not in family.notes
    ),
    "norm behind a sum": Defect("CP202", "warning", after(normalise)),
    "sum × 0.7": Defect("CP203", "warning", after(lambda y: 0.7 * y), lambda family: "CP201" not in family.notes),
    "in-place relu at the head of a branch": Defect(
        "CP204", "warning", ahead_in_place, lambda family: bool(family.norm)
    ),
    "relu at the end of a branch": Defect("CP301", "warning", end(torch.relu)),
    "square at the end of a branch": Defect("CP301", "warning", end(torch.square)),
    "branch × 0": Defect("CP302", "warning", end(lambda y: 0.0 * y)),
    "last layer at zero": Defect("CP303", "note", zero_weights),
    "branch × 10⁹": Defect("CP304", "warning", end(lambda y: 1e9 * y)),
    "shut relu": Defect("CP306", "warning", shut, lambda f: f.block.startswith("layer")),
    "no final norm": Defect("CP501", "warning", drop_final_norm, pre, local=False),
    "nan in a weight": Defect("CP403", "error", spoil, local=False),
    "head × 500": Defect("CP404", "warning", enlarge_head, local=False),
    "frozen block": Defect("CP502", "note", freeze, local=False),
    "unused module": Defect("CP503", "note", add_unused, local=False),
}
CASES = [
    pytest.param(family, defect, id=f"{name}: {what}")
    for name, family in FAMILIES.items()
    for what, defect in DEFECTS.items()
    if defect.fits(family)
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_healthy_network_has_neither_error_nor_warning(name: str) -> None:
    found = profile_of(FAMILIES[name]).findings
    assert {(one.code, one.severity) for one in found} == {(code, "note") for code in FAMILIES[name].notes}


@pytest.mark.parametrize(("family", "defect"), CASES)
def test_a_planted_defect_is_found_in_its_unit(family: Family, defect: Defect) -> None:
    profile = profile_of(family, defect.plant)
    found = {one.code: one for one in profile.findings}
    said = {(one.code, one.severity, one.units) for one in profile.findings}
    assert defect.code in found, (profile.verdict, said)
    assert found[defect.code].severity == defect.severity, said
    if defect.local:
        assert len(found[defect.code].units) == 1, said
        assert found[defect.code].units[0].startswith(family.block), said


class Sum(nn.Module):
    """x + F(x), as anybody writes it, and what follows."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        return self.after(x + self.branch(x))  # type: ignore[no-any-return]


def weights() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))


def pre_activation() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16))


def network(*units: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), *units, nn.LayerNorm(16), nn.Linear(16, 10))


def growing() -> nn.Module:
    return network(*(Sum(nn.Sequential(nn.ReLU(), nn.Linear(16, 16), Do(lambda y: 8 * y))) for _ in range(12)))


def last_unit_without_relu() -> nn.Module:
    return network(*(Sum(weights(), nn.ReLU()) for _ in range(5)), Sum(weights()))


def first_unit_raw() -> nn.Module:
    return network(Sum(weights()), *(Sum(pre_activation()) for _ in range(5)))


def halved() -> nn.Module:
    return build("preresnet110", width=4, shortcut=Shortcut(kind="scaling", scale=0.5))


def gated() -> nn.Module:
    return build("preresnet20", width=4, shortcut=Shortcut(kind="shortcut_only_gating", bias=-6.0))


def bottlenecks() -> nn.Module:
    return build("cifar-preresnet29-bottleneck", width=4)


def decaying(model: nn.Module, leave_out: int = 0) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(model.parameters())[leave_out:], lr=0.1, momentum=0.9, weight_decay=1e-2)


WHOLE: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "CP205": (first_unit_raw, lambda: torch.randn(6, 8)),
    "CP305": (bottlenecks, images(16)),
    "CP401": (halved, images(16)),
    "CP402": (growing, lambda: torch.randn(6, 8)),
}
"""What concerns a network more than a unit."""
OPTIMIZED: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "CP601": (gated, images(16), 0),
    "CP602": (FAMILIES["timm-convnext"].model, images(64), 0),
    "CP603": (first_unit_raw, lambda: torch.randn(6, 8), 2),
}


@pytest.mark.parametrize("code", WHOLE)
def test_a_defect_of_the_whole_network_is_found(code: str) -> None:
    torch.manual_seed(0)
    make, inputs = WHOLE[code]
    assert code in {one.code for one in audit(make(), inputs()).findings}


def test_a_last_unit_without_the_relu_of_the_others_is_found() -> None:
    profile = audit(last_unit_without_relu(), torch.randn(6, 8))
    (odd,) = [one for one in profile.findings if one.code == "CP205"]
    assert odd.units == ("6",)


@pytest.mark.parametrize("code", OPTIMIZED)
def test_what_an_optimizer_does_is_found_only_where_it_does_it(code: str) -> None:
    make, inputs, left_out = OPTIMIZED[code]
    torch.manual_seed(0)
    model = make()
    assert code in {one.code for one in audit(model, inputs(), optimizer=decaying(model, left_out)).findings}
    harmless = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.0)
    assert code not in {one.code for one in audit(model, inputs(), optimizer=harmless).findings}


def test_every_rule_has_a_planted_defect() -> None:
    planted = {*(defect.code for defect in DEFECTS.values()), *WHOLE, *OPTIMIZED}
    assert planted == {one.code for one in every_rule()}
