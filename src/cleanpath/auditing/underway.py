"""One forward pass of a running loop: recorded while it runs, then measured, then waiting for the loop's gradients."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from cleanpath.auditing.backward import Backward, Ends
from cleanpath.auditing.classifier import classes_of
from cleanpath.auditing.examine import Structure, of_branches, profile_of, projection, untaken, values_of
from cleanpath.auditing.forward import ForwardPlan, norm, rms
from cleanpath.auditing.graph import build
from cleanpath.auditing.passes import Pass, tensors_of, uncompiled
from cleanpath.auditing.patient import Parts, Patient
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.record import Recorder
from cleanpath.auditing.rows import Drawn, Values
from cleanpath.auditing.standing import standing
from cleanpath.auditing.values import NotSeen


class _Gentle(Recorder):  # type: ignore[no-untyped-call]
    """A recorder whose own failures do not reach the model: it stops recording and lets the operations run."""

    trouble: Exception | None = None
    """What went wrong; nothing has been recorded since."""
    _running, _ran, _result = False, False, None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """A model that is compiled from further out must not have the recorder compiled with it."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.trouble is not None:
            return func(*args, **(kwargs or {}))
        self._ran = False
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except Exception as error:
            if self._running:
                self._running = False
                raise
            self.trouble = error.with_traceback(None)
            self._forget()
            return self._result if self._ran else func(*args, **(kwargs or {}))
        finally:
            self._result = None

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._running = True
        self._result = super()._call(func, args, kwargs)
        self._running, self._ran = False, True
        return self._result

    def _forget(self) -> None:
        """Let go of all tensors."""
        for kept in (self.record.operations, self._influenced, self._noise, self._cut):
            kept.clear()
        self._watcher = None


class Recording:
    """One forward pass of the loop, while it runs."""

    def __init__(self, step: int, parts: Parts, plan: ForwardPlan | None, given: list[Tensor]) -> None:
        self.step, self.parts, self.plan, self.depth = step, parts, plan, 0
        self.trainable = [parameter.requires_grad for parameter in parts.parameters.values()]
        self.door = standing(parts, self.trainable)
        self.stack = ExitStack()
        self._given: set[Node] = {tensor.grad_fn for tensor in given if tensor.grad_fn is not None}
        self._leaves = [tensor for tensor in given if tensor.requires_grad and tensor.is_leaf]
        names = {id(module): name for name, module in parts.modules.items()}
        self.recorder = _Gentle(names, given, _unwatched, plan)

    def enter(self) -> None:
        """Record from here on, until the stack is closed."""
        self.stack.enter_context(self.recorder.following_modules(self.parts.modules.values()))
        self.stack.enter_context(uncompiled(self.parts))
        self.stack.enter_context(self.recorder)

    def seen(self, output: Any) -> Pass:
        """What was recorded, and the graph behind the output."""
        outputs = [t for t in tensors_of(output) if t.grad_fn is not None and (t.is_floating_point() or t.is_complex())]
        names = {id(parameter): name for name, parameter in self.parts.parameters.items()}
        record = self.recorder.record
        graph = build(outputs, record, names, self._leaves, self._given)
        return Pass(output, outputs, self._leaves, record, graph)


