"""One case per way of writing the sum. Two units on (4, 8); F is Linear, ReLU, Linear; f is nothing."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, mlp, normal, sequence, vector, vectors

Join = Callable[[Tensor, Tensor], Tensor]


class Joined(nn.Module):
    """y = join(x, F(x))."""

    def __init__(self, join: Join, branch: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = mlp() if branch is None else branch
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.branch(x))


def plain(x: Tensor, branch: Tensor) -> Tensor:
    """y = x + F."""
    return x + branch


def in_place(x: Tensor, branch: Tensor) -> Tensor:
    """y = F + x, written over F (`out += identity`)."""
    branch += x
    return branch


def in_place_on_stream(x: Tensor, branch: Tensor) -> Tensor:
    """y = x + F, written over x."""
    x += branch
    return x


def alpha_on_branch(x: Tensor, branch: Tensor) -> Tensor:
    """y = x + 0.5 F; the factor hides in `alpha`, on the branch."""
    return torch.add(x, branch, alpha=0.5)


def alpha_on_stream(x: Tensor, branch: Tensor) -> Tensor:
    """y = F + 0.5 x, in place; the factor hides in `alpha`, on the shortcut."""
    return branch.add_(x, alpha=0.5)


def minus(x: Tensor, branch: Tensor) -> Tensor:
    """y = x - F."""
    return x - branch


def reversed_minus(x: Tensor, branch: Tensor) -> Tensor:
    """y = x - F, from F's side."""
    return torch.rsub(branch, x)


def minus_stream(x: Tensor, branch: Tensor) -> Tensor:
    """y = F - x."""
    return branch - x


def lerp(x: Tensor, branch: Tensor) -> Tensor:
    """y = 0.75 x + 0.25 F."""
    return torch.lerp(x, branch, 0.25)


def lerp_to_stream(x: Tensor, branch: Tensor) -> Tensor:
    """y = 0.75 F + 0.25 x."""
    return torch.lerp(branch, x, 0.25)


def stack_sum(x: Tensor, branch: Tensor) -> Tensor:
    """y = x + F as a reduction."""
    return torch.stack([x, branch]).sum(0)


def cat_sum(x: Tensor, branch: Tensor) -> Tensor:
    """y = x + F: laid side by side, then reduced through a view."""
    return torch.cat([x, branch], dim=1).view(-1, 2, WIDTH).sum(1)


def sum_of_list(x: Tensor, branch: Tensor) -> Tensor:
    """y = 0 + x + F."""
    return torch.as_tensor(sum([x, branch]))


