"""The network as a graph of values, read from autograd: a vertex is one tensor, its parents what it was made from.

Vertices are numbered so that parents come before children, in the order of execution. A vertex is live if the input
of the network reaches it.
"""

import heapq
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.autograd.graph import Node

from cleanpath.auditing.record import Operation, Record, storage_of

LEAF = "accumulategrad"
CUSTOM = "custom"
HOOKED = "backwardhook"
"""What torch puts around a module with backward hooks: every tensor passes as it is."""
SLICED = "copyslices"
"""The node of an operation made in place on a view of its first argument."""
Edge = tuple[Node, int]
Arguments = tuple[tuple[Node | None, int], ...]


@dataclass
class Graph:
    """Parallel lists, one entry per vertex."""

    kinds: list[str]
    """The autograd node's name without its ending, in small letters: `add`, `nativebatchnorm`."""
    parents: list[tuple[int, ...]]
    """In the order of the node's arguments; -1 where an argument has no history."""
    operations: list[Operation | None]
    shapes: list[tuple[int, ...]]
    edges: list[Edge]
    """Node and output number; emptied by `release`."""
    numbers: list[int]
    """Which output of its operation a vertex is."""
    sliced: list[bool]
    """Whether the operation was made in place on a view of what the vertex stands for."""
    live: list[bool]
    parameter: list[str | None]
    """The parameter's qualified name, for a leaf."""
    outputs: frozenset[int]

    @cached_property
    def children(self) -> list[list[int]]:
        """The live vertices computed from each live vertex."""
        children: list[list[int]] = [[] for _ in self.kinds]
        for vertex in range(len(self.kinds)):
            for parent in set(self.live_parents(vertex)):
                children[parent].append(vertex)
        return children

    @cached_property
    def _live_parents(self) -> list[list[int]]:
        return [[parent for parent in above if parent >= 0 and self.live[parent]] for above in self.parents]

    def live_parents(self, vertex: int) -> list[int]:
        """What a vertex was computed from, as far as the input reaches it."""
        return self._live_parents[vertex]

    @cached_property
    def mixing(self) -> dict[int, bool]:
        """What `mixes` found out about vertices."""
        return {}

    @cached_property
    def _weights(self) -> dict[int, tuple[str, ...]]:
        return {}

    def weights(self, vertex: int) -> tuple[str, ...]:
        """Names of the parameters that enter at a vertex, directly or transformed on the way (weight normalisation)."""
        known = self._weights
        if vertex not in known:
            names: dict[str, None] = {}
            for parent in self.parents[vertex]:
                if parent >= 0 and not self.live[parent]:
                    names.update(dict.fromkeys(self.parameters_behind(parent)))
            known[vertex] = tuple(names)
        return known[vertex]

    def parameters_behind(self, vertex: int) -> tuple[str, ...]:
        """Names of the parameters that a vertex outside the input's reach was computed from."""
        names: dict[str, None] = {}
        pending, met = [vertex], {vertex}
        while pending:
            current = pending.pop()
            name = self.parameter[current]
            if name is not None:
                names[name] = None
            for parent in self.parents[current]:
                if parent >= 0 and parent not in met:
                    met.add(parent)
                    pending.append(parent)
        return tuple(names)

    def label(self, vertex: int) -> str:
        """The class name of a custom function."""
        return type(self.edges[vertex][0]).__name__.removesuffix("Backward")

    def release(self, *, edges: bool = True) -> None:
        """Let go of all tensors, unless told otherwise also of the autograd graph with those of the backward pass."""
        if edges:
            self.edges.clear()
        for operation in self.operations:
            if operation is not None:
                operation.forget()

    def entries(self, vertex: int) -> int:
        """How many numbers a vertex holds."""
        product = 1
        for size in self.shapes[vertex]:
            product *= size
        return product


