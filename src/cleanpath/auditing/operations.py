"""What units are made of, in a reader's words: the operations of h, F and f, what stands before, stem and tail."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

from cleanpath.auditing import kinds
from cleanpath.auditing.describe import Around, branch_parameters, owners
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.record import Operation, Seen
from cleanpath.auditing.shortcut import Ancestors, mixes
from cleanpath.auditing.trace import Unit
from cleanpath.auditing.values import BeforeRow

MOST = 40
"""Operations that are named; what is more is counted."""
_BATCH_NORMS = (
    *("nativebatchnorm", "cudnnbatchnorm", "miopenbatchnorm", "nativebatchnormlegit", "syncbatchnorm"),
    *("batchnormwithupdate", "batchnormimpl"),
)
_WORDS = {
    **dict.fromkeys(_BATCH_NORMS, "BN"),
    "nativelayernorm": "LN",
    "nativegroupnorm": "GN",
    "fusedrmsnorm": "RMSNorm",
    "instancenorm": "IN",
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "leakyrelu": "LeakyReLU",
    "elu": "ELU",
    "prelu": "PReLU",
    "clampmin": "ReLU",
    "threshold": "ReLU",
    "hardtanh": "clip",
}
_ATTENTION = "scaleddotproduct"


@dataclass(frozen=True)
class Told:
    """The words of one unit."""

    shortcut: tuple[str, ...]
    branch: tuple[str, ...]
    before: BeforeRow
    source: str


@dataclass(frozen=True)
class Words:
    """The words of a network: one entry per unit, stem and tail."""

    names: tuple[str, ...]
    units: tuple[Told, ...]
    stem: tuple[str, ...]
    tail: tuple[str, ...]


def words(
    graph: Graph,
    units: Sequence[Unit],
    around: Sequence[Around],
    names: Sequence[str],
    modules: Mapping[str, nn.Module],
) -> Words:
    """All of it; the operations' arguments must still be known."""
    told = list[Told]()
    sums = frozenset(unit.sum for unit in units)
    for index, (unit, name) in enumerate(zip(units, names, strict=True)):
        before = BeforeRow(
            operations=_named(graph, _entering(graph, units, around, index)),
            in_place=_overwritten(graph, unit, name, sums),
        )
        shortcut = _named(graph, unit.shortcut.region)
        told.append(Told(shortcut, _branch(graph, units, index), before, _source(graph, unit, modules)))
    top = [index for index, unit in enumerate(units) if unit.parent is None]
    if not top:
        return Words(tuple(names), tuple(told), (), ())
    first, last = units[top[0]], around[top[-1]].end
    stem = sorted(Ancestors(graph, [first.fork]).everything())
    return Words(tuple(names), tuple(told), _named(graph, stem), _named(graph, _ahead(graph, last)))


def in_order(graph: Graph, vertices: Iterable[int]) -> Iterator[str]:
    """The operations in words: layout left out, a norm written by hand named as one, biases not told."""
    waiting = list[int]()
    for vertex in vertices:
        kind = graph.kinds[vertex]
        if kind in kinds.LAYOUT or not graph.live[vertex] or graph.parents[vertex] == ():
            continue
        if mixes(graph, vertex) or kind in kinds.NORMS or kind.startswith(_ATTENTION):
            yield from _small(graph, waiting)
            waiting = []
            yield _layer(graph, vertex)
        else:
            waiting.append(vertex)
    yield from _small(graph, waiting)


def _named(graph: Graph, vertices: Iterable[int]) -> tuple[str, ...]:
    found = list(in_order(graph, vertices))
    return (*found[:MOST], f"{len(found) - MOST} more") if len(found) > MOST else tuple(found)


def _small(graph: Graph, vertices: Sequence[int]) -> Iterator[str]:
    """What stands between two layers: if a root is taken it is a norm, and its arithmetic is not told one by one."""
    by_hand = any(graph.kinds[v] in kinds.SPREADS for v in vertices)
    if by_hand:
        yield "norm"
    for vertex in vertices:
        kind = graph.kinds[vertex]
        if kind in kinds.ACTIVATIONS:
            yield _WORDS.get(kind, kind)
        elif kind in kinds.DROPOUTS:
            yield "dropout"
        elif not by_hand:
            yield from _arithmetic(graph, vertex)


_GROUPS = (
    (kinds.POOLS, "pooling"),
    (kinds.RESAMPLINGS, "resampling"),
    (kinds.PRODUCTS, "product"),
    (frozenset({"custom"}), "custom function"),
)


def _arithmetic(graph: Graph, vertex: int) -> Iterator[str]:
    kind, several = graph.kinds[vertex], len(graph.live_parents(vertex)) > 1
    if kind in {"mul", "div"}:
        yield _product(graph, vertex)
    elif kind in {"add", "sub"} and several:
        yield "+"
    elif kind in kinds.PADS:
        yield "concatenation" if several else "zero padding"
    else:
        yield from (word for group, word in _GROUPS if kind in group)


