"""The shortcut h of a sum: the way back from one operand to the fork, and what kind of function it is."""

import heapq
from collections.abc import Iterable, Sequence
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

    def everything(self) -> set[int]:
        """All of them."""
        _ = -1 in self
        return self._met

    def after(self, vertex: int) -> list[int]:
        """Those computed later than a vertex that is known to be one of them, in order."""
        return sorted(other for other in self._met if other > vertex) if vertex in self else []


def mixes(graph: Graph, vertex: int) -> bool:
    """Whether a vertex is a layer: it combines entries with a matrix or kernel of parameters, or a Fourier matrix."""
    if vertex not in graph.mixing:
        graph.mixing[vertex] = _mixes(graph, vertex)
    return graph.mixing[vertex]


def _mixes(graph: Graph, vertex: int) -> bool:
    kind, operation = graph.kinds[vertex], graph.operations[vertex]
    if operation is not None and operation.name.startswith("quantized"):
        return True
    if kind in kinds.NOT_MIXING:
        return False
    if kind in kinds.TRANSFORMS:
        return True
    above = graph.parents[vertex][1:] if kind in {"addmm", "baddbmm", "addbmm", "addmv"} else graph.parents[vertex]
    return any(
        p >= 0 and not graph.live[p] and (len(graph.shapes[p]) > 1 or kind == CUSTOM) and graph.parameters_behind(p)
        for p in above
    )


def trace_back(graph: Graph, term: Term, others: Ancestors, closed: Iterable[int]) -> Shortcut | None:
    """The shortcut that ends in `term`, if the nearest tensor on it also feeds the other operands."""
    if term.product == "matrices":
        return None
    walked = _collapse(graph, term, others, frozenset(closed)) or _along_gates(graph, term, others)
    return _classify(graph, term, *walked) if walked else None


def _collapse(
    graph: Graph, term: Term, others: Ancestors, closed: frozenset[int]
) -> tuple[int, tuple[int, ...]] | None:
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
    region, gated = set[int](), term.product == "entries"
    ways = _ways(graph, term.factors, region) if gated else list(term.factors)
    while len(ways) == 1 and len(region) < LONGEST_SHORTCUT:
        vertex = ways[0]
        if gated and vertex in others:
            return vertex, tuple(sorted(region))
        above = graph.live_parents(vertex)
        if len(above) == 2 and graph.kinds[vertex] == "mul":
            ways, gated = _ways(graph, above, region), True
        elif len(above) == 1 and graph.kinds[vertex] in kinds.LAYOUT | kinds.SLICES | kinds.PADS:
            ways = above
        else:
            return None
        region.add(vertex)
    return None


def _ways(graph: Graph, factors: Sequence[int], region: set[int]) -> list[int]:
    """The factors that a gate multiplies; the gates' own operations become part of the shortcut."""
    found = list[int]()
    for signal, gate in ((factors[0], factors[-1]), (factors[-1], factors[0])):
        if signal != gate and _is_gate(graph, gate):
            found.append(signal)
            region.update(_gate_path(graph, gate))
    return found


def _gate_path(graph: Graph, vertex: int) -> list[int]:
    """From a gate back to its weights."""
    path = [vertex]
    while len(path) < LONGEST_SHORTCUT and not mixes(graph, path[-1]):
        above = graph.live_parents(path[-1])
        if len(above) != 1:
            break
        path.append(above[0])
    return path


def _is_gate(graph: Graph, vertex: int) -> bool:
    """Whether a vertex is a squashed signal, perhaps turned round (1 − g) or cut out of a longer one."""
    for _ in range(6):
        if graph.kinds[vertex] in kinds.GATES:
            return True
        above = graph.live_parents(vertex)
        if len(above) != 1 or mixes(graph, vertex):
            return False
        vertex = above[0]
    return False


def _classify(graph: Graph, term: Term, fork: int, region: tuple[int, ...]) -> Shortcut | None:
    """The kind of h; None where it is more than a shortcut may be: a product of matrices, layers that bend."""
    weights = tuple(dict.fromkeys([*term.weights, *(n for v in region for n in graph.weights(v))]))
    layers = sum(mixes(graph, v) for v in region)
    effects = {_effect(graph, vertex) for vertex in region} | ({"dropout"} if term.noise else set())
    scale = _scale(graph, term, region)
    if term.product == "entries" or _gated(graph, region):
        kind = "gate"
    elif "product" in effects or (layers and not _affine(graph, region, effects, layers)):
        return None
    elif layers:
        kind = "projection"
    else:
        kind = next((kind for kind, signs in BARE_KINDS if not effects.isdisjoint(signs)), "identity")
        kind = "scaling" if (scale != 1.0 or weights) and kind.startswith("identity") else kind
    described = ", ".join(kinds.in_words(graph.kinds[v] for v in region))
    return Shortcut(kind, fork, region, scale if kind == "scaling" else None, described, weights, layers)


