"""Hyper-connections: matrices, what they start as, and the direct path that their product is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cleanpath.experiment import Shortcut
from cleanpath.nn.resnet import ResNet, build
from cleanpath.nn.streams import Copy, Each, Mix, Read, StochasticMix, Sum, Write, apart
from cleanpath.nn.summary import summarise
from tests.nn.networks import assert_bitwise, assert_close, copy_in_order, images, residual_units, tiny

KINDS = ("hyper_connections", "manifold_hyper_connections")


def network(kind: str, streams: int, **settings: Any) -> ResNet:
    of = tiny(placement="full_preactivation", shortcut=Shortcut(kind=kind, streams=streams), **settings)
    torch.manual_seed(0)
    return build(of).double()


def numbered(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


# ---- the parts, stream by stream


def test_streams_are_blocks_of_channels() -> None:
    x = numbered(2, 3, 4, 4)
    copied = Copy(5)(x)
    assert copied.shape == (2, 15, 4, 4)
    for stream in apart(copied, 5).unbind(dim=1):
        assert_bitwise(stream, x)
    assert_close(Sum(5)(copied), 5 * x)


def test_read_mix_and_write_are_their_sums() -> None:
    n, weights = 3, numbered(3, 3)
    x = numbered(2, 6, 4, 4)
    streams = x[:, :2], x[:, 2:4], x[:, 4:]
    mixed = apart(Mix(weights)(x), n)
    for i in range(n):
        assert_close(mixed[:, i], sum(weights[i, j] * streams[j] for j in range(n)))  # type: ignore[arg-type]
    assert_close(Read(weights[0])(x), sum(weights[0, j] * streams[j] for j in range(n)))  # type: ignore[arg-type]
    written = apart(Write(weights[0])(streams[0]), n)
    for i in range(n):
        assert_close(written[:, i], weights[0, i] * streams[0])


def test_each_stream_passes_the_module_alone() -> None:
    conv = torch.nn.Conv2d(2, 5, 3, stride=2).double()
    x = numbered(2, 6, 9, 9)
    y = Each(conv, 3)(x)
    for i in range(3):
        assert_close(y[:, 5 * i : 5 * i + 5], conv(x[:, 2 * i : 2 * i + 2]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_streams_do_not_depend_on_the_layout_in_memory(layout: torch.memory_format) -> None:
    of = network("hyper_connections", 3)
    x = images(tiny())
    assert_close(of(x.to(memory_format=layout)), of(x))


# ---- matrices


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.floats(0.1, 2.0), st.integers(0, 1000))
def test_mix_on_the_manifold_is_doubly_stochastic(n: int, spread: float, seed: int) -> None:
    weights = spread * torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    h = StochasticMix(weights).matrix()
    assert (h > 0).all()
    assert_close(h.sum(dim=1), torch.ones(n, dtype=torch.float64))
    assert_close(h.sum(dim=0), torch.ones(n, dtype=torch.float64), atol=1e-2)
    if n == 1:
        assert_bitwise(h.detach(), torch.ones(1, 1, dtype=torch.float64))


def test_product_on_the_manifold_neither_grows_nor_dies_and_the_free_one_may() -> None:
    """Equation (8) in matrix form, over 100 units: the largest absolute row sum of ΠH_res."""
    torch.manual_seed(0)
    weights = torch.randn(100, 4, 4, dtype=torch.float64)
    bound, free = (torch.eye(4, dtype=torch.float64) for _ in range(2))
    for each in weights:
        bound = StochasticMix(each).matrix() @ bound
        free = Mix(each).matrix() @ free
    assert_close(bound.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert free.abs().sum(dim=1).max() > 1e3


def test_matrices_start_as_the_docstring_says() -> None:
    for index, unit in enumerate(residual_units(network("hyper_connections", 4)).values()):
        mix = unit.shortcut if isinstance(unit.shortcut, Mix) else unit.shortcut.get_submodule("1")
        assert isinstance(mix, Mix)
        assert torch.equal(mix.matrix(), torch.eye(4, dtype=torch.float64))
        read, write = unit.branch.get_submodule("read"), unit.branch.get_submodule("write")
        assert isinstance(read, Read)
        assert isinstance(write, Write)
        assert read.matrix().tolist() == [float(at == index % 4) for at in range(4)]
        assert write.matrix().tolist() == [1.0] * 4
    for index, unit in enumerate(residual_units(network("manifold_hyper_connections", 4)).values()):
        read, write = unit.branch.get_submodule("read"), unit.branch.get_submodule("write")
        assert isinstance(read, Read)
        assert isinstance(write, Write)
        assert read.matrix().argmax() == index % 4
        assert read.matrix().max() > 0.999
        assert_close(write.matrix(), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "atol"), [("hyper_connections", 1e-9), ("manifold_hyper_connections", 0.1)])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_every_stream_starts_as_the_residual_network(kind: str, streams: int, atol: float) -> None:
    of = network(kind, streams, widening="B").eval()
    plain = build(tiny(placement="full_preactivation", widening="B")).double().eval()
    copy_in_order(of, plain)
    x = images(tiny())
    expected = plain.stages(plain.stem(x))
    for stream in apart(of.stages(of.stem(x)), streams).unbind(dim=1):
        assert_close(stream, expected, atol=atol * float(expected.detach().abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_streams_become_different_and_all_matrices_learn(kind: str) -> None:
    of = network(kind, 3).float()
    optimizer = torch.optim.SGD(of.parameters(), lr=0.1)
    x = images(tiny(), dtype=torch.float32)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(of(x), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    silent = {n for n, p in of.named_parameters() if p.grad is None or not p.grad.any()}
    assert not silent - {"stages.stage1.unit1.shortcut.weight"}  # where the streams are still equal
    streams = apart(of.eval().stages(of.stem(x)), 3).unbind(dim=1)
    assert not torch.allclose(streams[0], streams[1])


def test_streams_do_not_change_the_weights_of_layers() -> None:
    """Only the matrices are added: n² + 2n in each unit."""
    one, four = (
        summarise(tiny(shortcut=Shortcut(kind="hyper_connections", streams=n), widening="B"), 8) for n in (1, 4)
    )
    assert four.parameters - one.parameters == 6 * (24 - 3)
    assert four.units[0].output == (16, 8, 8)
    assert replace(four.units[0], parameters=0).branch.startswith("read of 4 streams")


@pytest.mark.parametrize("kind", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.slow)])
def test_network_of_streams_exports_for_any_batch(kind: str) -> None:
    of = network(kind, 3, units=1).float().eval()
    x = images(tiny(), dtype=torch.float32)
    program = torch.export.export(of, (x,), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.testing.assert_close(program.module()(x[:3]), of(x[:3]))
