"""What the graph does not show: opaque functions, cut gradients, packed weights, idle modules, doubtful sums."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch

from cleanpath.auditing import kinds
from cleanpath.auditing.describe import owners
from cleanpath.auditing.graph import CUSTOM, Graph
from cleanpath.auditing.passes import Pass
from cleanpath.auditing.patient import Parts
from cleanpath.auditing.shortcut import Ancestors
from cleanpath.auditing.sums import terms
from cleanpath.auditing.trace import NO_SHORTCUT, Traced
from cleanpath.auditing.values import NotSeen

ADDING = frozenset({"add", "sub", "lerp", "addcmul", "addmm", "baddbmm", "index_add"})


def unseen(parts: Parts, seen: Pass, traced: Traced, trainable: Sequence[bool]) -> list[NotSeen]:
    """Everything worth saying about one observed pass; `trainable` are the flags of the parameters at the door."""
    found = [*_without_gradient(seen), *_opaque(parts, seen), *_cut(seen), *_packed(seen)]
    return [*found, *_doubtful(seen, traced), *_never_called(parts, seen), *_lost(parts, seen, trainable)]


def _without_gradient(seen: Pass) -> Iterator[NotSeen]:
    if not seen.outputs:
        reason = (
            "no output carries a gradient: the module runs under no_grad or detaches its result, so there is no graph"
        )
        yield NotSeen(what="the whole network", where="(root)", reason=reason)
    elif not any(seen.graph.live):
        reason = "no gradient path leads from the outputs back to the input"
        yield NotSeen(what="the whole network", where="(root)", reason=reason)


def _opaque(parts: Parts, seen: Pass) -> Iterator[NotSeen]:
    graph = seen.graph
    met = Counter[tuple[str, str]]()
    for vertex, kind in enumerate(graph.kinds):
        if graph.live[vertex] and kind == CUSTOM:
            node = graph.edges[vertex][0]
            inside = seen.record.inside.get(node._sequence_nr(), [])  # noqa: SLF001
            adds = sum(name in ADDING for name in inside)
            sums = f"{adds} additions inside it" if adds else "what it computes inside"
            met[graph.label(vertex), f"a custom autograd function is one opaque node; {sums} cannot be read"] += 1
        elif graph.live[vertex] and "differentiablegraph" in kind:
            met["DifferentiableGraph", "a scripted function was fused to one opaque node"] += 1
    yield from (NotSeen(what=what, where="(graph)", reason=why, count=count) for (what, why), count in met.items())
    for where, count in Counter(seen.record.fused).items():
        yield NotSeen(
            what="fused layer", where=where, reason="one operation holds a whole layer, its sums too", count=count
        )
    scripted = [name for name, module in parts.modules.items() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        reason = "a scripted module does not say which of its modules is running; names come from parameters"
        yield NotSeen(what="scripted modules", where=scripted[0] or "(root)", reason=reason, count=len(scripted))


def _cut(seen: Pass) -> Iterator[NotSeen]:
    reason = "values arrive whose gradient was cut (detach or no_grad); what lies behind them is not on the path"
    cuts = seen.record.cuts.items()
    yield from _gathered(NotSeen(what="detached values", where=w or "(root)", reason=reason, count=n) for w, n in cuts)


def _packed(seen: Pass) -> Iterator[NotSeen]:
    reason, places = "packed weights are no parameters", sorted(seen.record.quantised)
    yield from _gathered(NotSeen(what="quantised weights", where=w or "(root)", reason=reason) for w in places)


def _doubtful(seen: Pass, traced: Traced) -> Iterator[NotSeen]:
    """Sums on the trunk that are none of the known things; those inside a branch belong to F."""
    graph = seen.graph
    inside = {v for unit in traced.units for v in (*unit.branch, *unit.beside, *unit.shortcut.region, unit.sum)}
    aside = {v: reason for v, reason in traced.set_aside.items() if reason == NO_SHORTCUT and v not in inside}
    reasons = {v: reason for v, reason in aside.items() if _joins(graph, v)}
    reasons |= {v: reason for v, reason in traced.unsure if v not in inside} | traced.inner
    reasons |= dict.fromkeys(_from_parameters(graph), "a stream that starts from parameters: not on the input's path")
    met = Counter[tuple[str, str]]()
    for vertex, reason in sorted(reasons.items()):
        operation = graph.operations[vertex]
        if any(_has_weights(seen, p) for p in graph.live_parents(vertex)):
            met[(operation.module if operation else "") or "(root)", reason] += 1
    yield from _gathered(NotSeen(what="sum", where=where, reason=why, count=n) for (where, why), n in met.items())


def _joins(graph: Graph, vertex: int) -> bool:
    """Whether the operands of a sum have a common origin: those of token and position embeddings have none."""
    behind = [Ancestors(graph, term.factors).everything() for term in terms(graph, vertex)]
    return any(not one.isdisjoint(other) for one, other in itertools.combinations(behind, 2))


def _from_parameters(graph: Graph) -> Iterator[int]:
    """Sums of a function of learned queries and these queries themselves, as in the first layer of a decoder."""
    uses = Counter(parent for parents in graph.parents for parent in parents)
    found = dict[int, list[int]]()
    for vertex, parents in enumerate(graph.parents):
        if graph.kinds[vertex] in {"add", "sub"} and len(parents) > 1 and graph.live[vertex] and min(parents) >= 0:
            dead = [p for p in parents[:2] if not graph.live[p]]
            chain = list(_chain(graph, dead[0])) if len(dead) == 1 else []
            if any(uses[v] > 1 for v in chain) and not _behind(graph, parents[:2], dead[0]).isdisjoint(chain):
                found.setdefault(chain[-1], []).append(vertex)
    yield from (sums[0] for sums in found.values() if len(sums) == 1)


def _behind(graph: Graph, starts: Iterable[int], without: int) -> set[int]:
    """Everything that some vertices were computed from, whether the input reaches it or not."""
    met = {vertex for vertex in starts if vertex != without}
    pending = list(met)
    while pending:
        new = {p for p in graph.parents[pending.pop()] if p >= 0} - met
        met |= new
        pending.extend(new)
    return met


def _chain(graph: Graph, vertex: int) -> Iterator[int]:
    yield vertex
    while graph.kinds[vertex] in kinds.LAYOUT and len(graph.parents[vertex]) == 1 and graph.parents[vertex][0] >= 0:
        vertex = graph.parents[vertex][0]
        yield vertex


def _has_weights(seen: Pass, vertex: int) -> bool:
    """Whether a weight layer stands shortly before an operand: sums in masks and positions have none."""
    frontier = [vertex]
    for _ in range(8):
        if any(seen.graph.weights(v) for v in frontier):
            return True
        frontier = [p for v in frontier for p in seen.graph.live_parents(v)]
    return False


def _gathered(entries: Iterable[NotSeen]) -> Iterator[NotSeen]:
    """Entries of more than three places that differ in numbers only become one, with a star for each number."""
    alike = dict[tuple[str, str, str], list[NotSeen]]()
    for entry in entries:
        alike.setdefault((entry.what, re.sub(r"\d+", "*", entry.where), entry.reason), []).append(entry)
    for (what, where, reason), group in alike.items():
        if len(group) > 3:
            yield NotSeen(what=what, where=where, reason=reason, count=sum(entry.count for entry in group))
        else:
            yield from group


def unreached(parts: Parts, seen: Pass, trainable: Sequence[bool]) -> list[str]:
    """The outermost modules with trainable parameters that were never called, or that no output depends on."""
    wanted = {n for n, flag in zip(parts.parameters, trainable, strict=True) if flag}
    idle = [name for name in _idle(parts, seen) if any(one.startswith(f"{name}.") for one in wanted)]
    return [*idle, *_forgotten(parts, seen, trainable)]


def _never_called(parts: Parts, seen: Pass) -> Iterator[NotSeen]:
    yield from _gathered(
        NotSeen(what="module", where=name, reason="never called on this batch") for name in _idle(parts, seen)
    )


def _idle(parts: Parts, seen: Pass) -> list[str]:
    """The outermost modules with parameters that no operation of this pass used."""
    used = owners([name for name in seen.graph.parameter if name is not None])
    busy = {above for name in (*seen.record.called, *used) for above in _upwards(name)}
    with_parameters = {above for name in parts.parameters for above in _upwards(name.rpartition(".")[0])}
    idle = [name for name in parts.modules if name in with_parameters - busy]
    return [name for name in idle if name.rpartition(".")[0] not in idle]


def _lost(parts: Parts, seen: Pass, trainable: Sequence[bool]) -> Iterator[NotSeen]:
    reason = "called, but no gradient leads from an output back to its parameters"
    places = _forgotten(parts, seen, trainable)
    yield from _gathered(NotSeen(what="module", where=name, reason=reason) for name in places)


def _forgotten(parts: Parts, seen: Pass, trainable: Sequence[bool]) -> list[str]:
    """The outermost modules that ran, but whose trainable parameters no output depends on."""
    owned = owners([name for name, wanted in zip(parts.parameters, trainable, strict=True) if wanted])
    reached = {above for name in owners(list(filter(None, seen.graph.parameter))) for above in _upwards(name)}
    ran = {above for name in seen.record.called for above in _upwards(name)}
    lost = {above for name in owned if name in ran for above in _upwards(name)} - reached if seen.outputs else set()
    return [name for name in sorted(lost) if name.rpartition(".")[0] not in lost]


def _upwards(name: str) -> Iterator[str]:
    """A module's name and those of all modules that hold it."""
    while name:
        yield name
        name = name.rpartition(".")[0]
