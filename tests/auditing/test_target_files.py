"""A user's own file as a target, and weights from files that may hold anything."""

import importlib
import json
import os
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import cleanpath
from cleanpath.errors import UserError
from cleanpath.targeting import weights
from cleanpath.targets import Target, resolve

FACTORY = """
from torch import nn

WIDTH = 4

def network():
    return nn.Linear(4, 3)

def wide(width):
    return nn.Linear(width, 3)

def listed():
    return [nn.Linear(4, 3)]

def broken():
    raise ValueError("no such layer")

def with_inputs():
    import torch
    return nn.Linear(4, 3), torch.ones(2, 4)

def with_keywords():
    import torch
    return nn.Linear(4, 3), {"input": torch.ones(2, 4)}

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

ready = nn.Linear(4, 3)
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "made.py"
    path.write_text(FACTORY, encoding="utf-8")
    return path


def forward(target: Target) -> Any:
    """The output of a target's module on its inputs, with nothing of it changed."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return target.module.eval()(*target.arguments, **target.keywords)


# --- files


@pytest.mark.parametrize("name", ["network", "Net", "ready"])
def test_a_file_gives_what_its_factory_returns(factory: Path, name: str) -> None:
    target = resolve(f"{factory}:{name}", inputs=["1x4"])
    assert forward(target).shape == (1, 3)


