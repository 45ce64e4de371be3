"""Kinds of h: what the shortcut may be, and what may scale, gate or drop it or the branch."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, Unit, conv, image, images, mlp, norm_mlp, post_branch, pre_branch, vector, vectors

MLP = names(2, "branch.0", "branch.2")
POST = ("branch.0", "branch.1", "branch.3", "branch.4")


class StrideAndPad(nn.Module):
    """Every second pixel; zeros on both sides of the channels (option A, `F.pad`)."""

    def forward(self, x: Tensor) -> Tensor:
        return nnf.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))


class StrideAndConcatenate(nn.Module):
    """Every second pixel; zeros behind the channels (option A, `torch.cat`)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], dim=1)


class EverySecond(nn.Module):
    """Every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


class Crop(nn.Module):
    """All but the border of two pixels, which two unpadded 3x3 convolutions lose."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 2:-2, 2:-2]


class FirstChannels(nn.Module):
    """The first two channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(1, 0, 2)


class SharedPreActivation(nn.Module):
    """u = relu(BN(x)); y = P u + conv(relu(BN(conv u))): changes the width in a pre-activation network."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        self.shortcut = nn.Conv2d(inside, out, 1, stride=2, bias=False)
        self.branch = nn.Sequential(conv(inside, out, stride=2), nn.BatchNorm2d(out), nn.ReLU(), conv(out, out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.shortcut(x) + self.branch(x)


class Scaled(nn.Module):
    """y = λ x + μ F(x), λ and μ constants; `divided` writes x / (1/λ)."""

    def __init__(self, shortcut: float, branch: float = 1.0, *, divided: bool = False) -> None:
        super().__init__()
        self.scale, self.branch_scale, self.divided, self.branch = shortcut, branch, divided, mlp()

    def forward(self, x: Tensor) -> Tensor:
        scaled = x / (1 / self.scale) if self.divided else self.scale * x
        return scaled + self.branch_scale * self.branch(x)


class LearnedShortcut(nn.Module):
    """y = λ x + F(x), λ a learned number."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.factor, self.branch = nn.Parameter(torch.tensor(start)), mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x + self.branch(x)


class LearnedBranch(nn.Module):
    """y = x + α F(x), α learned, of any shape: ReZero and SkipInit (one 0), LayerScale (a small vector)."""

    def __init__(self, start: Tensor, branch: nn.Module) -> None:
        super().__init__()
        self.alpha, self.branch = nn.Parameter(start), branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.branch(x)


class Highway(nn.Module):
    """g = σ(G x); y = (1 − g) ⊙ x + g ⊙ F(x): exclusive gating."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.branch = nn.Linear(WIDTH, WIDTH), mlp()

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return (1 - gate) * x + gate * self.branch(x)


class HighwayLerp(Highway):
    """g = σ(G x); y = lerp(x, F(x), g): exclusive gating in one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.lerp(x, self.branch(x), torch.sigmoid(self.gate(x)))


class ShortcutGate(Highway):
    """g = σ(G x); y = (1 − g) ⊙ x + F(x): shortcut-only gating."""

    def forward(self, x: Tensor) -> Tensor:
        return (1 - torch.sigmoid(self.gate(x))) * x + self.branch(x)


class MaskedShortcut(nn.Module):
    """y = m ⊙ x + F(x), m of zeros and ones, drawn at each call and not rescaled: the paper's dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full_like(x, 0.5)) + self.branch(x)


class DropPath(nn.Module):
    """y = x + m F(x) / p, one m of 0 or 1 per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        kept = x.new_empty(len(x), 1).bernoulli_(0.75)
        return x + self.branch(x) * kept / 0.75


class Excited(nn.Module):
    """y = relu(x + s(u) ⊙ u), u = conv-BN-ReLU-conv-BN of x, s = σ(W2 relu(W1 mean u)): squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = post_branch(4, 4)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(out.mean((2, 3), keepdim=True)))))
        return torch.relu(x + out * scale)


