"""How units lie in a network: none at all, nested, shared, long, between streams, in time."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, Unit, conv, image, images, mlp, norm_mlp, post_branch, sequence, vector, vectors

MLP = names(2, "branch.0", "branch.2")


class DenseLayer(nn.Module):
    """y = [x, conv relu BN x]: concatenation."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), conv(inside, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], dim=1)


class Weightless(nn.Module):
    """u = W x; y = u + tanh(u): a sum whose branch holds no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        u: Tensor = self.first(x)
        return u + torch.tanh(u)


class Attended(nn.Module):
    """y = x ⊙ σ(W x): a product of two paths, no sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.first(x))


class LongSkips(nn.Module):
    """d1 = enc x, d2 = down d1, m = mid(down d2); s2 = d2 + up m; s1 = d1 + up(dec s2): an additive U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mid = nn.Sequential(conv(4, 4), nn.ReLU()), nn.Sequential(conv(8, 8), nn.ReLU())
        self.down_1, self.down_2 = (
            nn.Sequential(conv(inside, out, stride=2), nn.ReLU()) for inside, out in ((4, 4), (4, 8))
        )
        self.up_2 = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.dec = nn.Sequential(conv(4, 4), nn.ReLU())
        self.up_1 = nn.Sequential(nn.Upsample(scale_factor=2), conv(4, 4))

    def join(self, skip: Tensor, rising: Tensor) -> Tensor:
        return skip + rising

    def forward(self, x: Tensor) -> Tensor:
        high = self.enc(x)
        low = self.down_1(high)
        low = self.join(low, self.up_2(self.mid(self.down_2(low))))
        return self.join(high, self.up_1(self.dec(low)))


class LongConcatenations(LongSkips):
    """The same U-Net; each skip is [skip, rising] and a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 4, 1)

    def join(self, skip: Tensor, rising: Tensor) -> Tensor:
        return self.mix(torch.cat([skip, rising], dim=1))


class Denoiser(nn.Module):
    """y = x - W2 units(W1 x): the image less the predicted noise; two units inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 4), conv(4, 3)
        self.units = nn.Sequential(*(Unit(post_branch(4, 4)) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.last(self.units(self.first(x)))


class Exchange(nn.Module):
    """Two resolutions: a = unit(x), b = unit(down x); then a' = relu(a + up P b), b' = relu(Q a + b); y = [a', up b']."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(4, 8, stride=2), nn.ReLU())
        self.high, self.low = Unit(post_branch(4, 4), after=nn.ReLU()), Unit(post_branch(8, 8), after=nn.ReLU())
        self.fuse = Fusion()

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(self.high(x), self.low(self.down(x)))


class Fusion(nn.Module):
    """a' = relu(a + up P b), b' = relu(Q a + b); returns [a', up b']."""

    def __init__(self) -> None:
        super().__init__()
        self.rise, self.fall = nn.Conv2d(8, 4, 1), conv(4, 8, stride=2)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        raised = torch.relu(high + nnf.interpolate(self.rise(low), scale_factor=2))
        lowered = torch.relu(self.fall(high) + low)
        return torch.cat([raised, nnf.interpolate(lowered, scale_factor=2)], dim=1)


class Reparameterised(nn.Module):
    """y = relu(BN conv3 x + BN conv1 x + BN x)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(conv(4, 4), nn.BatchNorm2d(4))
        self.narrow = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.kept = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.wide(x) + self.narrow(x) + self.kept(x))


class HyperConnection(nn.Module):
    """Streams h_i, i < 3: h'_i = Σ_j A_ij h_j + β_i F(Σ_j α_j h_j); A, α, β learned."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.mix = norm_mlp(), nn.Parameter(torch.eye(3) + 0.1)
        self.read, self.write = nn.Parameter(torch.full((3,), 0.3)), nn.Parameter(torch.ones(3))

    def forward(self, streams: Tensor) -> Tensor:
        out = self.branch(torch.einsum("j,j...->...", self.read, streams))
        return torch.einsum("ij,j...->i...", self.mix, streams) + torch.einsum("i,...->i...", self.write, out)


