"""The sums of a graph: for every way of writing an addition, its terms and the factors in front of them."""

from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from cleanpath.auditing.graph import Graph
from cleanpath.auditing.record import Operation, Seen

MATRIX_SUMS = frozenset({"addmm", "baddbmm", "addbmm", "addmv", "addr"})
GATHERED_SUMS = frozenset({"indexadd", "indexput", "scatteradd", "scatterreduce", "indexreduce"})
REDUCTIONS = frozenset({"sum", "mean"})


@dataclass(frozen=True)
class Term:
    """One operand of a sum: λ times a vertex, or times the product of several."""

    factors: tuple[int, ...]
    scale: float | None = 1.0
    """λ; None where it is not one known number."""
    product: str = "none"
    """How several factors are multiplied: `entries` one by one, or as `matrices`."""
    weights: tuple[str, ...] = ()
    """Parameters that enter at the sum itself."""
    noise: bool = False
    position: int = 0
    """Which operand of its sum it is."""


def terms(graph: Graph, vertex: int) -> tuple[Term, ...]:
    """The operands of a sum that the input reaches; empty if the vertex is no sum of at least two of them."""
    every = enumerate(_all_terms(graph, vertex))
    found = tuple(replace(term, position=position) for position, term in every if term.factors)
    return found if len(found) > 1 else ()


def interpolation(graph: Graph, vertex: int) -> tuple[int, tuple[Term, ...]] | None:
    """A + z (b − a) with a gate z, as (1 − z) a + z b: the difference inside it, and the terms."""
    above = graph.parents[vertex]
    for first, product in (above[:2], above[1::-1]) if graph.kinds[vertex] == "add" and len(above) > 1 else ():
        if product < 0 or graph.kinds[product] != "mul" or len(graph.live_parents(product)) != 2:
            continue
        factors = graph.live_parents(product)
        for inner, gate in (factors, factors[::-1]):
            ends = graph.parents[inner][:2]
            if graph.kinds[inner] == "sub" and first >= 0 and ends[1] == first and graph.live[first]:
                other = (Term((ends[0], gate), 1.0, "entries"),) if ends[0] >= 0 and graph.live[ends[0]] else ()
                return inner, (Term((first, gate), 1.0, "entries"), *(replace(t, position=1) for t in other))
    return None


def number(seen: object) -> float | None:
    """The one number that a constant is, or the mean of its entries; None if it was not kept or has no values."""
    if isinstance(seen, Seen):
        seen = seen.value
    if isinstance(seen, Tensor):
        if seen.is_meta or not seen.numel() or seen.is_complex():
            return None
        return float(seen.double().mean())
    return float(seen) if isinstance(seen, int | float) else None


