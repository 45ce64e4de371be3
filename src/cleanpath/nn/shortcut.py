"""h: every shortcut of Table 1, and those where the width changes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanpath.experiment import Shortcut
from cleanpath.nn.kinds import Parts, kind
from cleanpath.nn.unit import ExclusivelyGatedUnit, PlainUnit, ResidualUnit
from cleanpath.nn.words import describe, gated


@kind("identity")
def identity(parts: Parts, setting: Shortcut) -> nn.Module:  # noqa: ARG001
    """h(x) = x, equation (3); where the width changes, option A or B."""
    return unit_of(parts, parts.shortcut, parts.branch)


@kind("none")
def none(parts: Parts, setting: Shortcut) -> nn.Module:  # noqa: ARG001
    """No shortcut: the first paper's plain network."""
    return PlainUnit(before=parts.before, branch=parts.branch, after=parts.after)


@kind("scaling", needs=["scale"], takes=["branch_scale"])
def scaling(parts: Parts, setting: Shortcut) -> nn.Module:
    """h(x) = λx, equation (6); with `branch_scale`, F is scaled too, behind its last BN.

    Deviations: at a width change λ multiplies the output of option A or B; the paper does not say.
    """
    assert setting.scale is not None
    branch = parts.branch if setting.branch_scale is None else then(parts.branch, Scale(setting.branch_scale))
    return unit_of(parts, then(parts.shortcut, Scale(setting.scale)), branch)


@kind("branch_scaling", needs=["branch_scale"])
def branch_scaling(parts: Parts, setting: Shortcut) -> nn.Module:
    """h(x) = x with F scaled by a constant: equation (8) has no product for it. Not in the paper's tables."""
    assert setting.branch_scale is not None
    return unit_of(parts, parts.shortcut, then(parts.branch, Scale(setting.branch_scale)))


@kind("exclusive_gating", needs=["bias"], takes=["norm", "gate_widening"])
def exclusive_gating(parts: Parts, setting: Shortcut) -> nn.Module:
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
def shortcut_only_gating(parts: Parts, setting: Shortcut) -> nn.Module:
    """h(x) = (1 − g(x)) ⊙ x with F unscaled, Figure 2(d)."""
    if parts.changes_width and not setting.gate_widening:
        return identity(parts, setting)
    return unit_of(parts, GatedShortcut(parts.shortcut, _gate(parts, setting)), parts.branch)


@kind("conv_1x1", takes=["norm"])
def conv_1x1(parts: Parts, setting: Shortcut) -> nn.Module:
    """h(x) = W_s x, a 1×1 convolution in every unit, Figure 2(e): option C of the first paper.

    `norm` puts a BN behind it. The paper draws none and says that BN follows the weight layers of all units
    (caption of Figure 2).
    """
    norm = parts.norm(parts.out_channels) if setting.norm else None
    return unit_of(parts, projection(parts.in_channels, parts.out_channels, parts.stride, norm=norm), parts.branch)


@kind("dropout", needs=["rate"], takes=["inverted"])
def dropout(parts: Parts, setting: Shortcut) -> nn.Module:
    """h(x) = dropout(x), Figure 2(f)."""
    assert setting.rate is not None
    shortcut = nn.Dropout(setting.rate) if setting.inverted else Dropout(setting.rate)
    return unit_of(parts, then(parts.shortcut, shortcut), parts.branch)


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

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, bias: float, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=isinstance(norm, nn.Identity))
        self.norm = norm
        for start in self.gate_biases():
            nn.init.constant_(start, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.norm(self.conv(x)))

    def gate_biases(self) -> tuple[nn.Parameter, ...]:
        """b_g, which `training.decay_on` may leave without decay."""
        return (bias_of(self.conv if isinstance(self.norm, nn.Identity) else self.norm),)

    def in_words(self) -> str:
        """σ of its convolution, and of its BN if it has one."""
        norm = "" if isinstance(self.norm, nn.Identity) else f" {describe(self.norm)}"
        return f"σ({describe(self.conv)}{norm})"


class GatedShortcut(nn.Module):
    """h(x) = (1 − g(x)) ⊙ s(x), where s is the shortcut that is gated. (N, C, H, W) to (N, C', H', W')."""

    def __init__(self, shortcut: nn.Module, gate: Gate) -> None:
        super().__init__()
        self.shortcut, self.gate = shortcut, gate

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.gate(x)) * self.shortcut(x)

    def in_words(self) -> str:
        """(1−g)·s(x)."""
        return gated(describe(self.shortcut), self.gate)


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


def projection(in_channels: int, out_channels: int, stride: int, *, norm: nn.Module | None) -> nn.Module:
    """W_s x, a 1×1 convolution (option B of the first paper), with a norm behind it if there is one."""
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return conv if norm is None or isinstance(norm, nn.Identity) else nn.Sequential(conv, norm)


def pooled_projection(in_channels: int, out_channels: int, stride: int, *, norm: nn.Module | None) -> nn.Module:
    """W_s pool(x), option D: average pooling over stride×stride, then a 1×1 convolution without stride.

    He, T. et al. 2019 ("Bag of tricks", ResNet-D): the strided projection reads a quarter of the entries, this one all.

    Deviations: that paper's -D has its -B (`stride_on=middle`) and a stem of three 3×3 convolutions beside; the stem
    here stays. Where a side is odd the last window is cut off at the edge, so that h has the size of F.
    """
    project = projection(in_channels, out_channels, 1, norm=norm)
    if stride == 1:
        return project
    pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, *project) if isinstance(project, nn.Sequential) else nn.Sequential(pool, project)


def bias_of(module: nn.Module) -> nn.Parameter:
    """The bias of a convolution or norm that has one."""
    bias = getattr(module, "bias", None)
    assert isinstance(bias, nn.Parameter)
    return bias


def unit_of(parts: Parts, shortcut: nn.Module, branch: nn.Module) -> ResidualUnit:
    """The unit of these parts with this h and this F."""
    return ResidualUnit(before=parts.before, shortcut=shortcut, branch=branch, after=parts.after)


def _gate(parts: Parts, setting: Shortcut) -> Gate:
    assert setting.bias is not None
    norm = parts.norm(parts.out_channels) if setting.norm else nn.Identity()
    return Gate(parts.in_channels, parts.out_channels, parts.stride, bias=setting.bias, norm=norm)


def then(first: nn.Module, second: nn.Module) -> nn.Module:
    """The second behind the first, which is left out if it is an identity."""
    return second if isinstance(first, nn.Identity) else nn.Sequential(first, second)
