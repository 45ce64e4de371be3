"""Whether a network and its graph are the same: outputs, gradients, state and random numbers, in both modes."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.auditing.passes import tensors_of
from cleanpath.auditing.patient import drawing_from, generators
from cleanpath.devices import exact, of
from cleanpath.kernels import sound
from cleanpath.repair.fixed import OutputDifference
from cleanpath.repair.guards import same_generators, slow_attention
from cleanpath.repair.tracing import UnreadableError

Gradients = dict[str, Tensor | None]


def call(batch: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of a batch, as the audit takes them."""
    if isinstance(batch, Mapping):
        return (), {str(key): value for key, value in batch.items()}
    return (batch if type(batch) is tuple else (batch,)), {}


def outputs_of(model: nn.Module, batch: object, seed: int) -> list[Tensor]:
    """The tensors of the output of one pass without gradients; random numbers follow the seed."""
    return _run(model, batch, seed)[1]


def check_same(model: nn.Module, graph: nn.Module, batch: object, seed: int) -> None:
    """Raise `UnreadableError` where a network and its graph, here a module, differ in what they compute or train."""
    with slow_attention():  # torch's quick way of evaluation has the same function
        _check_same(model, graph, batch, seed)


def _check_same(model: nn.Module, graph: nn.Module, batch: object, seed: int) -> None:
    compared = 0
    for training in (True, False):
        here, there = copy.deepcopy(model).train(training), copy.deepcopy(graph).train(training)
        mode = "training" if training else "evaluation"
        try:
            kind, wanted, drawn = _run(here, batch, seed)
        except Exception:  # noqa: BLE001, S112 (a batch of one in training: the other mode is compared)
            continue
        try:
            other_kind, got, other_drawn = _run(there, batch, seed)
        except Exception as error:
            raise UnreadableError(f"its graph cannot be run ({type(error).__name__}: {error})") from error
        compared += 1
        same = kind is other_kind and len(wanted) == len(got) and all(map(same_numbers, wanted, got))
        if not same:
            raise UnreadableError(f"its graph computes something else in {mode} mode")
        state, other = here.state_dict(), there.state_dict()
        if list(state) != list(other) or not all(same_numbers(state[name], other[name]) for name in state):
            raise UnreadableError(f"its graph keeps another state in {mode} mode")
        if not same_generators(drawn, other_drawn):
            raise UnreadableError(f"its graph draws other random numbers in {mode} mode")
        _check_gradients(here, there, batch, seed, mode)
    if not compared:
        raise UnreadableError("it cannot be run on this batch in either mode, so that its graph cannot be compared")


def _run(model: nn.Module, batch: object, seed: int) -> tuple[type, list[Tensor], dict[str, Any]]:
    args, kwargs = copy.deepcopy(call(batch))
    with torch.no_grad(), drawing_from(seed), sound(model), exact(of(model)):
        output = model(*args, **kwargs)
        drawn = generators()
    return type(output), [one.detach().clone() for one in tensors_of(output)], drawn


def _check_gradients(here: nn.Module, there: nn.Module, batch: object, seed: int, mode: str) -> None:
    """What the outputs leave open: parts that are trained in one only, and backwards of their own."""
    try:
        wanted = _gradients(here, batch, seed)
    except Exception:  # noqa: BLE001 (some networks cannot be trained: nothing to compare)
        return
    try:
        got = _gradients(there, batch, seed)
    except Exception as error:
        raise UnreadableError(f"its graph cannot be trained ({type(error).__name__}: {error})") from error
    name = _other_gradient(wanted, got)
    if name is not None:
        raise UnreadableError(f"its graph gives {name} another gradient in {mode} mode")


def _gradients(model: nn.Module, batch: object, seed: int) -> Gradients:
    """Of a fixed random projection of the outputs, for all parameters, those that are frozen now among them."""
    args, kwargs = copy.deepcopy(call(batch))
    parameters = {name: one for name, one in model.named_parameters() if one.is_floating_point()}
    for one in parameters.values():
        one.requires_grad_(True)  # noqa: FBT003 (torch has it so)
        one.grad = None
    numbers = torch.Generator().manual_seed(seed)
    with torch.inference_mode(mode=False), torch.enable_grad(), drawing_from(seed), sound(model), exact(of(model)):
        outputs = [one for one in tensors_of(model(*args, **kwargs)) if one.is_floating_point() and one.requires_grad]
        weights = [torch.randn(one.shape, generator=numbers).to(one) for one in outputs]
        if outputs:
            torch.autograd.backward(outputs, weights)
    return {name: None if one.grad is None else _plain(one.grad) for name, one in parameters.items()}


def _plain(gradient: Tensor) -> Tensor:
    return (gradient.to_dense() if gradient.is_sparse else gradient).detach().nan_to_num()


def _other_gradient(wanted: Gradients, got: Gradients) -> str | None:
    """The first parameter whose gradient differs by more than rounding: sums may be added in another order."""
    norms = {name: 0.0 if one is None else float(one.norm()) for name, one in wanted.items()}
    whole = math.hypot(*norms.values())
    for name, here in wanted.items():
        there = got.get(name)
        if here is None or there is None:
            if here is not there:
                return name
            continue
        size = math.sqrt(torch.finfo(here.dtype).eps)
        if not torch.equal(here, there) and float((here - there).norm()) > size * (norms[name] + size * whole):
            return name
    return None


def same_numbers(here: Any, there: Any) -> bool:
    """Whether two tensors hold the same, NaN where the other has NaN; what is no tensor need only be of one kind."""
    if not isinstance(here, Tensor) or not isinstance(there, Tensor):
        return here is there or type(here) is type(there)
    if here.shape != there.shape or here.dtype is not there.dtype:
        return False
    floating = here.is_floating_point() or here.is_complex()
    return torch.equal(here, there) or (floating and bool(_alike(here, there).all()))


def _alike(here: Tensor, there: Tensor) -> Tensor:
    return (here == there) | (here.isnan() & there.isnan())


def differences(here: nn.Module, there: nn.Module, batch: object, seed: int) -> Iterator[OutputDifference]:
    """How far the outputs of two networks lie apart, in both modes."""
    for training in (True, False):
        mode = "training" if training else "evaluation"
        try:
            old = outputs_of(copy.deepcopy(here).train(training), batch, seed)
            new = outputs_of(copy.deepcopy(there).train(training), batch, seed)
        except Exception:  # noqa: BLE001 (a batch of one in training mode: the original cannot be run either)
            yield OutputDifference(mode=mode, relative=None)
            continue
        yield OutputDifference(mode=mode, relative=relative(old, new))


def relative(old: Sequence[Tensor], new: Sequence[Tensor]) -> float | None:
    """How far outputs moved, over the rms of the old ones: what is the same NaN or infinity in both is no difference.

    None where they have other shapes, or one is not finite where the other is.
    """
    pairs = [(a.double(), b.double()) for a, b in zip(old, new, strict=False) if a.is_floating_point()]
    if not pairs or len(old) != len(new) or any(a.shape != b.shape for a, b in pairs):
        return None
    if all(map(same_numbers, *zip(*pairs, strict=True))):
        return 0.0
    moved = math.fsum(float((a - b).masked_fill(_alike(a, b), 0.0).square().sum()) for a, b in pairs)
    size = math.fsum(float(a.masked_fill(~a.isfinite(), 0.0).square().sum()) for a, _ in pairs)
    if not math.isfinite(moved):
        return None
    return math.sqrt(moved / size) if size else math.inf
