"""Hyper-connections: n streams of the signal side by side, which every unit reads from, writes to and mixes.

    X_{l+1} = f(H_res h(X_l) + H_postᵀ F(H_pre X_l)),  X of n streams, H_res n×n, H_pre and H_post 1×n

The streams are the channels of one tensor, (N, n·C, H, W), so that a unit is the ordinary `ResidualUnit`. Behind the
stem the signal is copied into every stream; before the head the streams are summed.

Where the width changes, h (option A, B or D) acts on every stream, with weights that the streams share; so do `before`
and `after`. A BN there takes its statistics over all streams.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cleanpath.experiment import Shortcut
from cleanpath.nn.kinds import Parts, kind
from cleanpath.nn.unit import ResidualUnit
from cleanpath.nn.words import describe

if TYPE_CHECKING:
    from cleanpath.nn.resnet import ResNet

_SINKHORN_STEPS = 20
_OPEN, _CLOSED = 8.0, -8.0
"""Logits of an entry that starts near the most and the least it can be."""


def _copy_and_sum(built: "ResNet", setting: Shortcut) -> None:
    """The signal into every stream behind the stem, and their sum before the head."""
    assert setting.streams is not None
    built.stem = nn.Sequential(OrderedDict([*built.stem.named_children(), ("copy", Copy(setting.streams))]))
    built.head = nn.Sequential(OrderedDict([("sum", Sum(setting.streams)), *built.head.named_children()]))


@kind("hyper_connections", needs=["streams"], finish=_copy_and_sum)
def hyper_connections(parts: Parts, setting: Shortcut) -> nn.Module:
    """Learnt matrices between `streams` streams: X' = H_res X + H_postᵀ F(H_pre X).

    Zhu et al. 2024, "Hyper-connections", the static form. At the start H_res is the identity, H_post is all ones and
    H_pre reads one stream, another in each unit (l mod n): what F reads and adds is then that of a residual network.

    Deviations: F is convolutional, there it is attention or a feed-forward network; the matrices have the weight decay
    that `training.decay_on` says.
    """
    assert setting.streams is not None
    n = setting.streams
    own = torch.zeros(n)
    own[(parts.index - 1) % n] = 1.0
    return _unit(parts, Mix(torch.eye(n)), Read(own), Write(torch.ones(n)))


@kind("manifold_hyper_connections", needs=["streams"], finish=_copy_and_sum)
def manifold_hyper_connections(parts: Parts, setting: Shortcut) -> nn.Module:
    """The same with bounded matrices: H_res doubly stochastic, H_pre in (0, 1), H_post in (0, 2).

    Xie et al. 2025, "mHC: manifold-constrained hyper-connections": H_res is what 20 steps of Sinkhorn and Knopp make of
    exp(learnt logits), H_pre = σ and H_post = 2σ of learnt logits. Products of doubly stochastic matrices are such
    matrices, so that the direct path neither grows nor dies; with one stream H_res is 1.

    Deviations: the part of the logits that depends on X is left out, as in static hyper-connections. Without it equal
    streams would stay equal for ever, so each H_pre starts reading one stream almost alone (logits ±8); H_res starts
    near the identity (off-diagonal logits −8), H_post at all ones.
    """
    assert setting.streams is not None
    n = setting.streams
    mix, own = torch.full((n, n), _CLOSED), torch.full((n,), _CLOSED)
    mix.fill_diagonal_(0.0)
    own[(parts.index - 1) % n] = _OPEN
    return _unit(parts, StochasticMix(mix), BoundedRead(own), BoundedWrite(torch.zeros(n)))


def _unit(parts: Parts, mix: "Mix", read: "Read", write: "Write") -> nn.Module:
    n = len(read.weight)
    shortcut = mix if isinstance(parts.shortcut, nn.Identity) else nn.Sequential(Each(parts.shortcut, n), mix)
    return ResidualUnit(
        before=_each(parts.before, n),
        shortcut=shortcut,
        branch=nn.Sequential(OrderedDict(read=read, layers=parts.branch, write=write)),
        after=_each(parts.after, n),
    )


def _each(module: nn.Module, streams: int) -> nn.Module:
    return module if isinstance(module, nn.Identity) else Each(module, streams)


def apart(x: Tensor, streams: int) -> Tensor:
    """(N, n·C, H, W) to (N, n, C, H, W)."""
    count, channels, *sides = x.shape
    return x.reshape(count, streams, channels // streams, *sides)


class Copy(nn.Module):
    """Every stream is the signal. (N, C, H, W) to (N, n·C, H, W)."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.streams, 1, 1)


class Sum(nn.Module):
    """The streams summed. (N, n·C, H, W) to (N, C, H, W)."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        return apart(x, self.streams).sum(dim=1)


class Each(nn.Module):
    """A module on every stream, with the same weights. (N, n·C, H, W) to (N, n·C', H', W')."""

    def __init__(self, module: nn.Module, streams: int) -> None:
        super().__init__()
        self.module, self.streams = module, streams

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(apart(x, self.streams).flatten(0, 1))
        return y.reshape(x.shape[0], self.streams * y.shape[1], *y.shape[2:])

    def in_words(self) -> str:
        """What is on each."""
        return f"{describe(self.module)} on each"


class Matrix(nn.Module):
    """A learnt matrix or row of one, `weight`, as `matrix` gives it."""

    words = ""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)

    def matrix(self) -> Tensor:
        """H."""
        return self.weight

    def in_words(self) -> str:
        """What it does to the streams."""
        return self.words.format(n=len(self.weight))


class Mix(Matrix):
    """H_res X: every stream becomes a weighted sum of all. (N, n·C, H, W) to the same."""

    words = "{n}×{n} mix of streams"

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.matrix() @ apart(x, len(self.weight)).flatten(2)
        return mixed.reshape(x.shape)


class Read(Matrix):
    """H_pre X: a weighted sum of the streams. (N, n·C, H, W) to (N, C, H, W)."""

    words = "read of {n} streams"

    def forward(self, x: Tensor) -> Tensor:
        return (self.matrix()[:, None, None, None] * apart(x, len(self.weight))).sum(dim=1)


class Write(Matrix):
    """H_postᵀ y: the signal into every stream, each with its weight. (N, C, H, W) to (N, n·C, H, W)."""

    words = "written to {n}"

    def forward(self, y: Tensor) -> Tensor:
        return (self.matrix()[:, None, None, None] * y[:, None]).flatten(1, 2)


class StochasticMix(Mix):
    """H_res X with H_res doubly stochastic: rows and columns are positive and sum to 1."""

    words = "{n}×{n} doubly stochastic mix of streams"

    def matrix(self) -> Tensor:
        """20 steps of Sinkhorn and Knopp from exp(weight): columns, then rows."""
        h = self.weight.exp()
        for _ in range(_SINKHORN_STEPS):
            h = h / h.sum(dim=0, keepdim=True)
            h = h / h.sum(dim=1, keepdim=True)
        return h


class BoundedRead(Read):
    """H_pre X with H_pre = σ(weight)."""

    words = "σ-read of {n} streams"

    def matrix(self) -> Tensor:
        """In (0, 1)."""
        return self.weight.sigmoid()


class BoundedWrite(Write):
    """H_postᵀ y with H_post = 2σ(weight)."""

    words = "2σ-written to {n}"

    def matrix(self) -> Tensor:
        """In (0, 2)."""
        return 2 * self.weight.sigmoid()
