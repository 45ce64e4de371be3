"""Kernels of our own give what torch's give, to rounding; when they are taken, and what a run says of it."""

import _ctypes
import copy
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import cleanpath
from cleanpath import assemble, devices
from cleanpath.errors import Request, RunError, SettingError, Stopped
from cleanpath.experiment import Foreign, Training
from cleanpath.fast import joined, library
from cleanpath.grid import local, plan
from cleanpath.networks import code_of
from cleanpath.records import Run
from cleanpath.trained import evaluation, trained
from cleanpath.training.fused import Fused, Group, chosen
from cleanpath.training.passes import Passes
from cleanpath.training.progress import Stepped
from tests.helpers import assert_same_run, assert_user_error, examples, here, tiny

WIDE = ("network.width=16", "training.batch_size=16")
TRAINING = Training(iterations=1)


def has_compiler() -> bool:
    """Where there is one, a library that cannot be built is a failure, and every test says it."""
    commands = filter(None, (os.environ.get("CC"), *library._COMPILERS))
    return sys.platform == "linux" and any(shutil.which(shlex.split(command)[0]) for command in commands)


pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C compiler")


def test_the_library_is_built_here() -> None:
    assert library.library().lanes > 0


@dataclass(frozen=True)
class Case:
    """A row of layers and what passes it."""

    images: int
    channels: int
    height: int
    width: int
    conv: tuple[int, int, int, int] | None  # outputs, kernel, stride, padding
    norm: bool
    relu: bool
    affine: bool
    tracks: bool
    eps: float
    momentum: float
    scale: float
    offset: float
    threads: int
    seed: int

    def row(self) -> nn.Sequential:
        torch.manual_seed(self.seed)
        norm = nn.BatchNorm2d(
            self.channels, self.eps, self.momentum, affine=self.affine, track_running_stats=self.tracks
        )
        if self.affine:
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
        layers: list[nn.Module] = [norm, *([nn.ReLU()] if self.relu else [])] if self.norm else []
        if self.conv is not None:
            layers.append(nn.Conv2d(self.channels, *self.conv, bias=False))
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def batch(self) -> Tensor:
        # Two clusters, so that the norm gives nothing near 0, where the ReLU's slope is a matter of rounding.
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = self.images, self.channels, self.height, self.width
        x = (torch.randint(2, shape, generator=generator) * 2 - 1) * (1 + torch.rand(shape, generator=generator))
        return (self.offset + self.scale * x).contiguous(memory_format=torch.channels_last)


ONE = Case(
    images=4,
    channels=16,
    height=5,
    width=5,
    conv=(16, 3, 1, 1),
    norm=True,
    relu=True,
    affine=True,
    tracks=True,
    eps=1e-5,
    momentum=0.1,
    scale=1.0,
    offset=0.0,
    threads=1,
    seed=3,
)
cases = st.builds(
    Case,
    images=st.sampled_from([1, 2, 6, 7]),
    channels=st.sampled_from([1, 3, 7, 8, 16, 32, 64]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    conv=st.none()
    | st.tuples(
        st.sampled_from([8, 16, 24, 32, 48]), st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.integers(0, 2)
    ),
    norm=st.sampled_from([True, True, False]),
    relu=st.booleans(),
    affine=st.booleans(),
    tracks=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 1.0]),
    momentum=st.sampled_from([0.1, 0.9]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    offset=st.sampled_from([0.0, 1.0, -30.0]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 1000),
)


def passed(row: nn.Sequential, x: Tensor, *, fused: bool) -> dict[str, Tensor]:
    """Output, gradients and buffers after one step there and back."""
    row, x = row.train(), x.detach().requires_grad_()
    if fused:
        with Fused(row)():
            y = row(x)
            y.mul(direction(y)).sum().backward()
    else:
        y = row(x)
        y.mul(direction(y)).sum().backward()
    assert x.grad is not None
    found = {"y": y.detach(), "x": x.grad}
    found |= {name: p.grad for name, p in row.named_parameters() if p.grad is not None}
    return found | {name: buffer.clone() for name, buffer in row.named_buffers()}


def direction(y: Tensor) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype)


def apart(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-12))


