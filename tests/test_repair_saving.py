"""What `--out` writes gives, when it is loaded, the network that was mended, or it is refused; the verb's words."""

import copy
import importlib
import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cleanpath
from cleanpath.auditing.rules.fixes import FIXES, fix_of
from cleanpath.errors import UserError
from cleanpath.examining import spread
from cleanpath.repair import saving
from cleanpath.repair.captured import capture
from cleanpath.repair.comparing import outputs_of
from cleanpath.repair.fixed import Change, Fixed
from cleanpath.repair.rebuilt import OtherKindError, called
from tests.helpers import here
from tests.test_repair import VECTORS, Net

torch.manual_seed(0)
IMAGES, ROWS = torch.randn(2, 4, 9, 9), torch.randn(2, 4, 9)
NAMES = torch.arange(8).view(2, 4)
Layer = tuple[Callable[[], nn.Module], Tensor]
# Every layer with arguments that are not its defaults.
LAYERS: list[Layer] = [
    (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGES),
    (lambda: nn.AvgPool2d(2, divisor_override=3), IMAGES),
    (lambda: nn.AvgPool1d(2, ceil_mode=True, count_include_pad=False, padding=1), ROWS),
    (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True, return_indices=True), IMAGES),
    (lambda: nn.MaxPool1d(2, dilation=2), ROWS),
    (lambda: nn.AdaptiveAvgPool2d((3, None)), IMAGES),
    (lambda: nn.AdaptiveMaxPool2d(2, return_indices=True), IMAGES),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2, bias=False), IMAGES),
    (lambda: nn.Conv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect"), IMAGES),
    (lambda: nn.Conv1d(4, 4, 3, stride=2, padding="valid", padding_mode="circular"), ROWS),
    (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1), IMAGES),
    (lambda: nn.BatchNorm2d(4, eps=0.1, momentum=None, affine=False), IMAGES),
    (lambda: nn.BatchNorm1d(4, track_running_stats=False), ROWS),
    (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGES),
    (lambda: nn.LayerNorm((9, 9), eps=0.1, bias=False), IMAGES),
    (lambda: nn.GroupNorm(2, 4, eps=0.1, affine=False), IMAGES),
    (lambda: nn.RMSNorm(9, eps=0.1, elementwise_affine=False), IMAGES),
    (lambda: nn.LocalResponseNorm(3, k=2.0), IMAGES),
    (lambda: nn.Embedding(20, 3, padding_idx=2, max_norm=0.5), NAMES),
    (lambda: nn.Linear(9, 3, bias=False, dtype=torch.float64), IMAGES.double()),
    (lambda: nn.Hardswish(inplace=True), IMAGES),
    (lambda: nn.Hardsigmoid(inplace=True), IMAGES),
    (lambda: nn.GELU(approximate="tanh"), IMAGES),
    (lambda: nn.ELU(0.5, inplace=True), IMAGES),
    (lambda: nn.LeakyReLU(0.3), IMAGES),
    (lambda: nn.Hardtanh(-2.0, 0.5), IMAGES),
    (lambda: nn.PReLU(4, init=0.7), IMAGES),
    (lambda: nn.Softplus(2.0, 3.0), IMAGES),
    (lambda: nn.Softmax(dim=1), IMAGES),
    (lambda: nn.Dropout2d(0.3, inplace=True), IMAGES),
    (lambda: nn.Flatten(0, 2), IMAGES),
    (lambda: nn.ZeroPad2d((1, 0, 2, 1)), IMAGES),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGES),
    (lambda: nn.PixelShuffle(2), IMAGES),
]


