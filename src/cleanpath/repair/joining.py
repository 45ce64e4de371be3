"""One graph of two: what a forward does in training and in evaluation, where a flag or a number is all that differs."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import Graph, Node


class OwnForwardError(Exception):
    """The forward of one module cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def join(training: Graph, evaluation: Graph) -> None:
    """Make one graph of both modes: a flag that differs is read from the module that read it."""
    pairs = list(zip(training.nodes, evaluation.nodes, strict=False))
    same = {other: one for one, other in pairs}
    for one, other in pairs:
        if (one.op, one.target) != (other.op, other.target):
            raise OwnForwardError(one.meta.get("owner", ""), "it takes another way in training than in evaluation")
    if len(training.nodes) != len(evaluation.nodes):
        raise OwnForwardError("", "it takes another way in training than in evaluation")
    for one, other in pairs:
        if "value" not in one.meta and "value" in other.meta:
            one.meta["value"] = other.meta["value"]  # identities of tensors hold within one mode's values only
            one.meta["writes"] = [same[node] for node in other.meta.get("writes", ())]
        args = _merged(one, one.args, other.args, same)
        kwargs = _merged(one, dict(one.kwargs), dict(other.kwargs), same)
        one.args, one.kwargs = args, kwargs


def _merged(node: Node, here: Any, there: Any, same: Mapping[Node, Node]) -> Any:
    """An argument in both modes."""
    if isinstance(here, Node) and isinstance(there, Node) and here is same.get(there):
        return here
    if isinstance(here, int | float) and type(here) is type(there) and not _alike(here, there):
        return _by_mode(node, here, there)
    if (
        isinstance(here, Sequence)
        and not isinstance(here, str)
        and type(here) is type(there)
        and len(here) == len(there)
    ):
        parts = [_merged(node, a, b, same) for a, b in zip(here, there, strict=True)]
        kind: Any = type(here)
        return kind(parts) if not hasattr(here, "_fields") else kind(*parts)
    if isinstance(here, slice) and isinstance(there, slice):
        ends = ((here.start, there.start), (here.stop, there.stop), (here.step, there.step))
        return slice(*(_merged(node, a, b, same) for a, b in ends))
    if isinstance(here, Mapping) and isinstance(there, Mapping) and here.keys() == there.keys():
        return {key: _merged(node, here[key], there[key], same) for key in here}
    if type(here) is type(there) and (here is there or _alike(here, there)):
        return here
    raise OwnForwardError(node.meta.get("owner", ""), "it computes with other numbers in training than in evaluation")


def _by_mode(node: Node, here: Any, there: Any) -> Node:
    """A flag, or a number, by the mode in which the module that runs a node is at a call."""
    owner, graph = node.meta.get("owner", ""), node.graph
    with graph.inserting_before(node):
        chosen = graph.create_node("get_attr", f"{owner}.training" if owner else "training", name="training")
        chosen.meta.update(owner=owner, value=True)
        if here is False:
            chosen = graph.create_node("call_function", operator.not_, (chosen,), name="evaluating")
        elif here is not True:
            chosen = graph.call_function(operator.getitem, ((there, here), chosen))
    chosen.meta.update(owner=owner, value=here)
    return chosen


def _alike(here: Any, there: Any) -> bool:
    if isinstance(here, float) and isinstance(there, float) and math.isnan(here):
        return math.isnan(there)
    try:
        return bool(here == there)
    except Exception:  # noqa: BLE001 (a constant of any class)
        return False