@given(case=cases)
@examples
def test_ours_is_as_near_to_double_precision_as_torch(case: Case) -> None:
    assume(case.images * case.height * case.width > 1 and (case.norm or case.conv is not None))
    if case.conv is not None:
        _, kernel, _, padding = case.conv
        assume(min(case.height, case.width) + 2 * padding >= kernel)
    x, before = case.batch(), torch.get_num_threads()
    exact = passed(case.row().double(), x.double(), fused=False)
    with torch.no_grad():
        z = case.row().double().train()[0](x.double())
        assume(not (case.relu and case.norm) or float(z.abs().min()) > 1e-3 * float(z.abs().max()))
    try:
        torch.set_num_threads(case.threads)
        theirs, ours = passed(case.row(), x, fused=False), passed(case.row(), x, fused=True)
        again = passed(case.row(), x, fused=True)
    finally:
        torch.set_num_threads(before)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], again[name]) for name in ours), "the same bits each time"
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        # One channel, or one pixel, is laid out either way, and torch's convolution then gives its usual layout.
        assert value.is_contiguous(memory_format=torch.channels_last) or value.stride() == theirs[name].stride()
        # What cancels to nothing, as the gradient of x through a norm of two values, is only compared by its size.
        small = 1e-5 * float(exact["y"].norm()) / max(case.scale, 1e-3) if name in {"x", "0.weight"} else 0.0
        limit = 4 * apart(theirs[name], exact[name]) + 3e-6
        off = float((value.double() - exact[name].double()).norm())
        assert off <= limit * float(exact[name].double().norm()) + small, (name, apart(value, exact[name]), limit)


def in_test(row: nn.Sequential, x: Tensor, *, fused: bool) -> Tensor:
    row = row.eval()
    with torch.inference_mode(), Fused(row)() if fused else nullcontext():
        found: Tensor = row(x)
    return found


def trained_row(case: Case) -> nn.Sequential:
    """With statistics that are not those of the beginning."""
    row = case.row()
    for name, buffer in row.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return row


@given(case=cases)
@examples
def test_a_test_on_ours_is_as_near_to_double_precision_as_on_torchs(case: Case) -> None:
    assume(case.images * case.height * case.width > 1 and (case.norm or case.conv is not None))
    if case.conv is not None:
        _, kernel, _, padding = case.conv
        assume(min(case.height, case.width) + 2 * padding >= kernel)
    x, before = case.batch(), torch.get_num_threads()
    exact = in_test(copy.deepcopy(trained_row(case)).double(), x.double(), fused=False)
    try:
        torch.set_num_threads(case.threads)
        row = trained_row(case)
        theirs, ours, again = (in_test(row, x, fused=fused) for fused in (False, True, True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, again), "the same bits each time"
    assert ours.shape == theirs.shape
    assert apart(ours, exact) <= 4 * apart(theirs, exact) + 3e-6


def test_a_test_takes_weights_and_statistics_as_they_are_then(monkeypatch: pytest.MonkeyPatch) -> None:
    row, x, calls = trained_row(ONE), ONE.batch(), Counter[str]()
    whole = joined.Applied.__call__

    def counted(self: joined.Applied, x: Tensor) -> Tensor:
        calls["ours"] += 1
        return whole(self, x)

    monkeypatch.setattr(joined.Applied, "__call__", counted)
    fused = Fused(row.eval())
    for _ in range(2):
        with torch.no_grad(), fused():
            found = row(x)
            assert torch.equal(row(x), found)
        assert apart(found, in_test(row, x, fused=False)) < 1e-5
        for value in (*row.parameters(), *row.buffers()):
            if value.is_floating_point():
                value.data.add_(0.25)
    assert calls["ours"] == 4
    with fused():  # whoever asks for gradients of a test gets torch's
        row(x).sum().backward()
    assert row.get_parameter("2.weight").grad is not None
    with torch.no_grad(), fused():
        assert torch.equal(row(x.contiguous()), in_test(row, x.contiguous(), fused=False)), "another layout"
    assert calls["ours"] == 4


def test_a_run_is_tested_on_the_kernels_that_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assemble.run(tiny(*WIDE), folder, threads=1)
    fused, plain = (trained(folder).on(devices.CPU, asked) for asked in ("fused", "plain"))
    assert str(fused.kernels).startswith("fused ")
    here, there = evaluation(fused), evaluation(plain)
    assert (here["kernels"], there["kernels"]) == (str(fused.kernels), "plain")
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)


