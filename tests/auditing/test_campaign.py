"""Thirty models of different kinds are bit for bit as before an audit, also after one that was interrupted.

The fingerprint that says so knows nothing of the audit; first it is shown to miss nothing. `benchmarks/audit_sweep.py`
does the same with hundreds of models.
"""

import random
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks import campaign
from benchmarks.campaign import ModuleCalls, undisturbed
from benchmarks.fingerprint import differences, fingerprint
from cleanpath.targets import resolve
from tests.auditing.menagerie import CASES

TARGETS = (
    "preresnet20",
    "resnet50",
    "timm:resnet18",
    "timm:densenet121",
    "timm:efficientnet_b0",
    "timm:mobilenetv3_small_050",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
    "timm:regnetx_002",
    "timm:mixer_s32_224",
    "timm:mobilevit_xxs",
    "torchvision:googlenet",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:mc3_18",
    "torchvision:ssdlite320_mobilenet_v3_large",
    "torchvision:quantized_mobilenet_v2",
    "hf:bert",
    "hf:gpt2",
    "hf:t5",
    "hf:llama",
    "hf:mixtral",
    "hf:mamba",
    "hf:clip",
    "hf:wav2vec2",
    "hf:siglip",
)
BY_HAND = ("meta_device", "custom_function_in_branch", "reversible", "unet_with_additive_skips", "scaled_stream")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_model_of_a_library_is_as_before(target: str) -> None:
    library, colon, _ = target.partition(":")
    pytest.importorskip({"hf": "transformers"}.get(library, library) if colon else "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of foreign code
        found = resolve(target)
        model, batch = found.module, found.keywords or found.arguments
        if "torchvision" in target:
            model.eval()  # detection in training mode wants boxes, too
        assert set(undisturbed(model, batch, seed=zlib.crc32(target.encode())).values()) == {"same"}


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.name in BY_HAND], ids=lambda case: case.name)
def test_a_model_written_by_hand_is_as_before(case: Any) -> None:
    assert set(undisturbed(case.build(), case.inputs(), seed=0).values()) == {"same"}


def test_the_tier_has_thirty_models() -> None:
    assert len({*TARGETS, *BY_HAND}) == 30
    assert set(BY_HAND) <= {case.name for case in CASES}


class Patient(nn.Module):
    """A little of everything that a fingerprint must see."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.bfloat16))
        self.register_buffer("table", torch.zeros(4))
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.loose, self.cache, self.count = torch.zeros(2), {"seen": [1, 2]}, 0
        self.weight.grad = torch.ones_like(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


def flip_a_bit(tensor: Tensor) -> None:
    tensor.detach().reshape(-1).view(torch.uint8)[0] ^= 1


def rename(module: Any) -> None:
    module.config = "another"


TAMPERINGS: dict[str, Callable[[Any], object]] = {
    "parameter weight": lambda m: flip_a_bit(m.weight),
    "parameter inner.0.bias": lambda m: m.inner[0].bias.requires_grad_(False),  # noqa: FBT003
    "parameter inner.0.weight": lambda m: m.inner[0].weight.register_hook(lambda g: g),
    "parameter inner.1.weight": lambda m: setattr(m.inner[1].weight, "grad", torch.zeros(3)),
    "parameter inner.1.bias": lambda m: setattr(m.inner[1].bias, "data", m.inner[1].bias.data.clone()),
    "buffer table": lambda m: flip_a_bit(m.table),
    "buffer inner.1.num_batches_tracked": lambda m: m.inner[1].num_batches_tracked.add_(1),
    "buffer late": lambda m: m.register_buffer("late", torch.ones(1)),
    "training inner.2": lambda m: setattr(m.inner[2], "training", False),
    "class inner.2": lambda m: m.inner.__setitem__(2, nn.ReLU()),
    "attribute inner.0._forward_hooks": lambda m: m.inner[0].register_forward_hook(lambda *_: None),
    "attribute inner.0._forward_pre_hooks": lambda m: m.inner[0].register_forward_pre_hook(lambda *_: None),
    "attribute inner.0._backward_hooks": lambda m: m.inner[0].register_full_backward_hook(lambda *_: None),
    "attribute .loose": lambda m: flip_a_bit(m.loose),
    "attribute .cache": lambda m: m.cache["seen"].append(3),
    "attribute .count": lambda m: setattr(m, "count", 1),
    "attribute .late": lambda m: setattr(m, "late", None),
    "process torch generator": lambda _: torch.rand(1),
    "process python generator": lambda _: random.random(),  # noqa: S311
    "process numpy generator": lambda _: np.random.rand(),  # noqa: NPY002
    "process default dtype": lambda _: torch.set_default_dtype(torch.float64),
    "process gradient mode": lambda _: torch.set_grad_enabled(False),
    "process _global_forward_hooks": lambda _: HOOKS.append(register_module_forward_hook(lambda *_: None)),
}
HOOKS: list[Any] = []


@pytest.fixture
def process_as_before() -> Any:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    while HOOKS:
        HOOKS.pop().remove()


@pytest.mark.usefixtures("process_as_before")
@pytest.mark.parametrize("name", TAMPERINGS)
def test_the_fingerprint_notices(name: str) -> None:
    model = Patient()
    before = fingerprint(model)
    assert differences(before, fingerprint(model)) == []
    TAMPERINGS[name](model)
    assert name in differences(before, fingerprint(model))


def test_the_fingerprint_notices_a_gradient_and_the_batch() -> None:
    model, batch = Patient(), {"x": torch.zeros(2)}
    before = fingerprint(model, batch)
    assert model.weight.grad is not None
    flip_a_bit(model.weight.grad)
    flip_a_bit(batch["x"])
    changed = differences(before, fingerprint(model, batch))
    assert changed == ["parameter weight", "attribute ._parameters", "batch"]


def test_the_campaign_notices_an_audit_that_leaves_something_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(model: Any, batch: Any) -> None:
        try:
            model(*batch)
        finally:
            model.count += 1

    monkeypatch.setattr(campaign, "audit", careless)
    found = undisturbed(Patient(), (torch.ones(4, 3),), seed=1)
    assert "buffer inner.1.running_mean" in found["audit"]
    assert all("attribute .count" in said for said in found.values())


def test_the_campaign_notices_an_audit_that_swallows_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(model: nn.Module, batch: Any) -> None:
        try:
            with ModuleCalls():
                model.eval()(*batch)
        except BaseException:  # noqa: BLE001, S110
            pass

    monkeypatch.setattr(campaign, "audit", deaf)
    monkeypatch.setattr(campaign, "unsettle", lambda model, *_: model.eval())
    found = undisturbed(Patient(), (torch.ones(4, 3),), seed=3)
    assert found["audit"] == "same"
    assert found["KeyboardInterrupt"] == "ended with NoneType: None"
