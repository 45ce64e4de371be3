"""Units beyond the paper: what stands on F, on h or behind the sum, by kind, each with its reference.

Any kind goes with any placement unless it says otherwise; where a reference has an order of its own, the docstring
names the placement that is that order.
"""

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Network, Shortcut
from cleanpath.nn.branch import Placement, branch
from cleanpath.nn.catalog import WeightLayer
from cleanpath.nn.kinds import Parts, kind
from cleanpath.nn.shortcut import Scale, bias_of, then, unit_of
from cleanpath.nn.unit import ExclusivelyGatedUnit
from cleanpath.nn.words import describe

if TYPE_CHECKING:
    from cleanpath.nn.resnet import ResNet

_USUAL_REDUCTION = 16
# A gate as deep as F: its layers, of which the last has a norm and no ReLU behind it, since σ follows.
_GATE = Placement(trail=("norm",))


# ---- learnt scales of F


@kind("skip_init", takes=["start"])
def skip_init(parts: Parts, setting: Shortcut) -> nn.Module:
    """One learnt scalar on F: y = x + αF(x), α = 0 at the start (or `start`).

    De and Smith 2020, "Batch normalization biases residual blocks towards the identity function in deep networks", as
    SkipInit, for networks without BN (`network.normalisation=none`); Bachlechner et al. 2020, "ReZero is all you need",
    the same formula beside BN.

    Deviations: our convolutions have no biases, also where no norm follows.
    """
    return unit_of(parts, parts.shortcut, then(parts.branch, Multiplier(setting.start or 0.0, "α")))


@kind("layer_scale", needs=["start"])
def layer_scale(parts: Parts, setting: Shortcut) -> nn.Module:
    """One learnt scale per channel of F: y = x + diag(γ) F(x), γ = `start` at the start.

    Touvron et al. 2021, "Going deeper with image transformers" (LayerScale), where γ starts at 0.1 up to 18 layers, at
    1e-5 at 24 and at 1e-6 beyond.

    Deviations: F is convolutional; there it is attention or a feed-forward network behind a layer normalisation.
    """
    assert setting.start is not None
    return unit_of(parts, parts.shortcut, then(parts.branch, ChannelScale(parts.out_channels, setting.start)))


@kind("weighted_residual", takes=["start"])
def weighted_residual(parts: Parts, setting: Shortcut) -> nn.Module:
    """One learnt weight on F in [−1, 1]: y = x + λF(x), λ = 0 at the start (or `start`).

    Shen and Zeng 2016, "Weighted residuals for very deep networks": no ReLU after the sum
    (`network.placement=relu_before_addition`), λ in (−1, 1) by projected gradient descent.

    Deviations: the projection stands in the forward pass and lets the gradient through, instead of behind the
    optimizer's step; the ends of the interval belong to it; λ has the learning rate and decay of the other parameters.
    """
    return unit_of(parts, parts.shortcut, then(parts.branch, BoundedMultiplier(setting.start or 0.0, "λ")))


# ---- chance


@kind("stochastic_depth", needs=["rate"], takes=["inverted"])
def stochastic_depth(parts: Parts, setting: Shortcut) -> nn.Module:
    """F dropped by chance: y = x + b_l F(x), b_l from Bernoulli(p_l) in training; y = x + p_l F(x) in the test.

    Huang et al. 2016, "Deep networks with stochastic depth": p_l = 1 − (l/L)(1 − p_L) for the l-th of L units, and
    `rate` is 1 − p_L (0.5 there). One draw per unit for the whole batch, as there; with `training.accumulation` one per
    micro-batch. `inverted` divides by p_l in training instead (torchvision's and timm's form).

    Deviations: the F of a dropped unit is computed and multiplied by 0, so that the running averages of its BN move;
    there it is skipped.
    """
    assert setting.rate is not None
    survives = 1 - parts.index / parts.count * setting.rate
    return unit_of(parts, parts.shortcut, then(parts.branch, Survival(survives, inverted=setting.inverted)))


# ---- gates


@kind("squeeze_excitation", takes=["reduction"])
def squeeze_excitation(parts: Parts, setting: Shortcut) -> nn.Module:
    """A gate per channel at the end of F: y = x + s(F(x)) ⊙ F(x), s(u) = σ(W₂ ReLU(W₁ mean(u))).

    Hu, Shen and Sun 2018, "Squeeze-and-excitation networks": at the end of F, before the sum; W₁ narrows by `reduction`
    (16 there, and if not set).

    Deviations: at least one channel stays; W₁ and W₂ start as torch's linear layers do, their biases at 0.
    """
    reduction = setting.reduction or _USUAL_REDUCTION
    gate = SqueezeExcitation(parts.out_channels, reduction, parts.activation())
    return unit_of(parts, parts.shortcut, then(parts.branch, gate))


