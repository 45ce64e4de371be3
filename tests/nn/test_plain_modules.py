"""A network is a plain module: it pickles, copies, exports, compiles, and runs in other layouts and precisions."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanpath.experiment import Network
from cleanpath.nn import catalog
from cleanpath.nn.resnet import ResNet, build
from tests.nn.networks import PLACEMENTS, SHORTCUTS, built, images, residual_units, signal, tiny

# One of each class of module in `nn`: units, gates, dropout, scales, padding, projections.
KINDS = {
    "identity": tiny(units=1, placement="full_preactivation"),
    "projection": tiny("bottleneck", units=1, placement="bn_after_addition", widening="B", widening_norm=True),
    "none": tiny(units=1, shortcut=SHORTCUTS["none"]),
    "scaling": tiny(units=1, shortcut=SHORTCUTS["scaling 0.5, 0.5"]),
    "exclusive_gating": tiny(units=1, shortcut=SHORTCUTS["exclusive_gating, norm"]),
    "shortcut_only_gating": tiny(units=1, shortcut=SHORTCUTS["shortcut_only_gating"]),
    "conv_1x1": tiny(units=1, shortcut=SHORTCUTS["conv_1x1, norm"]),
    "dropout": tiny(units=1, shortcut=SHORTCUTS["dropout"]),
    "inverted": tiny(units=1, shortcut=SHORTCUTS["dropout, inverted"]),
    "imagenet": Network(depth=18, branch="two_layer", placement="relu_only_preactivation", layout="imagenet", width=4),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def float_network(kind: str) -> ResNet:
    return built(KINDS[kind], dtype=torch.float32)


def float_images(kind: str) -> Tensor:
    return images(KINDS[kind], size=32 if kind == "imagenet" else 8, dtype=torch.float32)


def assert_same_outputs(one: nn.Module, other: Any, x: Tensor, *, atol: float = 0.0) -> None:
    """The same draws of dropout on both sides; running statistics too."""
    torch.manual_seed(0)
    expected = one(x)
    torch.manual_seed(0)
    torch.testing.assert_close(other(x), expected, rtol=0, atol=atol)
    ours, theirs = dict(one.named_buffers()), dict(other.named_buffers())
    for name, buffer in theirs.items():
        torch.testing.assert_close(buffer, ours[name.removeprefix("_orig_mod.")], rtol=0, atol=atol)


@every_kind
@MODES
def test_network_pickles(kind: str, *, training: bool) -> None:
    network = float_network(kind).train(training)
    again = pickle.loads(pickle.dumps(network))  # noqa: S301
    assert again.training is training
    assert_same_outputs(network, again, float_images(kind))


@every_kind
@MODES
def test_network_copies_deeply(kind: str, *, training: bool) -> None:
    network = float_network(kind).train(training)
    again = copy.deepcopy(network)
    ours = {parameter.data_ptr() for parameter in network.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in again.parameters()}
    assert_same_outputs(network, again, float_images(kind))


@every_kind
def test_network_is_saved_and_loaded_whole_by_torch(kind: str) -> None:
    network, file = float_network(kind).eval(), io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    assert_same_outputs(network, torch.load(file, weights_only=False), float_images(kind))


@every_kind
def test_state_dict_passes_safetensors_unchanged(kind: str, tmp_path: Path) -> None:
    """Which refuses a tensor that is registered twice."""
    network = float_network(kind).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(9)
    again = build(KINDS[kind]).eval()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert_same_outputs(network, again, float_images(kind))


@every_kind
@MODES
def test_network_exports(kind: str, *, training: bool) -> None:
    network = float_network(kind).train(training)
    x = float_images(kind)
    program = torch.export.export(copy.deepcopy(network), (x,))
    assert_same_outputs(network, program.module(), x, atol=1e-6)


@MODES
def test_network_exports_for_any_batch(*, training: bool) -> None:
    network = float_network("exclusive_gating").train(training)
    x = float_images("exclusive_gating")
    program = torch.export.export(copy.deepcopy(network), (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    for batch in (2, 3):
        assert program.module()(x[:batch]).shape == (batch, 10)


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        *((kind, True) for kind in ("identity", "scaling", "exclusive_gating", "dropout", "imagenet")),
        *(pytest.param(kind, False, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_network_compiles(kind: str, *, training: bool) -> None:
    network = float_network(kind).train(training)
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(network), backend="eager", fullgraph=True)
    assert_same_outputs(network, compiled, float_images(kind), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["identity", "exclusive_gating"])
def test_network_compiles_with_inductor(kind: str) -> None:
    network = float_network(kind).eval()
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True)
    assert_same_outputs(network, compiled, float_images(kind), atol=1e-4)


@every_kind
@MODES
def test_channels_last_gives_the_same_output(kind: str, *, training: bool) -> None:
    if training and kind == "dropout":
        pytest.skip("draws follow the layout in memory")
    network = built(KINDS[kind]).train(training)
    x = float_images(kind).double()
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    assert_same_outputs(network, other, x.to(memory_format=torch.channels_last), atol=1e-10)


@every_kind
def test_channels_last_stays_through_every_unit(kind: str) -> None:
    network = float_network(kind).eval().to(memory_format=torch.channels_last)
    layouts = []
    for unit in network.units().values():
        unit.register_forward_hook(
            lambda _, __, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    network(float_images(kind).to(memory_format=torch.channels_last))
    assert len(layouts) == len(network.units())
    assert all(layouts)


@every_kind
@MODES
def test_bf16_autocast_runs_and_trains(kind: str, *, training: bool) -> None:
    """bf16 has 8 bits: two or three digits of the logits, which are about 1."""
    network = float_network(kind).train(training)
    x = float_images(kind)
    torch.manual_seed(0)
    expected = copy.deepcopy(network)(x)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    assert logits.dtype == torch.bfloat16
    if not (training and kind == "dropout"):
        torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.25)
    functional.cross_entropy(logits.float(), torch.arange(len(x))).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_kind
@MODES
def test_network_runs_on_the_meta_device(kind: str, *, training: bool) -> None:
    with torch.device("meta"):
        network = build(KINDS[kind]).train(training)
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert network(float_images(kind).to("meta")).shape == (4, KINDS[kind].num_classes)


def test_meta_network_is_made_real_by_its_state_dict() -> None:
    network = float_network("identity").eval()
    with torch.device("meta"):
        empty = build(KINDS["identity"]).eval()
    empty.load_state_dict(network.state_dict(), assign=True)
    assert_same_outputs(network, empty, float_images("identity"))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_nothing_works_in_place(placement: str, shortcut: str) -> None:
    network = build(tiny("bottleneck", units=1, placement=placement, shortcut=SHORTCUTS[shortcut], widening="B"))
    assert [name for name, module in network.named_modules() if getattr(module, "inplace", False)] == []


@MODES
@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_forward_leaves_its_input_as_it_was(placement: str, shortcut: str, *, training: bool) -> None:
    """Not even written and restored: the version counter stands still; and what is given back is not a part of it."""
    network = built(tiny(units=1, placement=placement, shortcut=SHORTCUTS[shortcut])).train(training)
    for unit in residual_units(network).values():
        for part in (unit, unit.branch, unit.shortcut, unit.before, unit.after):
            channels = {unit.after: built_width(unit)}.get(part)
            x = signal(unit) if channels is None else torch.randn(3, channels, 4, 4, dtype=torch.float64)
            copied, version = x.clone(), x._version
            part(x)
            assert x._version == version
            assert torch.equal(x, copied)


def built_width(unit: nn.Module) -> int:
    """The channels that leave a unit's branch."""
    return [m for m in unit.get_submodule("branch").modules() if isinstance(m, nn.Conv2d)][-1].out_channels


