"""Numbers of the forward pass: from the tensors it left, or at once where operations in place would overwrite them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cleanpath.auditing import kinds
from cleanpath.auditing.describe import Around
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.record import Operation, tensors_in
from cleanpath.auditing.trace import Unit

SATURATED = 0.01
"""A gate this close to 0 or 1 lets hardly any gradient through to its own weights."""
RECTIFIERS = frozenset({"relu", "threshold", "clampmin", "hardtanh"})
SQUASHERS = frozenset({"sigmoid", "hardsigmoid"})

Numbers = dict[tuple[int, str], Tensor]
"""Measured numbers (tensors without dimensions) by unit and quantity."""
Step = Callable[[tuple[Any, ...], Mapping[str, Any]], Callable[[Any], None] | None]


@dataclass
class ForwardPlan:
    """What to measure at which operation: afterwards, or as the watcher of a second, equal pass."""

    graph: Graph
    numbers: Numbers = field(default_factory=dict)
    steps: dict[tuple[int, str], list[Step]] = field(default_factory=dict)
    """By the number and name of the operation, so that nothing is done should the model take another way."""
    kept: dict[int, Tensor] = field(default_factory=dict)
    """Shortcut values that wait for the last of several sums."""
    operations: dict[int, Operation] = field(default_factory=dict)
    """Those that have steps, by their number."""
    troubles: list[Exception] = field(default_factory=list)

    def __call__(
        self, ordinal: int, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[[Any], None] | None:
        steps = self.steps.get((ordinal, name))
        if not steps:
            return None
        afterwards = [after for step in steps if (after := self._guarded(step, args, kwargs)) is not None]

        def finish(result: Any) -> None:
            for after in afterwards:
                self._guarded(after, result)

        return finish

    def _guarded(self, step: Callable[..., Any], *given: Any) -> Any:
        """Take a number, or note why not: a tensor that cannot be measured must not stop the model."""
        try:
            return step(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (tensor subclasses may raise anything)
            self.troubles.append(error)

    def at(self, vertex: int, step: Step) -> None:
        """Run `step` when the operation of a vertex is called."""
        operation = self.graph.operations[vertex]
        if operation is not None:
            self.steps.setdefault((operation.ordinal, operation.name), []).append(step)
            self.operations[operation.ordinal] = operation

    def afterwards(self, written: Mapping[int, int]) -> bool:
        """Measure the tensors that the observed operations kept, unless one of them was overwritten since."""
        operations = [self.operations[ordinal] for ordinal in sorted(self.operations)]
        if not all(operation.intact(written) for operation in operations):
            return False
        with torch.no_grad():
            for one in operations:
                finish = self(one.ordinal, one.name, one.args, one.kwargs)
                if finish is not None:
                    finish(one.result)
        return True


def plan_forward(graph: Graph, units: Sequence[Unit], around: Sequence[Around]) -> ForwardPlan:
    """All steps for all units."""
    plan = ForwardPlan(graph)
    for index, (unit, place) in enumerate(zip(units, around, strict=True)):
        _plan_norm(plan, unit.fork, (index, "input_rms"))
        _plan_norm(plan, place.end, (index, "output_rms"))
        _plan_sum(plan, index, unit)
        inside = sorted({*unit.branch, *place.after_region})
        for vertex in (v for v in inside if graph.kinds[v] in RECTIFIERS):
            _plan_dead(plan, index, vertex)
        gates = [v for v in unit.shortcut.region if graph.kinds[v] in SQUASHERS]
        gates = gates or [v for v in unit.branch if graph.kinds[v] in SQUASHERS]
        _plan_saturated(plan, index, gates)
    return plan


def accumulate_in(tensor: Tensor) -> torch.dtype:
    """Sums are taken in float32, for float64 in float64."""
    return torch.float64 if tensor.dtype in {torch.float64, torch.complex128} else torch.float32


def norm(tensor: Tensor) -> Tensor:
    """Euclidean norm of all entries."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    size: Tensor = torch.linalg.vector_norm(tensor, dtype=accumulate_in(tensor))
    return size


def rms(tensor: Tensor) -> Tensor:
    """Root of the mean square of all entries."""
    return norm(tensor) / math.sqrt(max(tensor.numel(), 1))