BARE_KINDS = (
    ("other", {"other", "joined", "activation", "bias"}),
    ("dropout", {"dropout"}),
    ("identity_pad", {"pad"}),
    ("identity_slice", {"slice"}),
)
"""Kinds of a shortcut without layers, by what its operations do."""


def _affine(graph: Graph, region: tuple[int, ...], effects: set[str], layers: int) -> bool:
    """Whether the layers on a way project the fork: nothing joins, and if anything bends, then before a lone layer."""
    if layers > MOST_PROJECTION_LAYERS or effects & {"joined", "dropout"} or _picks(graph, region):
        return False
    return "activation" not in effects or (layers == 1 and not _bends_after_layer(graph, region))


def _bends_after_layer(graph: Graph, region: tuple[int, ...]) -> bool:
    first = next(position for position, vertex in enumerate(region) if mixes(graph, vertex))
    return any(graph.kinds[vertex] in kinds.ACTIVATIONS for vertex in region[first:])


def _picks(graph: Graph, region: tuple[int, ...]) -> bool:
    """Whether a part is taken out of the fork before the layer, which then projects something else than the fork."""
    first = next(position for position, vertex in enumerate(region) if mixes(graph, vertex))
    parts = (v for v in region[:first] if graph.kinds[v] in kinds.SLICES - {"slice"})
    return any(graph.entries(v) < graph.entries(graph.live_parents(v)[0]) for v in parts)


def _gated(graph: Graph, region: tuple[int, ...]) -> bool:
    """Whether a gate multiplies a signal that passes no weights, neither before nor after."""
    weighted, gated = set[int](), set[int]()
    for vertex in region:
        above = graph.live_parents(vertex)
        if graph.kinds[vertex] == "mul" and len(above) == 2:
            ways = [(a, b) for a, b in (above, above[::-1]) if a not in weighted and _is_gate(graph, b)]
            if ways:
                gated.add(vertex)
        if mixes(graph, vertex) or not weighted.isdisjoint(above):
            weighted.add(vertex)
        elif not gated.isdisjoint(above) and graph.kinds[vertex] not in kinds.ACTIVATIONS:
            gated.add(vertex)
    return bool(region) and region[-1] in gated


def _effect(graph: Graph, vertex: int) -> str:
    """What one operation of a shortcut does to the signal."""
    kind, above = graph.kinds[vertex], graph.live_parents(vertex)
    if len(above) != 1:
        return "product" if kind in kinds.PRODUCTS else "joined"
    if kind in kinds.DROPOUTS or _noisy(graph, vertex):
        return "dropout"
    if kind in kinds.ACTIVATIONS:
        return "activation"
    if kind in kinds.SCALES or _adds_nothing(graph, vertex):
        return "scale"
    if kind in kinds.LAYOUT | kinds.SLICES | kinds.PADS or _samples(graph, vertex):
        return _arrangement(graph, vertex, above[0])
    return "bias" if kind in {"add", "sub", "rsub"} and mixes(graph, above[0]) else "other"


def _noisy(graph: Graph, vertex: int) -> bool:
    """Whether a random mask multiplies the signal."""
    operation = graph.operations[vertex]
    if graph.kinds[vertex] not in kinds.SCALES or operation is None:
        return False
    return any(isinstance(value, Seen) and value.noise for value in operation.arguments)


def _adds_nothing(graph: Graph, vertex: int) -> bool:
    """0 + x, as `sum([x, F])` makes it."""
    operation = graph.operations[vertex]
    if operation is None or graph.kinds[vertex] not in {"add", "sub"}:
        return False
    return number(operation.argument(1, "other")) == 0


def _samples(graph: Graph, vertex: int) -> bool:
    """A pool over single pixels: every n-th is taken."""
    operation = graph.operations[vertex]
    if graph.kinds[vertex] != "maxpool2dwithindices" or operation is None:
        return False
    return set(operation.argument(1, "kernel_size")) == {1}


def _arrangement(graph: Graph, vertex: int, source: int) -> str:
    """Whether entries are only moved, or some are left out or zeros added."""
    before, after = graph.entries(source), graph.entries(vertex)
    if before == after or graph.kinds[vertex] == "expand":
        return "nothing"
    return "pad" if after > before else "slice"


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
    constant = number(operation.argument(position, "other"))
    if kind == "div" and constant is not None:
        return None if position == 0 or constant == 0 else 1.0 / constant
    return constant
