"""Operations in place become operations that make new tensors: what they overwrote stays there for who wants it.

The function stays the same, bit for bit: whoever read the overwritten tensor afterwards reads the result.
"""

import operator
from collections.abc import Mapping
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
        copies = list[Node]()
        if _is_set_back(node):
            node.target, node.meta["writes"] = _OPERATORS[node.target], []
        for written in node.meta.get("writes", ()):
            same = _same_tensor(node, written, order)
            result = node
            if not _replaced(node, written, modules, turned):
                with graph.inserting_before(node):
                    copy = graph.call_method("clone", (written,))
                copy.meta.update(owner=node.meta.get("owner", ""), value=written.meta["value"])
                node.replace_input_with(written, copy)
                order[copy] = order[node]
                copies.append(copy)
                result = node if _gives(node, written) else copy
            for one in same:
                for user in list(one.users):
                    if user is not result and order[user] > order[node]:
                        user.replace_input_with(one, result)
        node.meta["writes"] = copies  # such a node may give nothing, and stays
    return turned


def _is_set_back(node: Node) -> bool:
    """Whether it is that of `y[part] += 1`, whose result Python sets as the part."""
    return node.target in _OPERATORS and any(
        user.target is operator.setitem and user.args[2] is node and user.args[:2] == node.all_input_nodes[0].args
        for user in node.users
    )


def _gives(node: Node, written: Node) -> bool:
    """Whether a node returns the tensor that it wrote to."""
    here, there = node.meta.get("value"), written.meta["value"]
    return isinstance(here, Tensor) and here.data_ptr() == there.data_ptr() and here.shape == there.shape


def _same_tensor(node: Node, written: Node, order: Mapping[Node, int]) -> list[Node]:
    """The nodes before that gave the tensor that is written to, as an identity hands it on."""
    found = list[Node]()
    storage = written.meta["value"].untyped_storage()._cdata  # noqa: SLF001
    for other in [one for one, place in order.items() if place < order[node]]:
        value = other.meta.get("value")
        if value is written.meta["value"]:
            found.append(other)
        elif isinstance(value, Tensor) and other.op != "get_attr":
            shared = value.untyped_storage()._cdata == storage  # noqa: SLF001
            if shared and any(order[user] > order[node] for user in other.users):
                raise UnreadableError(f"{node.format_node()} writes to a part of a tensor whose whole is read later")
    return found


def _replaced(node: Node, written: Node, modules: Mapping[str, nn.Module], turned: list[str]) -> bool:
    """Let a known operation make a new tensor."""
    name = str(node.target)
    if not _gives(node, written):
        return False
    if node.op == "call_module":
        if getattr(modules.get(name), "inplace", None) is True:
            modules[name].inplace = False  # type: ignore[assignment]
            turned.append(name)
        # One that several places call was turned before.
        return getattr(modules.get(name), "inplace", None) is False
    if node.op == "call_method" and name.endswith("_") and hasattr(Tensor, name[:-1]):
        node.target = name[:-1]
        return True
    return node.op == "call_function" and _replaced_function(node)


def _replaced_function(node: Node) -> bool:
    target: Any = node.target
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