def on_view(x: Tensor, branch: Tensor) -> Tensor:
    """y = x + F, in place on a view of a copy of x."""
    y = x.clone()
    y.view(-1, 2, WIDTH // 2).add_(branch.view(-1, 2, WIDTH // 2))
    return y


def on_slice(x: Tensor, branch: Tensor) -> Tensor:
    """y[:, :4] = x[:, :4] + F[:, :4]; y[:, 4:] = x[:, 4:]."""
    y = x.clone()
    y[:, : WIDTH // 2] += branch[:, : WIDTH // 2]
    return y


class LayerScaled(nn.Module):
    """y = x + γ ⊙ F(x) in one fused operation; γ has one entry per feature."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.gamma = mlp(), nn.Parameter(torch.full((WIDTH,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, self.branch(x), self.gamma)


class LearnedScalarFused(nn.Module):
    """y = F(x) + λ x in one fused operation; λ is one learned number, now 0.75."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.factor = mlp(), nn.Parameter(torch.tensor(0.75))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.branch(x), x, self.factor)


class DividedFused(nn.Module):
    """y = x + F(x) / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x)
        return torch.addcdiv(x, out, torch.full_like(out, 2.0))


class MatrixBias(nn.Module):
    """y = x + relu(U x) W: the stream is the bias of the product."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(normal(WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(x, torch.relu(self.up(x)), self.weight)


class BatchedMatrixBias(nn.Module):
    """y = x + softmax(q k') v: the stream is the bias of attention's last product."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1)
        return torch.baddbmm(x, weights, self.v(x))


class Gathered(nn.Module):
    """y[s] = x[s] + 2 F(x[s]) for a random half s of the batch, y = x elsewhere: drop-path by gathering."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.randperm(len(x))[: len(x) // 2]
        return torch.index_add(x, 0, kept, self.branch(x[kept]), alpha=2)


class Scattered(nn.Module):
    """y[s] = x[s] + F(x[s]) for the first half s of the batch, y = x elsewhere, by accumulation."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.arange(len(x) // 2)
        return x.index_put((kept,), self.branch(x[kept]), accumulate=True)


class Contracted(nn.Module):
    """y = x + W2 relu(W1 x); both products are einsum over raw parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(normal(WIDTH, WIDTH) / 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("...i,ij->...j", x, self.first))
        return x + torch.einsum("...i,ij->...j", hidden, self.second)


class Parallel(nn.Module):
    """y = (A(x) + B(x)) + x: two weighted branches, summed first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x) + x


class ThreeWay(nn.Module):
    """y = x + A(x) + B(x): the stream first, then two weighted branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.first(x) + self.second(x)


MLP = names(2, "branch.0", "branch.2")
BOTH = names(2, "first.0", "first.2", "second.0", "second.2")
TWO_IDENTITIES = ("identity", "identity")
NO_AFTER = ("nothing", "nothing")


def _joined(name: str, first: Join, second: Join | None = None, note: str = "") -> Case:
    return Case(
        name=name,
        build=lambda: vectors(Joined(first), Joined(second or first)),
        inputs=vector,
        units=2,
        h=TWO_IDENTITIES,
        f=NO_AFTER,
        branch=MLP,
        note=note,
    )


def _scaled(name: str, build: Callable[[], nn.Module], factor: float, note: str = "") -> Case:
    return Case(
        name=name,
        build=lambda: vectors(build(), build()),
        inputs=vector,
        units=2,
        h=("scaling", "scaling"),
        f=NO_AFTER,
        scale=(factor, factor),
        branch=MLP,
        note=note,
    )


def _written(
    name: str,
    build: Callable[[], nn.Module],
    branch: tuple[tuple[str, ...], ...],
    note: str = "",
    *,
    time: bool = False,
) -> Case:
    return Case(
        name=name,
        build=lambda: vectors(build(), build()),
        inputs=sequence if time else vector,
        units=2,
        h=TWO_IDENTITIES,
        f=NO_AFTER,
        branch=branch,
        note=note,
    )


def _on_stream() -> nn.Module:
    """The branch starts with a ReLU, whose backward does not need the overwritten x."""
    return vectors(*(Joined(in_place_on_stream, nn.Sequential(nn.ReLU(), mlp())) for _ in range(2)))


CASES = (
    _joined("add", plain),
    _joined("add_in_place", in_place),
    Case(
        name="add_in_place_on_stream",
        build=_on_stream,
        inputs=vector,
        units=2,
        h=TWO_IDENTITIES,
        f=NO_AFTER,
        branch=names(2, "branch.1.0", "branch.1.2"),
    ),
    _joined("add_alpha_on_branch", alpha_on_branch, note="The factor stands on F; h is untouched."),
    _scaled("add_in_place_alpha_on_stream", lambda: Joined(alpha_on_stream), 0.5),
    _joined("sub", minus, reversed_minus),
    _scaled("sub_stream", lambda: Joined(minus_stream), -1.0, "h = −x is a scaling by −1, not an identity."),
    _scaled("lerp", lambda: Joined(lerp), 0.75),
    _scaled("lerp_towards_stream", lambda: Joined(lerp_to_stream), 0.25),
    _written("addcmul_layer_scale", LayerScaled, MLP),
    _scaled(
        "addcmul_learned_scalar_on_stream",
        LearnedScalarFused,
        0.75,
        "A learned single number is a scaling; λ is its present value.",
    ),
    _written("addcdiv", DividedFused, MLP),
    _joined("stack_sum", stack_sum),
    Case(
        name="cat_view_sum",
        build=lambda: vectors(Joined(cat_sum), Joined(cat_sum)),
        inputs=vector,
        units=2,
        h=TWO_IDENTITIES,
        f=NO_AFTER,
        branch=MLP,
        not_seen=("cat",),
        or_not_seen=True,
        note="A sum through concatenation, view and reduction: the operands are only seen by following the layout.",
    ),
    _joined("sum_of_list", sum_of_list, note="The leading 0 + x has one live operand: not a sum."),
    _joined("add_on_view", on_view),
    _joined("add_on_slice", on_slice, note="The other half of x passes untouched, so h is the identity of all of x."),
    _written("addmm", MatrixBias, names(2, "up")),
    _written("baddbmm", BatchedMatrixBias, names(2, "q", "k", "v"), time=True),
    _written("index_add_drop_path", Gathered, MLP, "h is the identity for the rows left out, too."),
    _written("index_put_accumulate", Scattered, MLP),
    _written(
        "einsum_branch", Contracted, (), "The weights belong to the unit itself: no module to name in the branch."
    ),
    _written("three_way_sum", ThreeWay, BOTH, "Parallel weighted branches belong to F: one unit, not two."),
    _written("parallel_branches_first", Parallel, BOTH, "A(x) + B(x) has no shortcut; it is inside F."),
)
