"""Does an audit leave everything as it was, also when it is interrupted? One model at a time.

    undisturbed(model, batch, seed=0)    # {"audit": "same", "KeyboardInterrupt": "same", "OutOfMemoryError": "same"}

The model is first brought into a state in which much could be lost: gradients, frozen parameters, hooks, modules in
different modes. Then it is audited three times; the second and third time a module raises in the middle.
"""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from benchmarks.fingerprint import differences, fingerprint
from cleanpath import audit
from cleanpath.errors import UserError

SAME = "same"
_NAMED = 5


@dataclass(frozen=True)
class Fault:
    """An exception, and the module call after which it is raised: there, or when the gradient comes back to it."""

    error: type[BaseException]
    call: int
    on_the_way_back: bool


class ModuleCalls:
    """Counts the calls of all modules while it is open, and lets a fault happen."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.count, self.raised, self._fault = 0, False, fault

    def __enter__(self) -> Self:
        self._handle = register_module_forward_hook(self._called)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _called(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self.count += 1
        fault = self._fault
        if fault is None or self.count < fault.call:
            return
        if fault.on_the_way_back and isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._raise)  # type: ignore[no-untyped-call]
        else:
            self._raise()

    def _raise(self, _gradient: Tensor | None = None) -> None:
        assert self._fault is not None
        self.raised = True
        raise self._fault.error("planted")


def undisturbed(model: nn.Module, batch: Any, *, seed: int) -> dict[str, str]:
    """`same`, or what an audit changed: when nothing happens, when it is interrupted, when it fails in the middle."""
    dice = random.Random(seed)  # noqa: S311
    unsettle(model, batch, dice)
    before = fingerprint(model, batch)
    calls = ModuleCalls()
    ended = _ended(lambda: _audit_with(calls, model, batch))
    trouble = [] if ended is None else [f"ended with {type(ended).__name__}: {ended}"]
    found = {"audit": _said(differences(before, fingerprint(model, batch)), trouble)}
    for error in (KeyboardInterrupt, dice.choice((torch.OutOfMemoryError, RuntimeError))):
        fault = Fault(error, dice.randint(1, max(calls.count, 1)), on_the_way_back=dice.random() < 0.25)
        before = fingerprint(model, batch)
        with_fault = ModuleCalls(fault)
        ended = _ended(lambda planted=with_fault: _audit_with(planted, model, batch))  # type: ignore[misc]
        trouble = _hidden(error, ended) if with_fault.raised else []
        found[error.__name__] = _said(differences(before, fingerprint(model, batch)), trouble)
    return found


def unsettle(model: nn.Module, batch: Any, dice: random.Random) -> None:
    """Give half of the parameters a gradient, freeze a fourth, hook some modules, put some in the other mode."""
    for parameter in model.parameters():
        if parameter.is_leaf and parameter.is_floating_point() and not parameter.is_meta:
            parameter.grad = torch.full_like(parameter, dice.random()) if dice.random() < 0.5 else None
            parameter.requires_grad_(dice.random() < 0.75)
            if parameter.requires_grad and dice.random() < 0.1:
                parameter.register_hook(_unchanged_gradient)  # type: ignore[no-untyped-call]
    modules = list(model.modules())
    plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    for module in dice.sample(plain, min(3, len(plain))):
        module.register_forward_pre_hook(_nothing_before)
        module.register_forward_hook(_nothing_after)
    leaves = [module for module in modules if not list(module.children())]
    turned = [module for module in leaves if dice.random() < 0.3]
    _turn(turned)
    if _ended(lambda: call(model, batch)) is not None:
        _turn(turned)  # a network may insist on one mode


def call(model: nn.Module, batch: Any) -> Any:
    """The output for a batch in the form that `audit` takes: a dictionary is keyword inputs, a tuple several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(batch, dict):
            return model(**batch)
        return model(*batch) if isinstance(batch, tuple) else model(batch)


def _turn(modules: list[nn.Module]) -> None:
    for module in modules:
        module.training = not module.training


def _nothing_before(_module: nn.Module, _inputs: Any) -> None:
    """A user's hook."""


def _nothing_after(_module: nn.Module, _inputs: Any, _output: Any) -> None:
    """A user's hook."""


def _unchanged_gradient(_gradient: Tensor) -> None:
    """A user's hook on a parameter."""


def _audit_with(calls: ModuleCalls, model: nn.Module, batch: Any) -> None:
    with calls:
        audit(model, batch)


def _ended(act: Callable[[], Any]) -> BaseException | None:
    """How something ended: with an exception, or well."""
    try:
        act()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (planted ones and whatever else there is)
        return error
    return None


def _hidden(planted: type[BaseException], ended: BaseException | None) -> list[str]:
    """An interruption and a lack of memory are handed on; a model's own error may be told in the audit's words."""
    told = isinstance(ended, planted) or (planted is RuntimeError and (ended is None or isinstance(ended, UserError)))
    return [] if told else [f"ended with {type(ended).__name__}: {ended}"]


def _said(changed: list[str], trouble: list[str]) -> str:
    named = ", ".join(changed[:_NAMED]) + (" ..." if len(changed) > _NAMED else "")
    return "; ".join([*([f"changed: {named}"] if changed else []), *trouble]) or SAME