def is_ours(row: nn.Sequential, x: Tensor) -> bool:
    with Fused(row.train())():
        found = row(x)
    return "Joined" in str(found.grad_fn)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("window", [(16, 1, 1, 0), (32, 2, 1, 1), (16, 3, 2, 1), (48, 5, 3, 2), (16, 2, 2, 0)])
def test_every_kind_of_window_is_ours(window: tuple[int, int, int, int], threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        case = replace(ONE, conv=window, height=9, width=8)
        assert is_ours(case.row(), case.batch())
        assert is_ours(replace(case, conv=None).row(), case.batch())
        assert is_ours(replace(case, norm=False, relu=False).row(), case.batch())
    finally:
        torch.set_num_threads(before)


def test_values_that_our_kernels_cannot_read_where_they_lie_are_torchs() -> None:
    def strided(row: nn.Sequential) -> None:
        row[0].weight = nn.Parameter(torch.linspace(0.5, 1.5, 32)[::2])

    def column(row: nn.Sequential) -> None:
        row[0].running_mean = torch.zeros(16, 2)[:, 0]

    def other_stride(row: nn.Sequential) -> None:
        row[2].stride = (2, 2)  # type: ignore[assignment]

    for change in (strided, column, other_stride):
        row = ONE.row().train()
        fused, plain = Fused(row), copy.deepcopy(row)
        change(row)
        change(plain)
        with fused():
            found = row(ONE.batch())
        assert "Joined" not in str(found.grad_fn), change
        assert torch.equal(found, plain(ONE.batch())), change
        assert all(torch.equal(one, other) for one, other in zip(row.buffers(), plain.buffers(), strict=True))


def test_a_layer_that_became_double_is_torchs_to_refuse() -> None:
    row = ONE.row()
    fused = Fused(row)
    row.double()
    with pytest.raises(RuntimeError), fused():
        row(ONE.batch())


def test_a_default_device_is_nobody_who_watches() -> None:
    with torch.device("cpu"):
        assert is_ours(ONE.row(), ONE.batch())


def test_what_is_not_finite_stays_so_where_torch_has_it() -> None:
    for value in (math.nan, math.inf):
        x = ONE.batch()
        x[1, 2, 3, 3] = value
        theirs, ours = passed(ONE.row(), x, fused=False), passed(ONE.row(), x, fused=True)
        for name in theirs:
            assert torch.equal(theirs[name].isfinite(), ours[name].isfinite()), (name, value)
    network, x = ONE.row(), ONE.batch().requires_grad_()
    with Fused(network)():
        y = network(x)
    y.backward(torch.full_like(y, math.nan))
    assert x.grad is not None
    assert not x.grad.isfinite().any()


def test_a_channel_without_variance_gives_its_shift() -> None:
    case = replace(ONE, conv=None, relu=False)
    x, network = torch.full_like(case.batch(), 1234.567), case.row()
    found = passed(network, x, fused=True)
    norm = network[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.equal(found["y"], norm.bias.detach().view(1, -1, 1, 1).expand_as(x))
    assert float(found["0.running_var"][0]) == pytest.approx(0.9)


def test_groups_are_found_in_networks_and_nothing_is_left_of_them() -> None:
    network = assemble.build("preresnet56").to(memory_format=torch.channels_last)
    kinds = [type(module) for module in network.modules()]
    found = Fused(network)
    # 54 norms of units, three of them in `before`, whose convolutions stand alone, and one at the end.
    assert found.groups == 55 + 3
    with found():
        assert [type(module) for module in network.modules()] != kinds
    with pytest.raises(ZeroDivisionError), found():
        _ = 1 / 0
    assert [type(module) for module in network.modules()] == kinds
    assert Fused(assemble.build("resnet56")).groups == 27 * 3 + 1  # conv; norm, ReLU, conv; norm; and the stem's norm
    assert Fused(assemble.build("preresnet56", normalisation="group")).groups == 54  # convolutions alone
    assert [one.conv is None for one in groups(nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3)))] == [
        True
    ], "channels come in whole vectors"


