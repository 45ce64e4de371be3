"""A network that was read as a graph goes on to work: modes, checkpoints, copies, files, compilation, export."""

import copy
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath import audited, mended
from cleanpath.errors import UserError
from cleanpath.repair.captured import capture
from cleanpath.repair.comparing import outputs_of
from cleanpath.repair.rewritten import Rewritten
from cleanpath.repair.tracing import UnreadableError
from tests.helpers import here
from tests.test_findings_cli import FACTORY
from tests.test_repair import VECTORS, Net, fixed, network, units_of

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def read(model: nn.Module, batch: object) -> nn.Module:
    """The network read and written again, unchanged."""
    return capture(model, batch, [""], 0).model()


class Odd(nn.Module):
    """What users write: a shared layer, a flag of its own, a buffer, a concatenation, operations in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.again = self.shared
        self.relu = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.ones(8))
        self.shift: Tensor
        self.register_buffer("shift", torch.arange(8.0), persistent=False)
        self.register_buffer("seen", torch.zeros(()))
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, deep: bool = True) -> dict[str, Tensor]:
        h = self.shared(x)
        if mask is not None:
            h = h * mask
        y = self.norm(h)
        self.relu(y)
        y += h
        z = functional.dropout(y, 0.3, self.training) * self.scale + self.shift
        z = self.again(z) + x if deep else z
        rows, _ = z.shape
        return {"scores": self.head(torch.cat([z, y.view(rows, -1)], dim=1)), "z": functional.relu_(z)}


def test_network_read_as_a_graph_gives_the_same_bits_in_both_modes() -> None:
    model, batch = Odd(), torch.randn(5, 8)
    again = read(model, batch)
    assert isinstance(again, Rewritten)
    assert list(again.state_dict()) == list(model.state_dict())
    assert [name for name, _ in again.named_buffers()] == [name for name, _ in model.named_buffers()]
    for training in (True, False):
        one, other = copy.deepcopy(model).train(training), copy.deepcopy(again).train(training)
        pairs = zip(outputs_of(one, batch, 3), outputs_of(other, batch, 3), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    assert "training" in again.source.text


def test_dropout_of_a_functional_form_follows_the_mode() -> None:
    again = read(Odd(), VECTORS).eval()
    first, second = again(VECTORS)["scores"], again(VECTORS)["scores"]
    assert torch.equal(first, second)
    again.train()
    assert not torch.equal(again(VECTORS)["scores"], again(VECTORS)["scores"])


def test_input_that_was_fixed_when_the_network_was_read_is_refused_with_another_value() -> None:
    again = read(Odd(), VECTORS)
    with pytest.raises(ValueError, match="mask must be None, as when this network was rewritten"):
        again(VECTORS, torch.ones(8))
    with pytest.raises(ValueError, match="deep must be True"):
        again(VECTORS, deep=False)


def test_batch_of_another_size_passes() -> None:
    model = Odd().eval()
    assert torch.equal(read(model, VECTORS).eval()(VECTORS[:2])["scores"], model(VECTORS[:2])["scores"])


def test_mended_network_trains_copies_pickles_compiles_and_exports(tmp_path: Path) -> None:
    found = fixed(network("resnet20"), IMAGES, "CP201")
    model = found.model.train()
    functional.cross_entropy(model(IMAGES), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    wanted = model(IMAGES)
    assert torch.equal(copy.deepcopy(model)(IMAGES), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGES), wanted)  # noqa: S301
    torch.save(model, tmp_path / "whole.pt")
    assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(IMAGES), wanted)
    assert torch.allclose(torch.compile(model, backend="eager")(IMAGES), wanted)
    assert torch.allclose(torch.export.export(model, (IMAGES,)).module()(IMAGES), wanted, atol=1e-6)
    assert torch.equal(model.double().float()(IMAGES), wanted)


class InPlace(nn.Module):
    """A post-activation unit whose ReLU overwrites the sum: routed around, the sum must still be there."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.relu, self.how = nn.ReLU(inplace=True), how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.relu(self.norm(self.one(x))))
        if self.how == "operator":
            y += x
        elif self.how == "method":
            y = y.add_(x)
        else:
            y = y + x
        return (
            functional.relu(y, inplace=True)
            if self.how == "keyword"
            else functional.relu_(y)
            if self.how == "function"
            else self.relu(y)
        )