class HyperConnected(nn.Module):
    """x copied to three streams; two hyper-connections; the sum of the streams."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(HyperConnection(), HyperConnection())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.expand(3, *x.shape)).sum(0)


class Reversible(nn.Module):
    """x = [a, b]; a' = a + F(b); b' = b + G(a'); y = [a', b']."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(WIDTH // 2), mlp(WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        a = a + self.first(b)
        b = b + self.second(a)
        return torch.cat([a, b], dim=-1)


class AffineCoupling(nn.Module):
    """x = [a, b]; y = [b exp(tanh S a) + T a, a]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = mlp(WIDTH // 2), mlp(WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        b = b * torch.exp(torch.tanh(self.scale(a))) + self.shift(a)
        return torch.cat([b, a], dim=-1)


class RecurrentBranch(nn.Module):
    """y = x + W LSTM(LN x)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.lstm = nn.LayerNorm(WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.lstm(self.norm(x))[0])


class ResidualCell(nn.Module):
    """h_0 = x_0; h_t = h_{t-1} + tanh(W h_{t-1} + U x_t) for t = 1 to 4; y = h_4."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.entry = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.unbind(1)
        state = first
        for step in rest:
            state = state + torch.tanh(self.state(state) + self.entry(step))
        return state


class GatedCell(nn.Module):
    """h_0 = x_0; z = σ(Z [h, x]); h_t = z ⊙ h_{t-1} + (1 − z) ⊙ tanh(W [h, x]) for t = 1 to 4; y = h_4."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.state = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.unbind(1)
        state = first
        for step in rest:
            both = torch.cat([state, step], dim=-1)
            gate = torch.sigmoid(self.gate(both))
            state = gate * state + (1 - gate) * torch.tanh(self.state(both))
        return state


def shared_branch() -> nn.Module:
    """Three units around one and the same F."""
    branch = norm_mlp()
    return vectors(*(Unit(branch) for _ in range(3)))


def plain_network() -> nn.Module:
    """conv, BN, ReLU, three times, with a max pool: VGG."""
    return images(
        *(nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)),
        nn.MaxPool2d(2),
        nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()),
    )


def dense_network() -> nn.Module:
    """Three concatenating layers and a transition."""
    transition = nn.Sequential(nn.Conv2d(16, 8, 1), nn.AvgPool2d(2))
    return images(DenseLayer(4), DenseLayer(8), DenseLayer(12), transition, out=8)


def _none(
    name: str,
    build: Callable[[], nn.Module],
    inputs: Callable[[], tuple[object, ...]],
    note: str = "",
    *,
    says: tuple[str, ...] = (),
) -> Case:
    return Case(name=name, build=build, inputs=inputs, units=0, h=(), f=(), says=says, note=note)