def chain(activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [
        part
        for _ in range(2)
        for part in (nn.BatchNorm2d(16), activation or nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False))
    ]
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)


def assert_near(row: nn.Sequential, found: Tensor) -> None:
    expected = copy.deepcopy(row)(ONE.batch())
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_module_that_stands_twice_is_computed_twice() -> None:
    row = chain(nn.ReLU())
    with Fused(row)():
        assert_near(chain(), row(ONE.batch()))


def test_slices_and_copies_made_within_a_step_are_plain() -> None:
    row = chain()
    with Fused(row)():
        assert_near(chain(), row[3:](row[:3](ONE.batch())))
        assert_near(chain(), copy.deepcopy(row)(ONE.batch()))


def test_layer_that_was_put_in_later_is_the_one_that_counts() -> None:
    row = chain()
    fused = Fused(row)
    row[5] = nn.Identity()
    with fused():
        found = row(ONE.batch())
    other = chain()
    other[5] = nn.Identity()
    assert_near(other, found)


def test_what_torch_refuses_is_refused_by_torch() -> None:
    row = chain()
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    with Fused(row)(), pytest.raises(RuntimeError, match="16"):
        row(x)


def test_default_dtype_and_switched_off_statistics_are_those_of_torch() -> None:
    row = chain()
    norm = row[0]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.track_running_stats = False
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    torch.set_default_dtype(torch.float64)
    try:
        with Fused(row)():
            x = ONE.batch().float().requires_grad_()
            y = row(x)
            y.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert y.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


def test_hooks_on_what_is_saved_may_lay_it_out_otherwise() -> None:
    found = []
    for hooked in (False, True):
        row, x = chain(), ONE.batch().requires_grad_()
        pack = (lambda t: t.contiguous()) if hooked else (lambda t: t)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), Fused(row)():
            y = row(x)
        y.mul(direction(y)).sum().backward()
        found.append([x.grad, *(p.grad for p in row.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True) if one is not None)


def groups(row: nn.Sequential) -> list[Group]:
    return [part for parts in Fused(row)._rows.values() for part in parts if isinstance(part, Group)]


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what torch does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def row() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False)).to(
        memory_format=torch.channels_last
    )


def taken(network: nn.Sequential, x: Tensor) -> bool:
    """Whether a step is ours."""
    with Fused(network)():
        y = network(x)
    return y.grad_fn is not None and "Joined" in y.grad_fn.name()


def test_who_watches_sees_every_operation() -> None:
    x, network = torch.randn(4, 16, 8, 8).contiguous(memory_format=torch.channels_last), row()
    assert taken(network, x)
    for at in range(3):
        seen = list[Tensor]()
        hook = network[at].register_forward_hook(lambda _m, _i, y: seen.append(y))  # noqa: B023
        assert not taken(network, x)
        assert len(seen) == 1
        hook.remove()
    of_all = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not taken(network, x)
    of_all.remove()
    with Operations() as watching:
        assert not taken(network, x)
    assert "native_batch_norm" in " ".join(watching.seen)
    assert taken(network, x)
    whole = network.register_forward_hook(lambda *_: None)
    assert taken(network, x), "the row itself is called as ever"
    whole.remove()


def test_what_is_not_for_our_kernels_is_torchs() -> None:
    x = torch.randn(4, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    assert not taken(row().eval(), x)
    assert not taken(row(), x.contiguous())
    assert not taken(row().double(), x.double())
    network = row()
    network[0].momentum = None  # type: ignore[assignment]
    assert not taken(network, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(row(), x)


def test_a_second_derivative_is_refused() -> None:
    x, network = torch.randn(4, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_(), row()
    with Fused(network)():
        y = network(x)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_frozen_weights_get_no_gradient() -> None:
    x, network = torch.randn(4, 16, 8, 8).contiguous(memory_format=torch.channels_last), row()
    network[2].requires_grad_(requires_grad=False)
    with Fused(network)():
        network(x).sum().backward()
    assert network[2].weight.grad is None
    assert network[0].weight.grad is not None


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"compile": True}, {"bn_group": 8}],
    ids=str,
)
def test_what_they_do_not_go_with_is_plain_or_refused(changes: dict[str, Any]) -> None:
    training = replace(TRAINING, **changes)
    assert str(chosen("auto", training, devices.CPU, threads=1)) == "plain"
    with pytest.raises(SettingError, match=r"no fused kernels: they do not go with training\..*--kernels plain"):
        chosen("fused", training, devices.CPU, threads=1)
    assert str(chosen("auto", TRAINING, devices.CPU, threads=1)).startswith("fused ")
    assert str(chosen("auto", TRAINING, devices.CPU, threads=1, processes=2)) == "plain"
    assert str(chosen("auto", TRAINING, torch.device("cuda"), threads=1)) == "plain"
    with pytest.raises(SettingError, match="no kernels 'quick'"):
        chosen("quick", TRAINING, devices.CPU, threads=1)