@pytest.mark.parametrize(("made", "batch"), LAYERS, ids=[made().__class__.__name__ for made, _ in LAYERS])
def test_call_that_is_written_for_a_layer_makes_one_that_computes_the_same(
    made: Callable[[], nn.Module], batch: Tensor
) -> None:
    layer = made()
    text, _ = called(layer)
    again = eval(f"nn.{text}", {"nn": nn, "torch": torch})  # noqa: S307
    again.load_state_dict(layer.state_dict())
    for training in (True, False):
        wanted, got = (outputs_of(one.train(training), batch, 0) for one in (layer, again))
        assert len(wanted) == len(got)
        assert all(a.dtype is b.dtype and torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_layer_that_was_changed_after_it_was_made_has_no_call() -> None:
    layer = nn.Conv2d(4, 4, 3, padding_mode="circular", padding=1)
    layer._reversed_padding_repeated_twice = [0, 0, 2, 2]
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    for one in (layer, hooked, nn.MultiheadAttention(4, 2), nn.LSTM(2, 2)):
        with pytest.raises(OtherKindError):
            called(one)


@pytest.fixture(scope="module")
def fixed() -> Fixed:
    return cleanpath.fix(Net(2, scale=0.5), VECTORS, ["CP102"], unsafe=True)


def saved(fixed: Fixed, folder: Path, model: nn.Module, batch: object, title: str = "t.") -> nn.Module:
    """A network, read as it is, written and loaded again; both compute the same bits."""
    part = capture(model, batch, [""], 0).model()
    saving.save_folder(replace(fixed, model=part), folder, batch, title=title, version="0")
    loaded: nn.Module = runpy.run_path(str(folder / "model.py"))["network"]()
    for training in (None, True, False):
        mine, other = copy.deepcopy(part), copy.deepcopy(loaded)
        if training is not None:
            mine.train(training)
            other.train(training)
        assert all(map(torch.equal, outputs_of(mine, batch, 0), outputs_of(other, batch, 0)))
    return loaded


class Holder(nn.Module):
    """Layers in turn; names that are no attributes, and one that nothing reads and Python itself uses."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"1 a": layers[0], "2 b": nn.Sequential(*layers[1:])})
        self.spare = nn.ModuleDict({"class": nn.ModuleList([nn.Linear(2, 2)])})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner["2 b"](self.inner["1 a"](x))
        return y


def test_folder_gives_the_network_that_was_mended(fixed: Fixed, tmp_path: Path) -> None:
    model = Holder(
        nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.Dropout(0.4),
        nn.Hardswish(inplace=True),
    )
    model.get_parameter("inner.1 a.weight").requires_grad = False
    loaded = saved(fixed, tmp_path / "out", model.train(), IMAGES)
    assert not (tmp_path / "out" / "modules.pt").exists()
    assert [one.requires_grad for one in loaded.parameters()] == [False, *[True] * 5]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_layout_stays(fixed: Fixed, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    loaded = saved(fixed, tmp_path / "out", model.to(memory_format=torch.channels_last), IMAGES)
    assert loaded.get_parameter("0.weight").stride() == model.get_parameter("0.weight").stride() == (36, 1, 12, 4)


class Tied(nn.Module):
    """A head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, names: Tensor) -> Tensor:
        y: Tensor = self.head(self.words(names))
        return y


def test_tied_parameters_stay_one(fixed: Fixed, tmp_path: Path) -> None:
    loaded = saved(fixed, tmp_path / "out", Tied(), NAMES)
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("words.weight")
    assert not (tmp_path / "out" / "modules.pt").exists()


def test_modules_in_the_other_mode_stay_in_it(fixed: Fixed, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Dropout(0.5)).train()
    model[1].eval()
    loaded = saved(fixed, tmp_path / "out", model, VECTORS)
    assert [one.training for one in loaded.children()] == [True, False, True]


@pytest.mark.parametrize("name", ["C:\\Users\\nets.py:net", 'a"""\nraise SystemExit\n""".py:net', "{x}'\"%s"])
def test_name_of_a_target_is_a_text_and_nothing_else(fixed: Fixed, tmp_path: Path, name: str) -> None:
    saved(fixed, tmp_path / "out", nn.Linear(8, 8), VECTORS, title=name)
    told = runpy.run_path(str(tmp_path / "out" / "model.py"))
    assert told["TITLE"] == " ".join(name.split())


def test_what_computes_something_else_is_pickled_or_refused(
    fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "lines_of", lambda *_: ["model._modules['0'] = nn.Linear(8, 8)", "model.x = nope"])
    saved(fixed, tmp_path / "pickled", nn.Sequential(nn.Linear(8, 8)), VECTORS)
    assert (tmp_path / "pickled" / "modules.pt").is_file()
    monkeypatch.setattr(saving, "_class", lambda _: "class Network(nn.Module):\n    def forward(self, x): return x + 1")
    with pytest.raises(UserError, match="what is loaded computes something else"):
        saved(fixed, tmp_path / "refused", nn.Sequential(nn.Linear(8, 8)), VECTORS)
    assert [path.name for path in tmp_path.iterdir()] == ["pickled"]