@pytest.mark.parametrize("kind", ["identity", "dropout", "exclusive_gating"])
def test_evaluation_is_repeatable_and_changes_nothing(kind: str) -> None:
    network, x = float_network(kind).eval(), float_images(kind)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert torch.equal(network(x), network(x))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("kind", ["identity", "exclusive_gating"])
def test_same_seed_gives_the_same_start(kind: str) -> None:
    starts = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        starts.append(build(KINDS[kind]).state_dict())
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    assert not torch.equal(starts[0]["stem.conv.weight"], starts[2]["stem.conv.weight"])


def test_weights_start_as_he_et_al_2015_say() -> None:
    """Normal with std √(2 / (k²·n_out)), BN at 1 and 0, the classifier's bias 0; five standard errors."""
    torch.manual_seed(0)
    network = build(catalog.network("resnet50", width=16))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels
            count = module.weight.numel()
            scaled = module.weight.detach() * (fan_out / 2) ** 0.5
            assert float(scaled.square().mean()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
            assert float(scaled.mean()) == pytest.approx(0, abs=5 / count**0.5)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            assert (module.bias == 0).all()


@pytest.mark.parametrize("kind", ["exclusive_gating", "shortcut_only_gating"])
@pytest.mark.parametrize("norm", [False, True])
def test_bias_of_a_gate_starts_where_it_is_set(kind: str, *, norm: bool) -> None:
    """Also in evaluation before any training: with a BN, β is the bias and nothing else is added."""
    shortcut = SHORTCUTS[f"{kind}, norm" if norm else kind]
    network = build(tiny(shortcut=shortcut)).eval()
    for name, module in network.named_modules():
        if name.endswith("gate"):
            nn.init.zeros_(module.get_parameter("conv.weight"))
            g = module(torch.randn(2, module.get_parameter("conv.weight").shape[1], 4, 4))
            torch.testing.assert_close(g, torch.full_like(g, torch.sigmoid(torch.tensor(-1.0)).item()))