def _product(graph: Graph, vertex: int) -> str:
    """A product of two signals, or one with a constant, a learned scale or a random mask."""
    if len(graph.live_parents(vertex)) > 1:
        return "× signal"
    if graph.weights(vertex):
        return "× scale"
    operation = graph.operations[vertex]
    if operation is not None and any(isinstance(value, Seen) and value.noise for value in operation.arguments):
        return "dropout"
    return "× constant"


def _layer(graph: Graph, vertex: int) -> str:
    kind, operation = graph.kinds[vertex], graph.operations[vertex]
    if kind in _WORDS:
        return _WORDS[kind]
    if kind.startswith(_ATTENTION):
        return "attention"
    if "convolution" in kind and operation is not None:
        return _convolution(operation)
    if kind in kinds.PRODUCTS:
        return "linear"
    if kind in kinds.TRANSFORMS:
        return "Fourier"
    return "norm" if kind in kinds.NORMS else kind


def _convolution(operation: Operation) -> str:
    """`conv 3×3/2`: kernel and stride; with groups that is said."""
    weight, stride = operation.argument(1, "weight"), operation.argument(3, "stride", (1,))
    if not isinstance(weight, Seen):
        return "conv"
    kernel = "×".join(map(str, weight.shape[2:]))
    step = max(stride, default=1) if isinstance(stride, list | tuple) else stride
    groups = operation.argument(8, "groups", 1)
    grouped = " grouped" if isinstance(groups, int) and groups > 1 else ""
    return f"conv {kernel}{f'/{step}' if step != 1 else ''}{grouped}"


def _branch(graph: Graph, units: Sequence[Unit], index: int) -> tuple[str, ...]:
    """The operations of F; units nested in it are counted where the first of them stands."""
    unit = units[index]
    nested = [other for other in units if other.parent == index]
    inside = {v for other in nested for v in (*other.branch, *other.shortcut.region, *other.beside, other.sum)}
    own = sorted({*unit.branch, *unit.partial_sums} - inside)
    named = _named(graph, [v for v in own if v != unit.sum])
    return (f"{len(nested)} unit{'s' if len(nested) > 1 else ''} inside", *named) if nested else named


def _entering(graph: Graph, units: Sequence[Unit], around: Sequence[Around], index: int) -> list[int]:
    """The vertices between the end of the unit before and this one's fork; without one, nothing: that is the stem."""
    previous = around[index].previous
    if previous is None:
        return []
    end, found = around[previous].end, list[int]()
    frontier = {units[index].fork}
    while frontier and max(frontier) > end:
        vertex = max(frontier)
        frontier.remove(vertex)
        found.append(vertex)
        frontier.update(graph.live_parents(vertex))
    return sorted(found)


def _overwritten(graph: Graph, unit: Unit, name: str, sums: frozenset[int]) -> str:
    """The operation by which a unit overwrites its own input before it is shared: h then carries what F was to see.

    The walk goes back from the fork over operations in place of the unit's own, and must end at something that the unit
    did not compute: what it computed itself (a shared norm) it may overwrite.
    """
    own = frozenset(owners(branch_parameters(graph, unit)))
    vertex, met = unit.fork, ""
    while True:
        operation, above = graph.operations[vertex], graph.live_parents(vertex)
        where = operation.module if operation is not None else ""
        ours = bool(where) and (where == name or where.startswith(f"{name.partition('#')[0]}.") or _beside(where, own))
        if operation is not None and operation.in_place and ours and len(above) == 1:
            met = f"{_WORDS.get(graph.kinds[vertex], graph.kinds[vertex])} in {where}"
        elif graph.kinds[vertex] not in kinds.LAYOUT or len(above) != 1:
            return "" if ours and vertex not in sums else met
        vertex = above[0]


def _beside(where: str, layers: frozenset[str]) -> bool:
    """Whether a module is one of the unit's layers, or stands in one container with one that holds not all of them."""
    container = where.rpartition(".")[0]
    held = [layer for layer in layers if layer.startswith(f"{container}.")]
    return where in layers or (bool(container) and 0 < len(held) < len(layers))


def _ahead(graph: Graph, start: int) -> list[int]:
    """Everything computed from a vertex, in order."""
    met, pending = set[int](), list(graph.children[start])
    while pending:
        vertex = pending.pop()
        if vertex not in met:
            met.add(vertex)
            pending.extend(graph.children[vertex])
    return sorted(met)


def _source(graph: Graph, unit: Unit, modules: Mapping[str, nn.Module]) -> str:
    operation = graph.operations[unit.sum]
    module = modules.get(operation.module) if operation is not None else None
    return "" if module is None else _place(type(module))  # type: ignore[arg-type]


@cache
def _place(kind: type) -> str:
    """File and line of a class: the file from the working folder on, or from the folder of its package."""
    try:
        file, (_, line) = Path(inspect.getsourcefile(kind) or ""), inspect.getsourcelines(kind)
    except (OSError, TypeError):
        return ""
    here = Path.cwd()
    if file.is_relative_to(here) and "site-packages" not in file.parts:
        return f"{file.relative_to(here)}:{line}"
    parts = kind.__module__.split(".")
    return f"{'/'.join(file.parts[-len(parts) - (file.stem == '__init__') :])}:{line}"