def train(folder: Path, *changes: str, stop: int | None = None, **options: Any) -> Run:
    """A run with vectors of channels; it is asked to stop after an iteration, if one is given."""
    request, experiment = Request(), tiny(*WIDE, *changes, iterations=8)

    def on_step(progress: Any) -> None:
        if progress.iteration == stop:
            request.signal_number = 15

    if stop is None:
        return assemble.run(experiment, folder, threads=1, **options)
    with pytest.raises(Stopped):
        assemble.run(experiment, folder, threads=1, callbacks=[Stepped(on_step)], request=request, **options)
    return Run(folder)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("network.depth=20", "training.memory=recompute"),
        ("network.branch=bottleneck", "network.depth=11", "training.accumulation=2", "training.clip=1"),
        ("network.placement=original", "training.average=0.9"),
    ],
    ids=" ".join,
)
def test_resumed_is_uninterrupted_bitwise_on_our_kernels(tmp_path: Path, changes: tuple[str, ...]) -> None:
    whole = train(tmp_path / "whole", *changes)
    assert whole.environment["kernels"].startswith("fused ")
    for stop in (2, 5):
        train(tmp_path / "stopped", *changes, stop=stop)
    train(tmp_path / "stopped", *changes)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    plain = train(tmp_path / "plain", *changes, kernels="plain")
    assert plain.environment["kernels"] == "plain"
    losses = [[line["loss"] for line in run.metrics() if "loss" in line] for run in (whole, plain)]
    assert losses[0] != losses[1]
    assert losses[0][:3] == pytest.approx(losses[1][:3], rel=1e-4)


def test_units_computed_again_have_the_same_bits(tmp_path: Path) -> None:
    for way in ("plain", "recompute"):
        train(tmp_path / way, "network.depth=20", f"training.memory={way}")
    assert_same_run(tmp_path / "plain", tmp_path / "recompute")


class Added(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.branch = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), conv)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.branch(x)
        return found