def _all_terms(graph: Graph, vertex: int) -> list[Term]:
    kind, above, operation = graph.kinds[vertex], graph.parents[vertex], graph.operations[vertex]
    if kind == "foreachadd" and len(above) % 2 == 0:  # of two lists
        kind, above = "add", above[graph.numbers[vertex] :: len(above) // 2]
    if kind in {"add", "sub", "rsub"} and len(above) > 1:
        alpha = number(operation.argument(2, "alpha", 1)) if operation else 1.0
        signed = -alpha if kind != "add" and alpha is not None else alpha
        first, second = (signed, 1.0) if kind == "rsub" else (1.0, signed)
        return [_plain(graph, above[0], first), _plain(graph, above[1], second)]
    if kind == "lerp":
        return _lerp(graph, above, operation)
    if kind in {"addcmul", "addcdiv"} and len(above) > 2:
        value = number(operation.argument(3, "value", 1)) if operation else 1.0
        return [_plain(graph, above[0], 1.0), _product(graph, vertex, (1, 2), value, divide=kind == "addcdiv")]
    if kind in MATRIX_SUMS and len(above) > 2:
        beta = number(operation.argument(3, "beta", 1)) if operation else 1.0
        factors = tuple(v for v in above[1:3] if v >= 0 and graph.live[v])
        entering = tuple(n for v in above[1:3] if v >= 0 and not graph.live[v] for n in graph.parameters_behind(v))
        return [_plain(graph, above[0], beta), Term(factors, 1.0, "matrices", entering)]
    if kind in GATHERED_SUMS and len(above) > 1 and _accumulates(kind, operation):
        return [_plain(graph, above[0], 1.0), _plain(graph, above[-1], 1.0)]
    return _reduction(graph, vertex) if kind in REDUCTIONS else []


def _plain(graph: Graph, vertex: int, scale: float | None) -> Term:
    return Term((vertex,) if vertex >= 0 and graph.live[vertex] else (), scale)


def _lerp(graph: Graph, above: tuple[int, ...], operation: Operation | None) -> list[Term]:
    """A + w (b − a) as (1 − w) a + w b."""
    first, second = (_plain(graph, above[i], 1.0) for i in (0, 1))
    if len(above) > 2 and above[2] >= 0 and graph.live[above[2]]:
        gated = (replace(t, factors=(*t.factors, above[2]), product="entries") for t in (first, second) if t.factors)
        return list(gated)
    weight = number(operation.argument(2, "weight")) if operation else None
    return [
        replace(first, scale=None if weight is None else 1 - weight),
        replace(second, scale=weight),
    ]


def _product(graph: Graph, vertex: int, positions: tuple[int, int], value: float | None, *, divide: bool) -> Term:
    """A product inside a fused sum; a factor beyond the input's reach becomes part of λ."""
    above, operation = graph.parents[vertex], graph.operations[vertex]
    alive = [i for i in positions if above[i] >= 0 and graph.live[above[i]]]
    scale, noise = value, False
    for i in positions:
        if i not in alive:
            seen = operation.argument(i, "") if operation else None
            constant = number(seen)
            noise |= isinstance(seen, Seen) and seen.noise
            inverse = divide and i == positions[1]
            known = scale is not None and constant is not None and not (inverse and constant == 0)
            scale = (
                (scale / constant if inverse else scale * constant)
                if known and scale is not None and constant is not None
                else None
            )
    entering = tuple(
        n for i in positions if i not in alive and above[i] >= 0 for n in graph.parameters_behind(above[i])
    )
    product = "entries" if len(alive) > 1 else "none"
    return Term(tuple(above[i] for i in alive), scale, product, entering, noise)


def _accumulates(kind: str, operation: Operation | None) -> bool:
    if kind == "indexput":
        return operation is not None and bool(operation.argument(3, "accumulate", default=False))
    if kind in {"scatterreduce", "indexreduce"}:
        return operation is not None and operation.argument(4, "reduce") == "sum"
    return True


def _reduction(graph: Graph, vertex: int) -> list[Term]:
    """The terms of `stack(...).sum(d)`, also of `cat(..., d)` split by a view and summed; a mean has λ = 1/n."""
    operation, parent = graph.operations[vertex], graph.parents[vertex][0]
    if operation is None or parent < 0:
        return []
    dims = operation.argument(1, "dim")
    reduced = (dims,) if isinstance(dims, int) else dims
    if not isinstance(reduced, tuple) or len(reduced) != 1:
        return []
    axis = reduced[0] % max(len(graph.shapes[parent]), 1)
    if graph.kinds[parent] == "view" and graph.parents[parent][0] >= 0:
        source = graph.parents[parent][0]
        joined = _joined_along(graph, source, axis, "cat")
        parts = (*graph.shapes[source][:axis], len(joined), -1, *graph.shapes[source][axis + 1 :])
        fits = joined and all(p in {-1, s} for p, s in zip(parts, graph.shapes[parent], strict=False))
        joined = joined if fits and len(parts) == len(graph.shapes[parent]) else ()
    else:
        joined = _joined_along(graph, parent, axis, "stack") or _joined_along(graph, parent, axis, "cat")
        if graph.kinds[parent] == "cat" and any(p < 0 or graph.shapes[p][axis] != 1 for p in joined):
            joined = ()
    scale = 1.0 / len(joined) if joined and graph.kinds[vertex] == "mean" else 1.0
    return [_plain(graph, operand, scale) for operand in joined]


def _joined_along(graph: Graph, vertex: int, axis: int, kind: str) -> tuple[int, ...]:
    operation = graph.operations[vertex]
    if graph.kinds[vertex] != kind or operation is None:
        return ()
    along = operation.argument(1, "dim", 0) % max(len(graph.shapes[vertex]), 1)
    sizes = {prod(graph.shapes[p]) for p in graph.parents[vertex] if p >= 0}
    return graph.parents[vertex] if along == axis and len(sizes) == 1 else ()
