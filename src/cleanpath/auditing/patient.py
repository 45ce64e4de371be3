"""Leave the patient as it came: everything a forward pass may change is put back, whatever happens.

Buffers are copied beforehand. A parameter is copied only when an operation is about to write to it: most never are.
"""

import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import is_
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cleanpath.auditing.record import storage_of

CONTAINERS = (dict, list, set, deque)
NOTHING: list[Any] = []
"""What an empty container held; most hooks' are."""


@dataclass(frozen=True)
class Parts:
    """What a model is made of, by qualified names; listing it takes about as long as a small layer."""

    modules: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
    buffers: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """The parts as they are now."""
        return cls(dict(model.named_modules()), dict(model.named_parameters()), tuple(model.buffers()))

    @property
    def whole(self) -> nn.Module:
        """The model itself."""
        return self.modules[""]


class Patient:
    """A module, its state at the door, and the way back to it.

    with Patient(Parts.of(model)) as patient:
        ...                 # run the model, as often as wanted
        patient.rewind()    # as at the door, for another run
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._modules = [_Attributes(module) for module in parts.modules.values()]
        self._parameters = [_Values(p, p.requires_grad, p.grad) for p in parts.parameters.values()]
        buffers = [*parts.buffers, *_lost_tensors(parts.modules.values())]
        self._buffers = [(tensor, tensor.detach().clone()) for tensor in buffers if not is_lazy(tensor)]
        self._generators = generators()
        self._dtype = torch.get_default_dtype()
        self._stack = ExitStack()
        self._at_the_door = True

    def __enter__(self) -> Self:
        """Record gradients from now on, whatever the caller's mode."""
        self._stack.enter_context(torch.inference_mode(mode=False))
        self._stack.enter_context(torch.enable_grad())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back."""
        self._stack.close()
        for values in self._parameters:
            values.release()
        self.rewind()

    def rewind(self) -> None:
        """Put everything back, but keep watching; before the first run there is nothing to put back."""
        if self._at_the_door:
            return
        for attributes in self._modules:
            attributes.restore()
        with torch.no_grad():
            for values in self._parameters:
                values.restore()
            for tensor, numbers in self._buffers:
                _write_back(tensor, numbers)
        restore_generators(self._generators)
        torch.set_default_dtype(self._dtype)

    def write_watch(self) -> "WriteWatch":
        """What to call before an operation writes, so that parameters and gradients are copied."""
        return WriteWatch(self._parameters)

    def require_gradients(self, *, frozen_too: bool) -> None:
        """Make parameters leaves of the graph, also the frozen ones: they are weights all the same."""
        self._at_the_door = False
        for values in self._parameters:
            floating = values.parameter.is_floating_point() or values.parameter.is_complex()
            wanted = values.requires_grad or (frozen_too and floating)
            if values.parameter.requires_grad != wanted:
                values.parameter.requires_grad_(wanted)

    def was_trainable(self) -> list[bool]:
        """Whether each parameter required a gradient at the door."""
        return [values.requires_grad for values in self._parameters]


@dataclass
class _Values:
    """One parameter: its flag, its gradient, and its numbers once somebody writes to it."""

    parameter: nn.Parameter
    requires_grad: bool
    grad: Tensor | None
    values: Tensor | None = None
    gradient_copy: Tensor | None = None

    def keep(self) -> None:
        if self.values is None:
            self.values = self.parameter.detach().clone()
        if self.grad is not None and self.gradient_copy is None:
            self.gradient_copy = self.grad.detach().clone()

    def restore(self) -> None:
        if self.values is not None:
            _write_back(self.parameter.data, self.values)
        if self.grad is not None and self.gradient_copy is not None:
            _write_back(self.grad, self.gradient_copy)
        if self.parameter.grad is not self.grad:
            self.parameter.grad = self.grad

    def release(self) -> None:
        if self.parameter.requires_grad != self.requires_grad:
            self.parameter.requires_grad_(self.requires_grad)


class WriteWatch:
    """Copies a parameter or its gradient just before an operation writes to it."""

    def __init__(self, values: Sequence[_Values]) -> None:
        self._values: dict[int, list[_Values]] = {}
        for entry in values:
            for tensor in (entry.parameter, entry.grad):
                if tensor is not None:
                    self._values.setdefault(storage_of(tensor), []).append(entry)

    def __call__(self, tensors: Iterable[Tensor]) -> None:
        """An operation is about to write to one of these tensors."""
        for tensor in tensors:
            for entry in self._values.get(storage_of(tensor), ()):
                entry.keep()


@dataclass
class _Attributes:
    """A module's own attributes: training flag, hooks, tables of parameters and buffers, counters."""

    module: nn.Module
    values: dict[str, Any] = field(init=False)
    containers: list[tuple[Any, dict[Any, Any] | list[Any]]] = field(init=False)
    """Its containers, each with a copy: parameters, buffers, hooks, and caches that a forward pass may fill."""

    def __post_init__(self) -> None:
        self.values = dict(self.module.__dict__)
        self.containers = [(value, _copied(value)) for value in self.values.values() if isinstance(value, CONTAINERS)]

    def restore(self) -> None:
        if isinstance(self.module, torch.jit.ScriptModule):
            return
        own = self.module.__dict__
        for name in own.keys() - self.values.keys():
            del own[name]
        own.update(self.values)
        for container, saved in self.containers:
            if (saved or container) and not _holds_the_same(container, saved):
                _refill(container, saved)


def _copied(container: Any) -> dict[Any, Any] | list[Any]:
    if not container:
        return NOTHING
    return dict(container) if isinstance(container, dict) else list(container)


def _holds_the_same(container: Any, saved: dict[Any, Any] | list[Any]) -> bool:
    """Whether two containers hold the very same objects in the same order."""
    if len(container) != len(saved) or not all(map(is_, container, saved)):
        return False
    return not isinstance(saved, dict) or all(map(is_, container.values(), saved.values()))


def _refill(container: Any, saved: dict[Any, Any] | list[Any]) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(saved)
    else:
        container.extend(saved)


def _lost_tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Tensors that modules hold as plain attributes."""
    for module in modules:
        if not isinstance(module, torch.jit.ScriptModule):
            yield from (value for value in module.__dict__.values() if isinstance(value, Tensor))


def _write_back(tensor: Tensor, values: Tensor) -> None:
    """Give a tensor its old numbers, unless it has them; a tensor on the meta device has none."""
    if tensor.is_meta or (tensor.shape == values.shape and tensor.dtype == values.dtype and _same_bits(tensor, values)):
        return
    with torch.no_grad():
        tensor.data = values.clone() if tensor.shape != values.shape else tensor.data
        tensor.data.copy_(values)


def _same_bits(tensor: Tensor, values: Tensor) -> bool:
    try:
        return torch.equal(
            tensor.detach().contiguous().reshape(-1).view(torch.uint8),
            values.contiguous().reshape(-1).view(torch.uint8),
        )
    except RuntimeError:  # no view as bytes: sparse, quantised, sub-byte
        return False


def generators() -> dict[str, Any]:
    """The states of all random generators that a model may draw from."""
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if _cuda_runs():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = numpy.random.get_state()
    return states


def _cuda_runs() -> bool:
    """Whether CUDA is in use; asking for its state would start it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def restore_generators(states: dict[str, Any]) -> None:
    """Let them go on from states that were kept."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Dropout masks and the like drawn from a seed of their own; the caller restores the generators."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch devices that are not in use
    if _cuda_runs():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    yield