def build(
    outputs: Iterable[Tensor],
    record: Record,
    parameters: Mapping[int, str],
    inputs: Sequence[Tensor],
    given: Collection[Node] = (),
) -> Graph:
    """The graph behind `outputs`; `parameters` names parameters by their id, `inputs` are the leaves of the input.

    A leaf that the model made itself from what it was given counts as input too. `given` are the nodes of inputs that
    were computed before: what lies behind them is not looked at.
    """
    ends = [(tensor.grad_fn, tensor.output_nr) for tensor in outputs if tensor.grad_fn is not None]
    arguments = _behind([node for node, _ in ends], given)
    kinds = {node: _kind(node) for node in arguments}
    order = {node: -1 if kind == LEAF else node._sequence_nr() for node, kind in kinds.items()}  # noqa: SLF001
    used: dict[Node, set[int]] = {node: set() for node in arguments}
    for edges in (ends, *arguments.values()):
        for node, number in edges:
            if node is not None:
                used[node].add(number)
    leaves = {id(tensor) for tensor in inputs}
    graph = Graph([], [], [], [], [], [], [], [], [], frozenset())
    index: dict[tuple[Node | None, int], int] = {}
    for node in _in_order(arguments, order):
        kind = kinds[node]
        operation = None
        if kind not in {LEAF, CUSTOM, HOOKED}:  # an operation in place on a view is numbered just before its node
            operation = record.operations.get(order[node] - 1 if kind == SLICED else order[node])
        variable = getattr(node, "variable", None) if kind == LEAF else None
        above = tuple(-1 if parent is None else index[parent, n] for parent, n in arguments[node])
        live = (
            (variable is not None and (id(variable) in leaves or _made(variable, record, parameters)))
            or node in given
            or (operation is not None and operation.reads_input)
            or any(parent >= 0 and graph.live[parent] for parent in above)
        )
        for number in sorted(used[node]):
            index[node, number] = len(graph.kinds)
            graph.kinds.append(operation.name.replace("_", "") if kind == SLICED and operation else kind)
            graph.parents.append(above[number : number + 1] if kind == HOOKED else above)
            graph.operations.append(operation)
            graph.shapes.append(_shape(node, number))
            graph.edges.append((node, number))
            graph.numbers.append(number)
            graph.sliced.append(kind == SLICED)
            graph.live.append(live)
            graph.parameter.append(None if variable is None else parameters.get(id(variable)))
    graph.outputs = frozenset(index[end] for end in ends)
    return graph


def _made(variable: Tensor, record: Record, parameters: Mapping[int, str]) -> bool:
    return id(variable) not in parameters and storage_of(variable) in record.influenced


def _behind(ends: list[Node], given: Collection[Node]) -> dict[Node, Arguments]:
    """All nodes behind the ends, each with its arguments; those that were given have none."""
    arguments: dict[Node, Arguments] = {}
    pending = ends
    while pending:
        node = pending.pop()
        if node not in arguments:
            arguments[node] = () if node in given else node.next_functions
            pending.extend(parent for parent, _ in arguments[node] if parent is not None)
    return arguments


def _in_order(arguments: Mapping[Node, Arguments], order: Mapping[Node, int]) -> list[Node]:
    """All nodes; parents first, otherwise as autograd numbered them."""
    ordered = sorted(arguments, key=order.__getitem__)
    edges_of = ((node, parent) for node in ordered for parent, _ in arguments[node] if parent is not None)
    if all(order[parent] < max(order[node], 0) for node, parent in edges_of):
        return ordered
    children: dict[Node, list[Node]] = {node: [] for node in arguments}
    waiting = dict.fromkeys(arguments, 0)
    for node, edges in arguments.items():
        for parent in dict.fromkeys(parent for parent, _ in edges if parent is not None):
            children[parent].append(node)
            waiting[node] += 1
    ready = [(order[node], position, node) for position, node in enumerate(arguments) if not waiting[node]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, _, node = heapq.heappop(ready)
        ordered.append(node)
        for child in children[node]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (order[child], len(arguments) + len(ordered), child))
    return ordered


def _kind(node: Node) -> str:
    custom: type = torch._C._FunctionBase  # noqa: SLF001
    if type(node).__name__ == "BackwardHookFunctionBackward":
        return HOOKED
    return CUSTOM if isinstance(node, custom) else _kind_of(node.name())


@cache
def _kind_of(name: str) -> str:
    return re.sub(r"Backward\d*(List)?$", "", name.rpartition(":")[2]).lower()


def _shape(node: Node, number: int) -> tuple[int, ...]:
    metadata = getattr(node, "_input_metadata", ())
    if number >= len(metadata):
        variable = getattr(node, "variable", None)
        return () if variable is None else tuple(variable.shape)
    if metadata[number].is_cpp_nested_tensor:
        return (1,)
    return tuple(size if type(size) is int else 1 for size in metadata[number].shape)  # ragged sizes are symbols