def _plan_norm(plan: ForwardPlan, vertex: int, key: tuple[int, str]) -> None:
    graph = plan.graph
    while graph.operations[vertex] is None and len(graph.live_parents(vertex)) == 1:
        above = graph.live_parents(vertex)[0]  # a view that autograd made anew after an operation in place
        if graph.entries(above) != graph.entries(vertex):
            return
        vertex = above
    number = graph.numbers[vertex]

    def step(args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Callable[[Any], None]:
        def after(result: Any) -> None:
            value = result_of(graph, vertex, args, result, number)
            if value is not None:
                plan.numbers[key] = rms(value)

        return after

    plan.at(vertex, step)


def result_of(graph: Graph, vertex: int, args: tuple[Any, ...], result: Any, number: int) -> Tensor | None:
    """The tensor that a vertex stands for; after an operation in place on a view, the whole that it is a view of."""
    if graph.sliced[vertex]:
        return _whole(args[0])
    outputs = [tensor for tensor in tensors_in(result) if tensor.is_floating_point() or tensor.is_complex()]
    return outputs[number] if number < len(outputs) else None


def _whole(view: Tensor) -> Tensor:
    """What a tensor is a view of, or itself."""
    return view if view._base is None else view._base  # noqa: SLF001


def _plan_sum(plan: ForwardPlan, index: int, unit: Unit) -> None:
    """Norms of h and F, their product, the signs of the sum; F is y − h where it does not stand in memory itself."""
    graph = plan.graph
    first = min((unit.sum, *unit.partial_sums))
    if "foreachadd" in {graph.kinds[first], graph.kinds[unit.sum]}:
        return  # its operands stand in lists
    number = graph.numbers[unit.sum]

    def keep(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        plan.kept[index] = _operand(graph, first, unit, args, kwargs).clone()

    def measure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[Any], None]:
        separate = (
            not unit.partial_sums and graph.kinds[unit.sum] in {"add", "sub", "rsub"} and not graph.sliced[unit.sum]
        )
        if separate:
            shortcut, branch = _operand(graph, unit.sum, unit, args, kwargs), _other(unit, args, kwargs)
            _note_parts(plan, index, shortcut, branch)
        elif not unit.partial_sums:
            keep(args, kwargs)

        def after(result: Any) -> None:
            total = result_of(graph, unit.sum, args, result, number)
            if total is None:
                return
            if not separate:
                kept = plan.kept.pop(index)
                _note_parts(plan, index, kept.expand_as(total), total.detach() - kept)
            size = plan.numbers[index, "sum_rms"] = rms(total)
            if not total.is_complex():
                plan.numbers[index, "negative_share"] = _share_below(total, size)

        return after

    if unit.partial_sums:
        plan.at(first, keep)
    plan.at(unit.sum, measure)


def _note_parts(plan: ForwardPlan, index: int, shortcut: Tensor, branch: Tensor) -> None:
    if shortcut.shape != branch.shape:
        shape = torch.broadcast_shapes(shortcut.shape, branch.shape)  # type: ignore[no-untyped-call]
        shortcut, branch = shortcut.expand(shape), branch.expand(shape)
    kind = accumulate_in(shortcut)
    plan.numbers[index, "shortcut_rms"] = rms(shortcut)
    size = plan.numbers[index, "branch_rms"] = rms(branch)
    if not shortcut.is_complex():
        plan.numbers[index, "branch_negative_share"] = _share_below(branch.detach(), size)
        flat = (part.detach().reshape(-1).to(kind) for part in (shortcut, branch))
        plan.numbers[index, "inner_product"] = torch.dot(*flat) / max(shortcut.numel(), 1)


def _share_below(signal: Tensor, size: Tensor) -> Tensor:
    """How much of a signal is negative; not a number where its rms is none, for nan < 0 does not hold."""
    return (signal < 0).to(accumulate_in(signal)).mean() + 0.0 * size


def _other(unit: Unit, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    term = unit.others[0]
    value: Tensor = args[term.position].detach()
    factor = _factor(term.scale, args, kwargs, term.position)
    return value if factor == 1.0 else value * factor


def _factor(scale: float | None, args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int) -> float:
    if scale is not None:
        return scale
    return float(kwargs.get("alpha", args[2] if len(args) > 2 else 1)) if position else 1.0


def _operand(graph: Graph, vertex: int, unit: Unit, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The value of the shortcut's term as its sum reads it, λ included."""
    term, kind = unit.operand, graph.kinds[vertex]
    value: Tensor
    if kind in {"sum", "mean"}:
        return _part(graph, vertex, term.position, args) * (term.scale or 1.0)
    if kind == "lerp":
        weight = args[2] if len(args) > 2 else kwargs["weight"]
        value = args[term.position].detach() * (weight if term.position else 1 - weight)
        return value
    if kind in {"addcmul", "addcdiv"} and term.position == 1:
        first, second = args[1].detach(), args[2].detach()
        value = (first * second if kind == "addcmul" else first / second) * kwargs.get("value", 1)
        return value
    value = args[_argument(kind, term.position)].detach()
    if graph.sliced[vertex]:
        whole = _whole(args[0]).detach()
        if term.position:
            spread = torch.zeros_like(whole)
            spread.as_strided(args[0].shape, args[0].stride(), args[0].storage_offset()).copy_(value)
            whole = spread
        value = whole
    return value if term.scale == 1.0 or term.scale is None else value * term.scale


def _argument(kind: str, position: int) -> int:
    """Where an operand stands among the arguments: what is added by index comes after the index."""
    return {"indexput": 2, "indexadd": 3, "scatteradd": 3, "scatterreduce": 3}.get(kind, 1) if position else 0


def _part(graph: Graph, vertex: int, position: int, args: tuple[Any, ...]) -> Tensor:
    operation = graph.operations[vertex]
    dims = operation.argument(1, "dim") if operation is not None else (0,)
    axis = dims if isinstance(dims, int) else dims[0]
    part: Tensor = args[0].detach().select(axis, position)
    return part


def _plan_dead(plan: ForwardPlan, index: int, vertex: int) -> None:
    """The largest share of channels of one ReLU in which nothing is above zero in the whole batch."""
    key = (index, "dead_relu_share")

    def step(args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Callable[[Any], None]:
        def after(result: Any) -> None:
            value = result_of(plan.graph, vertex, args, result, 0)
            if value is not None and value.numel():
                share = _dead_share(plan.graph, vertex, value.detach())
                plan.numbers[key] = torch.maximum(plan.numbers.get(key, share), share)

        return after

    plan.at(vertex, step)


def _dead_share(graph: Graph, vertex: int, value: Tensor) -> Tensor:
    axis = _channel_axis(graph, vertex, value.dim())
    others = [d for d in range(value.dim()) if d != axis]
    peaks = value.amax(others) if others else value
    return (peaks <= 0).to(accumulate_in(value)).mean()


def _plan_saturated(plan: ForwardPlan, index: int, vertices: Sequence[int]) -> None:
    """Add up, over several gates, how many of their entries are open or shut for good."""
    for vertex in vertices:

        def step(args: tuple[Any, ...], _kwargs: Mapping[str, Any], vertex: int = vertex) -> Callable[[Any], None]:
            def after(result: Any) -> None:
                value = result_of(plan.graph, vertex, args, result, 0)
                if value is not None and value.numel():
                    some, all_ = _saturated(plan.graph, vertex, value.detach())
                    for what, number in (("saturated", some), ("saturated_of", some.new_full((), all_))):
                        plan.numbers[index, what] = plan.numbers.get((index, what), some.new_zeros(())) + number

            return after

        plan.at(vertex, step)


def _saturated(_graph: Graph, _vertex: int, value: Tensor) -> tuple[Tensor, int]:
    closed = (value < SATURATED) | (value > 1 - SATURATED)
    return closed.sum().to(accumulate_in(value)), value.numel()


def _channel_axis(graph: Graph, vertex: int, dims: int) -> int:
    """Channels are the second axis after a convolution, the last one after a matrix."""
    current = vertex
    for _ in range(8):
        above = graph.live_parents(current)
        if len(above) != 1:
            break
        current = above[0]
        if graph.kinds[current] in {"convolution", "nativebatchnorm", "cudnnbatchnorm", "nativegroupnorm"}:
            return min(1, dims - 1)
        if graph.kinds[current] in kinds.PRODUCTS | {"nativelayernorm"}:
            return max(dims - 1, 0)
    return min(1, dims - 1) if dims != 3 else 2