@pytest.mark.parametrize("how", ["operator", "method", "keyword", "function", "module"])
def test_overwritten_sum_is_kept_for_the_shortcut_that_now_reads_it(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), *(InPlace(how) for _ in range(4)), nn.Linear(8, 3))
    found = fixed(model, VECTORS, "CP201")
    assert len(units_of(found, "CP201")) == 3
    x = activated = model[0](VECTORS)
    for unit in list(model)[1:-1]:
        x = x + unit.two(torch.relu(unit.norm(unit.one(activated))))  # type: ignore[operator]
        activated = torch.relu(x)
    assert torch.allclose(found.model(VECTORS), model[-1](activated), atol=1e-6)


class Written(nn.Module):
    """It writes to a part of a tensor whose whole it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y[:, :4].relu_()
        scores: Tensor = self.head(torch.relu(y + x))
        return scores


class Data(nn.Module):
    """Numbers decide its way."""

    def __init__(self) -> None:
        super().__init__()
        self.unit, self.head = Net(2, scale=0.5), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.unit(x)
        scores: Tensor = self.head(y) if float(y.sum()) > -1e9 else y
        return scores


class Noisy(nn.Module):
    """Its random numbers are drawn where no graph sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x + random.random())  # noqa: S311
        return scores


class Hooked(Net):
    """Its units have hooks."""


def test_what_cannot_be_read_is_refused_with_the_reason() -> None:
    with pytest.raises(UnreadableError, match="writes to a part of a tensor whose whole is read later"):
        read(Written(), VECTORS)
    with pytest.raises(UnreadableError, match="it draws random numbers that decide in Python"):
        read(Noisy(), VECTORS)
    hooked = Hooked(scale=0.5)
    hooked.units[0].register_forward_hook(lambda _module, _inputs, output: output * 2)
    with pytest.raises(UnreadableError, match=r"hooks on units\.0 would be lost"):
        read(hooked, VECTORS)


def test_compiled_networks_and_those_without_weights_are_refused_with_what_to_do() -> None:
    compiled = torch.compile(Net(scale=0.5), backend="eager")
    assert isinstance(compiled, nn.Module)
    with pytest.raises(UserError, match=r"fix the one that it was made from \(model\._orig_mod\)"):
        cleanpath.fix(compiled, VECTORS, unsafe=True)
    with pytest.raises(UserError, match="give it weights first"):
        cleanpath.fix(Net(scale=0.5).to("meta"), VECTORS.to("meta"), unsafe=True)


def test_frozen_parts_and_parametrised_weights_stay_what_they_are() -> None:
    model = Net(scale=0.5)
    model.units[0].requires_grad_(False)  # noqa: FBT003 (torch's own form)
    nn.utils.parametrizations.weight_norm(model.units[1].get_submodule("one"))
    model.units[2].eval()
    found = fixed(model, VECTORS, "CP102")
    flags = [(name, p.requires_grad) for name, p in found.model.named_parameters()]
    assert flags == [(name, p.requires_grad) for name, p in model.named_parameters()]
    assert not found.model.get_submodule("units.2.one").training


def test_network_whose_numbers_decide_is_mended_inside_and_told_by_a_line_where_it_cannot() -> None:
    found = fixed(Data(), VECTORS, "CP102")
    assert found.read == "unit"
    assert len(units_of(found, "CP102")) == 2

    class Straight(Data):
        def forward(self, x: Tensor) -> Tensor:
            for unit in self.unit.units:
                x = unit(x) if float(x.sum()) > -1e9 else x
            return self.head(self.unit.head(x))  # type: ignore[no-any-return]

    refused = cleanpath.fix(Straight(), VECTORS, ["CP102"], unsafe=True)
    assert refused.changes == ()
    (first, _) = refused.refused
    assert first.reason.startswith("its forward cannot be read: (root): a number that comes from values decides")
    assert "instead of λ * x + F(x) write x + F(x)" in first.edit
    assert "test_repair.py" in first.edit


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY, encoding="utf-8")
    return tmp_path