def bottleneck(inside: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """1x1, 3x3, 1x1 with BN after each and ReLU between: weights in 0, 1, 3, 4, 6 and 7."""
    return nn.Sequential(
        *(nn.Conv2d(inside, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU()),
        *(conv(2, 2, stride=stride), nn.BatchNorm2d(2), nn.ReLU()),
        *(nn.Conv2d(2, out, 1, bias=False), nn.BatchNorm2d(out)),
    )


def projection(inside: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """1x1 convolution and BN."""
    return nn.Sequential(nn.Conv2d(inside, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))


def bottlenecks() -> nn.Module:
    """Two stages of two bottleneck units; the first of each stage has a projection with BN; ReLU after each sum."""
    return images(
        Unit(bottleneck(4, 8), projection(4, 8), nn.ReLU()),
        Unit(bottleneck(8, 8), after=nn.ReLU()),
        Unit(bottleneck(8, 16, stride=2), projection(8, 16, stride=2), nn.ReLU()),
        Unit(bottleneck(16, 16), after=nn.ReLU()),
        out=16,
    )


def bare_projection() -> nn.Module:
    """Full pre-activation, two stages of two units; the width changes by a bare 1x1 convolution of u."""
    return images(
        Unit(pre_branch(4, 4)), Unit(pre_branch(4, 4)), SharedPreActivation(4, 8), Unit(pre_branch(8, 8)), out=8
    )


def change_by(shortcut: Callable[[], nn.Module], out: int = 8) -> Callable[[], nn.Module]:
    """Three original units; the second halves the map, with `shortcut`; ReLU after each sum."""
    return lambda: images(
        Unit(post_branch(4, 4), after=nn.ReLU()),
        Unit(post_branch(4, out, stride=2), shortcut(), nn.ReLU()),
        Unit(post_branch(out, out), after=nn.ReLU()),
        out=out,
    )


def sliced() -> nn.Module:
    """x without its border + F, every second pixel of x + F, the first two channels of x + F."""
    return images(
        Unit(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), Crop()),
        Unit(post_branch(4, 4, stride=2), EverySecond()),
        Unit(post_branch(4, 2), FirstChannels()),
        out=2,
    )


def zero_last() -> nn.Module:
    """y = relu(x + F(x)); the last BN of each F has γ = 0, so F = 0."""
    units = tuple(Unit(post_branch(4, 4), after=nn.ReLU()) for _ in range(2))
    for unit in units:
        nn.init.zeros_(unit.branch.get_parameter("4.weight"))
    return images(*units)


def _two(
    name: str,
    build: Callable[[], nn.Module],
    kind: str,
    *,
    branch: tuple[tuple[str, ...], ...] = MLP,
    shortcut: tuple[tuple[str, ...], ...] = (),
    note: str = "",
) -> Case:
    return Case(
        name=name,
        build=lambda: vectors(build(), build()),
        inputs=vector,
        units=2,
        h=(kind, kind),
        f=("nothing", "nothing"),
        branch=branch,
        shortcut=shortcut,
        note=note,
    )


def _scaling(name: str, scale: tuple[float, float], build: Callable[[], nn.Module], note: str = "") -> Case:
    return Case(
        name=name,
        build=build,
        inputs=vector,
        units=2,
        h=("scaling", "scaling"),
        f=("nothing", "nothing"),
        scale=scale,
        branch=MLP,
        note=note,
    )


def _change(name: str, shortcut: Callable[[], nn.Module], kind: str, *, out: int = 8, note: str = "") -> Case:
    return Case(
        name=name,
        build=change_by(shortcut, out),
        inputs=image,
        units=3,
        h=("identity", kind, "identity"),
        f=("relu",) * 3,
        branch=names(3, *POST),
        note=note,
    )


CASES = (
    Case(
        name="bottlenecks_with_projections",
        build=bottlenecks,
        inputs=image,
        units=4,
        h=("projection", "identity", "projection", "identity"),
        f=("relu",) * 4,
        branch=names(4, *(f"branch.{i}" for i in (0, 1, 3, 4, 6, 7))),
        shortcut=(("units.0.shortcut.0", "units.0.shortcut.1"), (), ("units.2.shortcut.0", "units.2.shortcut.1"), ()),
        note="ReLU follows every sum, so it is f at the width change and before the head, too.",
    ),
    Case(
        name="projection_without_bn",
        build=bare_projection,
        inputs=image,
        units=4,
        h=("identity", "identity", "projection", "identity"),
        f=("nothing",) * 4,
        shortcut=((), (), ("units.2.shortcut",), ()),
        note="BN-ReLU before the projection stands on the trunk at the width change only: `before`, not f.",
    ),
    _change("identity_pad", StrideAndPad, "identity_pad"),
    _change("identity_pad_by_cat", StrideAndConcatenate, "identity_pad"),
    _change("average_pool_shortcut", lambda: nn.AvgPool2d(2), "other", out=4, note="A mean of pixels is no slice."),
    _change("max_pool_shortcut", lambda: nn.MaxPool2d(2), "other", out=4, note="A maximum of pixels is no slice."),
    _change(
        "average_pool_projection",
        lambda: nn.Sequential(nn.AvgPool2d(2), projection(4, 8)),
        "projection",
        note="One convolution makes it a projection, whatever pools before it.",
    ),
    Case(
        name="identity_slice",
        build=sliced,
        inputs=image,
        units=3,
        h=("identity_slice",) * 3,
        f=("nothing",) * 3,
        branch=(
            ("units.0.branch.0", "units.0.branch.2"),
            *(tuple(f"units.{i}.{part}" for part in POST) for i in (1, 2)),
        ),
    ),
    _scaling("constant_scaling", (0.5, 0.25), lambda: vectors(Scaled(0.5), Scaled(0.25, divided=True))),
    _scaling("constant_scaling_of_both", (0.5, 0.5), lambda: vectors(Scaled(0.5, 0.5), Scaled(0.5, 0.5))),
    _scaling(
        "scaling_by_zero",
        (0.0, 0.0),
        lambda: vectors(Scaled(0.0), Scaled(0.0)),
        "The paper's plain network as row 2 of its Table 1: the path is there and carries 0.",
    ),
    _scaling(
        "learned_scalar_on_shortcut",
        (1.15, 0.9),
        lambda: vectors(LearnedShortcut(1.15), LearnedShortcut(0.9)),
        "A learned number that does not depend on x is a scaling; λ is its present value.",
    ),
    _two(
        "rezero",
        lambda: LearnedBranch(torch.zeros(()), mlp()),
        "identity",
        note="F = 0 at the start; the sum is in the graph all the same.",
    ),
    _two(
        "layer_scale",
        lambda: LearnedBranch(torch.full((WIDTH,), 1e-4), norm_mlp()),
        "identity",
        branch=names(2, "branch.0", "branch.1", "branch.3"),
    ),
    Case(
        name="skip_init",
        build=lambda: images(
            *(LearnedBranch(torch.zeros(1), nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 4))) for _ in range(2))
        ),
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        branch=MLP,
    ),
    Case(
        name="zero_initialised_branch",
        build=zero_last,
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("relu", "relu"),
        branch=names(2, *POST),
        note="F = 0: found from the graph, not from values.",
    ),
    _two("exclusive_gate", Highway, "gate", shortcut=names(2, "gate"), note="The gate belongs to both paths."),
    _two("exclusive_gate_by_lerp", HighwayLerp, "gate", note="lerp whose weight is a tensor computed from x."),
    _two("shortcut_only_gate", ShortcutGate, "gate", shortcut=names(2, "gate")),
    _two("dropout_shortcut", lambda: Unit(mlp(), nn.Dropout(0.5)), "dropout"),
    _two(
        "dropout_shortcut_by_mask",
        MaskedShortcut,
        "dropout",
        note="A product with a random mask of zeros and ones that does not depend on x: dropout, not a gate.",
    ),
    _two("drop_path", DropPath, "identity", note="The mask stands on F."),
    Case(
        name="squeeze_and_excitation",
        build=lambda: images(Excited(), Excited()),
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("relu", "relu"),
        branch=names(2, *POST, "squeeze", "excite"),
        note="The gate multiplies F, not the shortcut.",
    ),
)
