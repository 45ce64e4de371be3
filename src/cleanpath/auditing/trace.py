"""Find the residual units of a graph: sums of two operands that share a fork, one simple, the other weighted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from cleanpath.auditing import doubts, kinds
from cleanpath.auditing.graph import CUSTOM, Graph
from cleanpath.auditing.shortcut import Ancestors, Shortcut, mixes, trace_back
from cleanpath.auditing.sums import Term, interpolation, terms

NO_WEIGHTS = "no weights between fork and sum"
NO_SHORTCUT = "no operand without weights, nor a lone projection"
SINGLE = "a sum of single numbers"
PARALLEL = "parallel layers, or a unit whose shortcut is as heavy as its branch"
STEP = "a step inside a recurrent layer"
OTHERWISE = "a signal and a function of it are joined, but not by a sum that can be read"
JOINS = frozenset({"stack", "maximum", "minimum", "logaddexp", "where", "scatterreduce", "indexreduce", "indexput"})
CONTRACTIONS = kinds.PRODUCTS | kinds.POOLS | {"sum", "cumsum", "convolution"}
ELSEWHERE = "the path through the branch is a trunk that goes on elsewhere"


@dataclass
class Unit:
    """One residual unit as the graph shows it: fork, sum, shortcut, and the vertices of the branch."""

    sum: int
    shortcut: Shortcut
    operand: Term
    """The term of the shortcut at its sum."""
    others: tuple[Term, ...]
    """The terms of the branch."""
    partial_sums: tuple[int, ...]
    """Sums of fewer operands that are part of this one, as in x + A(x) + B(x)."""
    branch: tuple[int, ...]
    """Vertices of F from the fork on, in order."""
    beside: tuple[int, ...]
    """Vertices that serve F alone but do not come from the fork, as the keys of a cross-attention."""
    parent: int | None = None
    """Index of the unit whose branch holds this one."""

    @property
    def fork(self) -> int:
        """The vertex from which shortcut and branch start."""
        return self.shortcut.fork


@dataclass
class Traced:
    """The units of a graph in the order of their sums, and the sums that are none, with the reason."""

    units: list[Unit] = field(default_factory=list)
    set_aside: dict[int, str] = field(default_factory=dict)
    """Why a sum of two live operands is no unit."""
    unsure: list[tuple[int, str]] = field(default_factory=list)
    """Sums that may be units, with what speaks against it."""
    inner: dict[int, str] = field(default_factory=dict)
    """The same for sums inside the branch of a unit."""


def trace(graph: Graph, recurrent: Collection[str] = ()) -> Traced:
    """All units of a graph; sums inside the layers named `recurrent` belong to these."""
    search = _Search(graph)
    for vertex in range(len(graph.kinds)):
        operation = graph.operations[vertex]
        if graph.live[vertex] and (found := terms(graph, vertex)):
            if operation is not None and operation.module in recurrent:
                search.reasons[vertex] = STEP
            else:
                search.visit(vertex, found)
        elif graph.live[vertex] and graph.kinds[vertex] in JOINS:
            search.join(vertex)
    return search.finish()


class _Search:
    """Visits the sums in order and keeps the units found so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.units: dict[int, Unit] = {}
        self.flattened: dict[int, tuple[Term, ...]] = {}
        self.reasons: dict[int, str] = {}
        self.doubtful: list[Unit] = []
        self.joins: list[int] = []

    def visit(self, vertex: int, found: tuple[Term, ...]) -> None:
        if not self.graph.shapes[vertex]:
            self.reasons[vertex] = SINGLE
            return
        mixed = interpolation(self.graph, vertex)
        if mixed is not None and (gated := self._unit(vertex, mixed[1], (mixed[0],))[0]) is not None:
            self.units.pop(mixed[0], None)
            self.units[vertex] = gated
            return
        unit, reason = self._unit(vertex, found, ())
        merged = self._merged(vertex, found)
        if merged is not None and (unit is None or merged.shortcut.rank < unit.shortcut.rank):
            for part in merged.partial_sums:
                self.units.pop(part, None)
            self.flattened[vertex] = (merged.operand, *merged.others)
            unit = merged
        if unit is None:
            self.reasons[vertex] = reason
        elif self._parallel_layers(unit):
            self.doubtful.append(unit)
        else:
            self.units[vertex] = unit

    def join(self, vertex: int) -> None:
        """Note where a signal meets a weighted function of itself otherwise than in a sum."""
        graph = self.graph
        summed = any(terms(graph, child) for child in graph.children[vertex])
        if summed or (graph.kinds[vertex] == "stack" and not self._contracted(vertex)):
            return
        operands = dict.fromkeys(graph.live_parents(vertex))
        found = tuple(Term((parent,), position=place) for place, parent in enumerate(operands))
        if len(found) > 1:
            unit, _ = self._unit(vertex, found, ())
            if unit is not None and unit.shortcut.kind == "identity":
                self.joins.append(vertex)

    def _contracted(self, vertex: int) -> bool:
        """Whether one of the next operations adds up entries."""
        frontier = {vertex}
        for _ in range(4):
            frontier = {child for v in frontier for child in self.graph.children[v]}
            if any(self.graph.kinds[v] in CONTRACTIONS for v in frontier):
                return True
            frontier = {v for v in frontier if self.graph.kinds[v] in kinds.LAYOUT | kinds.SCALES}
        return False

    def _merged(self, vertex: int, found: tuple[Term, ...]) -> Unit | None:
        """The sum taken together with a sum that is one of its operands and goes nowhere else."""
        for term in found:
            part = term.factors[0]
            inner = self.flattened.get(part) or terms(self.graph, part)
            whole = term.product == "none" and term.scale == 1.0 and self.graph.children[part] == [vertex]
            if not inner or not whole or part in self.graph.outputs:
                continue
            rest = tuple(other for other in found if other is not term)
            known = self.units.get(part)
            parts = (part, *(known.partial_sums if known else ()))
            unit, _ = self._unit(vertex, (*inner, *rest), parts, candidates=len(inner), needs=rest)
            if unit is not None and (known is None or known.fork == unit.fork):
                return unit
        return None

    def _unit(
        self,
        vertex: int,
        found: tuple[Term, ...],
        parts: tuple[int, ...],
        candidates: int | None = None,
        needs: tuple[Term, ...] = (),
    ) -> tuple[Unit | None, str]:
        """The best reading of a sum as a unit, or why there is none."""
        best: Unit | None = None
        reason = NO_SHORTCUT
        for position, term in enumerate(found[:candidates]):
            others = found[:position] + found[position + 1 :]
            if self._broadcast(vertex, term):
                continue
            behind = Ancestors(self.graph, (v for other in others for v in other.factors))
            closed = self.units.keys() - set(parts)
            shortcut = trace_back(self.graph, term, behind, closed)
            if shortcut is None or (best is not None and best.shortcut.rank <= shortcut.rank):
                continue
            if needs and shortcut.fork not in Ancestors(self.graph, (v for other in needs for v in other.factors)):
                continue
            branch = _reached(self.graph, shortcut.fork, behind.after(shortcut.fork))
            if not self._weighted(branch, others, bare=not shortcut.weights):
                reason = NO_WEIGHTS
                continue
            if shortcut.kind == "projection" and (
                self._crosses_units(branch, shortcut.fork) or any(self._broadcast(vertex, other) for other in others)
            ):
                continue
            beside = self._beside(branch, vertex, shortcut, parts)
            best = Unit(vertex, shortcut, term, others, parts, branch, beside)
        return best, reason

    def _broadcast(self, vertex: int, term: Term) -> bool:
        """Whether a term is smaller than the sum, as a bias is."""
        size = self.graph.entries(vertex)
        whole = self.graph.sliced[vertex] or self.graph.kinds[vertex] == "stack"
        return not whole and all(self.graph.entries(v) < size for v in term.factors)

    def _weighted(self, branch: tuple[int, ...], others: tuple[Term, ...], *, bare: bool) -> bool:
        """Whether F holds weights: layers, norms, or beside a bare shortcut a learned scale of something pooled."""
        graph = self.graph
        if any(other.product == "matrices" and other.weights for other in others):
            return True
        if any(mixes(graph, v) or (graph.kinds[v] in kinds.NORMS | {CUSTOM} and graph.weights(v)) for v in branch):
            return True
        scaled = any(graph.kinds[v] == "mul" and graph.weights(v) for v in branch)
        return bare and scaled and any(graph.kinds[v] in kinds.POOLS - {"mean"} for v in branch)

    def _crosses_units(self, branch: tuple[int, ...], fork: int) -> bool:
        """Whether the branch holds a unit's sum without its fork: then it is the trunk, also fed by the projection."""
        inside = {*branch, fork}
        return any(vertex in self.units and self.units[vertex].fork not in inside for vertex in branch)

    def _beside(self, branch: tuple[int, ...], end: int, shortcut: Shortcut, parts: tuple[int, ...]) -> tuple[int, ...]:
        graph = self.graph
        inside, found = {*branch, end, *parts, shortcut.fork, *shortcut.region}, list[int]()
        pending = {p for v in (*branch, end) for p in graph.live_parents(v)} - inside
        while pending:
            vertex = max(pending)
            pending.remove(vertex)
            own = vertex not in self.units and vertex not in graph.outputs and inside.issuperset(graph.children[vertex])
            if own and vertex > shortcut.fork:
                found.append(vertex)
                inside.add(vertex)
                pending.update(p for p in graph.live_parents(vertex) if p not in inside)
        return tuple(sorted(found))

    def _parallel_layers(self, unit: Unit) -> bool:
        """A projection beside a branch that is no heavier: parallel layers, or a one-layer unit that changes width."""
        if unit.shortcut.kind != "projection":
            return False
        has = {self.graph.kinds[v] for v in unit.branch}
        light = doubts.depth(self.graph, unit) <= unit.shortcut.layers or has.isdisjoint(kinds.NORMS)
        bent = any(self._bends(v) for v in unit.branch)
        return light and not bent

    def _bends(self, vertex: int) -> bool:
        """Whether an operation is no linear one: an activation, or a product of signals."""
        kind = self.graph.kinds[vertex]
        return kind in kinds.ACTIVATIONS or (len(self.graph.live_parents(vertex)) > 1 and kind not in {"add", "sub"})

    def finish(self) -> Traced:
        """Decide on doubtful sums by their neighbours, and say which unit lies in which."""
        unsure = list[tuple[int, str]]()
        for unit in list(doubts.beside_a_trunk(list(self.units.values()))):
            unsure.append((unit.sum, ELSEWHERE))
            del self.units[unit.sum]
        inside = {v for u in self.units.values() for v in u.branch}
        unsure.extend((vertex, OTHERWISE) for vertex in self.joins)
        alike = {self._layers(u) for u in self.units.values() if u.shortcut.rank <= 2}
        for unit in self.doubtful:
            changes = self.graph.shapes[unit.fork] != self.graph.shapes[unit.sum]
            if changes and self._layers(unit) in alike and unit.sum not in inside:
                self.units[unit.sum] = unit
            elif unit.sum not in inside:
                unsure.append((unit.sum, PARALLEL))
        units = [self.units[vertex] for vertex in sorted(self.units)]
        _nest(units)
        inner = doubts.part_of_a_branch(self.graph, units)
        if inner:
            units = [unit for unit in units if unit.sum not in inner]
            _nest(units)
        return Traced(units, self.reasons, unsure, inner)

    def _layers(self, unit: Unit) -> tuple[str, ...]:
        return tuple(self.graph.kinds[v] for v in unit.branch if self.graph.kinds[v] not in kinds.LAYOUT)


def _reached(graph: Graph, fork: int, candidates: Sequence[int]) -> tuple[int, ...]:
    """Those of the candidates that the fork reaches."""
    reached = {fork}
    for vertex in candidates:
        if not reached.isdisjoint(graph.live_parents(vertex)):
            reached.add(vertex)
    return tuple(sorted(reached - {fork}))


def _nest(units: list[Unit]) -> None:
    """Give every unit the smallest unit whose branch holds both its fork and its sum."""
    for unit in units:
        unit.parent = None
    insides = [(len(unit.branch), index, {*unit.branch, unit.fork}) for index, unit in enumerate(units)]
    insides.sort(key=lambda entry: entry[:2])
    for index, unit in enumerate(units):
        for _, other, inside in insides:
            if other != index and unit.sum in inside and unit.sum != units[other].fork and unit.fork in inside:
                unit.parent = other
                break
