"""The audit against architectures of other libraries; what is expected was read off their definitions."""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cleanpath.auditing.examine import audit

ROWS = json.loads(Path(__file__).with_name("expected_units.json").read_text(encoding="utf-8"))
QUICK = {
    "timm:resnet18",
    "timm:resnetv2_50",
    "timm:vit_tiny_patch16_224",
    "timm:densenet121",
    "torchvision:resnet18",
    "hf:BertModel",
    "hf:GPT2Model",
    "hf:LlamaModel",
    "hf:T5EncoderModel",
}
WORDS = {
    "layernorm": "normalisation",
    "batchnorm": "normalisation",
    "groupnorm": "normalisation",
    "conv": "convolution",
}
READ_OTHERWISE = {
    "hf:ModernBertModel": {"order"},
    "timm:legacy_xception": {"order"},
    "timm:xcit_nano_12_p16_224": {"order"},
}
"""Where the definition's module boundaries, which a graph does not have, decide.

ModernBERT's and Xception's first unit takes its norm from the stem: in the graph that is a shared pre-activation, as in
ResNetV2.
"""


def build(row: dict[str, Any]) -> nn.Module:
    library, name = row["target"].split(":")
    config = row["config"]
    if library == "hf":
        transformers = pytest.importorskip("transformers")
        model: nn.Module = getattr(transformers, name)(getattr(transformers, config["class"])(**config["kwargs"]))
    elif library == "timm":
        model = pytest.importorskip("timm").create_model(name, **config)
    else:
        model = pytest.importorskip("torchvision").models.get_model(name, **config)
    return model.eval()


def tensor(form: dict[str, Any]) -> Tensor:
    if form.get("dtype") == "int64":
        return torch.randint(form["low"], form["high"], form["shape"])
    return torch.randn(form["shape"])


def inputs(row: dict[str, Any]) -> object:
    forms = row["inputs"]
    return tensor(forms) if "shape" in forms else {name: tensor(form) for name, form in forms.items()}


def found(row: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those libraries warn about their own configurations
        torch.manual_seed(0)
        units = audit(build(row), inputs(row)).units
    kinds = Counter(unit.h.kind for unit in units)
    orders = {unit.order for unit in units}
    return {
        "units": len(units),
        "identity": kinds["identity"],
        "projection": kinds["projection"],
        "f": dict(Counter(unit.f.kind for unit in units)),
        "nested": sum(unit.parent is not None for unit in units),
        "order": orders.pop() if len(orders) == 1 else None,
    }


def expected(row: dict[str, Any]) -> dict[str, Any]:
    after: Counter[str] = Counter()
    for words, count in row["f"].items():
        after["+".join(WORDS.get(word, word) for word in words.split("+"))] += count
    values = {key: row[key] for key in ("units", "identity", "projection", "nested", "order")} | {"f": dict(after)}
    open_to_reading = {*row.get("contested", ()), *READ_OTHERWISE.get(row["target"], ())}
    return {
        key: value for key, value in values.items() if key not in open_to_reading and (key, value) != ("nested", None)
    }


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row["target"], marks=() if row["target"] in QUICK else pytest.mark.slow) for row in ROWS],
)
def test_units_are_those_of_the_definition(row: dict[str, Any]) -> None:
    truth, seen = expected(row), found(row)
    assert {key: seen[key] for key in truth} == truth