class Pending:
    """Numbers that wait for those of the loop's own backward pass; holds no part of the graph."""

    def __init__(self, recording: Recording, structure: Structure, plan: ForwardPlan) -> None:
        self.step, self._parts, self._door = recording.step, recording.parts, recording.door
        self._structure, self._numbers = structure, plan.numbers
        self._drawn = Drawn()
        self._loss: Tensor | None = None
        self._sizes: dict[str, Tensor] = {}
        """Norms of the parameters' gradients."""
        self._handles = list[RemovableHandle]()
        self.not_seen = [untaken("measurements", "a number of the forward pass", error) for error in plan.troubles]
        frozen = recording.trainable.count(False)
        if frozen:
            reason = "have no graph: units are seen from the first one whose input depends on a trained parameter"
            self.not_seen.append(NotSeen(what="frozen parameters", where="(root)", reason=reason, count=frozen))

    def take(self, seen: Pass, finish: Callable[[], None]) -> None:
        """The direct path and the defects at once; then listen to the loop's backward pass and call `finish`."""
        if not seen.outputs:
            return
        ends = Ends(seen.outputs, projection(seen.outputs), [])
        backward = Backward(self._structure.graph, self._structure.traced.units, self._structure.around, ends)
        backward.numbers = self._numbers
        try:
            with Patient(self._parts) as patient:
                patient.require_gradients(frozen_too=False)
                self._classify(seen)
                backward.direct()
                backward.defects()
        except Exception as error:  # noqa: BLE001 (a custom function's backward may raise anything)
            self.not_seen.append(untaken("gradients", "the direct path", error))
        self._handles += backward.listen(self._guarded)
        for name, parameter in self._parts.parameters.items():
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(self._noting(name)))  # type: ignore[no-untyped-call]
        self._handles += [
            output.grad_fn.register_prehook(self._calling(finish)) for output in seen.outputs if output.grad_fn
        ]

    def release(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()

    def profile(self) -> Profile:
        """All that has come."""
        self.release()
        if not self._sizes:
            reason = "no backward pass came from this forward pass before the next one was recorded"
            self.not_seen.append(NotSeen(what="gradients", where="(root)", reason=reason))
        structure, sizes = self._structure, {name: size.cpu() for name, size in self._sizes.items()}
        values = values_of(structure.words.names, {**self._numbers, **of_branches(structure, sizes)})
        drawn = replace(
            self._drawn,
            values=values,
            loss=None if self._loss is None else float(self._loss),
            gradient_norm=float(torch.stack(list(sizes.values())).double().norm()) if sizes else None,
            non_finite=_non_finite(values),
            not_seen=tuple(self.not_seen),
        )
        return profile_of(self._parts, structure, [drawn], self._door)

    def _classify(self, seen: Pass) -> None:
        """What the output says of classes; the loss is known if the model itself returns it, as its only scalar."""
        scalars = [output for output in seen.outputs if output.numel() == 1]
        loss = scalars[0] if len(scalars) == 1 else None
        self._loss = None if loss is None else loss.detach().clone()
        classes, uniform_loss = classes_of(seen, loss)
        self._drawn = Drawn(classes=classes, uniform_loss=uniform_loss)

    def _guarded(self, grad: Tensor, size: Callable[[Tensor], Tensor] = rms) -> Tensor | None:
        """The size of a gradient; what has none must not stop the loop's backward pass."""
        try:
            return size(grad)
        except Exception as error:  # noqa: BLE001 (tensor subclasses may raise anything)
            self.not_seen.append(untaken("gradients", "the size of one", error))
            return None

    def _noting(self, name: str) -> Callable[[Tensor], None]:
        def note(grad: Tensor) -> None:
            size = self._guarded(grad, norm)
            if size is not None:
                self._sizes[name] = size

        return note

    def _calling(self, finish: Callable[[], None]) -> Callable[[Any], None]:
        """Have `finish` called at the end of a backward pass that reaches parameters: the optimizer has not yet run."""
        waiting = False

        def ended() -> None:
            nonlocal waiting
            waiting = False
            if self._sizes:
                finish()

        def begun(_grads: Any) -> None:
            nonlocal waiting
            if not waiting:
                waiting = True
                Variable._execution_engine.queue_callback(ended)  # noqa: SLF001

        return begun


def _unwatched(_tensors: object) -> None:
    """The loop's own writes are not undone."""


def _non_finite(values: Values) -> str | None:
    """The first unit whose input or output is not finite."""
    for (name, what), value in values.items():
        if what in {"input_rms", "output_rms"} and not math.isfinite(value):
            return f"the {what.removesuffix('_rms')} of {name}, or before it"
    return None
