"""What stands around the sums: f, the stage, the order of norm and weights, the names of the modules."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cleanpath.auditing import kinds
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.record import Seen
from cleanpath.auditing.shortcut import mixes
from cleanpath.auditing.trace import Unit

_BEHIND = kinds.NORMS | kinds.ACTIVATIONS | kinds.SCALES | kinds.DROPOUTS | kinds.SPREADS | {"pow", "mean", "add"}
"""What f is made of, norms written out by hand among it."""
LONGEST_TRUNK = 120
"""Operations between a sum and the next fork; a transition with hand-written norms has about thirty."""


@dataclass(frozen=True)
class Trunk:
    """How one unit hands on to the next: the vertices from its sum (left out) to the next fork."""

    following: int | None
    """Index of the next unit."""
    segment: tuple[int, ...]


@dataclass(frozen=True)
class Around:
    """f, stage and order of one unit; `end` is the vertex of x_{l+1} = f(y)."""

    after: tuple[str, ...]
    after_region: tuple[int, ...]
    end: int
    stage: int
    order: str | None
    previous: int | None
    following: int | None


def surroundings(graph: Graph, units: Sequence[Unit]) -> list[Around]:
    """What stands around every unit."""
    before = _previous(graph, units)
    trunks = [_trunk(graph, units, before, index) for index in range(len(units))]
    stages = _stages(graph, units, before)
    inside = [
        trunk.following is not None and stages[trunk.following] == stages[index] for index, trunk in enumerate(trunks)
    ]
    roles = [tuple(graph.kinds[v] for v in unit.branch) for unit in units]
    chains = [_bare(graph, trunk.segment) for trunk in trunks]
    parents = [unit.parent for unit in units]
    patterns = [
        chain if inside[index] else _pattern(index, inside, stages, roles, parents, chains)
        for index, chain in enumerate(chains)
    ]
    found = list[Around]()
    for index, unit in enumerate(units):
        after, region = _after(graph, units, index, trunks[index], chains[index], patterns[index])
        link = before[index]
        entering = link[1] if link else ()
        previous = link[0] if link and link[0] < index else None
        if previous is not None:
            entering = entering[len(found[previous].after_region) :]
            previous = previous if units[previous].parent == unit.parent else None
        order = _order(graph, unit, entering, after)
        end = region[-1] if region else unit.sum
        found.append(Around(after, region, end, stages[index], order, previous, trunks[index].following))
    return _settled(graph, units, found)


def _after(
    graph: Graph,
    units: Sequence[Unit],
    index: int,
    trunk: Trunk,
    chain: tuple[str, ...],
    pattern: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What f is, and its vertices: inside a stage all before the next fork; at its end what relatives have there.

    What the unit's own module does to its sum is f in any case, though no relative has it.
    """
    guessed = _guess(graph, units[index], chain) if pattern is None else pattern
    found = _matching(graph, trunk, guessed)
    own = _own(graph, units, index, trunk)
    return _matching(graph, trunk, own) if len(own) > len(found[0]) else found


def _own(graph: Graph, units: Sequence[Unit], index: int, trunk: Trunk) -> tuple[str, ...]:
    """Norms, activations, factors and dropout on a sum, in the module that adds or in one that only wraps it.

    Anything else behind a last sum is mostly a part of what the sum lies in: a projection behind a residual attention,
    a pooling, a resampling.
    """
    home = _home(graph, units[index].sum)
    others = [_home(graph, unit.sum) for at, unit in enumerate(units) if at != index]
    if not home or any(_within(other, home) for other in others):
        return ()
    outer = home.rpartition(".")[0]
    if outer and others and not any(_within(other, outer) for other in others):
        home = outer

    def lies(vertex: int) -> bool:
        alone = len(graph.live_parents(vertex)) == 1 and (_passes(graph, vertex) or graph.kinds[vertex] in _BEHIND)
        return alone and _within(_home(graph, vertex), home)

    return _bare(graph, list(itertools.takewhile(lies, trunk.segment)))


def _home(graph: Graph, vertex: int) -> str:
    operation = graph.operations[vertex]
    return operation.module if operation else ""


def _within(module: str, home: str) -> bool:
    return module == home or module.startswith(f"{home}.")


def _previous(graph: Graph, units: Sequence[Unit]) -> list[tuple[int, tuple[int, ...]] | None]:
    """For every unit the one whose sum leads to its fork, with the vertices between."""
    index = {unit.sum: position for position, unit in enumerate(units)}
    return [_back_to_sum(graph, unit.fork, index) for unit in units]


