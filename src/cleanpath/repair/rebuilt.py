"""Modules as lines of Python that make them again by calls of torch, with its parameters empty.

What the lines give is compared with what it was made from, attribute by attribute; nothing is taken from `repr`, which
leaves arguments out.
"""

import inspect
import keyword
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.repair.rewritten import CONTAINERS

_TABLES = ("_parameters", "_buffers", "_modules")
_SKIPPED = {"device", "dtype", "args", "kwargs"}
"""Arguments that do not shape a layer; `dtype` is told where the weights need it."""


class OtherKindError(Exception):
    """A module that no call of torch makes again."""


def lines_of(module: nn.Module, name: str) -> list[str] | None:
    """Lines that fill `name` with everything inside a module; None if one is of another kind than torch's."""
    try:
        return list(_Lines().inside(module, name))
    except OtherKindError:
        return None


@dataclass
class _Lines:
    """What was made so far, and by which words it is reached."""

    modules: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, str] = field(default_factory=dict)
    storages: set[tuple[str, int]] = field(default_factory=set)

    def inside(self, module: nn.Module, name: str) -> Iterator[str]:
        """Parameters, buffers and children of a module that only holds them."""
        self.modules[id(module)] = name
        yield from self._own(module, name, {})
        for key, child in module._modules.items():  # noqa: SLF001
            place = f"{name}._modules[{key!r}]"
            attribute = key.isidentifier() and not keyword.iskeyword(key) and not hasattr(type(module), key)
            inner = f"{name}.{key}" if attribute else place
            if child is None or id(child) in self.modules:
                yield f"{place} = {None if child is None else self.modules[id(child)]}"
            elif type(child) in {nn.Module, *CONTAINERS} and not _hooked(child):
                yield f"{place} = nn.{type(child).__name__}()"
                yield from self.inside(child, inner)
            else:
                self.modules[id(child)] = inner
                said, made = called(child)
                yield f"{place} = nn.{said}"
                yield from self._own(child, inner, {**made._parameters, **made._buffers})  # noqa: SLF001

    def _own(self, module: nn.Module, name: str, made: Mapping[str, Tensor | None]) -> Iterator[str]:
        """A module's own tensors: those that its call has `made` are only told if they are shared or frozen."""
        if module._non_persistent_buffers_set:  # noqa: SLF001
            raise OtherKindError  # no file of weights holds them
        for table, tensors in (("_parameters", module._parameters), ("_buffers", module._buffers)):  # noqa: SLF001
            for key, value in tensors.items():
                place = f"{name}.{table}[{key!r}]"
                known = None if value is None else self.tensors.get(id(value))
                if value is not None and known is None:
                    self._alone(value)
                    self.tensors[id(value)] = place
                if known is not None:
                    yield f"{place} = {known}"
                elif value is None:
                    yield from () if key in made else (f"{place} = None",)
                elif key not in made:
                    empty = f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"
                    parameter = f"nn.Parameter({empty}, requires_grad={value.requires_grad})"
                    yield f"{place} = {parameter if isinstance(value, nn.Parameter) else empty}"
                elif table == "_parameters" and not value.requires_grad:
                    yield f"{place}.requires_grad_(False)"

    def _alone(self, value: Tensor) -> None:
        """Two tensors that lie in one memory would be two afterwards; a tensor of a class of its own is not made."""
        at = (str(value.device), value.untyped_storage().data_ptr())
        if type(value) not in {Tensor, nn.Parameter} or (at[1] and at in self.storages):
            raise OtherKindError
        self.storages.add(at)


def called(layer: nn.Module) -> tuple[str, nn.Module]:
    """The call that makes a layer of torch again, without `nn.`, and what it gives, on no device.

    Raises `OtherKindError` where an argument is not kept, or the result is not alike in every attribute and shape.
    """
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind or layer._modules or _hooked(layer):  # noqa: SLF001
        raise OtherKindError
    given = dict[str, Any]()
    known = inspect.signature(kind.__init__).parameters
    for name, one in list(known.items())[1:]:
        if name in _SKIPPED or name.startswith("_"):
            continue
        value = _argument(layer, name, one)
        if value != one.default or type(value) is not type(one.default):
            given[name] = value
    kinds = {value.dtype for value in layer._parameters.values() if value is not None}  # noqa: SLF001
    if "dtype" in known and len(kinds) == 1 and kinds != {torch.float32}:
        given["dtype"] = kinds.pop()
    try:
        with torch.device("meta"):
            made = kind(**given)
    except Exception as error:
        raise OtherKindError from error
    if not _alike(layer, made):
        raise OtherKindError
    said = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"{kind.__name__}({said})", made


def _argument(layer: nn.Module, name: str, one: inspect.Parameter) -> Any:
    """What an argument was, by what the layer kept of it."""
    if not hasattr(layer, name):
        if one.default is one.empty:
            raise OtherKindError
        return one.default  # as `init` of PReLU: the weights are loaded
    value = getattr(layer, name)
    if isinstance(one.default, bool) and not isinstance(value, bool):
        value = value is not None  # `bias`
    if isinstance(value, torch.Size):
        value = tuple(value)
    if not _plain(value):
        raise OtherKindError
    return value


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return type(value) in {tuple, list} and all(map(_plain, value))
    return value is None or type(value) in {bool, int, str} or (type(value) is float and math.isfinite(value))


def _alike(layer: nn.Module, made: nn.Module) -> bool:
    """Whether two layers differ in nothing but the values of their tensors."""

    def told(one: nn.Module) -> dict[str, Any]:
        return {key: value for key, value in vars(one).items() if key not in {*_TABLES, "training"}}

    def shapes(one: nn.Module) -> list[tuple[str, Any, Any]]:
        both = [*one._parameters.items(), *one._buffers.items()]  # noqa: SLF001
        return [(key, None, None) if v is None else (key, v.shape, v.dtype) for key, v in both]

    try:
        return bool(told(layer) == told(made)) and shapes(layer) == shapes(made)
    except (RuntimeError, ValueError):  # an attribute that is a tensor has no truth
        return False


def _hooked(module: nn.Module) -> bool:
    """Whether anything runs around its forward or its loading, which no line would make."""
    plain = vars(nn.Module())
    hooks = [key for key in plain if key.endswith("_hooks")]
    return any(vars(module).get(key) for key in hooks) or "forward" in vars(module)
