"""What a module computes, as text: the fingerprint that a parameter count cannot give.

    conv3x3:3>4 bn relu ( x + conv3x3:4>4 bn relu conv3x3:4>4 bn ) relu … avgpool flatten linear:16>10

The text is read off the traced computation (`torch.fx`), not off the tree of modules. Operations stand in the order
in which they run; where paths that left one value meet again, they stand in brackets around what joins them, and a
path without operations is `x`. `/2` is a stride; whatever is not as usual (padding, bias, groups, …) is added.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

WEIGHTED = (nn.Conv2d, nn.Linear)
_JOINS = {operator.add: "+", operator.mul: "*", operator.sub: "-"}


def fingerprint(module: nn.Module) -> str:
    """The operations on every path from the module's input to its output."""
    graph = _graph(module)
    return _path(module, graph, _dominators(graph), _result(graph), _start(graph)) or "x"


def weighted_layers(module: nn.Module) -> int:
    """The number of convolutions and linear layers on the longest path."""
    graph = _graph(module)
    longest: dict[fx.Node, int] = {}
    for node in graph.nodes:
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        before = max((longest[parent] for parent in node.all_input_nodes), default=0)
        longest[node] = before + isinstance(called, WEIGHTED)
    return max(longest.values())


def feeding(module: nn.Module, length: int) -> dict[str, str]:
    """For every convolution by its name, the last operations on the way to its input; identities not counted."""
    graph = _graph(module)
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), nn.Conv2d):
            words: list[str] = []
            parent = node.all_input_nodes[0]
            while len(words) < length and parent.op == "call_module":
                if word := _operation(module, parent):
                    words.append(word)
                (parent,) = parent.all_input_nodes
            found[str(node.target)] = " ".join(reversed(words))
    return found


def _graph(module: nn.Module) -> fx.Graph:
    return fx.Tracer().trace(module)


def _start(graph: fx.Graph) -> fx.Node:
    start: fx.Node = next(iter(graph.find_nodes(op="placeholder")))
    return start


def _result(graph: fx.Graph) -> fx.Node:
    return graph.output_node().all_input_nodes[0]


def _dominators(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For every node the last one that all its paths from the start have in common."""
    level: dict[fx.Node, int] = {}
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            level[node] = 0
            continue
        first, *others = node.all_input_nodes
        for other in others:
            while first is not other:
                if level[first] >= level[other]:
                    first = found[first]
                else:
                    other = found[other]  # noqa: PLW2901
        found[node], level[node] = first, level[first] + 1
    return found


def _path(module: nn.Module, graph: fx.Graph, dominators: dict[fx.Node, fx.Node], node: fx.Node, start: fx.Node) -> str:
    words: list[str] = []
    while node is not start:
        inputs = [value for value in node.args if isinstance(value, fx.Node)]
        if len(inputs) == 1:
            words.append(_operation(module, node))
            (node,) = inputs
        else:
            fork = dominators[node]
            join = _JOINS[_function(node)]
            paths = [_path(module, graph, dominators, value, fork) or "x" for value in inputs]
            words.append("( " + f" {join} ".join(paths) + " )")
            node = fork
    return " ".join(word for word in reversed(words) if word)


def _function(node: fx.Node) -> Callable[..., Any]:
    assert node.op == "call_function", f"paths meet in {node.format_node()}"
    assert callable(node.target)
    return node.target


def _operation(module: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return _layer(module.get_submodule(str(node.target)))
    if node.op == "call_method":
        return f"{node.target}{node.args[1:]}"
    function, constants = _function(node), [arg for arg in node.args if not isinstance(arg, fx.Node)]
    word = {
        operator.mul: "*",
        operator.sub: "-",
        operator.getitem: "every",
        functional.pad: "zeros",
        torch.sigmoid: "sigmoid",
        torch.empty_like: "empty",
    }[function]
    if function is operator.sub:
        return f"{constants[0]}{word}"
    return word + ",".join(_number(each) for constant in constants for each in _several(constant))


def _several(constant: Any) -> tuple[Any, ...]:
    return tuple(constant) if isinstance(constant, list | tuple) else (constant,)


def _number(constant: Any) -> str:
    """A number as it is; of a slice its step."""
    return str(constant.step or 1) if isinstance(constant, slice) else str(constant)


def _layer(layer: nn.Module) -> str:
    word = ""
    match layer:
        case nn.Conv2d():
            word = _convolution(layer)
        case nn.Linear():
            word = f"linear:{layer.in_features}>{layer.out_features}" + ("" if layer.bias is not None else "!bias")
        case nn.BatchNorm2d():
            usual = nn.BatchNorm2d(layer.num_features)
            word = "bn" if repr(layer) == repr(usual) else f"bn!{layer}"
        case nn.ReLU():
            word = "relu!inplace" if layer.inplace else "relu"
        case nn.MaxPool2d():
            word = f"maxpool{layer.kernel_size}x{layer.kernel_size}/{layer.stride}p{layer.padding}"
        case nn.AdaptiveAvgPool2d():
            assert layer.output_size == 1
            word = "avgpool"
        case nn.Flatten():
            word = "flatten"
        case nn.Dropout():
            word = f"dropout{layer.p}"
        case nn.Identity():
            word = ""
        case _:
            raise AssertionError(f"no word for {layer}")
    return word


def _convolution(layer: nn.Conv2d) -> str:
    side, stride = layer.kernel_size[0], layer.stride[0]
    word = f"conv{side}x{side}" + (f"/{stride}" if stride != 1 else "") + f":{layer.in_channels}>{layer.out_channels}"
    usual = nn.Conv2d(layer.in_channels, layer.out_channels, side, stride=stride, padding=side // 2, bias=False)
    if layer.bias is not None:
        word += "+b"
        usual = nn.Conv2d(layer.in_channels, layer.out_channels, side, stride=stride, padding=side // 2)
    return word if repr(layer) == repr(usual) else f"{word}!{layer}"
