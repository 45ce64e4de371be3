"""What the graph does not show: opaque functions, cut gradients, packed weights, idle modules, doubtful sums."""

from collections import Counter
from collections.abc import Iterator

import torch

from cleanpath.auditing.describe import owners
from cleanpath.auditing.graph import CUSTOM
from cleanpath.auditing.passes import Pass
from cleanpath.auditing.patient import Parts
from cleanpath.auditing.profile import NotSeen
from cleanpath.auditing.trace import NO_SHORTCUT, Traced

ADDING = frozenset({"add", "sub", "lerp", "addcmul", "addmm", "baddbmm", "index_add"})


def unseen(parts: Parts, seen: Pass, traced: Traced) -> list[NotSeen]:
    """Everything worth saying about one observed pass."""
    found = [*_without_gradient(seen), *_opaque(parts, seen), *_cut(seen), *_packed(seen)]
    return [*found, *_doubtful(seen, traced), *_never_called(parts, seen)]


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
    for where, count in seen.record.cuts.items():
        reason = "values arrive whose gradient was cut (detach or no_grad); what lies behind them is not on the path"
        yield NotSeen(what="detached values", where=where or "(root)", reason=reason, count=count)


def _packed(seen: Pass) -> Iterator[NotSeen]:
    for where in sorted(seen.record.quantised):
        yield NotSeen(what="quantised weights", where=where or "(root)", reason="packed weights are no parameters")


def _doubtful(seen: Pass, traced: Traced) -> Iterator[NotSeen]:
    """Sums on the trunk that are none of the known things; those inside a branch belong to F."""
    graph = seen.graph
    inside = {v for unit in traced.units for v in (*unit.branch, *unit.beside, *unit.shortcut.region, unit.sum)}
    reasons = {v: reason for v, reason in traced.set_aside.items() if reason == NO_SHORTCUT} | dict(traced.unsure)
    met = Counter[tuple[str, str]]()
    for vertex, reason in reasons.items():
        operation = graph.operations[vertex]
        if vertex not in inside and any(_has_weights(seen, p) for p in graph.live_parents(vertex)):
            met[(operation.module if operation else "") or "(root)", reason] += 1
    yield from (NotSeen(what="sum", where=where, reason=why, count=count) for (where, why), count in met.items())


def _has_weights(seen: Pass, vertex: int) -> bool:
    """Whether a weight layer stands shortly before an operand: sums in masks and positions have none."""
    frontier = [vertex]
    for _ in range(8):
        if any(seen.graph.weights(v) for v in frontier):
            return True
        frontier = [p for v in frontier for p in seen.graph.live_parents(v)]
    return False


def _never_called(parts: Parts, seen: Pass) -> Iterator[NotSeen]:
    """The outermost modules with parameters that no operation of this pass used."""
    used = owners([name for name in seen.graph.parameter if name is not None])
    busy = {above for name in (*seen.record.called, *used) for above in _upwards(name)}
    with_parameters = {above for name in parts.parameters for above in _upwards(name.rpartition(".")[0])}
    idle = [name for name in parts.modules if name in with_parameters - busy]
    for name in idle:
        if name.rpartition(".")[0] not in idle:
            yield NotSeen(what="module", where=name, reason="never called on this batch")


def _upwards(name: str) -> Iterator[str]:
    """A module's name and those of all modules that hold it."""
    while name:
        yield name
        name = name.rpartition(".")[0]