def _back_to_sum(graph: Graph, fork: int, sums: dict[int, int]) -> tuple[int, tuple[int, ...]] | None:
    frontier, region = {fork}, list[int]()
    while frontier and len(region) < LONGEST_TRUNK:
        vertex = max(frontier)
        if vertex in sums:
            return (sums[vertex], tuple(reversed(region))) if len(frontier) == 1 else None
        region.append(vertex)
        frontier.remove(vertex)
        frontier.update(graph.live_parents(vertex))
    return None


def _trunk(
    graph: Graph, units: Sequence[Unit], before: Sequence[tuple[int, tuple[int, ...]] | None], index: int
) -> Trunk:
    """To the nearest unit that starts from this one's sum; without one, the operations that come next."""
    followers = [
        (units[other].parent != units[index].parent, len(link[1]), other, link[1])
        for other, link in enumerate(before)
        if link is not None and link[0] == index
    ]
    if followers:
        _, _, other, between = min(followers)
        return Trunk(other, between)
    ahead, segment = set(graph.children[units[index].sum]), list[int]()
    while ahead and len(segment) < LONGEST_TRUNK // 4:
        vertex = min(ahead)
        segment.append(vertex)
        ahead.remove(vertex)
        ahead.update(graph.children[vertex])
    return Trunk(None, tuple(segment))


def _stages(graph: Graph, units: Sequence[Unit], before: Sequence[tuple[int, tuple[int, ...]] | None]) -> list[int]:
    """Units on one path whose sums are of one size; counted from 1."""
    stages = list[int]()
    for index, unit in enumerate(units):
        link = before[index]
        goes_on = (
            link is not None
            and link[0] < index
            and _same_size(graph, units[link[0]].sum, unit.sum, link[1])
            and units[link[0]].parent == unit.parent
        )
        stages.append(stages[link[0]] if goes_on and link is not None else max(stages, default=0) + 1)
    return stages


def _same_size(graph: Graph, first: int, second: int, between: Sequence[int]) -> bool:
    """Whether two tensors are of one size; a layer may not trade one dimension for another, as an upsampling does."""
    one, two = graph.shapes[first], graph.shapes[second]
    traded = len(one) == len(two) and sorted(one) != sorted(two) and any(mixes(graph, v) for v in between)
    return graph.entries(first) == graph.entries(second) and not traded


def _bare(graph: Graph, segment: Sequence[int]) -> tuple[str, ...]:
    return tuple(_kind(graph, v) for v in segment if not _passes(graph, v))


def _kind(graph: Graph, vertex: int) -> str:
    """A vertex's kind; a product with random numbers is dropout, however it is computed."""
    kind, operation = graph.kinds[vertex], graph.operations[vertex]
    return "featuredropout" if kind in kinds.SCALES and operation is not None and operation.noise else kind


def _passes(graph: Graph, vertex: int) -> bool:
    """Whether a vertex only arranges its entries anew, adds what is no signal, or multiplies by a mask of 1 and 0."""
    kind, live = graph.kinds[vertex], graph.live_parents(vertex)
    shifts = kind in {"add", "sub"} and len(live) == 1 and graph.parents[vertex][0] == live[0]
    return kind in kinds.LAYOUT or shifts or (kind == "mul" and _masked(graph, vertex))


def _masked(graph: Graph, vertex: int) -> bool:
    operation, live = graph.operations[vertex], graph.live_parents(vertex)
    if operation is None or len(live) != 1 or graph.weights(vertex):
        return False
    seen = operation.argument(int(graph.parents[vertex][0] == live[0]), "other")
    if not isinstance(seen, Seen) or seen.noise or not seen.shape or seen.value is None or seen.value.is_meta:
        return False
    return bool(((seen.value == 0) | (seen.value == 1)).all() & seen.value.any())


def _pattern(
    index: int,
    inside: Sequence[bool],
    stages: Sequence[int],
    roles: Sequence[tuple[str, ...]],
    parents: Sequence[int | None],
    chains: Sequence[tuple[str, ...]],
) -> tuple[str, ...] | None:
    """At the end of a stage: the operations that follow the sums of a unit's kind inside it; the nearest decide."""
    within = [i for i in range(len(inside)) if inside[i] and parents[i] == parents[index]] or [
        i for i in range(len(inside)) if inside[i]
    ]
    relatives = (
        [i for i in within if stages[i] == stages[index] and roles[i] == roles[index]],
        [i for i in within if stages[i] == stages[index]],
        [i for i in within if roles[i] == roles[index]],
        within,
    )
    several = [group for group in (relatives[0], relatives[2]) if len(group) > 1 and relatives[0]]
    for group in (*several, *relatives):
        if group:
            return max(Counter(chains[i] for i in group).items(), key=lambda met: (met[1], -len(met[0])))[0]
    return None


