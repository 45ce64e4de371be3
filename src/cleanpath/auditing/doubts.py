"""Sums that have the form of a residual unit and yet may be something else; the graph alone cannot decide."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cleanpath.auditing import kinds
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.shortcut import mixes

if TYPE_CHECKING:
    from cleanpath.auditing.trace import Unit

PARTS = "inside a branch, one part of a tensor is added to a function of other parts: a unit, or a fusion of parts"
ONE_LAYER = "inside a branch, a normalised copy is added to a layer: a unit, or one layer in parallel pieces"
MEAN = "inside a branch, a multiple of the fork is added once more: a unit, or a weighted mean of the fork and F"
SMOOTH = kinds.LAYOUT | kinds.SCALES | kinds.PADS | {"addcmul"}


def depth(graph: Graph, unit: "Unit") -> int:
    """Layers one after the other on the longest way through a branch."""
    deep = dict[int, int]()
    for vertex in sorted({*unit.branch, *unit.partial_sums}):
        above = max((deep.get(p, 0) for p in graph.live_parents(vertex)), default=0)
        deep[vertex] = above + mixes(graph, vertex)
    at_sum = any(term.product == "matrices" and term.weights for term in unit.others)
    return max(deep.values(), default=0) + at_sum


def beside_a_trunk(units: Sequence["Unit"]) -> Iterator["Unit"]:
    """Units whose shortcut is a projection, and whose branch holds the sum of a unit that others start from."""
    starts = dict[int, list[int]]()
    for unit in units:
        starts.setdefault(unit.fork, []).append(unit.sum)
    for unit in units:
        if unit.shortcut.kind == "projection":
            inside = {*unit.branch, unit.sum}
            sums = [other.sum for other in units if other.sum in inside and other is not unit]
            if any(end not in inside for middle in sums for end in starts.get(middle, ())):
                yield unit


def part_of_a_branch(graph: Graph, units: Sequence["Unit"]) -> dict[int, str]:
    """Why some units inside the branch of another may only be a way of writing that branch; by their sums."""
    reasons = dict[int, str]()
    for unit in units:
        if unit.parent is None:
            continue
        if _takes_other_parts(graph, unit):
            reasons[unit.sum] = PARTS
        elif _is_one_layer(graph, unit):
            reasons[unit.sum] = ONE_LAYER
        elif unit.fork == units[unit.parent].fork and _only_scaled(graph, unit, units[unit.parent]):
            reasons[unit.sum] = MEAN
    return reasons


def _takes_other_parts(graph: Graph, unit: "Unit") -> bool:
    """Whether shortcut and branch start from different slices of the fork."""
    if unit.shortcut.kind != "identity_slice":
        return False
    region = set(unit.shortcut.region)
    own = {_part(graph, v) for v in region if graph.kinds[v] in kinds.SLICES}
    ways = [v for v in graph.children[unit.fork] if v in {*unit.branch} and v not in region]
    return bool(ways) and all(graph.kinds[v] in kinds.SLICES and _part(graph, v) not in own for v in ways)


def _part(graph: Graph, vertex: int) -> str:
    operation = graph.operations[vertex]
    return f"{graph.kinds[vertex]} {graph.numbers[vertex]} {operation.arguments[1:] if operation else ()}"


def _is_one_layer(graph: Graph, unit: "Unit") -> bool:
    """Whether h is a bare normalisation and F a layer deep, without an activation."""
    over = {graph.kinds[v] for v in unit.shortcut.region} - kinds.LAYOUT - {"add"}
    bent = any(graph.kinds[v] in kinds.ACTIVATIONS for v in unit.branch)
    return bool(over) and over <= kinds.NORMS and not bent and depth(graph, unit) <= 1


def _only_scaled(graph: Graph, unit: "Unit", parent: "Unit") -> bool:
    """Whether nothing but factors stands between a unit's sum and its parent's."""
    if unit.shortcut.kind not in {"identity", "scaling"}:
        return False
    ahead, inside = [unit.sum], {*parent.branch, *parent.partial_sums}
    while ahead:
        vertex = ahead.pop()
        for child in graph.children[vertex]:
            if child == parent.sum or child in parent.partial_sums:
                continue
            if child not in inside or graph.kinds[child] not in SMOOTH or len(graph.live_parents(child)) > 1:
                return False
            ahead.append(child)
    return True
