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
from cleanpath.training.fused import Fused
from cleanpath.training.recompute import Recompute
from tests.helpers import examples
from tests.test_fast import apart, direction, has_library

pytestmark = pytest.mark.skipif(not has_library(), reason="no C compiler")
LAST = torch.channels_last


@dataclass(frozen=True)
class Layer:
    """A norm, a ReLU and a convolution, each of which may be one that is torch's alone."""

    norm: str  # batch, none, other (a group norm)
    relu: str  # none, relu, inplace, gelu
    channels: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: int
    bias: bool
    mode: str
    frozen: str  # none, norm, conv, all
    norm_in_eval: bool


layers = st.builds(
    Layer,
    norm=st.sampled_from(["batch", "batch", "batch", "none", "other"]),
    relu=st.sampled_from(["relu", "relu", "inplace", "none", "gelu"]),
    channels=st.sampled_from([16, 16, 16, 32, 24, 12]),
    groups=st.sampled_from([1, 1, 1, 4]),
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 3), (3, 1), (5, 5)]),
    stride=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]),
    padding=st.sampled_from([(0, 0), (1, 1), (1, 1), (2, 2), (1, 0), "same", "valid"]),
    dilation=st.sampled_from([1, 1, 1, 2]),
    bias=st.sampled_from([False, False, False, True]),
    mode=st.sampled_from(["zeros", "zeros", "zeros", "circular"]),
    frozen=st.sampled_from(["none", "none", "norm", "conv", "all"]),
    norm_in_eval=st.sampled_from([False, False, False, True]),
)


def row_of(parts: list[Layer], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    modules, inputs = list[nn.Module](), 16
    for part in parts:
        norms = {"batch": nn.BatchNorm2d, "other": lambda channels: nn.GroupNorm(4, channels)}
        norm = norms[part.norm](inputs) if part.norm != "none" else None
        relus = {"relu": nn.ReLU(), "inplace": nn.ReLU(inplace=True), "gelu": nn.GELU()}
        conv = nn.Conv2d(
            *(inputs, part.channels, part.kernel, part.stride, part.padding, part.dilation, part.groups),
            bias=part.bias,
            padding_mode=part.mode,
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
    dtype: torch.dtype
    layout: str
    training: bool
    autocast: bool
    seed: int


cases = st.builds(
    Case,
    parts=st.lists(layers, min_size=1, max_size=3),
    images=st.sampled_from([1, 2, 5]),
    side=st.sampled_from([(1, 1), (2, 2), (5, 4), (8, 8)]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16]),
    layout=st.sampled_from(["channels_last", "channels_last", *LAYOUTS]),
    training=st.booleans(),
    autocast=st.sampled_from([False, False, False, True]),
    seed=st.integers(0, 1000),
)


@given(case=cases)
@examples
def test_any_row_gives_what_it_gives_on_torchs_kernels(case: Case) -> None:
    """In fp32 as near to double precision; in another precision our kernels are not called."""
    in_fp32 = case.dtype == torch.float32 and not case.autocast
    assume(not case.autocast or case.dtype == torch.float32)
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


def row(channels: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(*parts).to(memory_format=LAST)


def batch() -> Tensor:
    return torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=LAST)


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
    found = network[2].weight.grad.clone()
    network.zero_grad()
    network(batch()).backward(-torch.ones_like(z))
    assert torch.allclose(found, network[2].weight.grad, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_derivative_forward_and_a_vmap_are_torchs() -> None:
    network, x = row(), batch()
    expected = row()
    with forward_ad.dual_level(), Fused(network)():
        dual = network(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(dual).tangent is not None
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
    assert torch.equal(again[0][2].weight, network[0][2].weight)


def test_a_row_that_cannot_be_looked_at_leaves_none_changed() -> None:
    network = nn.Sequential(row(), row())
    fused = Fused(network)
    network[1][2] = nn.Conv2d(16, 16, 1, bias=False)
    network[1][2].kernel_size = None  # type: ignore[assignment]
    with pytest.raises(TypeError), fused():
        pass
    assert [type(each) for each in network] == [nn.Sequential] * 2


def test_a_weight_that_changes_between_the_passes_is_told_as_by_torch() -> None:
    network, x = row(), batch()
    with Fused(network)():
        y = network(x)
    with torch.no_grad():
        network[2].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooks_on_weights_are_told_of_the_gradient_that_torch_would_tell() -> None:
    told = []
    for fused in (False, True):
        network, seen = row(), list[Tensor]()
        for weight in network.parameters():
            weight.register_hook(seen.append)
            weight.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone()))  # noqa: B023
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