@kind("highway", needs=["bias"])
def highway(parts: Parts, setting: Shortcut) -> nn.Module:
    """A gate as deep as F: y = (1 − g(x)) ⊙ x + g(x) ⊙ F(x), the gate's last BN with the bias b = `bias` at the start.

    Srivastava, Greff and Schmidhuber 2015, "Highway networks", in the form in which R. K. Srivastava trained it in
    January 2025 against the paper's conclusion: F is conv BN ReLU conv BN ReLU, g is σ behind conv BN ReLU conv BN with
    b = −6, no ReLU follows the sum (`network.placement=relu_before_addition`), h is x itself or option B
    (`network.widening=B`). That run has 2,649,918 parameters (ours at width 14: 2,648,936), the residual network beside
    it 1,727,962; `cleanpath.nn.matching` finds the `network.inner` with as many.
    """
    if parts.network.normalisation == "none":
        raise SettingError("a highway gate has its bias in its last norm; network.normalisation=none leaves it out")
    assert setting.bias is not None
    return ExclusivelyGatedUnit(
        before=parts.before,
        gate=DeepGate(parts.layers, parts.network, in_channels=parts.in_channels, bias=setting.bias),
        shortcut=parts.shortcut,
        branch=parts.branch,
        after=parts.after,
    )


# ---- without a norm, or with one behind the sum


def _fixup_start(built: "ResNet", setting: Shortcut) -> None:  # noqa: ARG001
    """Biases in stem and head, F's layers at L^(−1/(2m−2)) of their start, its last layer and the classifier at 0."""
    for part in (built.stem, built.head):
        part.add_module("activation", _with_biases(part.get_submodule("activation")))
    *ahead, classifier = built.head.named_children()
    built.head = nn.Sequential(OrderedDict([*ahead, ("bias", Bias()), classifier]))
    units = built.units().values()
    with torch.no_grad():
        for unit in units:
            *layers, last = (part for part in unit.get_submodule("branch").modules() if isinstance(part, nn.Conv2d))
            last.weight.zero_()
            for layer in layers:
                layer.weight.mul_(len(units) ** (-1 / (2 * len(layers))))
        for parameter in classifier[1].parameters():
            parameter.zero_()


@kind("fixup", finish=_fixup_start)
def fixup(parts: Parts, setting: Shortcut) -> nn.Module:  # noqa: ARG001
    """No norm, but scalars: y = x + aF(x) + b, a scalar bias before every convolution, activation and the classifier.

    Zhang, Dauphin and Ma 2019, "Fixup initialization: residual learning without normalization": a starts at 1, biases
    at 0, F's last layer and the classifier at 0, F's other layers at L^(−1/(2m−2)) of their usual start, for L units of
    m layers. Where the width changes h and F share the bias of the first convolution, as in the authors' code.
    Needs `network.normalisation=none`; with `network.placement=original` it is the authors' unit.

    Deviations: all parameters have one learning rate; the authors' code gives biases and factors a tenth of it.
    """
    if parts.network.normalisation != "none":
        raise SettingError(
            f"fixup is for networks without a norm, and network.normalisation is {parts.network.normalisation}; "
            "set network.normalisation=none"
        )
    before = _with_biases(parts.before)
    (_, first), *layers = _with_biases(parts.branch).named_children()
    if parts.changes_width and layers[0][0] == "conv1":
        before = then(before, first)
    else:
        layers = [("bias1", first), *layers]
    layers.append(("scale", Multiplier(1.0, "a")))
    if not isinstance(parts.after, nn.Identity):
        layers.append(("bias", Bias()))  # before the ReLU after the sum, of which F is a part
    return unit_of(replace(parts, before=before), parts.shortcut, nn.Sequential(OrderedDict(layers)))


def _with_biases(module: nn.Module) -> nn.Module:
    """The operations with a scalar bias before every convolution and activation; an identity stays one."""
    if isinstance(module, nn.Identity):
        return module
    named = module.named_children() if isinstance(module, nn.Sequential) else [("activation", module)]
    found = OrderedDict[str, nn.Module]()
    for number, (name, part) in enumerate(named, start=1):
        found |= {f"bias{number}": Bias(), name: part}
    return nn.Sequential(found)


def _deepnorm_start(built: "ResNet", setting: Shortcut) -> None:  # noqa: ARG001
    units = built.units().values()
    with torch.no_grad():
        for unit in units:
            for part in unit.get_submodule("branch").modules():
                if isinstance(part, nn.Conv2d):
                    part.weight.mul_((4 * len(units)) ** (-1 / 4))