def _guess(graph: Graph, unit: Unit, chain: tuple[str, ...]) -> tuple[str, ...]:
    """Where no stage has two units: a norm or activation is f if the branch starts with weights."""
    first = next((v for v in unit.branch if mixes(graph, v) or graph.kinds[v] in kinds.NORMS | kinds.ACTIVATIONS), None)
    if first is None or not mixes(graph, first):
        return ()
    length = 0
    while length < len(chain) and chain[length] in kinds.NORMS | kinds.ACTIVATIONS:
        length += 1
    return chain[:length]


def _matching(graph: Graph, trunk: Trunk, pattern: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """As much of the pattern as stands behind this sum, in words, and its vertices."""
    taken, position = list[int](), 0
    for vertex in trunk.segment:
        if position == len(pattern):
            break
        if not _passes(graph, vertex):
            if _kind(graph, vertex) != pattern[position]:
                break
            position += 1
        taken.append(vertex)
    if position < len(pattern) and kinds.SPREADS.intersection(pattern):
        return (), ()
    while taken and _passes(graph, taken[-1]):
        taken.pop()
    return kinds.in_words(pattern[:position]), tuple(taken)


EARLY = kinds.NORMS | kinds.ACTIVATIONS | kinds.SPREADS


def _order(graph: Graph, unit: Unit, entering: Sequence[int], after: tuple[str, ...]) -> str | None:
    """`pre`: a norm or activation comes before the first weights; `post`: weights come first and f starts with one."""
    first = next((v for v in unit.branch if mixes(graph, v) or graph.kinds[v] in EARLY), None)
    shared = not any(mixes(graph, v) for v in entering) and any(graph.kinds[v] in EARLY for v in entering)
    if shared or (first is not None and not mixes(graph, first)):
        return "pre"
    bends = bool(after) and (after[0] == "normalisation" or after[0] in kinds.ACTIVATIONS)
    return "post" if first is not None and bends else None


def _settled(graph: Graph, units: Sequence[Unit], found: list[Around]) -> list[Around]:
    """The first unit of a pre-activation network takes its activation from the stem."""
    orders = Counter(place.order for place in found)
    if orders["pre"] <= len(found) // 2:
        return found
    return [
        replace(place, order="pre")
        if place.order is None and place.previous is None and graph.kinds[_last(graph, unit.fork)] in EARLY
        else place
        for unit, place in zip(units, found, strict=True)
    ]


def _last(graph: Graph, vertex: int) -> int:
    """The last operation before a vertex that does more than arrange, or scale."""
    while graph.kinds[vertex] in kinds.LAYOUT | kinds.SCALES and len(graph.live_parents(vertex)) == 1:
        vertex = graph.live_parents(vertex)[0]
    return vertex


def owners(names: Sequence[str]) -> tuple[str, ...]:
    """The modules that hold parameters, each once, in order; a parametrised weight belongs to its layer."""
    return tuple(dict.fromkeys(_owner(name) for name in names))


def _owner(name: str) -> str:
    layer, parametrised, _ = name.partition(".parametrizations.")
    return layer if parametrised else name.rpartition(".")[0]


def branch_parameters(graph: Graph, unit: Unit) -> tuple[str, ...]:
    """Names of the parameters of F, in the order of use."""
    vertices = sorted({*unit.branch, *unit.beside, *unit.partial_sums})
    names = [name for vertex in vertices for name in graph.weights(vertex)]
    return tuple(dict.fromkeys([*names, *(n for term in unit.others for n in term.weights)]))


def unit_names(graph: Graph, units: Sequence[Unit]) -> list[str]:
    """A name per unit: the module that holds its layers and its sum, if no other unit's; else what its layers share."""
    wide, narrow = list[str](), list[str]()
    for unit in units:
        heavy = [n for v in unit.branch if mixes(graph, v) for n in graph.weights(v)]
        layers = owners(heavy or branch_parameters(graph, unit))
        operation = graph.operations[unit.sum]
        home = operation.module if operation else ""
        narrow.append(_common_prefix(layers) or home or "(root)")
        wide.append(_common_prefix([*layers, home]))
    shared = Counter(wide)
    names = [all_ if all_ and shared[all_] == 1 else own for all_, own in zip(wide, narrow, strict=True)]
    total, met = Counter(names), Counter[str]()
    unique = list[str]()
    for name in names:
        met[name] += 1
        unique.append(f"{name}#{met[name]}" if total[name] > 1 else name)
    return unique


def _common_prefix(names: Sequence[str]) -> str:
    parts = [name.split(".") for name in names]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)
