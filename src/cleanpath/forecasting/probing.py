"""A few steps with the optimizer that will train the model, after which both are as before, bit for bit.

The steps are made on the model itself, whose weights, buffers, gradients, flags, hooks and random generators are put
back (`auditing/patient.py`), and by a twin of the optimizer, so that its state and its groups are never touched.
"""

import copy
import inspect
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from cleanpath.auditing.examine import refusal_of
from cleanpath.auditing.passes import mapped, tensors_of, uncompiled, unwrapped
from cleanpath.auditing.patient import Parts, Patient, drawing_from
from cleanpath.devices import exact, of
from cleanpath.errors import UserError
from cleanpath.forecasting.likeness import of_outputs, real
from cleanpath.forecasting.values import STEPS, Steps
from cleanpath.garbage import uncollected
from cleanpath.kernels import sound

_IGNORED = -100
"""A label that torch's cross-entropy leaves out."""

Loss = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


def logits_of(output: Any) -> Any:
    """What the output calls its logits, else the output."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if named is None else named


def usual_loss(output: Any, target: Any) -> Tensor:
    """Cross-entropy of the output, or of what it calls its logits."""
    logits = logits_of(output)
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] == 1:
        raise UserError(
            "the output has one column, of which a cross-entropy is always 0; give loss=…: "
            "torch.nn.functional.mse_loss for a regression, binary_cross_entropy_with_logits for two classes"
        )
    return cross_entropy(logits, target)


def lost(loss: Loss, output: Any, target: Any) -> Tensor:
    """The loss; raises `UserError` with what it raised."""
    if not callable(loss):
        raise UserError(f"loss is a {type(loss).__name__}; give a function of (output, target)")
    try:
        return loss(output, target)
    except (torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:
        told = f"the loss raised {type(error).__name__}: {str(error).rstrip('.')}"
        raise UserError(f"{told}; {_remedy(logits_of(output), target)}") from error


def _remedy(output: Any, target: Any) -> str:
    if isinstance(output, Tensor) and isinstance(target, Tensor) and output.dim() and target.dim():
        if len(output) != len(target):
            return f"a batch has {len(target)} targets, and the output {len(output)} rows"
        named = target[target != _IGNORED]
        is_label = output.dim() > 1 and not target.is_floating_point() and len(named)
        if is_label and not 0 <= (low := int(named.min())) <= (high := int(named.max())) < output.shape[1]:
            return f"labels go from {low} to {high}, and the model has {output.shape[1]} outputs"
    return "give loss=lambda output, target: … for what the model returns and the batches hold"


def taken(batches: Iterable[Batch]) -> list[Batch]:
    """The first pairs of inputs and target, as many as there are steps; fewer are gone through again.

    Raises `UserError` for what is no pair, and where there is none.
    """
    if isinstance(batches, Tensor | Mapping) or not isinstance(batches, Iterable):
        raise UserError(f"batches are pairs (inputs, target) in a list or a loader, this is a {type(batches).__name__}")
    found = list[Batch]()
    with _own_generators_kept(batches):
        for one in islice(batches, STEPS):
            if not isinstance(one, tuple | list) or len(one) != 2:
                raise _no_pair(one)
            found.append((one[0], one[1]))
    if not found:
        raise UserError("there is no batch; give at least one pair (inputs, target)")
    return list(islice(cycle(found), STEPS))


@contextmanager
def _own_generators_kept(batches: Any) -> Iterator[None]:
    """Put back the generators of its own that a loader and its samplers draw from."""
    sampler, inner = (getattr(batches, name, None) for name in ("sampler", "batch_sampler"))
    holders = (batches, sampler, inner, getattr(inner, "sampler", None))
    held = [getattr(holder, "generator", None) for holder in holders]
    states = [(one, one.get_state()) for one in held if isinstance(one, torch.Generator)]
    try:
        yield
    finally:
        for one, state in states:
            one.set_state(state)


def _no_pair(value: Any) -> UserError:
    many = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    this = f"this is a {type(value).__name__}{many}"
    return UserError(f"a batch is a pair (inputs, target), {this}; put pairs into a list")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Patient]:
    """The model in training mode for as long as it lasts; all that is done to it and to the generators is undone.

    A model part of which is in eval mode on purpose stays as it is; one that is in eval mode as a whole is put into
    training mode, since it will be trained in that.
    """
    parts = Parts.of(model)
    if (refusal := refusal_of(parts, None)) is not None:
        raise UserError(f"{refusal.what}: {refusal.reason}")
    with (
        Patient(parts) as patient,
        warnings.catch_warnings(),
        uncollected(),
        sound(model),
        exact(of(model)),
        uncompiled(parts),
        unwrapped(model),
    ):
        warnings.simplefilter("ignore")
        patient.require_gradients(frozen_too=False)  # changes no flag: from here on there is something to put back
        patient.write_watch()(parts.parameters.values())  # all of them will be written to
        if not model.training:
            model.train()
        yield patient


@contextmanager
def rewound(model: nn.Module) -> Iterator[None]:
    """Passes that leave no trace in buffers and attributes, within `undisturbed`, which keeps the weights."""
    with Patient(Parts.of(model)) as patient:
        patient.require_gradients(frozen_too=False)  # changes no flag: from here on there is something to put back
        yield


def steps(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    loss: Loss,
    *,
    seed: int,
    clip: float | None = None,
) -> Steps:
    """What the steps on these batches showed; call it with the model `undisturbed`.

    The norm of a gradient is that before it is scaled down to `clip`.

    Raises `UserError` if the loss is no scalar that depends on the model, or the optimizer cannot make a step.
    """
    own, stepping, held = twin(optimizer), _stepping(optimizer), {*model.parameters()}
    for group in own.param_groups:  # of other models' weights nothing would be put back
        group["params"] = [p for p in group["params"] if p in held]
    parameters = [p for group in own.param_groups for p in group["params"]]
    if not parameters:
        raise UserError("the optimizer holds none of the model's parameters; make it of model.parameters()")
    start = [p.detach().clone() for p in parameters]
    losses, norms, shown = list[float](), list[float](), list[tuple[float | None, float | None]]()
    with drawing_from(seed):
        for inputs, target in batches:
            for parameter in model.parameters():
                parameter.grad = None
            output = called(model, inputs)
            value = lost(loss, output, target)
            _check(value)
            losses.append(float(value.detach()))
            shown.append(of_outputs(next(tensors_of(logits_of(output)), None), target))
            if math.isfinite(losses[-1]):
                value.backward()  # type: ignore[no-untyped-call]
                norms.append(_norm(p.grad for p in parameters))
            if not (math.isfinite(losses[-1]) and math.isfinite(norms[-1])):
                break
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            stepping(own)
    moved = _norm(p.detach() - s for p, s in zip(parameters, start, strict=True)) / max(_norm(start), 1e-30)
    return Steps(
        losses=tuple(losses),
        gradient_norms=tuple(norms),
        moved=moved,
        apart=tuple(one for one, _ in shown if one is not None),
        agreement=tuple(one for _, one in shown if one is not None),
    )


def twin(optimizer: Optimizer) -> Optimizer:
    """An optimizer in the same state with groups of its own, of the same parameters; it knows nobody's hooks.

    What a scheduler puts into the optimizer to count its steps stays behind: it would count ours.
    """
    own = object.__new__(type(optimizer))
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    given = {name: value for name, value in vars(optimizer).items() if name not in (*_HOOKS, "step")}
    own.__dict__.update(copy.deepcopy(given, memo=held), **{name: OrderedDict() for name in _HOOKS})
    return own


def _stepping(optimizer: Optimizer) -> Callable[[Optimizer], object]:
    """The step of its class: an attribute `step` of the optimizer itself is a scheduler's, and bound to it."""
    step, name = type(optimizer).step, type(optimizer).__name__
    closure = inspect.signature(step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(f"{name} makes no step without a closure; forecast with one that does, as SGD")

    def stepped(own: Optimizer) -> object:
        try:
            with _without_global_hooks():
                return step(own)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise UserError(
                f"a step of {name} raised {type(error).__name__}: {error}; forecast with an optimizer that makes one "
                "without a closure, as SGD"
            ) from error

    return stepped


@contextmanager
def _without_global_hooks() -> Iterator[None]:
    """Hooks of the user's on the steps of all optimizers are not called."""
    every: tuple[Any, ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    kept = [dict(hooks) for hooks in every]
    for hooks in every:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in zip(every, kept, strict=True):
            hooks.update(before)


def called(model: nn.Module, inputs: Any) -> Any:
    """The output for copies of a tensor, of a tuple of several inputs, or of a dictionary of keyword inputs."""
    # A model may write into them, and a backward pass into their gradients.
    inputs = mapped(inputs, lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if type(inputs) is tuple else model(inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"the model's own forward pass raised {type(error).__name__}: {error}; check that each batch is a pair "
            "(inputs, target) of what the model expects (a tuple is several inputs, a dictionary keyword inputs)"
        ) from error


def _check(value: Any) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UserError(f"the loss must be one number, this is {_said(value)}; give loss=lambda output, target: …")
    if value.grad_fn is None:
        raise UserError("the loss does not depend on any weight that is to be trained; are all of them frozen?")


def _said(value: Any) -> str:
    return f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _norm(tensors: Iterable[Tensor | None]) -> float:
    """Of all together, added up in float64."""
    squares = [real(one.detach()).double().pow(2).sum().cpu() for one in tensors if one is not None]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
