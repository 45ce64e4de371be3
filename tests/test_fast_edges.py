"""Rows that our kernels have only in part, or not at all, give what they give on torch's, whatever is done to them."""

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from cleanpath import assemble
from cleanpath.fast import joined
from cleanpath.nn.branch import PLACEMENTS
from cleanpath.training.fused import Fused
from cleanpath.training.recompute import Recompute
from tests.helpers import examples
from tests.test_fast import apart, direction, has_compiler

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")
LAST = torch.channels_last


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A norm, a ReLU and a convolution, one of which may be odd."""

    channels: int
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int]
    padding: int | tuple[int, int] | str
    norm: str = "batch"  # or none, or other: a group norm
    relu: str = "relu"  # or inplace, none, gelu
    groups: int = 1
    dilation: int = 1
    bias: bool = False
    mode: str = "zeros"
    frozen: str = "none"  # or norm, conv, all
    norm_in_eval: bool = False


USUAL = {
    "channels": st.sampled_from([16, 16, 32]),
    "kernel": st.sampled_from([1, 3, 3, 5]),
    "stride": st.sampled_from([1, 1, 2]),
    "padding": st.integers(0, 2),
}
ODD: list[dict[str, Any]] = [
    *({"norm": "none"}, {"norm": "other"}, {"relu": "inplace"}, {"relu": "none"}, {"relu": "gelu"}),
    *({"groups": 4}, {"dilation": 2}, {"bias": True}, {"mode": "circular"}, {"norm_in_eval": True}),
    *({"frozen": "norm"}, {"frozen": "conv"}, {"frozen": "all"}, {"channels": 24}, {"channels": 12}),
    *({"kernel": (3, 1)}, {"stride": (1, 2)}, {"padding": (1, 0)}, {"padding": "same"}, {"padding": "valid"}),
]
layers = st.sampled_from([{}, *ODD]).flatmap(
    lambda odd: st.builds(Layer, **{**USUAL, **{name: st.just(value) for name, value in odd.items()}})
)


def row_of(parts: list[Layer], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    modules, inputs = list[nn.Module](), 16
    for part in parts:
        norms: dict[str, nn.BatchNorm2d | nn.GroupNorm] = {
            "batch": nn.BatchNorm2d(inputs),
            "other": nn.GroupNorm(4, inputs),
        }
        norm = norms.get(part.norm)
        relus = {"relu": nn.ReLU(), "inplace": nn.ReLU(inplace=True), "gelu": nn.GELU()}
        conv = nn.Conv2d(
            *(inputs, part.channels, part.kernel, part.stride, part.padding, part.dilation, part.groups),
            bias=part.bias,
            padding_mode=part.mode,  # type: ignore[arg-type]
        )
        if norm is not None:
            nn.init.uniform_(norm.weight, 0.5, 2)
            norm.requires_grad_(part.frozen not in {"norm", "all"})
            norm.train(not part.norm_in_eval)
            modules.append(norm)
        # In place it would write into the row's own input, or into what a convolution has given, as torch's does.
        if part.relu != "none" and not (part.relu == "inplace" and norm is None):
            modules.append(relus[part.relu])
        modules.append(conv.requires_grad_(part.frozen not in {"conv", "all"}))
        inputs = part.channels
    row = nn.Sequential(*modules)
    for name, buffer in row.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return row


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=LAST),
    "usual": lambda x: x.contiguous(),
    "every other image": lambda x: x.repeat_interleave(2, dim=0).contiguous(memory_format=LAST)[::2],
    "cut out": lambda x: nn.functional.pad(x, (1, 1, 1, 1)).contiguous(memory_format=LAST)[:, :, 1:-1, 1:-1],
    "the last of more": lambda x: torch.cat([x, x]).contiguous(memory_format=LAST)[len(x) :],
    "one image for all": lambda x: x[:1].contiguous(memory_format=LAST).expand_as(x),
    "transposed": lambda x: x.transpose(2, 3).contiguous(memory_format=LAST).transpose(2, 3),
}


def passed(row: nn.Sequential, x: Tensor, *, training: bool, autocast: bool, fused: bool) -> dict[str, Tensor]:
    """Output, gradients and buffers of one step; of a test the output."""
    x, mixed = x.detach(), torch.autocast("cpu", torch.bfloat16, enabled=autocast)
    way = Fused(row) if fused else nullcontext
    if not training:
        row.eval()
        with torch.no_grad(), mixed, way():
            return {"y": row(x)}
    x.requires_grad_()
    with mixed, way():
        y = row(x)
        y.mul(direction(y)).sum().backward()
    found = {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in row.named_parameters()}}
    found |= {name: buffer.clone() for name, buffer in row.named_buffers()}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Case:
    """A row of layers, and how a batch passes it."""

    parts: list[Layer]
    images: int
    side: tuple[int, int]
    training: bool
    seed: int
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    autocast: bool = False


CASE_ODD: list[dict[str, Any]] = [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"autocast": True}]
cases = st.sampled_from(
    [
        *[{}] * 12,
        *CASE_ODD,
        *({"layout": name} for name in LAYOUTS),
    ]
).flatmap(
    lambda odd: st.builds(
        Case,
        parts=st.lists(layers, min_size=1, max_size=3),
        images=st.sampled_from([1, 2, 5]),
        side=st.sampled_from([(1, 1), (2, 2), (5, 4), (8, 8)]),
        training=st.sampled_from([True, True, False]),
        seed=st.integers(0, 1000),
        **{name: st.just(value) for name, value in odd.items()},
    )
)


def assert_same_on_both(case: Case) -> None:
    """In fp32 as near to double precision as torch; in another precision our kernels are not called."""
    in_fp32 = case.dtype == torch.float32 and not case.autocast
    generator = torch.Generator().manual_seed(case.seed)
    x = LAYOUTS[case.layout](torch.randn(case.images, 16, *case.side, generator=generator))
    try:
        row = row_of(case.parts, case.seed)
        exact = passed(copy.deepcopy(row).double(), x.double(), training=case.training, autocast=False, fused=False)
    except (ValueError, RuntimeError):  # what torch refuses: strides with "same", one value to a norm, no pixel left
        assume(False)  # noqa: FBT003
    row, x = row.to(case.dtype).to(memory_format=LAST), LAYOUTS[case.layout](x.to(case.dtype))
    with nullcontext() if in_fp32 else patch.multiple("cleanpath.training.fused", joined=None, Applied=None):
        theirs, ours = (
            passed(copy.deepcopy(row), x, training=case.training, autocast=case.autocast, fused=fused)
            for fused in (False, True)
        )
    assert ours.keys() == theirs.keys(), "the same parts get a gradient"
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert value.shape == theirs[name].shape
        if not in_fp32:
            # Some of torch's own gradients in bf16 differ from run to run.
            assert name != "y" or torch.equal(value, theirs[name])
            continue
        # ReLUs near 0 and norms of few values turn rounding into more: both sides are as far from the exact one.
        limit = 10 * apart(theirs[name], exact[name]) + 1e-4 + 1e-5 / max(float(exact[name].double().norm()), 1e-12)
        assert apart(value, exact[name]) <= limit, (name, apart(value, exact[name]), limit)


@given(case=cases)
@examples
def test_any_row_gives_what_it_gives_on_torchs_kernels(case: Case) -> None:
    assert_same_on_both(case)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("odd", [{}, *ODD, *CASE_ODD, *({"layout": name} for name in LAYOUTS)], ids=str)
def test_every_oddity_alone_gives_what_it_gives_on_torchs_kernels(
    odd: dict[str, Any],
    training: bool,  # noqa: FBT001
) -> None:
    usual: dict[str, Any] = {"channels": 16, "kernel": 3, "stride": 1, "padding": 1}
    of_layer = {name: value for name, value in odd.items() if name in Layer.__dataclass_fields__}
    of_case = {name: value for name, value in odd.items() if name not in of_layer}
    part = Layer(**{**usual, **of_layer})
    assert_same_on_both(Case([part, Layer(**usual)], images=3, side=(8, 8), training=training, seed=0, **of_case))


def row(channels: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(*parts).to(memory_format=LAST)


def batch() -> Tensor:
    return torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=LAST)


def gradient(network: nn.Module) -> Tensor:
    found = network.get_parameter("2.weight").grad
    assert found is not None
    network.zero_grad()
    return found


def is_ours(y: Tensor) -> bool:
    return "Joined" in str(y.grad_fn)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_new_tensors_of_ours_are_where_the_images_are(device: str, training: bool) -> None:  # noqa: FBT001
    network, x = row().train(training), batch()
    joined._work.cache_clear()
    joined._lists.cache_clear()
    expected = copy.deepcopy(network)(x)
    with torch.device(device), torch.set_grad_enabled(training), Fused(network)():
        y = network(x)
    assert is_ours(y) == training
    assert torch.allclose(y, expected, atol=1e-5)
    assert joined._work.cache_info().currsize == 1, "a test is ours too"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_test_is_in_the_precision_of_its_weights_whatever_new_tensors_have(dtype: torch.dtype) -> None:
    network, x = row().eval(), batch()
    expected = network(x).detach()
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad(), Fused(network)():
            y = network(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == torch.float32
    assert torch.allclose(y, expected, atol=1e-5)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Twice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def more_outputs(network: nn.Sequential) -> None:
    network[2].weight = nn.Parameter(torch.randn(24, 16, 3, 3))


def parametrised(network: nn.Sequential) -> None:
    parametrize.register_parametrization(network[2], "weight", Doubled())


def of_another_class(network: nn.Sequential) -> None:
    network[2].__class__ = Twice


def counted_in_few_bits(network: nn.Sequential) -> None:
    network[0].num_batches_tracked = torch.zeros((), dtype=torch.int32)


@pytest.mark.parametrize("change", [more_outputs, parametrised, of_another_class, counted_in_few_bits])
@pytest.mark.parametrize("training", [True, False])
def test_layers_that_are_others_by_the_time_of_a_step_are_torchs(
    change: Callable[[nn.Sequential], None],
    training: bool,  # noqa: FBT001
) -> None:
    torch.manual_seed(1)
    network, plain = row().train(training), row().train(training)
    fused = Fused(network)
    torch.manual_seed(2)
    change(network)
    torch.manual_seed(2)
    change(plain)
    with torch.set_grad_enabled(training), fused():
        y = network(batch())
    assert torch.equal(y, plain(batch()))
    assert all(torch.equal(one, other) for one, other in zip(network.buffers(), plain.buffers(), strict=True))


@pytest.mark.parametrize(
    ("name", "value"), [("weight", nn.Parameter(torch.ones(8))), ("running_var", None), ("running_mean", torch.ones(8))]
)
def test_a_norm_that_torch_refuses_is_refused_by_torch(name: str, value: Any) -> None:
    network = row()
    fused = Fused(network)
    setattr(network[0], name, value)
    with pytest.raises((RuntimeError, ValueError)), fused():
        network(batch())


def test_numbers_that_lie_in_memory_with_another_sign_are_torchs() -> None:
    network, x = row(), torch._neg_view(batch())
    assert x.is_contiguous(memory_format=LAST)
    with Fused(network)():
        y = network(x)
    assert not is_ours(y)
    with Fused(network)():
        z = network(batch().requires_grad_())
    z.backward(torch._neg_view(torch.ones_like(z)))
    found = gradient(network)
    network(batch()).backward(-torch.ones_like(z))
    assert torch.allclose(found, gradient(network), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_derivative_forward_and_a_vmap_are_torchs() -> None:
    network, x = row(), batch()
    expected = row()
    with forward_ad.dual_level(), Fused(network)():
        dual = network(forward_ad.make_dual(x, torch.ones_like(x)))  # type: ignore[no-untyped-call]
        assert forward_ad.unpack_dual(dual).tangent is not None  # type: ignore[no-untyped-call]
    network.eval()
    with torch.no_grad(), Fused(network)():
        y = torch.func.vmap(network)(torch.stack([x, 2 * x]))
    assert torch.allclose(y[0], copy.deepcopy(network)(x), atol=1e-5)
    with Fused(expected)():
        assert is_ours(expected(x))


def test_what_is_copied_or_pickled_within_a_step_is_what_it_is_outside() -> None:
    network = nn.Sequential(row(), nn.Flatten())
    with Fused(network)():
        copied, back = copy.deepcopy(network), pickle.loads(pickle.dumps(network))  # noqa: S301 (our own)
        assert type(network[0]) is not nn.Sequential
    for each in (copied, back):
        assert [type(module) for module in each.modules()] == [type(module) for module in network.modules()]
        assert each.state_dict().keys() == network.state_dict().keys()
        assert torch.equal(each(batch()), copy.deepcopy(network)(batch()))
    again = pickle.loads(pickle.dumps(copied))  # noqa: S301 (our own)
    assert torch.equal(again.get_parameter("0.2.weight"), network.get_parameter("0.2.weight"))


def test_a_row_that_cannot_be_looked_at_leaves_none_changed() -> None:
    last, broken = row(), nn.Conv2d(16, 16, 1, bias=False)
    network = nn.Sequential(row(), last)
    fused = Fused(network)
    broken.kernel_size = None  # type: ignore[assignment]
    last[2] = broken
    with pytest.raises(TypeError), fused():
        pass
    assert [type(each) for each in network] == [nn.Sequential] * 2


def test_a_weight_that_changes_between_the_passes_is_told_as_by_torch() -> None:
    network, x = row(), batch()
    with Fused(network)():
        y = network(x)
    with torch.no_grad():
        network.get_parameter("2.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooks_on_weights_are_told_of_the_gradient_that_torch_would_tell() -> None:
    told = []
    for fused in (False, True):
        network, seen = row(), list[Tensor]()
        for weight in network.parameters():
            weight.register_hook(seen.append)  # type: ignore[no-untyped-call]
            weight.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone()))  # type: ignore[no-untyped-call] # noqa: B023
        with Fused(network)() if fused else nullcontext():
            y = network(batch())
            y.mul(direction(y)).sum().backward()
        told.append(sorted(seen, key=lambda one: (one.dim(), float(one.norm()))))
    assert len(told[0]) == len(told[1]) == 6
    assert all(torch.allclose(one, other, atol=1e-3, rtol=1e-3) for one, other in zip(*told, strict=True))


def test_gradients_of_several_passes_add_up() -> None:
    found = []
    for fused in (False, True):
        network, x = row(), batch().requires_grad_()
        with Fused(network)() if fused else nullcontext():
            for _ in range(2):
                y = network(x)
                y.square().sum().backward(retain_graph=True)
            y.sum().backward()
        found.append([x.grad, *(weight.grad for weight in network.parameters())])
    assert all(apart(one, other) < 1e-4 for one, other in zip(*found, strict=True) if one is not None)


def test_shapes_that_pass_by_are_not_all_kept() -> None:
    network = nn.Sequential(nn.BatchNorm2d(16)).eval()
    with torch.no_grad(), Fused(network)():
        for side in range(2, joined._SHAPES + 22):
            network(torch.zeros(1, 16, 1, side).contiguous(memory_format=LAST))
    assert joined._work.cache_info().currsize == joined._SHAPES


def test_a_second_derivative_of_what_is_computed_again_is_refused() -> None:
    network = assemble.build("preresnet20", in_channels=1).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    with Recompute(network)():
        y = network(x)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("branch", ["two_layer", "bottleneck"])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_a_network_is_as_near_to_double_precision_as_torchs(
    placement: str, branch: str, dtype: torch.dtype
) -> None:
    """Loss, every gradient and every running statistic."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"depth": 8 if branch == "two_layer" else 11, "branch": branch, "placement": placement}
    network = assemble.build("preresnet20", in_channels=1, **settings).to(memory_format=LAST)
    images, labels = torch.randn(5, 1, 8, 8), torch.arange(5)

    def step(of: nn.Module, x: Tensor, *, fused: bool) -> dict[str, Tensor]:
        of = copy.deepcopy(of).to(memory_format=LAST)
        way = Fused(of) if fused else nullcontext
        with way():
            loss = nn.functional.cross_entropy(of(x.contiguous(memory_format=LAST)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
        found = {name: p.grad for name, p in of.named_parameters() if p.grad is not None}
        return {"loss": loss.detach(), **found, **dict(of.named_buffers())}

    exact = step(network.double(), images.double(), fused=False)
    network, images = network.to(dtype), images.to(dtype)
    theirs, ours = (step(network, images, fused=fused) for fused in (False, True))
    assert Fused(network.float()).groups > 0
    assert ours.keys() == theirs.keys() == exact.keys()
    for name, value in ours.items():
        if dtype == torch.float64:
            assert torch.equal(value, theirs[name]), name
            continue
        size = max(float(exact[name].double().norm()), 1e-6)
        limit = 10 * apart(theirs[name], exact[name]) + 1e-4 + 1e-7 / size
        assert apart(value, exact[name]) <= limit, (name, apart(value, exact[name]), limit)