@kind("deepnorm", finish=_deepnorm_start)
def deepnorm(parts: Parts, setting: Shortcut) -> nn.Module:  # noqa: ARG001
    """A norm behind a sum that favours h: y = norm(αx + F(x)), α = (2N)^(1/4), F's layers at β = (8N)^(−1/4) of usual.

    Wang et al. 2022, "DeepNet: scaling transformers to 1,000 layers", the encoder's formula; a layer there has two
    residual units, so that 2N is the number of units. Needs a placement with a norm behind the sum: `post_norm`, which
    has no other, or `bn_after_addition`, where the BN within F undoes β on all layers but the last.

    Deviations: F is convolutional and the norm is the network's (`network.normalisation=layer` is nearest); β acts on
    all of F's layers, there on the feed-forward network and on the values and outputs of attention.
    """
    first = next(iter(parts.after.children()), parts.after)
    if not isinstance(first, nn.BatchNorm2d | nn.GroupNorm):
        raise SettingError(
            f"deepnorm normalises the sum, and network.placement={parts.network.placement} with "
            f"network.normalisation={parts.network.normalisation} has no norm there; set network.placement=post_norm"
        )
    return unit_of(parts, then(parts.shortcut, Scale(parts.count ** (1 / 4))), parts.branch)


# ---- what they are made of


class Multiplier(nn.Module):
    """αx with one learnt number α. Any shape."""

    def __init__(self, start: float, letter: str) -> None:
        super().__init__()
        self.letter, self.weight = letter, nn.Parameter(torch.full((), start))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x

    def in_words(self) -> str:
        """×α, whatever its letter."""
        return f"×{self.letter}"

    extra_repr = in_words


class BoundedMultiplier(Multiplier):
    """λx with λ the learnt number, or the end of [−1, 1] beyond which it lies; the gradient passes. Any shape."""

    def forward(self, x: Tensor) -> Tensor:
        beyond = (self.weight.clamp(-1, 1) - self.weight).detach()
        return (self.weight + beyond) * x

    def in_words(self) -> str:
        """×λ, and where it lies."""
        return f"×{self.letter} in [−1, 1]"


class Bias(nn.Module):
    """x + b with one learnt number b, 0 at the start. Any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias

    def in_words(self) -> str:
        """+b."""
        return "+b"


class ChannelScale(nn.Module):
    """diag(γ) x with one learnt γ per channel. (N, C, H, W) to the same."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x

    def in_words(self) -> str:
        """×γ."""
        return "×γ per channel"


class Survival(nn.Module):
    """bx, b = 1 with probability p and else 0, in training; px in the test; `inverted`: bx/p and x. Any shape."""

    def __init__(self, p: float, *, inverted: bool) -> None:
        super().__init__()
        self.p, self.inverted = p, inverted

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x if self.inverted else self.p * x
        survives = x.new_empty(()).bernoulli_(self.p)
        return survives / self.p * x if self.inverted else survives * x

    def in_words(self) -> str:
        """Its probability."""
        return f"×b, P(b=1) = {self.p:.3g}" + (" (inverted)" if self.inverted else "")

    extra_repr = in_words


class SqueezeExcitation(nn.Module):
    """s(x) ⊙ x, s(x) = σ(W₂ ReLU(W₁ mean(x))). (N, C, H, W) to the same."""

    def __init__(self, channels: int, reduction: int, activation: nn.Module) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.squeeze, self.activation, self.excite = (
            nn.Linear(channels, narrow),
            activation,
            nn.Linear(narrow, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(self.excite(self.activation(self.squeeze(x.mean(dim=(2, 3))))))
        return s[:, :, None, None] * x

    def in_words(self) -> str:
        """Its width."""
        return f"×σ(SE {self.squeeze.in_features}→{self.squeeze.out_features})"


class DeepGate(nn.Module):
    """g(x) = σ(G(x)), G the layers of F with a norm behind the last. (N, C, H, W) to (N, C', H', W'), in (0, 1)."""

    def __init__(self, layers: tuple[WeightLayer, ...], of: Network, *, in_channels: int, bias: float) -> None:
        super().__init__()
        self.layers = branch(layers, _GATE, of, in_channels=in_channels, lead=False)
        for start in self.gate_biases():
            nn.init.constant_(start, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(x))

    def gate_biases(self) -> tuple[nn.Parameter, ...]:
        """β of the last norm, which `training.decay_on` may leave without decay."""
        return (bias_of(self.layers[-1]),)

    def in_words(self) -> str:
        """σ of its layers."""
        return f"σ({describe(self.layers)})"