def test_a_factory_may_return_its_inputs(factory: Path) -> None:
    assert torch.equal(resolve(f"{factory}:with_inputs").arguments[0], torch.ones(2, 4))
    assert set(resolve(f"{factory}:with_keywords").keywords) == {"input"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("netwrk", "did you mean network"),
        ("wide", "needs width; a factory is called without arguments"),
        ("listed", r"returned a list; an nn\.Module is needed"),
        ("broken", "failed: ValueError: no such layer"),
        ("WIDTH", "is a int"),
        ("network", "does not declare its inputs; say them, such as --input"),
    ],
)
def test_a_factory_that_gives_no_target_says_why(factory: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(f"{factory}:{name}")


def test_a_file_without_a_factory_lists_what_it_has(factory: Path) -> None:
    with pytest.raises(UserError, match=r"needs a factory: .*made\.py:network or :listed"):
        resolve(str(factory))


def test_a_missing_or_broken_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*gone\.py"):
        resolve(f"{tmp_path}/gone.py:network")
    (tmp_path / "bad.py").write_text("def (:", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot import .*SyntaxError"):
        resolve(f"{tmp_path}/bad.py:network")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot import .*SystemExit"):
        resolve(f"{tmp_path}/leaves.py:network")


def test_a_module_that_is_not_there_says_so() -> None:
    with pytest.raises(UserError, match="cannot import 'no_such_package'"):
        resolve("no_such_package:Net")


def test_a_file_sees_its_neighbours_by_relative_and_by_bare_name(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("WIDTH = 5", encoding="utf-8")
    (package / "near.py").write_text("HEIGHT = 6", encoding="utf-8")
    text = "from torch import nn\nfrom .parts import WIDTH\nimport near\n"
    text += "def net():\n    return nn.Linear(WIDTH, near.HEIGHT)\n"
    (package / "model.py").write_text(text, encoding="utf-8")
    flat = tmp_path / "my-model.py"
    flat.write_text("from torch import nn\nfrom .other import net\n", encoding="utf-8")
    (tmp_path / "other.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n", encoding="utf-8"
    )
    path = list(sys.path)
    module = resolve(f"{package}/model.py:net", inputs=["1x5"]).module
    assert isinstance(module, nn.Linear)
    assert (module.in_features, module.out_features) == (5, 6)
    assert isinstance(resolve(f"{flat}:net", inputs=["1x2"]).module, nn.Linear)
    assert sys.path == path


def test_a_file_with_the_name_of_an_imported_module_leaves_that_module_alone(tmp_path: Path) -> None:
    for name in ("json", "cleanpath"):
        path = tmp_path / f"{name}.py"
        path.write_text("from torch import nn\nimport random\nnet = nn.Linear(2, 2)\n", encoding="utf-8")
        resolve(f"{path}:net", inputs=["1x2"])
    assert sys.modules["json"] is json
    assert sys.modules["cleanpath"] is cleanpath
    assert importlib.import_module("random") is random


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    for width in (2, 7):
        path.write_text(
            f"from torch import nn\ndef net():\n    return nn.Linear({width}, 1)\n" + "#" * width, encoding="utf-8"
        )
        module = resolve(f"{path}:net", inputs=[f"1x{width}"]).module
        assert isinstance(module, nn.Linear)
        assert module.in_features == width


# --- weights


def linear_file(path: Path, **changes: Tensor) -> Path:
    save_file({"weight": torch.full((3, 4), 2.0), "bias": torch.zeros(3), **changes}, path)
    return path


def test_weights_come_from_safetensors_and_from_pt(factory: Path, tmp_path: Path) -> None:
    state = {"weight": torch.full((3, 4), 2.0), "bias": torch.zeros(3)}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "a.pt"
    )
    for path in (linear_file(tmp_path / "a.safetensors"), tmp_path / "a.pt"):
        target = resolve(f"{factory}:network", inputs=["1x4"], weights=path)
        assert torch.equal(target.module.state_dict()["weight"], state["weight"])
        assert f"weights of {path.name}" in target.note


def test_weights_of_another_network_are_counted_and_nothing_is_loaded(tmp_path: Path) -> None:
    module = nn.Linear(4, 3)
    before = module.weight.detach().clone()
    save_file({"weight": torch.ones(3, 4), "head.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"1 missing \(bias\), 1 unexpected \(head\.weight\)"):
        weights.load(module, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"weight is 3×5 there and 3×4 here"):
        weights.load(module, linear_file(tmp_path / "b.safetensors", weight=torch.ones(3, 5)))
    assert torch.equal(module.weight, before)


def test_a_tied_weight_may_be_stored_once(tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    module = nn.ModuleDict({"a": first, "b": second})
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    weights.load(module, tmp_path / "a.safetensors")
    assert torch.equal(second.weight.detach(), torch.ones(2, 2))


class Hostile:
    """A pickle that would leave a mark."""

    def __init__(self, mark: Path, call: Callable[..., Any]) -> None:
        self.mark, self.call = mark, call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (f"touch {self.mark}",)


@pytest.mark.parametrize(("call", "said"), [(os.system, "refers to .*system"), (eval, "refers to .*eval")])
def test_a_pt_with_code_is_refused_and_does_not_run(tmp_path: Path, call: Callable[..., Any], said: str) -> None:
    mark = tmp_path / "mark"
    torch.save({"weight": Hostile(mark, call)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=said):
        weights.read(tmp_path / "a.pt")
    assert not mark.exists()


def hostile_files(folder: Path) -> dict[str, Path]:
    """Files that hold something else than dense tensors, each for its own reason."""
    files = {}

    def saved(name: str, value: Any) -> None:
        files[name] = folder / f"{name}.pt"
        torch.save(value, files[name])

    saved("sparse", {"weight": torch.eye(3).to_sparse()})
    saved("list", [torch.ones(2)])
    saved("empty", {})
    saved("number", {"weight": torch.ones(2), "epoch": 3})
    saved("expanded", {"weight": torch.ones(1).expand(1 << 40)})
    files["text"] = folder / "text.pt"
    files["text"].write_text("no weights")
    files["other"] = folder / "weights.npz"
    files["other"].write_bytes(b"x")
    files["gone"] = folder / "gone.pt"
    files["zip"] = folder / "zip.pt"
    with zipfile.ZipFile(files["zip"], "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02.")
    files["bomb"] = folder / "bomb.pt"
    with zipfile.ZipFile(files["bomb"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(1 << 22))
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}).encode()
    for name, length in (("long", 1 << 63), ("overflow", len(header))):
        files[name] = folder / f"{name}.safetensors"
        files[name].write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    files["deep"] = folder / "deep.safetensors"
    deep = b"[" * 100_000
    files["deep"].write_bytes(len(deep).to_bytes(8, "little") + deep)
    return files


SAID = {
    "sparse": "no dense tensor",
    "list": "holds a list",
    "empty": "state_dict",
    "number": "'epoch' is a int",
    "expanded": "claim far more",
    "text": "re-save with torch.save",
    "other": r"neither \.safetensors nor \.pt",
    "gone": "no file",
    "zip": "cannot be read|refused",
    "bomb": "compressed",
    "long": "header length exceeds the file",
    "overflow": "no safetensors file",
    "deep": "no safetensors file",
}


@pytest.mark.parametrize("name", SAID)
def test_a_file_that_holds_anything_else_is_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=SAID[name]):
        weights.read(hostile_files(tmp_path)[name])
