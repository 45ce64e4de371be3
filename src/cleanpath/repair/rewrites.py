"""Fixes that change the graph: what the shortcut carries, what stands on the trunk, what ends the branch.

Each takes a unit's place and returns a sentence for the report, or raises `RefusedError`.
"""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from cleanpath.auditing import kinds
from cleanpath.repair.places import Place, RefusedError, bypass, owner, places, source_of

_MULTIPLIED = frozenset({operator.mul, operator.truediv, torch.mul, torch.div, "mul", "div"})
_DIVIDED = frozenset({operator.truediv, torch.div, "div"})
_BLENDS = frozenset({torch.lerp, "lerp"})
_SUMS = frozenset({operator.add, torch.add, "add"})
_RELUS = frozenset({"relu", "clampmin", "threshold"})


def route(place: Place) -> str:
    """x_{l+1} = x_l + F(f(x_l)), equation (9): the shortcut of a unit reads the sum before it instead of f of it."""
    previous = place.around.previous
    if previous is None:
        raise RefusedError("no unit stands before it")
    before = places(place.located)[previous]
    if not before.around.after_region:
        raise RefusedError("nothing stands after the sum before it")
    target = before.node_of(before.unit.sum)
    _needs_bare_shortcut(place)
    if place.shape(place.unit.fork) != before.shape(before.unit.sum):
        raise RefusedError("the signal changes its shape between the sum and the next unit")
    _needs_nothing_else_between(place, before.unit.sum)
    return _reroute(place, target, f"{'+'.join(before.around.after)} of {before.name}")


def _needs_nothing_else_between(place: Place, above: int) -> None:
    """What the shortcut is routed around leaves the trunk: only f may, not a layer, nor what is added to the signal."""
    graph = place.located.seen.graph
    waiting, between = [place.unit.fork], set[int]()
    while waiting:
        vertex = waiting.pop()
        if vertex > above and vertex not in between:
            between.add(vertex)
            waiting += graph.live_parents(vertex)
    met = {graph.kinds[vertex] for vertex in between}
    passing = kinds.NORMS | kinds.ACTIVATIONS | kinds.SCALES | kinds.DROPOUTS | kinds.LAYOUT
    if met & kinds.SPREADS:  # a norm that is written out by hand
        passing |= kinds.SPREADS | {"pow", "mean", "add", "sub"}
    if all(parent >= above for vertex in between for parent in graph.live_parents(vertex)):
        passing |= kinds.SLICES | {"cat"}  # parts of the signal that are put together again
    if met - passing:
        others = ", ".join(kinds.in_words(sorted(met - passing)))
        raise RefusedError(f"a layer or a position stands between the sum and the next unit ({others})")


def around_overwritten(place: Place) -> str:
    """The shortcut reads x_l as it was: the operation that stood in place feeds the branch only."""
    _needs_bare_shortcut(place)
    graph = place.located.seen.graph
    above = graph.live_parents(place.unit.fork)
    if len(above) != 1 or place.shape(above[0]) != place.shape(place.unit.fork):
        raise RefusedError("what overwrites its input has several inputs, or changes the shape")
    return _reroute(place, place.node_of(above[0]), graph.kinds[place.unit.fork])


def _needs_bare_shortcut(place: Place) -> None:
    if place.shape(place.unit.fork) != place.shape(place.unit.sum):
        raise RefusedError("the width changes: both paths read the activated sum, as in a pre-activation network")
    if place.unit.shortcut.kind not in {"identity", "scaling", "dropout", "gate", "projection"}:
        kind = place.unit.shortcut.kind.replace("_", " ")
        raise RefusedError(f"its shortcut is no identity ({kind})")


def _reroute(place: Place, target: Node, what: str) -> str:
    forks = place.located.nodes(place.unit.fork)
    region = place.region(place.unit.shortcut.region)
    if (
        place.unit.shortcut.kind == "gate"
    ):  # what is multiplied passes by; the gate itself still reads the activated sum
        region = [node for node in region if place.of_kind(place.vertices_of(node), kinds.SCALES)]
        readers = [node for node in region if any(one in forks for one in node.all_input_nodes)]
    else:
        adding, operand = place.operand()
        onto = [node for node in region if any(one in forks for one in node.all_input_nodes)]
        readers = [adding] if operand in forks else onto
    if not readers:
        raise RefusedError("where its shortcut begins lies inside a module that could not be read")
    for node in readers:
        for fork in [one for one in node.all_input_nodes if one in forks]:
            node.replace_input_with(fork, target)
    return f"shortcut routed around {what}; the branch still reads it"


