"""Symbols that stand for values while a forward is read: inputs, tables of inputs, lengths, numbers from shapes."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.fx.proxy import Attribute

FACTORIES = tuple(
    getattr(torch, name)
    for name in (
        *("ones", "zeros", "full", "empty", "rand", "randn", "randint", "randperm", "arange", "linspace", "logspace"),
        *("eye", "tensor", "as_tensor", "tril_indices", "triu_indices", "broadcast_shapes", "hann_window"),
    )
)
"""Functions that take sizes alone: torch asks no symbol among those what it makes of the call."""
TENSOR = ...
"""Stands for a tensor where the other inputs of a table are told."""


class _Known(Proxy):
    """A symbol that knows the length of what it stands for, and the number if a shape gives it."""

    def __len__(self) -> int:
        value = self.node.meta.get("value")
        if isinstance(value, tuple | list | dict | torch.Size):
            return len(value)
        raise TypeError("the length of a tensor is not known before it is there")

    def __index__(self) -> int:
        return int(self.tracer.number(self))  # type: ignore[attr-defined]

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.tracer.number(self))  # type: ignore[attr-defined]

    def __getattr__(self, k: str) -> Attribute:
        return _KnownAttribute(self, k)


class Symbol(_Known):
    """What an operation gives."""


class _KnownAttribute(_Known, Attribute):
    """What is read of it, as its shape."""


def bound(
    forward: Callable[..., Any], examples: Mapping[str, Any], placeholder: Callable[[str, tuple[Any, ...]], Proxy]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """With what a forward is called to be read: symbols for tensors, everything else as it is in the example.

    The third are the inputs, and the tables of inputs, that hold anything else than tensors: the graph is of these.
    """
    given, keywords, fixed = list[Any](), dict[str, Any](), dict[str, Any]()
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    for one in sorted(parameters, key=lambda parameter: parameter.kind in marks):  # as torch.fx writes them
        target = f"{marks.get(one.kind, '')}{one.name}"
        symbol = placeholder(target, () if one.default is one.empty else (one.default,))
        example = examples.get(one.name, {"*": (), "**": {}}.get(marks.get(one.kind, "")))
        told = symbols(symbol, example)
        if (pattern := without_tensors(example)) is not TENSOR:
            fixed[target] = pattern
        if one.kind is one.VAR_POSITIONAL:
            given += told
        elif one.kind is one.VAR_KEYWORD:
            keywords |= told
        elif one.kind is one.KEYWORD_ONLY:
            keywords[one.name] = told
        else:
            given.append(told)
    return given, keywords, fixed


def symbols(symbol: Proxy, value: Any) -> Any:
    """A table of symbols for a table that holds tensors; what is no tensor stays as it is."""
    if not holds_tensors(value):
        return value
    if type(value) in {tuple, list}:
        return type(value)(symbols(symbol[place], one) for place, one in enumerate(value))
    return {key: symbols(symbol[key], one) for key, one in value.items()} if type(value) is dict else symbol


def holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor or a table of some."""
    if isinstance(value, Mapping):
        return any(map(holds_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(holds_tensors, value)))


def without_tensors(value: Any) -> Any:
    """A table with `TENSOR` for each tensor in it; that alone for a tensor, and for what is only handed on."""
    if isinstance(value, Tensor) or (holds_tensors(value) and type(value) not in {tuple, list, dict}):
        return TENSOR
    if type(value) in {tuple, list} and holds_tensors(value):
        return type(value)(map(without_tensors, value))
    if type(value) is dict and holds_tensors(value):
        return {key: without_tensors(one) for key, one in value.items()}
    return value


def conditions(name: str, value: Any, shown: Callable[[Any], str]) -> Iterator[str]:
    """Python that is true where an input is not as in the example."""
    if value is TENSOR:
        return
    if not holds_marks(value):
        wrong = f"{name} is not {value!r}" if value is None else f"{name} != {shown(value)}"
        yield f"str({name}) != {str(value)!r}" if isinstance(value, torch.dtype | torch.device) else wrong
        return
    if isinstance(value, Mapping):
        yield f"{{*{name}}} != {{{', '.join(map(repr, value))}}}"
        for key, one in value.items():
            yield from conditions(f"{name}[{key!r}]", one, shown)
        return
    yield f"len({name}) != {len(value)}"
    for place, one in enumerate(value):
        yield from conditions(f"{name}[{place}]", one, shown)


def holds_marks(value: Any) -> bool:
    """Whether a table has a tensor's place in it."""
    if isinstance(value, Mapping):
        return any(map(holds_marks, value.values()))
    return value is TENSOR or (isinstance(value, tuple | list) and any(map(holds_marks, value)))