def test_option_writes_a_folder_that_loads_without_cleanpath_and_is_audited_again(work: Path) -> None:
    outcome = here("audit", "nets.py:broken", "--fix", "CP102", "--unsafe", "--out", "mended")
    assert outcome.code == 0, outcome.err
    assert "mended: CP102 in 6 units" in outcome.out
    assert "findings before: 1 error; after: no findings" in outcome.out
    assert "saved: mended/model.py:network" in outcome.out
    assert {path.name for path in (work / "mended").iterdir()} == {
        "model.py",
        "weights.safetensors",
        "report.json",
        "report.md",
    }
    code = (
        "import sys, torch; sys.path.insert(0, 'mended'); import model; net = model.network()\n"
        "net(torch.ones(2, 8)).sum().backward(); sys.exit('cleanpath' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=work)
    assert done.returncode == 0, done.stderr
    again = here("audit", "mended/model.py:network", "--input", "4x8")
    assert again.out.splitlines()[1] == "no findings"
    twice = here("audit", "nets.py:broken", "--fix", "--unsafe", "--out", "mended")
    assert (twice.code, "nothing is overwritten" in twice.err) == (2, True)


@pytest.mark.usefixtures("work")
def test_keys_of_a_fix_as_json_stand_in_the_docs() -> None:
    data = json.loads(here("audit", "nets.py:broken", "--fix", "--unsafe", "--json").out)
    page = (Path(__file__).resolve().parent.parent / "docs" / "fixes.md").read_text(encoding="utf-8")
    assert (data["schema"], data["version"]) == ("cleanpath.fix", 1)
    inner = {f"changes[].{key}" for key in data["changes"][0]} | {
        f"differences[].{key}" for key in data["differences"][0]
    }
    assert {name for name in {*data, *inner} - {"version"} if f"`{name}`" not in page} == set()


@pytest.mark.usefixtures("work")
def test_option_without_unsafe_says_what_it_would_do_and_that_the_answer_is_no() -> None:
    outcome = here("audit", "nets.py:broken", "--fix")
    assert outcome.code == 1
    assert (
        "CP102 (network): it changes the function (6 units): allow it by unsafe=True, on the command line --unsafe"
        in outcome.out
    )
    named = here("audit", "nets.py:broken", "--fix", "CP102")
    assert (named.code, "on the command line --unsafe" in named.err) == (2, True)
    assert "add --fix" in here("audit", "nets.py:broken", "--unsafe").err
    assert "leave --against out" in here("audit", "nets.py:broken", "--fix", "--against", "nets.py:broken").err
    assert "fix: --fix CP102 --unsafe" in here("audit", "nets.py:broken").out


@pytest.mark.slow
def test_bert_like_networks_of_both_libraries_are_routed_around_their_norms() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = fixed(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(2, 5, 16), "CP202")
    assert (len(units_of(encoder, "CP202")), encoder.read) == (5, "the whole")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    bert = fixed(transformers.BertModel(config).eval(), {"input_ids": torch.arange(16).view(2, 8)}, "CP202")
    assert (len(units_of(bert, "CP202")), bert.read) == (5, "the whole")
    assert bert.after.findings == ()


def test_a_finding_left_out_by_its_name_is_left_out_beside_a_fix_too(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORY, encoding="utf-8")
    asked = audited.Asked(ignore=("scaled-shortcut=meant so",))
    found = mended.mended(f"{tmp_path / 'nets.py'}:broken", asked, ["CP102"], unsafe=True, out=None)
    assert [one.finding.code for one in found.here.judgement.ignored] == ["CP102"]
    assert not found.there.judgement.ignored
