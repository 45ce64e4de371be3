"""The network as a graph of values, read from autograd: a vertex is one tensor, its parents what it was made from.

Vertices are numbered so that parents come before children, in the order of execution. A vertex is live if the input
of the network reaches it.
"""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.autograd.graph import Node

from cleanpath.auditing.record import Operation, Record

LEAF = "accumulategrad"
CUSTOM = "custom"
HOOKED = "backwardhook"
"""What torch puts around a module with backward hooks: every tensor passes as it is."""
SLICED = "copyslices"
"""The node of an operation made in place on a view of its first argument."""
Edge = tuple[Node, int]


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

    def live_parents(self, vertex: int) -> list[int]:
        """What a vertex was computed from, as far as the input reaches it."""
        return [p for p in self.parents[vertex] if p >= 0 and self.live[p]]

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

    def release(self) -> None:
        """Let go of the autograd graph and of constants, and with them of the memory of the forward pass."""
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


def build(outputs: Iterable[Tensor], record: Record, parameters: Mapping[int, str], inputs: Sequence[Tensor]) -> Graph:
    """The graph behind `outputs`; `parameters` names parameters by their id, `inputs` are the leaves of the input."""
    ends = [(tensor.grad_fn, tensor.output_nr) for tensor in outputs if tensor.grad_fn is not None]
    arguments = _behind([node for node, _ in ends])
    nodes = _in_order(arguments)
    used: dict[Node, set[int]] = {node: set() for node in nodes}
    for node, number in (*ends, *(edge for edges in arguments.values() for edge in edges)):
        if node is not None:
            used[node].add(number)
    edges = [(node, number) for node in nodes for number in sorted(used[node])]
    index = {edge: vertex for vertex, edge in enumerate(edges)}
    leaves = {id(tensor) for tensor in inputs}
    graph = Graph([], [], [], [], edges, [], [], [], [], frozenset(index[end] for end in ends))
    for node, number in edges:
        operation = _operation(node, record.operations)
        above = tuple(-1 if parent is None else index[parent, n] for parent, n in arguments[node])
        kind = _kind(node)
        above = above[number : number + 1] if kind == HOOKED else above
        variable = getattr(node, "variable", None) if kind == LEAF else None
        graph.kinds.append(operation.name.replace("_", "") if kind == SLICED and operation else kind)
        graph.parents.append(above)
        graph.numbers.append(number)
        graph.sliced.append(kind == SLICED)
        graph.operations.append(operation)
        graph.shapes.append(_shape(node, number))
        graph.parameter.append(None if variable is None else parameters.get(id(variable)))
        graph.live.append(
            (variable is not None and id(variable) in leaves)
            or (operation is not None and operation.reads_input)
            or any(parent >= 0 and graph.live[parent] for parent in above)
        )
    return graph


def _behind(ends: list[Node]) -> dict[Node, tuple[tuple[Node | None, int], ...]]:
    """All nodes behind the ends, each with its arguments."""
    arguments: dict[Node, tuple[tuple[Node | None, int], ...]] = {}
    pending = ends
    while pending:
        node = pending.pop()
        if node not in arguments:
            arguments[node] = node.next_functions
            pending.extend(parent for parent, _ in arguments[node] if parent is not None)
    return arguments


def _in_order(arguments: Mapping[Node, tuple[tuple[Node | None, int], ...]]) -> list[Node]:
    """All nodes; parents first, otherwise as autograd numbered them."""
    children: dict[Node, list[Node]] = {node: [] for node in arguments}
    waiting = dict.fromkeys(arguments, 0)
    for node, edges in arguments.items():
        for parent in dict.fromkeys(parent for parent, _ in edges if parent is not None):
            children[parent].append(node)
            waiting[node] += 1
    numbers = {node: -1 if _kind(node) == LEAF else node._sequence_nr() for node in arguments}  # noqa: SLF001
    ready = [(numbers[node], position, node) for position, node in enumerate(arguments) if not waiting[node]]
    heapq.heapify(ready)
    ordered: list[Node] = []
    while ready:
        _, _, node = heapq.heappop(ready)
        ordered.append(node)
        for child in children[node]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (numbers[child], len(arguments) + len(ordered), child))
    return ordered


def _kind(node: Node) -> str:
    custom: type = torch._C._FunctionBase  # noqa: SLF001
    if type(node).__name__ == "BackwardHookFunctionBackward":
        return HOOKED
    return CUSTOM if isinstance(node, custom) else _kind_of(node.name())


@cache
def _kind_of(name: str) -> str:
    return re.sub(r"Backward\d*(List)?$", "", name.rpartition(":")[2]).lower()


def _operation(node: Node, operations: Mapping[int, Operation]) -> Operation | None:
    """The record of a node; an operation in place on a view is numbered just before its node."""
    kind = _kind(node)
    if kind in {CUSTOM, LEAF, HOOKED}:
        return None
    number = node._sequence_nr()  # noqa: SLF001
    return operations.get(number - 1) if kind == SLICED else operations.get(number)


def _shape(node: Node, number: int) -> tuple[int, ...]:
    metadata = getattr(node, "_input_metadata", ())
    if number >= len(metadata):
        variable = getattr(node, "variable", None)
        return () if variable is None else tuple(variable.shape)
    if metadata[number].is_cpp_nested_tensor:
        return (1,)
    return tuple(size if type(size) is int else 1 for size in metadata[number].shape)  # ragged sizes are symbols
