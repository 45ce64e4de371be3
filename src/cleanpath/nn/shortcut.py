"""h: every shortcut of Table 1, and those where the width changes.

A kind is a function from the parts of a unit to the unit, registered under its name with the settings it reads.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.experiment import Shortcut
from cleanpath.nn.unit import ExclusivelyGatedUnit, PlainUnit, ResidualUnit, Unit
from cleanpath.nn.words import describe, gated


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a unit is made of before its kind of shortcut is applied.

    `shortcut` is an identity, or what serves where the width changes (option A or B).
    """

    before: nn.Module
    shortcut: nn.Module
    branch: nn.Module
    after: nn.Module
    in_channels: int
    out_channels: int
    stride: int

    @property
    def changes_width(self) -> bool:
        """Whether the shortcut cannot be an identity."""
        return not isinstance(self.shortcut, nn.Identity)


Maker = Callable[[Parts, Shortcut], Unit]


@dataclass(frozen=True)
class Kind:
    """A registered kind of shortcut: the settings it needs, those it may have, and how to make its unit."""

    needs: frozenset[str]
    takes: frozenset[str]
    make: Maker


KINDS: dict[str, Kind] = {}


def kind(name: str, *, needs: Iterable[str] = (), takes: Iterable[str] = ()) -> Callable[[Maker], Maker]:
    """Register a function as the maker of units with the shortcut `name`."""

    def register(make: Maker) -> Maker:
        KINDS[name] = Kind(frozenset(needs), frozenset(takes), make)
        return make

    return register


def kind_of(setting: Shortcut) -> Kind:
    """The kind that a setting names, checked: nothing it needs is missing, nothing is set that it would not read."""
    if setting.kind not in KINDS:
        raise UnknownNameError("shortcut", setting.kind, KINDS)
    found = KINDS[setting.kind]
    default = Shortcut()
    given = {f.name for f in fields(Shortcut) if getattr(setting, f.name) != getattr(default, f.name)} - {"kind"}
    if missing := found.needs - given:
        raise SettingError(f"shortcut '{setting.kind}' needs {_named(missing)}")
    if unread := given - found.needs - found.takes:
        reads = _named(found.needs | found.takes) or "no settings"
        raise SettingError(f"shortcut '{setting.kind}' does not read {_named(unread)}; it reads {reads}")
    return found


@kind("identity")
def identity(parts: Parts, setting: Shortcut) -> Unit:  # noqa: ARG001
    """h(x) = x, equation (3); where the width changes, option A or B."""
    return _unit(parts, parts.shortcut, parts.branch)


@kind("none")
def none(parts: Parts, setting: Shortcut) -> Unit:  # noqa: ARG001
    """No shortcut: the first paper's plain network."""
    return PlainUnit(before=parts.before, branch=parts.branch, after=parts.after)


@kind("scaling", needs=["scale"], takes=["branch_scale"])
def scaling(parts: Parts, setting: Shortcut) -> Unit:
    """h(x) = λx, equation (6); with `branch_scale`, F is scaled too, behind its last BN.

    Deviations: at a width change λ multiplies the output of option A or B; the paper does not say.
    """
    assert setting.scale is not None
    branch = parts.branch if setting.branch_scale is None else _then(parts.branch, Scale(setting.branch_scale))
    return _unit(parts, _then(parts.shortcut, Scale(setting.scale)), branch)


@kind("branch_scaling", needs=["branch_scale"])
def branch_scaling(parts: Parts, setting: Shortcut) -> Unit:
    """h(x) = x with F scaled by a constant: equation (8) has no product for it. Not in the paper's tables."""
    assert setting.branch_scale is not None
    return _unit(parts, parts.shortcut, _then(parts.branch, Scale(setting.branch_scale)))


@kind("exclusive_gating", needs=["bias"], takes=["norm", "gate_widening"])
def exclusive_gating(parts: Parts, setting: Shortcut) -> Unit:
    """h(x) = (1 − g(x)) ⊙ x and F scaled by g(x), Figure 2(c)."""
    if parts.changes_width and not setting.gate_widening:
        return identity(parts, setting)
    return ExclusivelyGatedUnit(
        before=parts.before,
        gate=_gate(parts, setting),
        shortcut=parts.shortcut,
        branch=parts.branch,
        after=parts.after,
    )


@kind("shortcut_only_gating", needs=["bias"], takes=["norm", "gate_widening"])
def shortcut_only_gating(parts: Parts, setting: Shortcut) -> Unit:
    """h(x) = (1 − g(x)) ⊙ x with F unscaled, Figure 2(d)."""
    if parts.changes_width and not setting.gate_widening:
        return identity(parts, setting)
    return _unit(parts, GatedShortcut(parts.shortcut, _gate(parts, setting)), parts.branch)


