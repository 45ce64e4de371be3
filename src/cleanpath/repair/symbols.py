"""Symbols that stand for values while a forward is read: inputs, tables of inputs, lengths, numbers from shapes."""

import inspect
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.fx.proxy import Attribute

FACTORIES = tuple(
    getattr(torch, name)
    for name in (
        *("ones", "zeros", "full", "arange", "linspace", "logspace", "eye", "tensor", "as_tensor", "tril_indices"),
        *("triu_indices", "broadcast_shapes", "hann_window", "finfo", "iinfo"),
    )
)
"""Functions of sizes alone: torch asks no symbol among those what it makes of the call."""
DRAWS = {name: getattr(torch, name) for name in ("empty", "rand", "randn", "randint", "randperm")}
"""Functions that give something else at every call, though they read nothing."""
TENSOR = ...
"""Stands for a tensor where the other inputs of a table are told."""


class _Known(Proxy):
    """A symbol that knows the length of what it stands for, and the number if a shape gives it."""

    def __len__(self) -> int:
        value = self.node.meta.get("value")
        if isinstance(value, tuple | list | dict | torch.Size):
            return len(value)
        return int(self.shape[0])  # type: ignore[index]

    def __index__(self) -> int:
        return int(self.tracer.number(self))  # type: ignore[attr-defined]

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.tracer.number(self))  # type: ignore[attr-defined]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __getattr__(self, k: str) -> Attribute:
        return _KnownAttribute(self, k)


def _augmented(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An operation in place, which torch.fx takes for the one that makes a new tensor."""
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor"):
    setattr(_Known, f"__{_name}__", _augmented(getattr(operator, _name)))


class Symbol(_Known):
    """What an operation gives."""


class _KnownAttribute(_Known, Attribute):
    """What is read of it, as its shape."""


@dataclass
class Call:
    """How a forward is called."""

    parameters: Sequence[inspect.Parameter]
    positional: int
    """Of how many arguments no name is given."""
    named: Collection[str]
    examples: Mapping[str, Any]
    """By the names of the parameters, defaults among them."""

    @classmethod
    def of(cls, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "Call":
        """With these."""
        signature = inspect.signature(forward)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cls([*signature.parameters.values()], len(args), kwargs, bound.arguments)

    def symbolic(
        self, placeholder: Callable[[str, tuple[Any, ...]], Proxy]
    ) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """The same call with symbols for tensors; what is none stays as it is, and what was left out is left out.

        The third are the inputs, and the tables of inputs, that hold anything else: the graph is of these values.
        """
        marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        told, fixed = dict[str, Any](), dict[str, Any]()
        for one in sorted(
            self.parameters, key=lambda each: (*marks,).index(each.kind) + 1 if each.kind in marks else 0
        ):
            target = f"{marks.get(one.kind, '')}{one.name}"  # in the order of torch.fx: tables of further ones last
            symbol = placeholder(target, () if one.default is one.empty else (one.default,))
            example = self.examples[one.name]
            told[one.name] = symbols(symbol, example)
            if (pattern := without_tensors(example)) is not TENSOR:
                fixed[target] = pattern
        given, keywords = list[Any](), dict[str, Any]()
        for one in self.parameters:
            if one.kind is one.VAR_POSITIONAL:
                given += told[one.name]
            elif one.kind is one.VAR_KEYWORD:
                keywords |= told[one.name]
            elif len(given) < self.positional and one.kind is not one.KEYWORD_ONLY:
                given.append(told[one.name])
            elif one.name in self.named:
                keywords[one.name] = told[one.name]
        return given, keywords, fixed


def symbols(symbol: Any, value: Any) -> Any:
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
