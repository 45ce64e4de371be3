"""Custom autograd functions: a branch that is one opaque node, and a fused addition and normalisation."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from typing import Protocol

import torch
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, mlp, normal, sequence, vectors

EPSILON = 1e-6


class Context(Protocol):
    """What torch hands to a custom function."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class SquaredLinear(torch.autograd.Function):
    """y = (x W')²."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor) -> Tensor:
        product = x @ weight.T
        ctx.save_for_backward(x, weight, product)
        return product.square()

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, product = ctx.saved_tensors
        inner = 2 * product * grad
        return inner @ weight, inner.flatten(0, -2).T @ x.flatten(0, -2)


class AddNorm(torch.autograd.Function):
    """s = x + F; returns (γ ⊙ s / rms(s), s): the fused kernel of inference servers, with its derivative."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, branch: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total = x + branch
        inverse = torch.rsqrt(total.square().mean(-1, keepdim=True) + EPSILON)
        ctx.save_for_backward(total, inverse, weight)
        return total * inverse * weight, total

    @staticmethod
    def backward(ctx: Context, grad_norm: Tensor, grad_total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total, inverse, weight = ctx.saved_tensors
        scaled = grad_norm * weight
        along = (scaled * total).mean(-1, keepdim=True)
        grad = grad_total + inverse * scaled - total * inverse**3 * along
        return grad, grad, (grad_norm * total * inverse).flatten(0, -2).sum(0)


class FunctionUnit(nn.Module):
    """y = x + B (A x)², (A x)² in a custom function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(normal(WIDTH, WIDTH) / 4), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        squared: Tensor = SquaredLinear.apply(x, self.weight)
        return x + self.out(squared)


class BareFunctionUnit(nn.Module):
    """y = x + (A x)², the whole branch in a custom function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        squared: Tensor = SquaredLinear.apply(x, self.weight)
        return x + squared


class FusedStack(nn.Module):
    """s_0 = x, n_0 = γ_0 ⊙ s_0 / rms(s_0); (n_{i+1}, s_{i+1}) = add_norm(s_i, MLP_i(n_i), γ_{i+1}); y = n_2."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layers = nn.RMSNorm(WIDTH), nn.ModuleList(mlp() for _ in range(2))
        self.weights = nn.ParameterList(torch.ones(WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x)
        for layer, weight in zip(self.layers, self.weights, strict=True):
            normalised, x = AddNorm.apply(x, layer(normalised), weight)
        return normalised


CASES = (
    Case(
        name="custom_function_in_branch",
        build=lambda: vectors(FunctionUnit(), FunctionUnit()),
        inputs=sequence,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        branch=names(2, "out"),
    ),
    Case(
        name="custom_function_is_branch",
        build=lambda: vectors(BareFunctionUnit(), BareFunctionUnit()),
        inputs=sequence,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        note="The only weights enter through the custom node; they belong to the unit's own module.",
    ),
    Case(
        name="fused_add_and_norm",
        build=lambda: vectors(FusedStack()),
        inputs=sequence,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        branch=(("units.0.layers.0.0", "units.0.layers.0.2"), ("units.0.layers.1.0", "units.0.layers.1.2")),
        not_seen=("AddNorm",),
        or_not_seen=True,
        note="The sum is inside a custom node with two live operands of one fork; its name is what can be reported. "
        "The norm it returns feeds the next branch (or the head): not f.",
    ),
)