def test_network_that_torch_cannot_write_is_refused_in_words(fixed: Fixed, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    nn.utils.parametrizations.weight_norm(model[0])  # type: ignore[no-untyped-call, unused-ignore]
    with pytest.raises(
        UserError,
        match=r"^0 has a parametrization \(such as weight_norm .*`cleanpath.fix` in Python and save the state_dict",
    ):
        saved(fixed, tmp_path / "out", model, VECTORS)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_one_memory_that_are_read_otherwise_are_stored_apart() -> None:
    model = nn.Module()
    model.one = nn.Parameter(torch.randn(8, 8))
    model.again = model.one
    model.turned = nn.Parameter(model.one.detach().t())
    model.bits = nn.Parameter(model.one.detach().view(torch.int32), requires_grad=False)
    kept, shared = saving._weights(model)
    assert (set(kept), shared) == ({"one", "turned", "bits"}, {"again": "one"})
    assert torch.equal(kept["turned"], model.one.detach().t())


NETS = """
from typing import NamedTuple

import torch
from torch import nn


class Out(NamedTuple):
    scores: torch.Tensor
    last: torch.Tensor


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc, self.p = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.p(x) + self.fc(torch.relu(self.norm(x)))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return Out(self.head(x), x)


def projected():
    torch.manual_seed(0)
    return nn.Sequential(*(Unit() for _ in range(4)), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(4, 8)
"""


def test_classes_that_the_forward_calls_are_needed_or_refused(
    fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    nets = importlib.import_module("some_nets")
    part = replace(fixed, model=capture(nets.Two(), VECTORS, [""], 0).model())
    assert saving.save_folder(part, tmp_path / "out", VECTORS, title="t.", version="0") == ("some_nets",)
    monkeypatch.setattr(saving, "_SCRIPTS", ("some_nets",))
    with pytest.raises(UserError, match=r"Out is a class of a script, .* and the forward calls it"):
        saving.save_folder(part, tmp_path / "two", VECTORS, title="t.", version="0")


def test_weights_of_a_class_of_a_function_are_saved_with_its_graph(fixed: Fixed, tmp_path: Path) -> None:
    class Local(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(super().forward(x))

    class Deciding(Local):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 1e9 else super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(Local(8, 8), nn.Linear(8, 8))
    saving.save_folder(replace(fixed, model=model), tmp_path / "out", VECTORS, title="t.", version="0")
    loaded = runpy.run_path(str(tmp_path / "out" / "model.py"))["network"]()
    assert torch.equal(loaded(VECTORS), model(VECTORS))
    with pytest.raises(UserError, match="is a class of a function, which no other process can import"):
        saving.save_folder(replace(fixed, model=Deciding(8, 8)), tmp_path / "two", VECTORS, title="t.", version="0")


def test_network_of_a_script_whose_weights_alone_were_changed_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    outcome = here("audit", "nets.py:projected", "--fix", "CP106", "--unsafe", "--out", "out", "--json")
    assert outcome.code == 0, outcome.err
    data = json.loads(outcome.out)
    assert (data["needs"], len(data["changes"])) == ([], 4)
    loaded = runpy.run_path("out/model.py")["network"]()
    assert torch.equal(loaded.get_parameter("0.p.weight"), torch.eye(8))
    assert not Path("out/modules.pt").exists()


def test_options_that_a_fix_cannot_follow_are_refused_and_all_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--draws is for audits" in here("audit", "resnet20", "--fix", "--draws", "2").err
    assert "--format md is for audits" in here("audit", "resnet20", "--fix", "--format", "md").err
    shown = list[bool]()
    monkeypatch.setattr("cleanpath.report.terminal.print_text", lambda *_: None)
    monkeypatch.setattr("cleanpath.auditing.text.renderable_pair", lambda *_, every: shown.append(every))
    here("audit", "resnet20", "--fix", "--all")
    assert shown == [True]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--fix CP9999 nets.py:net", "--fix CP9999 nets.py:net"),
        ("nets.py:net --fix closed-gat", "nets.py:net --fix closed-gat"),
        ("--fix closed-gat nets.py:net", "--fix closed-gat nets.py:net"),
        ("--fix closed-gat CP102 --unsafe net", "--fix closed-gat --fix CP102 --unsafe net"),
        ("--fix my-net --unsafe", "--fix all my-net --unsafe"),
        ("--input 4x8 --fix CP102 my-net", "--input 4x8 --fix CP102 my-net"),
        ("--fix my-net CP9999", "my-net --fix CP9999"),
        ("--fix --input 4x8 net", "--fix all --input 4x8 net"),
    ],
)
def test_words_behind_fix_are_codes_but_for_the_target(words: str, wanted: str) -> None:
    assert spread(["audit", *words.split()]) == ["audit", *wanted.split()]


@pytest.mark.usefixtures("fixed")
def test_misspelt_code_is_answered_with_the_nearest() -> None:
    assert "did you mean closed-gate" in here("audit", "resnet20", "--fix", "closed-gat").err
    assert "no rule 'CP9999'" in here("audit", "--fix", "CP9999", "resnet20").err


def test_what_is_still_found_is_not_told_as_mended(fixed: Fixed) -> None:
    units = [unit.name for unit in fixed.before.units]
    wrong = replace(fixed, after=fixed.before)
    assert f"changed, but still found: CP102 in {len(units)} units" in "\n".join(wrong.lines())
    assert not any("still found" in line for line in fixed.lines())
    other = replace(wrong, changes=(Change(code="CP201", unit=units[0], found_in=units[0], what=""),))
    assert not any("still found" in line for line in other.lines())


@pytest.mark.usefixtures("fixed")
def test_fixes_that_trials_do_not_bear_out_are_made_by_name_only() -> None:
    table = importlib.import_module("benchmarks.fixes").table().splitlines()[2:]
    lowest = dict[str, float]()
    for row in table:
        code, *_, p = (cell.strip() for cell in row.strip("| ").split("|"))
        lowest[code] = min(float(p), lowest.get(code, 1.0))
    by_name = {code for code, one in FIXES.items() if one.by_name}
    assert by_name == {"CP106", "CP204", "CP402"}
    assert {code for code, p in lowest.items() if p > 0.05} <= by_name
    assert all("only where named" in fix_of(code).does for code in by_name)


def test_every_key_of_a_refusal_stands_in_the_docs(fixed: Fixed) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "fixes.md").read_text(encoding="utf-8")
    left = cleanpath.fix(Net(2, scale=0.5), VECTORS).to_data()["refused"]
    assert left
    assert {key for key in left[0] if f"`refused[].{key}`" not in page} == set()
    assert fixed.to_data()["refused"] == []