@kind("conv_1x1", takes=["norm"])
def conv_1x1(parts: Parts, setting: Shortcut) -> Unit:
    """h(x) = W_s x, a 1×1 convolution in every unit, Figure 2(e): option C of the first paper.

    `norm` puts a BN behind it. The paper draws none and says that BN follows the weight layers of all units
    (caption of Figure 2).
    """
    return _unit(
        parts, projection(parts.in_channels, parts.out_channels, parts.stride, norm=setting.norm), parts.branch
    )


@kind("dropout", needs=["rate"], takes=["inverted"])
def dropout(parts: Parts, setting: Shortcut) -> Unit:
    """h(x) = dropout(x), Figure 2(f)."""
    assert setting.rate is not None
    shortcut = nn.Dropout(setting.rate) if setting.inverted else Dropout(setting.rate)
    return _unit(parts, _then(parts.shortcut, shortcut), parts.branch)


class Scale(nn.Module):
    """λx with a constant λ, equation (6). Any shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def in_words(self) -> str:
        """×λ."""
        return f"×{self.factor:g}"

    extra_repr = in_words


class Dropout(nn.Module):
    """Dropout as the paper's reference has it: x or 0 in training, (1 − rate)·x in the test. Any shape.

    Its expectation is (1 − rate)·x in both modes, which is the λ = 0.5 that Section 3.1 speaks of; torch's own
    `nn.Dropout` is inverted, with expectation x.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty_like(x).bernoulli_(1 - self.rate) if self.training else (1 - self.rate) * x

    def in_words(self) -> str:
        """Dropout and its rate."""
        return f"dropout {self.rate:g}"

    extra_repr = in_words


class Gate(nn.Module):
    """g(x) = σ(W_g x + b_g), Section 3.1: a 1×1 convolution, so one gate per channel and position.

    (N, C, H, W) to (N, C', H', W'), values in (0, 1).

    Deviations: W_g starts like every convolution, a BN stands behind it only if `norm` is set, and where the width
    changes the convolution has the unit's stride; the paper says nothing of the three.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, bias: float, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride)
        self.norm: nn.Module = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        start = self.norm.bias if isinstance(self.norm, nn.BatchNorm2d) else self.conv.bias
        assert start is not None
        nn.init.constant_(start, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.norm(self.conv(x)))


class GatedShortcut(nn.Module):
    """h(x) = (1 − g(x)) ⊙ s(x), where s is the shortcut that is gated. (N, C, H, W) to (N, C', H', W')."""

    def __init__(self, shortcut: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.shortcut, self.gate = shortcut, gate

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.gate(x)) * self.shortcut(x)

    def in_words(self) -> str:
        """(1−g)·s(x)."""
        return gated(describe(self.shortcut))


class PaddedIdentity(nn.Module):
    """Option A: every `stride`-th position, and zero channels where the width grows; no parameters.

    (N, C, H, W) to (N, C', ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, side: str) -> None:
        super().__init__()
        self.stride = stride
        added = out_channels - in_channels
        self.before = added // 2 if side == "both" else 0
        self.behind = added - self.before

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))

    def in_words(self) -> str:
        """Its stride, if it has one."""
        return "zero-padded identity" + (f"/{self.stride}" if self.stride != 1 else "")

    def extra_repr(self) -> str:
        return f"stride={self.stride}, zeros={self.before}+{self.behind}"


def projection(in_channels: int, out_channels: int, stride: int, *, norm: bool) -> nn.Module:
    """W_s x, a 1×1 convolution (option B of the first paper), with a BN behind it if `norm`."""
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels)) if norm else conv


def _unit(parts: Parts, shortcut: nn.Module, branch: nn.Module) -> ResidualUnit:
    return ResidualUnit(before=parts.before, shortcut=shortcut, branch=branch, after=parts.after)


def _gate(parts: Parts, setting: Shortcut) -> Gate:
    assert setting.bias is not None
    return Gate(parts.in_channels, parts.out_channels, parts.stride, bias=setting.bias, norm=setting.norm)


def _then(first: nn.Module, second: nn.Module) -> nn.Module:
    return second if isinstance(first, nn.Identity) else nn.Sequential(first, second)


def _named(settings: Iterable[str]) -> str:
    return ", ".join(f"shortcut.{name}" for name in sorted(settings))