def unscale(place: Place) -> str:
    """A shortcut λx becomes x."""
    term = place.unit.operand
    nodes = _removable(place, kinds.SCALES)
    last = [_without_alpha(place)] if term.scale not in {None, 1.0} else []
    done = [*_without(place, nodes), *last]
    if not done:
        raise RefusedError("its factor enters in a way that is not rewritten")
    return f"factor taken off the shortcut ({', '.join(done)})"


def undrop(place: Place) -> str:
    """A random mask on h goes."""
    graph = place.located.seen.graph

    def is_noise(node: Node) -> bool:
        operations = [(graph.kinds[v], graph.operations[v]) for v in place.vertices_of(node)]
        return any(kind in kinds.DROPOUTS or (made is not None and made.noise) for kind, made in operations)

    nodes = _removable(place, kinds.DROPOUTS | kinds.SCALES)
    # A mask that is written out by hand has a factor beside it, in the module that draws it.
    by_hand = {owner(node) for node in nodes if is_noise(node) and node.target in _MULTIPLIED}
    done = _without(place, [node for node in nodes if is_noise(node) or owner(node) in by_hand])
    if not done:
        raise RefusedError("its mask enters in a way that is not rewritten")
    return f"dropout taken off the shortcut ({', '.join(done)})"


def straighten(place: Place) -> str:
    """An activation, norm or dropout on h goes."""
    graph = place.located.seen.graph
    removable = kinds.ACTIVATIONS | kinds.NORMS | kinds.SCALES | kinds.DROPOUTS
    others = [v for v in place.unit.shortcut.region if graph.kinds[v] not in removable | kinds.LAYOUT]
    if others:
        raise RefusedError(
            f"its shortcut holds {kinds.in_words([graph.kinds[others[0]]])[0]}, which cannot be left out"
        )
    done = _without(place, _removable(place, removable))
    if not done:
        raise RefusedError("nothing on its shortcut can be left out")
    return f"{', '.join(done)} taken off the shortcut"


def _removable(place: Place, group: frozenset[str]) -> list[Node]:
    """The nodes on the shortcut whose operations are all of a group; refused as a whole before anything is changed."""
    region = place.unit.shortcut.region
    adding, _ = place.operand()
    found = list[Node]()
    for node in place.region(region):
        inside = place.vertices_of(node)
        bare = place.of_kind(inside, group) and len(place.of_kind(inside, group | kinds.LAYOUT)) == len(inside)
        if bare and node is not adding:
            source_of(place, node, (place.unit.fork, *region))
            found.append(node)
    return found


def _without(place: Place, nodes: Sequence[Node]) -> list[str]:
    """Leave nodes on the shortcut out."""
    region = place.unit.shortcut.region
    adding, _ = place.operand()
    chain = [*place.region(region), adding]
    for node in nodes:
        bypass(place, node, [user for user in node.users if user in chain], (place.unit.fork, *region))
    return [str(node.target) if node.op == "call_module" else f"{node.name} in {owner(node)}" for node in nodes]


def _without_alpha(place: Place) -> str:
    adding, operand = place.operand()
    second = len(adding.args) > 1 and adding.args[1] is operand
    if adding.target in _SUMS and second and "alpha" in adding.kwargs:
        adding.kwargs = {key: value for key, value in adding.kwargs.items() if key != "alpha"}
        return "alpha of the addition"
    if adding.target in _BLENDS and len(adding.args) == 3 and adding.args[0] is operand:
        # (1 - w) x + w F
        with place.located.captured.graph.inserting_before(adding):
            branch = place.located.captured.graph.call_function(operator.mul, adding.args[1:])
        branch.meta.update(owner=adding.meta.get("owner", ""))
        adding.op, adding.target, adding.args = "call_function", operator.add, (operand, branch)
        return f"1 - w of lerp in {owner(adding)}"
    name = getattr(adding.target, "__name__", adding.target)
    raise RefusedError(f"its factor is part of {name} in {owner(adding)}, which is not rewritten")


def unscale_sum(place: Place) -> str:
    """The sum c (x + F) becomes x + c F."""
    region = place.around.after_region
    node = place.located.inside(region[0]) if len(region) == 1 else None
    adding, operand = place.operand()
    args: tuple[Any, ...] = node.args if node is not None and node.target in _MULTIPLIED and len(node.args) == 2 else ()
    if args[1:] == (adding,) and node is not None and node.target not in _DIVIDED:
        args = args[::-1]
    if node is None or args[:1] != (adding,):
        raise RefusedError("the factor on its sum is not one plain multiplication")
    if list(adding.users) != [node]:
        raise RefusedError("its sum is also read without the factor")
    branch = [one for one in adding.all_input_nodes if one is not operand]
    if len(branch) != 1:
        raise RefusedError("its sum has more than two operands")
    graph = place.located.captured.graph
    node.prepend(adding)  # nobody else reads it, and the factor may be read from its module only after it
    with graph.inserting_before(adding):
        scaled = graph.create_node(node.op, node.target, (branch[0], args[1]), name="scaled_branch")
    scaled.meta.update(owner=node.meta.get("owner", ""))
    adding.replace_input_with(branch[0], scaled)
    node.replace_all_uses_with(adding)
    place.located.replaced[node] = adding
    graph.erase_node(node)
    return f"factor of {node.name} moved from the sum to the branch"