CASES = (
    _none("plain_vgg", plain_network, image),
    _none("dense_concatenation", dense_network, image, says=("concat",)),
    _none("unet_with_concatenated_skips", lambda: images(LongConcatenations()), image, says=("concat",)),
    _none(
        "branch_without_weights",
        lambda: vectors(Weightless(), Weightless(), Weightless()),
        vector,
        "The weights stand before the fork, on the trunk; between fork and sum there are none.",
    ),
    _none("product_of_two_paths", lambda: vectors(Attended(), Attended()), vector, "No sum, hence no unit."),
    Case(
        name="unet_with_additive_skips",
        build=lambda: images(LongSkips()),
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        parents=(1, None),
        branch=(
            ("units.0.down_2.0", "units.0.mid.0", "units.0.up_2"),
            ("units.0.down_1.0", "units.0.dec.0", "units.0.up_1.1"),
        ),
        note="A long skip is a unit like any other: fork, identity, a deep branch; the inner lies in the outer's F. "
        "The decoder after the inner sum is the outer's F, not the inner's f.",
    ),
    Case(
        name="image_less_noise",
        build=Denoiser,
        inputs=image,
        units=3,
        h=("identity",) * 3,
        f=("nothing",) * 3,
        parents=(2, 2, None),
        branch=(
            *names(2, "branch.0", "branch.1", "branch.3", "branch.4"),
            ("first", "last"),
        ),
        note="The outer fork is the network's input itself.",
    ),
    Case(
        name="shared_branch",
        build=shared_branch,
        inputs=vector,
        units=3,
        h=("identity",) * 3,
        f=("nothing",) * 3,
        branch=(("units.0.branch.0", "units.0.branch.1", "units.0.branch.3"),) * 3,
        note="Three sums are three units; their one branch bears its first name.",
    ),
    Case(
        name="exchange_between_resolutions",
        build=lambda: images(Exchange(), out=12),
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("relu", "relu"),
        branch=(
            tuple(f"units.0.high.branch.{i}" for i in (0, 1, 3, 4)),
            tuple(f"units.0.low.branch.{i}" for i in (0, 1, 3, 4)),
        ),
        not_seen=("fuse",),
        note="Both operands of a + up P b hold weights since their common fork x (a is a unit's output), and neither is "
        "a lone projection: no unit by the definition, but no silence either: the two sums in `fuse` are reported.",
    ),
    Case(
        name="reparameterised_branches",
        build=lambda: images(Reparameterised(), Reparameterised()),
        inputs=image,
        units=2,
        h=("other", "other"),
        f=("relu", "relu"),
        branch=names(2, "wide.0", "wide.1", "narrow.0", "narrow.1"),
        shortcut=names(2, "kept"),
        not_seen=("units.0", "units.1"),
        or_not_seen=True,
        note="The simplest of three operands is BN x, a normalisation: h is `other`; both convolutions are F. One may "
        "also say that one is unsure which of the three is h.",
    ),
    Case(
        name="hyper_connections",
        build=lambda: vectors(HyperConnected()),
        inputs=sequence,
        units=2,
        h=("other", "other"),
        f=("nothing", "nothing"),
        branch=names(1, "layers.0.branch.0", "layers.0.branch.1", "layers.0.branch.3")
        + names(1, "layers.1.branch.0", "layers.1.branch.1", "layers.1.branch.3"),
        not_seen=("layers",),
        or_not_seen=True,
        or_h=("projection", "projection"),
        or_f=("nothing", "nothing"),
        note="h mixes the streams by a learned 3x3 matrix: linear and small, but no identity. The final sum over "
        "streams has one operand: not a unit.",
    ),
    Case(
        name="reversible",
        build=lambda: vectors(Reversible(), Reversible()),
        inputs=vector,
        units=4,
        h=("identity_slice", "identity", "identity_slice", "identity"),
        f=("nothing",) * 4,
        branch=tuple(
            layers
            for i in range(2)
            for layers in ((f"units.{i}.first.0", f"units.{i}.first.2"), (f"units.{i}.second.0", f"units.{i}.second.2"))
        ),
        not_seen=("units.0", "units.1"),
        or_not_seen=True,
        or_h=("identity_slice",) * 4,
        or_f=("nothing",) * 4,
        note="a + F(b): a and b meet first in x, of which a is a slice. b + G(a'): b itself lies in a' = a + F(b), so "
        "the fork is b and h an identity; seen from x it is a slice.",
    ),
    Case(
        name="affine_coupling",
        build=lambda: vectors(AffineCoupling(), AffineCoupling()),
        inputs=vector,
        units=2,
        h=("gate", "gate"),
        f=("nothing", "nothing"),
        branch=names(2, "shift.0", "shift.2"),
        not_seen=("units.0", "units.1"),
        or_not_seen=True,
        note="A slice of x times a learned function of x: what a gate is, though exp is unbounded.",
    ),
    Case(
        name="lstm_in_branch",
        build=lambda: vectors(RecurrentBranch(), RecurrentBranch()),
        inputs=sequence,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        branch=names(2, "norm", "lstm", "out"),
        note="c = f ⊙ c + i ⊙ g is computed inside one torch function, the LSTM: one layer of F, not a unit per step.",
    ),
    Case(
        name="residual_recurrent_cell",
        build=lambda: vectors(ResidualCell()),
        inputs=sequence,
        units=4,
        h=("identity",) * 4,
        f=("nothing",) * 4,
        branch=(("units.0.state", "units.0.entry"),) * 4,
        note="W h + U x_t sums two weighted branches, inside F; four steps are four units of the same weights.",
    ),
    Case(
        name="gated_recurrent_cell",
        build=lambda: vectors(GatedCell()),
        inputs=sequence,
        units=4,
        h=("gate",) * 4,
        f=("nothing",) * 4,
        branch=(("units.0.state",),) * 4,
        shortcut=(("units.0.gate",),) * 4,
        note="An update gate is exclusive gating along time.",
    ),
)
