"""What a fix says it has done: by the unit with the finding, in both modes, with the optimizer, with NaN in the way."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath.repair.comparing import relative, same_numbers
from cleanpath.repair.saving import save_folder
from tests.test_repair import VECTORS, Net, fixed, units_of
from tests.test_repair_forwards import Ways

NAN, INF = float("nan"), float("inf")


class Filling(Ways):
    """What is too large becomes NaN, what is too small the least there is."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.units(x))
        y = y.masked_fill(y > 1e6, NAN).masked_fill(y < -1e6, -INF)
        return functional.dropout(y, 0.0, self.training)


def test_constant_nan_stays_nan_and_is_no_flag_of_the_mode(tmp_path: Path) -> None:
    model = Filling()
    found = fixed(model, VECTORS, "CP201")
    assert "training" not in found.model.source.text.partition("masked_fill")[0]  # type: ignore[union-attr, operator]
    save_folder(found, tmp_path / "folder", VECTORS, title="", version="")
    with torch.no_grad():
        for one in (model, found.model):
            one.eval()
            one.get_submodule("head").bias.copy_(torch.tensor([1e9, -1e9, 0.0]))  # type: ignore[operator]
    wanted, got = model(VECTORS), found.model(VECTORS)
    assert wanted[:, 0].isnan().all()
    assert torch.equal(got.isnan(), wanted.isnan())
    assert torch.equal(got[:, 1], wanted[:, 1])
    assert "from math import inf\nfrom math import nan" in (tmp_path / "folder" / "model.py").read_text("utf-8")


def test_numbers_are_the_same_where_both_are_nan() -> None:
    one = torch.tensor([1.0, NAN, INF])
    assert same_numbers(one, one.clone())
    assert not same_numbers(one, torch.tensor([1.0, 0.0, INF]))
    assert not same_numbers(one, torch.tensor([1.0, NAN, torch.finfo().max]))
    assert not same_numbers(one, one.double())
    assert relative([one], [one.clone()]) == 0.0
    assert relative([one], [torch.tensor([1.5, NAN, INF])]) == 0.5
    assert relative([one], [torch.tensor([1.0, 2.0, INF])]) is None
    assert relative([one], [torch.tensor([1.0, NAN, 3.0])]) is None
    assert relative([torch.zeros(2)], [torch.ones(2)]) == math.inf


def test_audit_afterwards_sees_the_optimizer() -> None:
    model = Net(gate=1.0)
    held = [one for name, one in model.named_parameters() if not name.startswith("head")]
    optimizer = torch.optim.SGD(held, lr=0.1, weight_decay=1e-4)
    found = cleanpath.fix(model, VECTORS, ["CP601"], optimizer=optimizer)
    assert {"CP601", "CP603"} <= {one.code for one in found.before.findings}
    after = {one.code for one in found.after.findings}
    assert "CP603" in after
    assert "CP601" not in after
    assert found.after.network.optimizer is not None
    assert found.after.network.optimizer.kind == "SGD"
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["params"] == held


class Offset(Ways):
    """Before the third unit a position is added, which the shortcut must not be routed around; or in one mode only."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.position, self.when = nn.Parameter(torch.randn(8)), when

    def forward(self, x: Tensor) -> Tensor:
        for place in range(4):
            if place == 2 and (self.when == "always" or self.training is (self.when == "training")):
                x = x + self.position
            x = self.unit(place, x)
        return self.head(x)  # type: ignore[no-any-return]


def test_change_tells_the_unit_with_the_finding_beside_the_one_that_was_changed() -> None:
    found = fixed(Offset("always"), VECTORS, "CP201")
    pairs = [(one.found_in, one.unit) for one in found.changes]
    assert pairs == [("layers.0", "layers.1"), ("layers.2", "layers.3")]
    assert [one.units for one in found.after.findings if one.code == "CP201"] == [("layers.1", "layers.3")]
    assert found.still_found() == {}
    became = importlib.import_module("benchmarks.fix_families")._became(found)
    told = {code: dict(became[code]) for code in ("mended", "still", "left")}
    assert told == {"mended": {"CP201": 2}, "still": {}, "left": {"CP201": 2}}
    assert sorted(became["reasons"]["CP201"].values()) == [1, 1]


@pytest.mark.parametrize("when", ["training", "evaluation"])
def test_unit_that_one_mode_alone_allows_is_left_and_told_and_the_others_are_mended(when: str) -> None:
    found = fixed(Offset(when), VECTORS, "CP201")
    assert units_of(found, "CP201") == ["layers.1", "layers.3"]
    (told,) = [one for one in found.refused if one.unit == "layers.1"]
    assert told.code == "CP201"
    assert told.reason.startswith(
        "its forward differs between the modes, and cannot be changed alike in both: a layer or"
    )
    assert [one.unit for one in found.refused] == ["layers.1", "layers.3"]
    always = fixed(Offset("always"), VECTORS, "CP201")
    for training in (True, False):
        other = always if training is (when == "training") else None
        if other is not None:
            a, b = (one.model.train(training)(VECTORS) for one in (found, other))
            assert torch.equal(a, b)


class Shut(nn.Module):
    """Its gate is closed whatever its bias of ±6."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -7.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.sigmoid(self.gate(x) - 50) * x + self.layer(torch.relu(x))
        return y


def test_gate_that_neither_sign_opens_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(Shut() for _ in range(4)), nn.Linear(8, 3))
    found = fixed(model, VECTORS, "CP104")
    assert found.changes == ()
    assert found.refused[0].reason == "its gate stays closed with 0.gate.bias at -6 and at 6"
    assert len(found.refused) == 4
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), model.parameters(), strict=True))


def test_final_norm_learns_in_the_mode_of_the_whole_without_the_hooks_of_the_one_it_is_like() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(torch.relu(self.norm(x)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = nn.Sequential(*(Normed() for _ in range(6)), nn.Linear(8, 3))
    last: Any = model[5]
    last.norm.requires_grad_(False).eval()  # noqa: FBT003
    last.norm.register_full_backward_hook(lambda *_: None)
    last.norm.register_load_state_dict_post_hook(lambda *_: None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = cleanpath.fix(model, VECTORS, ["CP501"], unsafe=True, optimizer=optimizer)
    assert found.added == ("final_norm.weight", "final_norm.bias"), str(found)
    made: Any = found.model.get_submodule("final_norm")
    assert made.training
    assert made.weight.requires_grad
    assert not made._backward_hooks
    assert "CP603" not in {one.code for one in found.after.findings}


def test_written_folder_says_why_it_declares_a_size(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 8, 8)
    found = cleanpath.fix(cleanpath.build("resnet20"), images, ["CP201"], unsafe=True)
    save_folder(found, tmp_path / "folder", images, title="", version="")
    text = (tmp_path / "folder" / "model.py").read_text("utf-8")
    before = text.partition("    model.default_cfg = {'input_size': (3, 8, 8)")[0].splitlines()[-1]
    assert before.strip().startswith("# The size of an image")


def test_a_network_in_evaluation_mode_is_told_that_dropout_was_not_looked_at() -> None:
    model = cleanpath.build("resnet8", in_channels=1)
    told = {mode: str(cleanpath.fix(model.train(mode), torch.randn(2, 1, 8, 8))) for mode in (True, False)}
    assert "looked at in evaluation mode" in told[False]
    assert "evaluation mode, in which" not in told[True]