def bend_no_more(place: Place) -> str:
    """F may be negative: the ReLU that ends it goes."""
    graph = place.located.seen.graph
    if len(place.unit.others) != 1 or len(place.unit.others[0].factors) != 1:
        raise RefusedError("its branch is a sum of several")
    (vertex,) = place.unit.others[0].factors
    adding, _ = place.operand()
    ends = [one for one in adding.all_input_nodes if one in place.located.nodes(vertex)]
    node = place.located.inside(vertex)
    if graph.kinds[vertex] not in _RELUS or len(ends) != 1 or node is None or ends[0] is not node:
        raise RefusedError(f"its branch ends with {graph.kinds[vertex]}, not with a ReLU")
    bypass(place, node, [adding], (place.unit.fork, *place.unit.branch))
    return f"{node.target if node.op == 'call_module' else node.name} taken off the end of the branch"


def add_final_norm(place: Place) -> str:
    """The norm that the branches begin with also stands after the last sum."""
    located, graph = place.located, place.located.captured.graph
    norms = place.of_kind(place.unit.branch, kinds.NORMS)
    first_norm = located.inside(norms[0]) if norms else None
    if first_norm is None or first_norm.op != "call_module":
        raise RefusedError("its branch has no norm that is a module of its own")
    seen, kind = located.seen.graph, located.seen.graph.kinds[norms[0]]
    at = -1 if "layernorm" in kind or "rmsnorm" in kind else 1
    if place.shape(place.around.end)[at] != seen.shapes[norms[0]][at]:
        raise RefusedError("the last unit changes the width, which its own norm does not have")
    made = copy.deepcopy(located.captured.skeleton.get_submodule(str(first_norm.target)))
    reset = getattr(made, "reset_parameters", None)
    if reset is None:
        raise RefusedError(f"a {type(made).__name__} has no reset_parameters")
    reset()
    _as_new(made, training=located.captured.whole.training)
    added_before = located.captured.added.get(place.name)  # in the other mode, if that is a graph of its own
    name = added_before or _free_name(located.captured.skeleton, "final_norm")
    located.captured.added[place.name] = name
    end = place.node_of(place.around.end)
    if added_before is None:
        located.captured.skeleton.add_module(name, made)
    users = list(end.users)
    with graph.inserting_after(end):
        added = graph.call_module(name, (end,))
    added.meta["owner"] = ""
    readers = [one for one in first_norm.users if one.op in {"call_module", "call_function", "call_method"}]
    last = added
    activation = readers[0] if len(readers) == 1 else None
    if activation is not None and _activates(place, activation) and activation.all_input_nodes == [first_norm]:
        with graph.inserting_after(added):
            last = graph.node_copy(activation, lambda _: added)
        last.meta["owner"] = ""
    for user in users:
        user.replace_input_with(end, last)
    return f"{name} ({type(made).__name__}) added after the last sum"


def _as_new(module: nn.Module, *, training: bool) -> None:
    """It learns, it is in the mode of the whole, and what hooks onto the one that it was copied from is not on it."""
    module.requires_grad_(True).train(training)  # noqa: FBT003 (torch has it so)
    for one in module.modules():
        for name in _HOOKS & vars(one).keys():
            vars(one)[name].clear()


_HOOKS = {
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
}


def _activates(place: Place, node: Node) -> bool:
    graph = place.located.seen.graph
    made = [v for v in place.unit.branch if place.located.inside(v) is node]
    return bool(made) and all(graph.kinds[v] in kinds.ACTIVATIONS for v in made)


def _free_name(module: nn.Module, name: str) -> str:
    taken = {one for one, _ in module.named_children()}
    return next(n for n in (name, *(f"{name}_{count}" for count in range(2, 100))) if n not in taken)


Rewrite = Callable[[Place], str]
REWRITES: dict[str, Rewrite] = {
    "CP204": around_overwritten,
    "CP203": unscale_sum,
    "CP102": unscale,
    "CP103": undrop,
    "CP101": straighten,
    "CP301": bend_no_more,
    "CP201": route,
    "CP202": route,
    "CP501": add_final_norm,
}
"""By the code of the finding, in the order in which they are made."""
AT_THE_NEXT: frozenset[str] = frozenset({"CP201", "CP202"})
"""Findings about f, which are mended in the unit that follows."""
