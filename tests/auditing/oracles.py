"""Residual networks written as lists of functions, and slow measurements of them: no hooks, no graph, one loop each.

Nothing here imports the audit.
"""

# mypy: disable-error-code="no-any-return, operator"
# torch types the call of a module as Any, and its sub-modules as "Tensor or Module".

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class OracleUnit(nn.Module):
    """y = h(x) + F(x); f(y). Every part is a module of its own."""

    def __init__(self, shortcut: nn.Module, branch: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.branch, self.after = shortcut, branch, after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.shortcut(x) + self.branch(x))
        return out


class OracleNet(nn.Module):
    """stem -> units -> head."""

    def __init__(self, stem: nn.Module, units: list[OracleUnit], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.units, self.head = stem, nn.ModuleList(units), head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        out: Tensor = self.head(x)
        return out


class Times(nn.Module):
    """λ x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Gate(nn.Module):
    """(1 − σ(W x + b)) ⊙ x."""

    def __init__(self, width: int, bias: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        nn.init.constant_(self.linear.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - torch.sigmoid(self.linear(x))) * x


def rms(x: Tensor) -> float:
    """By adding one square after the other, in double precision."""
    total = 0.0
    for entry in x.detach().double().flatten().tolist():
        total += entry * entry
    return float((total / max(x.numel(), 1)) ** 0.5)


@dataclass
class Truth:
    """The measured numbers of one unit, by the name of the audit's field."""

    numbers: dict[str, float] = field(default_factory=dict)


def measure(net: OracleNet, x: Tensor, weights: Tensor) -> list[Truth]:
    """All numbers of all units, for the loss Σ weights ⊙ output, from three separate runs."""
    inputs, outputs, truths = _forward(net, x)
    _backward(net, x, weights, truths)
    _direct(net, inputs, outputs, weights, truths)
    return truths


def _forward(net: OracleNet, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Truth]]:
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    truths: list[Truth] = []
    with torch.no_grad():
        x = net.stem(x)
        for unit in net.units:
            shortcut, branch = unit.shortcut(x), unit.branch(x)
            total = shortcut + branch
            after = unit.after(total)
            negative = sum(value < 0 for value in total.flatten().tolist()) / total.numel()
            inner = sum(a * b for a, b in zip(shortcut.flatten().tolist(), branch.flatten().tolist(), strict=True))
            numbers = {"input_rms": rms(x), "output_rms": rms(after), "negative_share": negative}
            ratios = {  # a quantity without a denominator has no value: every ReLU below may be shut
                "forward_gain": (rms(after), rms(x)),
                "branch_share": (rms(branch), rms(shortcut)),
                "cosine": (inner / shortcut.numel(), rms(shortcut) * rms(branch)),
            }
            truths.append(Truth(numbers | {name: over / under for name, (over, under) in ratios.items() if under}))
            inputs.append(x)
            outputs.append(after)
            x = after
    return inputs, outputs, truths


def _backward(net: OracleNet, x: Tensor, weights: Tensor, truths: list[Truth]) -> None:
    states = [net.stem(x)]
    for unit in net.units:
        states.append(unit(states[-1]))
    loss = (weights * net.head(states[-1])).sum()
    gradients = torch.autograd.grad(loss, states)
    for truth, here, there in zip(truths, gradients, gradients[1:], strict=False):
        truth.numbers |= {"gradient_rms": rms(here)} | ({"backward_gain": rms(here) / rms(there)} if rms(there) else {})


def _direct(net: OracleNet, inputs: list[Tensor], outputs: list[Tensor], weights: Tensor, truths: list[Truth]) -> None:
    """Unit by unit from the end, with the branch a constant: equation (5) without its second term."""
    last = outputs[-1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad((weights * net.head(last)).sum(), last)
    for unit, x, truth in reversed(list(zip(net.units, inputs, truths, strict=True))):
        start = x.clone().requires_grad_()
        constant = unit.branch(x).detach()
        (before,) = torch.autograd.grad(unit.after(unit.shortcut(start) + constant), start, gradient)
        if rms(gradient):  # else every ReLU on the path is shut, and there is no ratio
            truth.numbers["direct_gain"] = rms(before) / rms(gradient)
        gradient = before


def jacobian_defect(function: nn.Module, x: Tensor) -> float:
    """‖J − I‖ in Frobenius norm over √n: what ‖Jᵀv − v‖ / ‖v‖ is on the average over v."""
    flat = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
        lambda z: function(z.view_as(x)).flatten(), x.flatten()
    )
    identity = torch.eye(x.numel(), dtype=x.dtype)
    return float((flat - identity).square().sum().div(x.numel()).sqrt())