def test_layers_beside_units_that_segments_cut_have_the_same_bits() -> None:
    """A user's row, whose last norm, ReLU and convolution may fall into two segments."""
    found = list[list[Tensor]]()
    for way in ("plain", "recompute"):
        torch.manual_seed(0)
        head = nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        row = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), *(Added() for _ in range(4)), *head)
        network = nn.Sequential(*row, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(memory_format=torch.channels_last)
        training = replace(TRAINING, memory=way)
        kernels = chosen("fused", training, devices.CPU, threads=1).fitting(network)
        assert str(kernels).startswith("fused ")
        passes = Passes(network, training, kernels=kernels)
        with passes():
            y = passes.forward(torch.randn(8, 16, 8, 8).contiguous(memory_format=torch.channels_last), last=True)
            passes.backward(y.square().sum())
        found.append([y.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_network_with_nothing_for_them_is_plain_and_says_so(tmp_path: Path) -> None:
    """Else it could not go on on a machine without a compiler, though its bits would be the same."""
    (tmp_path / "linear.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    target = f"{tmp_path / 'linear.py'}:small"
    experiment = replace(tiny(), network=Foreign(target=target, in_channels=1, code=code_of(target)))
    folder = tmp_path / "run"
    assemble.run(experiment, folder, threads=1)
    assert Run(folder).environment["kernels"] == "plain"
    with pytest.raises(SettingError, match="no fused kernels: the network has no norm or convolution"):
        assemble.run(experiment, tmp_path / "asked", threads=1, kernels="fused")


def test_a_run_does_not_go_on_with_other_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for begun, asked in (("fused", "plain"), ("plain", "fused")):
        train(tmp_path / begun, stop=3, kernels=begun)
        before = contents(tmp_path / begun)
        with pytest.raises(RunError, match=f"was begun on {begun} kernels.*--kernels {asked}.*--fresh"):
            train(tmp_path / begun, kernels=asked)
        assert contents(tmp_path / begun) == before

    def missing(threads: int = 1) -> library.Library:  # noqa: ARG001
        raise library.NoLibraryError("there is no C compiler here; install one, or set CC")

    monkeypatch.setattr("cleanpath.training.fused.library", missing)
    before = contents(tmp_path / "fused")
    with pytest.raises(RunError, match=r"was begun on fused kernels.*no C compiler.*--fresh"):
        train(tmp_path / "fused")
    assert contents(tmp_path / "fused") == before
    assert train(tmp_path / "plain").environment["kernels"] == "plain"


def test_a_run_of_before_there_were_kernels_goes_on_without(tmp_path: Path) -> None:
    run = train(tmp_path / "run", stop=3, kernels="plain")
    path = run.folder / "environment.json"
    path.write_text(json.dumps({key: value for key, value in run.environment.items() if key != "kernels"}))
    assert train(run.folder).environment["kernels"] == "plain"
    train(tmp_path / "whole", kernels="plain")
    assert_same_run(run.folder, tmp_path / "whole")


def test_another_build_of_the_kernels_is_told(tmp_path: Path) -> None:
    run = train(tmp_path / "run", stop=3)
    path = run.folder / "environment.json"
    path.write_text(json.dumps({**run.environment, "kernels": "fused 0123"}))
    said = list[str]()
    train(run.folder, say=said.append)
    assert any(line.startswith("kernels was fused 0123 and is now fused ") for line in said)


def test_a_value_that_is_not_finite_has_the_same_place(tmp_path: Path) -> None:
    reasons = []
    for way in ("plain", "fused"):
        run = train(tmp_path / way, "training.lr=1e20", kernels=way)
        assert run.result is not None
        reasons.append(run.result["reason"])
    assert reasons[0] == reasons[1]
    assert "unit" in reasons[0]


def test_cells_of_a_grid_are_told_which_kernels(tmp_path: Path) -> None:
    cell = plan.cell(tiny(*WIDE, iterations=2), tmp_path)
    local.run_cells([cell], workers=1, tell=lambda _: None, kernels="plain")
    assert cell.run.environment["kernels"] == "plain"
    with pytest.raises(SettingError, match=r"no fused kernels: they do not go with training.bn_group"):
        local.check_cells([plan.cell(tiny("training.bn_group=8"), tmp_path)], kernels="fused")


def elsewhere(code: str, cache: Path, **variables: str) -> subprocess.Popen[str]:
    """Python in a process of its own, with this cache folder."""
    surroundings = {**os.environ, "CLEANPATH_CACHE": str(cache), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(processes: Sequence["subprocess.Popen[str]"]) -> list[str]:
    found = []
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        found.append(out.strip())
    return found


PATH = """
import torch
from cleanpath import devices
from cleanpath.experiment import Foreign, Training
from cleanpath.training.fused import chosen
print(chosen("auto", Training(iterations=1), devices.CPU, threads=2))
try:
    print(chosen("fused", Training(iterations=1), devices.CPU, threads=1))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_several_processes_may_build_at_once(tmp_path: Path) -> None:
    found = ended([elsewhere(PATH, tmp_path / "cache") for _ in range(3)])
    assert len({*found}) == 1
    assert found[0].startswith("fused ")
    digest = found[0].split()[1]
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {f"kernels-{digest}.so", f"kernels-{digest}.so.sha256"}


LOADED = "from cleanpath.fast.library import library; print(library().digest)"


def test_a_damaged_library_is_built_anew(tmp_path: Path) -> None:
    (said,) = ended([elsewhere(LOADED, tmp_path)])
    (path,) = tmp_path.glob("kernels-*.so")
    (beside,) = tmp_path.glob("kernels-*.so.sha256")
    whole = path.read_bytes()
    other = Path(_ctypes.__file__)
    for damaged in (whole[: len(whole) // 2], other.read_bytes()):
        path.write_bytes(damaged)
        assert ended([elsewhere(LOADED, tmp_path)]) == [said]
        assert len(path.read_bytes()) == len(whole)
    beside.unlink()
    assert ended([elsewhere(LOADED, tmp_path)]) == [said]
    assert beside.is_file()


def test_without_compiler_or_folder_a_run_is_plain(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken" / "cc"
    broken.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    broken.chmod(0o755)
    (tmp_path / "empty").mkdir()
    nowhere, unwritable, failing = ended(
        [
            elsewhere(PATH, tmp_path / "cache", PATH=str(tmp_path / "empty"), CC=""),
            elsewhere(PATH, tmp_path / "file" / "cache"),
            elsewhere(PATH, tmp_path / "cache", PATH=str(tmp_path / "broken"), CC=""),
        ]
    )
    for found, words in ((nowhere, "there is no C compiler"), (unwritable, "cannot be kept in"), (failing, "broken")):
        assert found.startswith("plain\nSettingError no fused kernels: "), found
        assert words in found


THREADS = """
from cleanpath import devices
from cleanpath.experiment import Training
from cleanpath.fast.library import library
from cleanpath.training.fused import chosen
for asked, threads in (("auto", 1), ("auto", 2), ("fused", 1), ("fused", 2)):
    try:
        print(chosen(asked, Training(iterations=1), devices.CPU, threads=threads))
    except Exception as error:
        print(error)
print(library().threaded)
"""


def test_a_build_without_openmp_is_for_one_thread_and_says_so(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor word; do [ "$word" = -fopenmp ] && exit 1; done\nexec cc "$@"\n')
    compiler.chmod(0o755)
    (said,) = ended([elsewhere(THREADS, tmp_path / "cache", CC=str(compiler))])
    alone, several, asked, refused, threaded = said.splitlines()
    assert alone == asked
    assert alone.startswith("fused ")
    assert several == "plain"
    assert refused.startswith("no fused kernels: they share no threads with this torch, and 2 are asked for;")
    assert "--threads 1; or take --kernels plain" in refused
    assert threaded == "False"


def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(threads: int = 1) -> library.Library:  # noqa: ARG001
        raise library.NoLibraryError("there is no C compiler here; install one, or set CC")

    monkeypatch.setattr("cleanpath.training.fused.library", missing)
    words = ("train", "preresnet8", "--set", "training.iterations=1", "--out", str(tmp_path / "run"))
    assert_user_error(here(*words, "--kernels", "fused"), "no fused kernels: there is no C compiler", "--kernels plain")
    assert not (tmp_path / "run").exists()
    assert here(*words, "--json").json()["environment"]["kernels"] == "plain"


def test_fit_takes_them_for_a_model_in_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[bool]()

    def counted(*given: Any, relu: bool) -> Tensor:
        calls.append(relu)
        return joined.joined(*given, relu=relu)

    monkeypatch.setattr("cleanpath.training.fused.joined", counted)
    stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    model = nn.Sequential(stem, row(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    found = []
    for layout, way in (
        (torch.channels_last, "auto"),
        (torch.contiguous_format, "auto"),
        (torch.channels_last, "plain"),
    ):
        trained = copy.deepcopy(model).to(memory_format=layout)
        assemble.fit(trained, Training(iterations=3, batch_size=32), kernels=way)
        found.append((len(calls), float(trained.get_buffer("1.0.running_var").sum())))
    assert [count for count, _ in found] == [3, 3, 3]
    assert found[0][1] == pytest.approx(found[2][1], rel=1e-5)


def test_the_monitor_sees_the_units_that_it_sees_of_torchs_kernels() -> None:
    seen = []
    for way in ("plain", "fused"):
        torch.manual_seed(0)
        model = assemble.build("preresnet8", in_channels=1).to(memory_format=torch.channels_last)
        with cleanpath.monitor(model, every=2) as watched:
            assemble.fit(model, Training(iterations=4, batch_size=32), kernels=way)
        seen.append([[(unit.name, unit.branch) for unit in profile.units] for profile in watched.profiles.values()])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2
    assert len(seen[0][0]) == 3
