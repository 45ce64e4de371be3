"""Operations in place become operations that make new tensors: what they overwrote stays there for who wants it.

The function stays the same, bit for bit: whoever read the overwritten tensor afterwards reads the result.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional

from cleanpath.repair.tracing import UnreadableError

_OPERATORS = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and_", "or_", "xor", "matmul")
    if hasattr(operator, f"i{name}")
}


def out_of_place(graph: Graph, modules: dict[str, nn.Module]) -> list[str]:
    """Rewrite all of them; names of the modules whose `inplace` was turned off.

    Raises `UnreadableError` where a part of a tensor is written to whose whole is read later.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    turned = list[str]()
    for node in list(graph.nodes):
        for written in node.meta.get("writes", ()):
            _refuse_views(node, written, graph.nodes, order)
            if not _replaced(node, written, modules, turned):
                with graph.inserting_before(node):
                    copy = graph.call_method("clone", (written,))
                    copy.meta.update(owner=node.meta.get("owner", ""), value=written.meta["value"])
                node.replace_input_with(written, copy)
                order[copy] = order[node]
                _read_instead(written, node if _gives(node, written) else copy, order, after=node)
            else:
                _read_instead(written, node, order, after=node)
        node.meta["writes"] = []
    return turned


def _read_instead(written: Node, result: Node, order: dict[Node, int], after: Node) -> None:
    for user in list(written.users):
        if user is not result and order[user] > order[after]:
            user.replace_input_with(written, result)


def _gives(node: Node, written: Node) -> bool:
    """Whether a node returns the tensor that it wrote to."""
    here, there = node.meta.get("value"), written.meta["value"]
    return isinstance(here, Tensor) and here.data_ptr() == there.data_ptr() and here.shape == there.shape


def _refuse_views(node: Node, written: Node, nodes: Iterable[Node], order: dict[Node, int]) -> None:
    storage = written.meta["value"].untyped_storage()._cdata  # noqa: SLF001
    for other in nodes:
        value = other.meta.get("value")
        if other is written or order.get(other, -1) >= order[node] or not isinstance(value, Tensor):
            continue
        if value is written.meta["value"] or other.op == "get_attr":
            continue
        shared = value.untyped_storage()._cdata == storage  # noqa: SLF001
        if shared and any(order[user] > order[node] for user in other.users):
            raise UnreadableError(f"{node.format_node()} writes to a part of a tensor whose whole is read later")


def _replaced(node: Node, written: Node, modules: dict[str, nn.Module], turned: list[str]) -> bool:
    """Let a known operation make a new tensor."""
    target: Any = node.target
    if not _gives(node, written):
        return False
    if node.op == "call_module" and getattr(modules.get(str(target)), "inplace", False) is True:
        modules[str(target)].inplace = False  # type: ignore[assignment]
        turned.append(str(target))
        return True
    if node.op == "call_module":  # a shared module may have been turned before
        return str(target) in turned or getattr(modules.get(str(target)), "inplace", None) is False
    if node.op == "call_method" and str(target).endswith("_") and hasattr(Tensor, str(target)[:-1]):
        node.target = str(target)[:-1]
        return True
    if node.op != "call_function":
        return False
    if node.kwargs.get("inplace") is True:
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    name = getattr(target, "__name__", "")
    plain = _OPERATORS.get(target)
    for home in (torch, functional):
        if plain is None and name.endswith("_") and hasattr(home, name[:-1]):
            plain = getattr(home, name[:-1])
    if plain is None:
        return False
    node.target = plain
    return True
