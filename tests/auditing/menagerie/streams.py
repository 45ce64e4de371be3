"""Several streams, in space or in time: fusions, parallel forms, coupled halves, recurrent cells."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, Unit, conv, image, images, mlp, norm_mlp, post_branch, sequence, vector, vectors


class Exchange(nn.Module):
    """Two resolutions: a = unit(x), b = unit(down x); then the fusion of a and b."""

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


CASES = (
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
        note="Both operands of a + up P b hold weights since their common fork x (a is a unit's output); neither is a "
        "lone projection. No unit by the definition, but no silence either: the two sums in `fuse` are reported.",
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
        or_h=("identity_slice", "identity", "identity", "identity"),
        or_f=("nothing",) * 4,
        note="W h + U x_t sums two weighted branches, inside F; four steps are four units of the same weights. Seen "
        "from x, which the first two states share, h_0 = x_0 is a slice.",
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
