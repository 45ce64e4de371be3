"""Numbers taken while the gradient passes back: once as it is, once with every branch cut, once from random vectors.

The second pass splits equation (5) into its two terms. Hooks on the nodes of the sums hand the gradient to the
shortcut alone; an undefined gradient costs nothing on its way through a branch. Where no direct gradient arrives (the
last unit of an encoder that is only attended to, or of a branch) a random one is put in its place: gains are ratios.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.hooks import RemovableHandle

from cleanpath.auditing.describe import Around
from cleanpath.auditing.forward import Numbers, norm, rms
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.sums import REDUCTIONS
from cleanpath.auditing.trace import Unit

Gradients = tuple[Tensor | None, ...]


@dataclass
class Ends:
    """Where the backward passes start and where they stop."""

    outputs: Sequence[Tensor]
    cotangents: Sequence[Tensor]
    inputs: Sequence[Tensor]


class Backward:
    """The backward passes through one recorded graph."""

    def __init__(self, graph: Graph, units: Sequence[Unit], around: Sequence[Around], ends: Ends) -> None:
        self.graph, self.units, self.around, self.ends = graph, units, around, ends
        self.numbers: Numbers = {}
        self._random = torch.Generator().manual_seed(0)

    def full(self) -> list[Tensor | None]:
        """Gradient sizes at every fork and every output; returns the gradients of the given inputs."""
        with _hooks() as handles:
            handles.extend(self.listen())
            gradients = torch.autograd.grad(
                self.ends.outputs, self.ends.inputs, self.ends.cotangents, retain_graph=True, allow_unused=True
            )
            return list(gradients)

    def listen(self, size: Callable[[Tensor], Tensor | None] = rms) -> list[RemovableHandle]:
        """Note the gradient sizes whenever a gradient passes; the hooks hold on to the numbers alone."""
        numbers, handles = self.numbers, list[RemovableHandle]()
        wanted: dict[int, list[tuple[int, str]]] = {}
        for index, (unit, place) in enumerate(zip(self.units, self.around, strict=True)):
            wanted.setdefault(unit.fork, []).append((index, "gradient_rms"))
            wanted.setdefault(place.end, []).append((index, "output_gradient_rms"))
        for vertex, keys in wanted.items():
            node, number = self.graph.edges[vertex]

            def note(grads: Gradients, keys: list[tuple[int, str]] = keys, number: int = number) -> None:
                grad = grads[number]
                value = None if grad is None else size(grad)
                if value is not None:
                    numbers.update(dict.fromkeys(keys, value))

            handles.append(node.register_prehook(note))
        return handles

    def direct(self) -> None:
        """Direct gains: the branches cut, the gradient measured where it enters f and where it leaves h."""
        if not self.units:
            return
        gathered: dict[int, Tensor] = {}
        with _hooks() as handles:
            closed = self._cut(handles, gathered)
            handles.extend(self._seed(index, place.end) for index, place in enumerate(self.around))
            seeds = self._unreached(closed)
            forks = {unit.fork for unit in self.units}
            starts = [GradientEdge(output.grad_fn, output.output_nr) for output in self.ends.outputs if output.grad_fn]
            torch.autograd.grad(
                [*starts, *(GradientEdge(*self.graph.edges[vertex]) for vertex in seeds)],
                [GradientEdge(*self.graph.edges[vertex]) for vertex in sorted(forks - self._inner(forks))],
                [*self.ends.cotangents, *(self._gaussian(vertex) for vertex in seeds)],
                retain_graph=True,
                allow_unused=True,
            )
        for index, tensor in gathered.items():
            self.numbers[index, "direct_input_rms"] = rms(tensor)

    def defects(self) -> None:
        """‖Jᵀv − v‖ / ‖v‖ and ‖Jᵀv‖ / ‖v‖ of h and of f; where there is nothing on the way they need no pass."""
        with _hooks() as handles:
            self._cut(handles, {}, only_sums=True)
            for index, (unit, place) in enumerate(zip(self.units, self.around, strict=True)):
                if unit.shortcut.kind != "identity":
                    self._defect(index, "shortcut", unit.sum, unit.fork)
                if place.end != unit.sum:
                    self._defect(index, "after", place.end, unit.sum)

    def _inner(self, forks: set[int]) -> set[int]:
        """Forks from which another fork can be reached backwards: those need not be asked for."""
        behind = list[bool]()
        for vertex in range(len(self.graph.kinds)):
            above = self.graph.live_parents(vertex)
            behind.append(any(parent in forks or behind[parent] for parent in above))
        return {fork for fork in forks if behind[fork]}

    def _defect(self, index: int, what: str, start: int, end: int) -> None:
        vector = self._gaussian(start)
        (back,) = torch.autograd.grad(
            [GradientEdge(*self.graph.edges[start])],
            [GradientEdge(*self.graph.edges[end])],
            [vector],
            retain_graph=True,
            allow_unused=True,
        )
        alike = self.graph.shapes[start] == self.graph.shapes[end]
        back = torch.zeros_like(vector) if back is None else back
        self.numbers[index, f"{what}_gain"] = norm(back) / norm(vector)
        if alike:
            self.numbers[index, f"{what}_defect"] = rms(back - vector) / rms(vector)

    def _gaussian(self, vertex: int) -> Tensor:
        node, number = self.graph.edges[vertex]
        metadata = node._input_metadata[number]  # noqa: SLF001
        draw = torch.randn(metadata.shape, generator=self._random, dtype=torch.float32)
        return draw.to(device=metadata.device, dtype=metadata.dtype)

    def _seed(self, index: int, vertex: int) -> RemovableHandle:
        """Measure the direct gradient at x_{l+1}; put a random one there if it is zero."""
        node, number = self.graph.edges[vertex]

        def note(grads: Gradients) -> Gradients | None:
            grad = grads[number]
            if grad is None:
                return None
            seeded = grad if bool(grad.any()) else self._gaussian(vertex)
            self.numbers[index, "direct_output_rms"] = rms(seeded)
            return (*grads[:number], seeded, *grads[number + 1 :])

        return node.register_prehook(note)

    def _unreached(self, closed: dict[Node, set[int]]) -> list[int]:
        """Outputs of units to which no direct gradient comes, the last of each path only: the others follow from it."""
        reached, seeds = set(self._behind(self.ends.outputs)), list[int]()
        ends = {place.end for place in self.around}
        for vertex in range(len(self.graph.kinds) - 1, -1, -1):
            if vertex in ends and vertex not in reached:
                seeds.append(vertex)
                reached.add(vertex)
            if vertex in reached:
                shut = closed.get(self.graph.edges[vertex][0], set())
                reached.update(p for slot, p in enumerate(self.graph.parents[vertex]) if p >= 0 and slot not in shut)
        return seeds

    def _behind(self, outputs: Sequence[Tensor]) -> Iterator[int]:
        """The vertices of the graph from which the outputs' gradients start; a loss has operations of its own."""
        pending = [(tensor.grad_fn, tensor.output_nr) for tensor in outputs]
        met = set(pending)
        while pending:
            node, number = pending.pop()
            if node is None:
                continue
            if (node, number) in self._index:
                yield self._index[node, number]
                continue
            fresh = [edge for edge in node.next_functions if edge not in met]
            met.update(fresh)
            pending.extend(fresh)

    def _cut(
        self, handles: list[RemovableHandle], gathered: dict[int, Tensor], *, only_sums: bool = False
    ) -> dict[Node, set[int]]:
        """Cut the branches at their sums, and at their forks if units lie inside; gather what leaves each shortcut."""
        closed: dict[Node, set[int]] = {}
        leaving: dict[Node, list[tuple[int, int]]] = {}
        parents = {unit.parent for unit in self.units}
        for index, unit in enumerate(self.units):
            keepers = {unit.sum, *unit.partial_sums, *unit.shortcut.region}
            for vertex in (unit.sum, *unit.partial_sums):
                node, slots = self._branch_slots(vertex, unit)
                closed.setdefault(node, set()).update(slots)
            if only_sums:
                continue
            for vertex in keepers:
                node = (
                    self._joining(vertex) if vertex in (unit.sum, *unit.partial_sums) else self.graph.edges[vertex][0]
                )
                open_slots = set(self._slots_to(node, unit.fork)) - closed.get(node, set())
                leaving.setdefault(node, []).extend((slot, index) for slot in open_slots)
            for vertex in unit.branch if index in parents else ():
                if vertex not in keepers:
                    node = self.graph.edges[vertex][0]
                    closed.setdefault(node, set()).update(self._slots_to(node, unit.fork))
        nodes = closed.keys() | leaving.keys()
        handles.extend(_hook(node, closed.get(node, set()), leaving.get(node, []), gathered) for node in nodes)
        return closed

    def _joining(self, vertex: int) -> Node:
        """The node whose arguments are a sum's operands: for a reduction, the one that laid them side by side."""
        if self.graph.kinds[vertex] in REDUCTIONS:
            vertex = self.graph.parents[vertex][0]
            if self.graph.kinds[vertex] == "view":
                vertex = self.graph.parents[vertex][0]
        return self.graph.edges[vertex][0]

    def _slots_to(self, node: Node, vertex: int) -> list[int]:
        """Arguments of a node that are a vertex."""
        return [slot for slot, above in enumerate(self._above(node)) if above == vertex]

    def _above(self, node: Node) -> list[int]:
        return [-1 if above is None else self._index.get((above, number), -1) for above, number in node.next_functions]

    @cached_property
    def _index(self) -> dict[tuple[Node, int], int]:
        return {edge: vertex for vertex, edge in enumerate(self.graph.edges)}

    def _branch_slots(self, vertex: int, unit: Unit) -> tuple[Node, set[int]]:
        """Arguments of a sum that belong to the branch."""
        node = self._joining(vertex)
        above = self._above(node)
        if unit.partial_sums and vertex != min(unit.partial_sums):
            part = max(p for p in unit.partial_sums if p < vertex)
            kept = {slot for slot, parent in enumerate(above) if parent == part}
        elif unit.operand.product == "entries" and self.graph.kinds[vertex] == "lerp":
            kept = {unit.operand.position}
        elif len(unit.operand.factors) > 1 or self.graph.kinds[vertex] in {"addcmul", "addcdiv"}:
            kept = {slot for slot, parent in enumerate(above) if parent in unit.operand.factors}
        else:
            kept = {unit.operand.position}
        return node, set(range(len(above))) - kept


def _hook(node: Node, closed: set[int], leaving: list[tuple[int, int]], gathered: dict[int, Tensor]) -> RemovableHandle:
    def close(grads: Gradients, _outputs: Gradients) -> Gradients | None:
        for slot, index in leaving:
            grad = grads[slot]
            if grad is not None:
                gathered[index] = gathered[index] + grad if index in gathered else grad
        return tuple(None if slot in closed else grad for slot, grad in enumerate(grads)) if closed else None

    return node.register_hook(close)


@contextmanager
def _hooks() -> Iterator[list[RemovableHandle]]:
    handles = list[RemovableHandle]()
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
