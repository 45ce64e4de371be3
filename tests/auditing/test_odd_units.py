"""One unit that is unlike its neighbours: f is read where it stands, not as most units have it."""

import pytest
import torch
from torch import nn

from cleanpath import audit, build


class Behind(nn.Module):
    """A unit, and something done to its sum."""

    def __init__(self, unit: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.unit, self.after = unit, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The unit's sum, changed."""
        return self.after(self.unit(x))  # type: ignore[no-any-return]


PLACES = ("stage1.unit2", "stage2.unit1", "stage2.unit3", "stage3.unit1", "stage3.unit3")  # within, at the ends, last


class Scale(nn.Module):
    """A factor on its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """0.8 x."""
        return 0.8 * x


def planted(place: str, after: nn.Module) -> nn.Module:
    model = build("preresnet20", width=4)
    stage, unit = place.split(".")
    units = model.stages.get_submodule(stage)
    setattr(units, unit, Behind(units.get_submodule(unit), after))
    return model


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("code", "kind"), [("CP201", "relu"), ("CP202", "normalisation"), ("CP203", "scaling")])
def test_what_one_unit_does_to_its_sum_is_its_f(place: str, code: str, kind: str) -> None:
    width = 4 * 2 ** (int(place[5]) - 1)
    after = {"CP201": nn.ReLU(), "CP202": nn.GroupNorm(1, width), "CP203": Scale()}[code]
    profile = audit(planted(place, after), torch.randn(4, 3, 16, 16))
    name = f"stages.{place}.unit"
    assert {unit.name: unit.f.kind for unit in profile.units if unit.f.kind != "nothing"} == {name: kind}
    said = [(one.code, one.severity, one.units) for one in profile.findings if one.code.startswith("CP2")]
    final = place == PLACES[-1] and code == "CP202"  # a norm behind the last sum is the network's final one
    assert said == ([] if final else [(code, "warning", (name,))])


def test_a_path_without_oddities_has_no_finding() -> None:
    profile = audit(build("preresnet20", width=4), torch.randn(4, 3, 16, 16))
    assert not profile.findings
