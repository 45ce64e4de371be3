"""The patient leaves as it came: parameters, buffers, gradients, flags, hooks and generators, bit for bit."""

# mypy: disable-error-code="no-any-return, operator"
# torch types the call of a module as Any, and its sub-modules as "Tensor or Module".

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cleanpath.auditing.examine import audit
from cleanpath.errors import UserError
from tests.auditing.menagerie import CASES, Case

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def bits(tensor: Tensor) -> Any:
    if tensor.is_meta:
        return tuple(tensor.shape)
    if tensor.is_quantized:
        return tensor.int_repr().numpy().tobytes()
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def state(model: nn.Module) -> dict[str, Any]:
    modules = dict(model.named_modules())
    return {
        "parameters": {n: (bits(p), p.requires_grad, id(p)) for n, p in model.named_parameters()},
        "gradients": {n: None if p.grad is None else bits(p.grad) for n, p in model.named_parameters()},
        "buffers": {n: (bits(b), id(b)) for n, b in model.named_buffers()},
        "flags": {n: m.training for n, m in modules.items()},
        "hooks": {(n, h): list(getattr(m, h, {})) for n, m in modules.items() for h in HOOKS},
        "torch": bits(torch.get_rng_state()),
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 (the generator that models draw from)
        "dtype": torch.get_default_dtype(),
        "global hooks": (
            len(torch.nn.modules.module._global_forward_hooks),
            len(torch.nn.modules.module._global_forward_pre_hooks),
        ),
        "grad mode": torch.is_grad_enabled(),
    }


def sick(model: nn.Module) -> nn.Module:
    """A patient with gradients, a frozen parameter, and one module in another mode."""
    for position, parameter in enumerate(model.parameters()):
        if parameter.is_floating_point() and parameter.requires_grad and not parameter.is_meta:
            parameter.grad = torch.full_like(parameter, 0.5)
        if position == 1 and parameter.is_leaf:
            parameter.requires_grad_(False)  # noqa: FBT003
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_audit_changes_nothing(case: Case) -> None:
    model = sick(case.build())
    before = state(model)
    audit(model, case.inputs(), draws=2)
    assert state(model) == before


class Rude(nn.Module):
    """Changes everything it can while it runs, and may then raise."""

    count: Tensor

    def __init__(self, fault: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.unit, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(()))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.calls, self.fault = 0, fault

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        with torch.no_grad():
            self.unit.weight.mul_(1.01)
            self.frozen.data.add_(1)
        self.norm.train(not self.norm.training)
        self.register_buffer("late", torch.ones(2))
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        out = x + self.norm(self.unit(torch.dropout(x, 0.5, train=True)))
        if self.fault is not None and self.calls > 0:
            self.fault()
        return out


class Bang(torch.autograd.Function):
    """Raises in the backward pass."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, *_grads: Tensor) -> Tensor:
        raise KeyboardInterrupt


def interrupt() -> None:
    raise KeyboardInterrupt


def run_out() -> None:
    raise torch.OutOfMemoryError("planted")


def fail() -> None:
    raise RuntimeError("planted")


def test_a_rude_patient_is_put_back() -> None:
    model = sick(Rude())
    before = state(model)
    audit(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert state(model) == before
    assert model.calls == 0


@pytest.mark.parametrize(
    ("fault", "raised"), [(interrupt, KeyboardInterrupt), (run_out, torch.OutOfMemoryError), (fail, UserError)]
)
def test_whatever_is_raised_the_patient_is_put_back(fault: Callable[[], None], raised: type[BaseException]) -> None:
    model = sick(Rude(fault))
    before = state(model)
    with pytest.raises(raised):
        audit(model, torch.ones(6, 4))
    assert state(model) == before


class Interrupted(nn.Module):
    """A residual unit that is interrupted on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Bang.apply(self.unit(x))
        return x + out


def test_an_interruption_of_the_backward_pass_is_handed_on() -> None:
    model = sick(Interrupted())
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        audit(model, torch.ones(6, 4))
    assert state(model) == before


def test_the_batch_is_not_written_to() -> None:
    batch = torch.ones(3, 4)
    audit(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), batch)
    assert torch.equal(batch, torch.ones(3, 4))
    assert not batch.requires_grad


def test_a_module_that_never_ran_is_still_the_same_object() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    profile = audit(model, torch.ones(3, 4))
    assert profile.units == ()
    assert "lazy" in profile.not_seen[0].what
    assert isinstance(model[0], nn.LazyLinear)


def test_something_that_is_no_module_is_refused() -> None:
    with pytest.raises(UserError, match="Module"):
        audit("resnet", torch.ones(1))  # type: ignore[arg-type]
