"""Run the patient once under observation: inputs made live, operations recorded, the graph behind the outputs."""

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.auditing.graph import Graph, build
from cleanpath.auditing.patient import Parts, Patient, drawing_from
from cleanpath.auditing.record import Record, Recorder, Watcher
from cleanpath.errors import UserError


@dataclass
class Pass:
    """One observed forward pass."""

    output: Any
    outputs: list[Tensor]
    """The floating tensors of the output that depend on something differentiable."""
    leaves: list[Tensor]
    record: Record
    graph: Graph


@dataclass(frozen=True)
class Attempt:
    """What to make differentiable; a model that writes to its inputs or to frozen parameters wants less."""

    live_inputs: bool
    frozen_too: bool


ATTEMPTS = tuple(Attempt(live_inputs=i, frozen_too=f) for f in (True, False) for i in (True, False))


class Observer:
    """Observes passes of one patient."""

    def __init__(self, patient: Patient) -> None:
        self.patient, self.parts = patient, patient.parts
        self.on_meta = any(parameter.is_meta for parameter in self.parts.parameters.values())
        self._module_names = {id(module): name for name, module in self.parts.modules.items()}
        self._parameter_names = {id(parameter): name for name, parameter in self.parts.parameters.items()}
        self._attempts = list(ATTEMPTS)
        self._recorder: Recorder | None = None

    @property
    def running(self) -> str:
        """Qualified name of the module that runs at this moment."""
        return self._recorder.running if self._recorder is not None else ""

    def run(self, batch: object, seed: int, watcher_of: Callable[[], Watcher] | None = None) -> Pass:
        """One pass from the state at the door; draws of dropout masks follow `seed`."""
        failure: Exception | None = None
        while self._attempts:
            self.patient.rewind()
            try:
                return self._run(batch, seed, watcher_of() if watcher_of else None, self._attempts[0])
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever the model raises is told below)
                failure = failure or error
                self._attempts.pop(0)
        self._attempts = list(ATTEMPTS)
        raise UserError(
            f"the model's own forward pass raised {type(failure).__name__}: {failure}; "
            "check that the batch is what the model expects (a tuple is several inputs, a dictionary keyword inputs, "
            "a list is one input)"
        ) from failure

    def _run(self, batch: object, seed: int, watcher: Watcher | None, attempt: Attempt) -> Pass:
        self.patient.require_gradients(frozen_too=attempt.frozen_too)
        given = _Inputs(live=attempt.live_inputs, meta=self.on_meta)
        args, kwargs = given.prepare(batch)
        self._recorder = recorder = Recorder(self._module_names, given.tensors, self.patient.write_watch(), watcher)
        with ExitStack() as stack:
            stack.enter_context(drawing_from(seed))
            stack.enter_context(recorder.following_modules(self.parts.modules.values()))
            stack.enter_context(uncompiled(self.parts))
            stack.enter_context(recorder)
            args, kwargs = given.through_a_copy(args), given.through_a_copy(kwargs)
            stack.enter_context(unwrapped(self.parts.whole))
            output = self.parts.whole(*args, **kwargs)
        outputs = [t for t in tensors_of(output) if t.grad_fn is not None and (t.is_floating_point() or t.is_complex())]
        self._recorder = None
        graph = build(outputs, recorder.record, self._parameter_names, given.leaves)
        return Pass(output, outputs, given.leaves, recorder.record, graph)


class _Inputs:
    """Copies of a batch; floating tensors become leaves that require a gradient."""

    def __init__(self, *, live: bool, meta: bool) -> None:
        self._live, self._meta = live, meta
        self.leaves: list[Tensor] = []
        self.tensors: list[Tensor] = []

    def prepare(self, batch: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs: a tuple is several inputs, a mapping keyword inputs, all else one input."""
        if isinstance(batch, Mapping):
            return (), {str(key): self._copy(value) for key, value in batch.items()}
        values = batch if type(batch) is tuple else (batch,)
        return tuple(self._copy(value) for value in values), {}

    def through_a_copy(self, value: Any) -> Any:
        """The leaves' copies: those may be written to, and their nodes belong to the graph."""
        return mapped(value, lambda tensor: tensor.clone() if tensor.requires_grad else tensor)

    def _copy(self, value: Any) -> Any:
        return mapped(value, self._leaf)

    def _leaf(self, tensor: Tensor) -> Tensor:
        copy = tensor.detach().to("meta") if self._meta else tensor.detach().clone()
        if self._live and (copy.is_floating_point() or copy.is_complex()):
            self.leaves.append(copy.requires_grad_())
        self.tensors.append(copy)
        return copy


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        items = [mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, MutableMapping):
        mapping = copy.copy(value)
        mapping.update({key: mapped(item, change) for key, item in value.items()})
        return mapping
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        structure = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(structure, field.name, mapped(getattr(value, field.name), change))
        return structure
    return value


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors of a model's output: nested lists, tuples, mappings and dataclasses, each tensor once."""
    met: set[int] = set()
    pending: list[Any] = [output]
    while pending:
        value = pending.pop()
        if id(value) in met:
            continue
        met.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            pending.extend(reversed(list(value.values())))
        elif isinstance(value, list | tuple):
            pending.extend(reversed(value))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            pending.extend(getattr(value, field.name) for field in reversed(dataclasses.fields(value)))
        elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
            pending.extend(reversed(list(vars(value).values())))


@contextmanager
def unwrapped(model: nn.Module) -> Iterator[None]:
    """Let torch's data-parallel wrappers hand over to what they hold: their own forward prepares a communication."""
    wrappers = [m for m in model.modules() if isinstance(m, nn.DataParallel | nn.parallel.DistributedDataParallel)]
    for wrapper in wrappers:
        wrapper.__dict__["forward"] = wrapper.module
    try:
        yield
    finally:
        for wrapper in wrappers:
            wrapper.__dict__.pop("forward", None)


def uncompiled(parts: Parts) -> ExitStack:
    """Run compiled modules as they are written and scripted ones unfused, for as long as the stack is open."""
    stack = ExitStack()
    if any(isinstance(module, torch.jit.ScriptModule) for module in parts.modules.values()):
        stack.enter_context(torch.jit.optimized_execution(False))  # type: ignore[attr-defined]  # noqa: FBT003
    if "torch._dynamo" in sys.modules:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack
