"""The shortcut h of a sum: the way back from one operand to the fork, and what kind of function it is."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from cleanpath.auditing import kinds
from cleanpath.auditing.graph import CUSTOM, Graph
from cleanpath.auditing.record import Seen
from cleanpath.auditing.sums import Term, number

LONGEST_SHORTCUT = 80
"""Operations on a shortcut; a hand-written normalisation takes about ten, a gate with two layers about twenty."""
MOST_GATE_LAYERS = 4
MOST_PROJECTION_LAYERS = 2


@dataclass(frozen=True)
class Shortcut:
    """h: its kind, λ where it is a scaling, the operations on it, the parameters on it."""

    kind: str
    fork: int
    region: tuple[int, ...]
    scale: float | None = None
    description: str = ""
    weights: tuple[str, ...] = ()
    layers: int = 0
    """Weight layers on a projection."""

    RANKS = ("identity", "identity_slice", "identity_pad", "scaling", "dropout", "gate", "other", "projection")

    @property
    def rank(self) -> int:
        """Simpler kinds first: the simpler operand of a sum is its shortcut."""
        return self.RANKS.index(self.kind)


class Ancestors:
    """The live vertices behind some vertices, found no farther back than asked."""

    def __init__(self, graph: Graph, starts: Iterable[int]) -> None:
        self._graph, self._met = graph, set(starts)
        self._ahead = [-vertex for vertex in self._met]
        heapq.heapify(self._ahead)

    def __contains__(self, vertex: int) -> bool:
        while self._ahead and -self._ahead[0] > vertex:
            for parent in self._graph.live_parents(-heapq.heappop(self._ahead)):
                if parent not in self._met:
                    self._met.add(parent)
                    heapq.heappush(self._ahead, -parent)
        return vertex in self._met

    def after(self, vertex: int) -> list[int]:
        """Those computed later than a vertex that is known to be one of them, in order."""
        return sorted(other for other in self._met if other > vertex) if vertex in self else []


def mixes(graph: Graph, vertex: int) -> bool:
    """Whether a vertex is a weight layer: it combines entries with a matrix or a kernel of parameters."""
    kind, operation = graph.kinds[vertex], graph.operations[vertex]
    if operation is not None and operation.name.startswith("quantized"):
        return True
    if kind in kinds.NOT_MIXING:
        return False
    above = graph.parents[vertex][1:] if kind in {"addmm", "baddbmm", "addbmm", "addmv"} else graph.parents[vertex]
    return any(
        p >= 0 and not graph.live[p] and (len(graph.shapes[p]) > 1 or kind == CUSTOM) and graph.parameters_behind(p)
        for p in above
    )


def trace_back(graph: Graph, term: Term, others: Ancestors, closed: Iterable[int]) -> Shortcut | None:
    """The shortcut that ends in `term`, if the nearest tensor through which it passes also feeds the other operands."""
    if term.product == "matrices":
        return None
    walked = _collapse(graph, term, others, frozenset(closed)) or _along_gates(graph, term, others)
    return _classify(graph, term, *walked) if walked else None


def _collapse(graph: Graph, term: Term, others: Ancestors, closed: frozenset[int]) -> tuple[int, tuple[int, ...]] | None:
    """Go back from all factors at once; where a single vertex is left, everything passes through it."""
    frontier, region, layers = set(term.factors), list[int](), 0
    while len(region) < LONGEST_SHORTCUT and frontier:
        vertex = max(frontier)
        if len(frontier) == 1 and vertex in others:
            return vertex, tuple(reversed(region))
        layers += mixes(graph, vertex)
        if vertex in closed or layers > MOST_GATE_LAYERS or graph.kinds[vertex] == CUSTOM:
            return None
        region.append(vertex)
        frontier.remove(vertex)
        frontier.update(graph.live_parents(vertex))
    return None


def _along_gates(graph: Graph, term: Term, others: Ancestors) -> tuple[int, tuple[int, ...]] | None:
    """Follow the gated signal alone, where the gate reads something else, as in a recurrent cell."""
    if term.product == "entries":
        first, second = term.factors[0], term.factors[-1]
        ways = [w for w, gate in ((first, second), (second, first)) if _is_gate(graph, gate)]
        region = list[int]()
    elif term.factors:
        ways, region = list(term.factors), list[int]()
    while len(ways) == 1 and len(region) < LONGEST_SHORTCUT:
        vertex = ways[0]
        if vertex in others and (region or term.product == "entries"):
            return vertex, tuple(reversed(region))
        above = graph.live_parents(vertex)
        if len(above) == 2 and graph.kinds[vertex] == "mul":
            ways = [w for w, gate in (above, above[::-1]) if _is_gate(graph, gate)]
        elif len(above) == 1 and graph.kinds[vertex] in kinds.LAYOUT | kinds.SLICES | kinds.PADS:
            ways = above
        else:
            return None
        region.append(vertex)
    return None


def _is_gate(graph: Graph, vertex: int) -> bool:
    for _ in range(6):
        if graph.kinds[vertex] in kinds.GATES:
            return True
        above = graph.live_parents(vertex)
        if len(above) != 1 or mixes(graph, vertex):
            return False
        vertex = above[0]
    return False


def _classify(graph: Graph, term: Term, fork: int, region: tuple[int, ...]) -> Shortcut | None:
    """The kind of h; None where it is more than a shortcut may be: layers with a non-linearity, a product of matrices."""
    weights = tuple(dict.fromkeys([*term.weights, *(n for v in region for n in graph.weights(v))]))
    layers = sum(mixes(graph, v) for v in region)
    described = ", ".join(kinds.in_words(graph.kinds[v] for v in region))
    if term.product == "entries" or _gated(graph, region):
        return Shortcut("gate", fork, region, None, described, weights)
    found = {_effect(graph, vertex) for vertex in region} | ({"dropout"} if term.noise else set())
    if "product" in found:
        return None
    if layers:
        affine = layers <= MOST_PROJECTION_LAYERS and not found & {"joined", "dropout"} and not _picks(graph, region)
        affine = affine and not ("activation" in found and (layers > 1 or _bends_after_layer(graph, region)))
        return Shortcut("projection", fork, region, None, described, weights, layers) if affine else None
    scale = _scale(graph, term, region)
    if found & {"other", "joined", "activation"}:
        return Shortcut("other", fork, region, None, described, weights)
    if "dropout" in found:
        return Shortcut("dropout", fork, region, None, described, weights)
    if scale != 1.0:
        return Shortcut("scaling", fork, region, scale, described, weights)
    kind = "identity_pad" if "pad" in found else "identity_slice" if "slice" in found else "identity"
    return Shortcut(kind, fork, region, None, described, weights)


def _bends_after_layer(graph: Graph, region: tuple[int, ...]) -> bool:
    first = next(position for position, vertex in enumerate(region) if mixes(graph, vertex))
    return any(graph.kinds[vertex] in kinds.ACTIVATIONS for vertex in region[first:])


def _picks(graph: Graph, region: tuple[int, ...]) -> bool:
    """Whether a part is taken out of the fork before the layer: then the layer projects something else than the fork."""
    first = next(position for position, vertex in enumerate(region) if mixes(graph, vertex))
    parts = (v for v in region[:first] if graph.kinds[v] in kinds.SLICES - {"slice"})
    return any(graph.entries(v) < graph.entries(graph.live_parents(v)[0]) for v in parts)


def _gated(graph: Graph, region: tuple[int, ...]) -> bool:
    """Whether a gate multiplies a signal that passed no weights."""
    weighted = set[int]()
    for vertex in region:
        above = graph.live_parents(vertex)
        if graph.kinds[vertex] == "mul" and len(above) == 2:
            ways = [(a, b) for a, b in (above, above[::-1]) if a not in weighted and _is_gate(graph, b)]
            if ways:
                return True
        if not weighted.isdisjoint(above) or mixes(graph, vertex):
            weighted.add(vertex)
    return False


def _effect(graph: Graph, vertex: int) -> str:
    """What one operation of a shortcut does: nothing, slice, pad, scale, dropout, activation, product or other."""
    kind, operation = graph.kinds[vertex], graph.operations[vertex]
    above = graph.live_parents(vertex)
    if kind in kinds.PRODUCTS and len(above) > 1:
        return "product"
    if kind in kinds.DROPOUTS:
        return "dropout"
    if kind in kinds.ACTIVATIONS:
        return "activation"
    if len(above) != 1:
        return "joined"
    if kind == "maxpool2dwithindices" and operation is not None and set(operation.argument(1, "kernel_size")) == {1}:
        return "slice"
    if kind in kinds.SCALES:
        seen = (value for value in (operation.arguments if operation else ()) if isinstance(value, Seen))
        return "dropout" if any(value.noise for value in seen) else "scale"
    if kind in kinds.LAYOUT:
        return "pad" if kind == "copy" and graph.parents[vertex][0] < 0 and _grows(graph, vertex, above[0]) else "nothing"
    if kind in kinds.SLICES:
        return "nothing" if graph.entries(vertex) == graph.entries(above[0]) else "slice"
    if kind in kinds.PADS:
        return _padding(graph, vertex, above[0])
    if kind in {"add", "sub"} and operation is not None and number(operation.argument(1, "other")) == 0:
        return "nothing"
    return "add" if kind in {"add", "sub", "rsub"} and mixes(graph, above[0]) else "other"


def _padding(graph: Graph, vertex: int, source: int) -> str:
    if _grows(graph, vertex, source):
        return "pad"
    return "nothing" if graph.entries(vertex) == graph.entries(source) else "slice"


def _grows(graph: Graph, vertex: int, source: int) -> bool:
    return graph.entries(vertex) > graph.entries(source)


def _scale(graph: Graph, term: Term, region: tuple[int, ...]) -> float | None:
    """The product of the constants on a shortcut: λ; None if one of them is unknown."""
    scale = term.scale
    for vertex in region:
        factor = _factor(graph, vertex)
        scale = None if scale is None or factor is None else scale * factor
    return scale


def _factor(graph: Graph, vertex: int) -> float | None:
    """λ of one operation; 1 if it is none that scales."""
    kind, operation = graph.kinds[vertex], graph.operations[vertex]
    if kind == "neg":
        return -1.0
    if kind in {"sub", "rsub"} and operation is not None:
        return -1.0 if (graph.parents[vertex][0] < 0) == (kind == "sub") else 1.0
    if kind not in {"mul", "div"}:
        return 1.0
    if operation is None:
        return None
    above = graph.parents[vertex]
    position = 1 if above[0] >= 0 and graph.live[above[0]] else 0
    constant = number(operation.arguments[position])
    if kind == "div" and constant is not None:
        return None if position == 0 or constant == 0 else 1.0 / constant
    return constant
