"""Watch one forward pass: which operations ran, in which module, and what they read.

A dispatch mode sees every operation below autograd, also those that composite functions hide. Autograd numbers its
nodes in the order in which they are made, so the number that stands when an operation arrives says which node is its.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

KEPT_ENTRIES = 65536
"""A factor that requires no gradient, or is at most this large, is kept to read λ from it."""

NOISE = frozenset(
    {
        "bernoulli",
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "uniform",
        "normal",
        "native_dropout",
        "randint",
        "randperm",
    }
)
SCALES = frozenset({"mul", "div", "lerp", "addcmul", "addcdiv", "true_divide", "multiply", "divide"})


@dataclass(slots=True)
class Seen:
    """A tensor that an operation read: its shape and what is known of its origin."""

    shape: tuple[int, ...]
    noise: bool
    value: Tensor | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One differentiable operation as it was called; tensors among its arguments are replaced by `Seen`."""

    name: str
    ordinal: int
    module: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    reads_input: bool

    def argument(self, position: int, keyword: str, default: Any = None) -> Any:
        """The argument at a position or under a keyword."""
        if keyword in self.keywords:
            return self.keywords[keyword]
        return self.arguments[position] if position < len(self.arguments) else default

    def forget(self) -> None:
        """Let go of the constants."""
        for value in (*self.arguments, *self.keywords.values()):
            if isinstance(value, Seen):
                value.value = None


Watcher = Callable[[int, str, tuple[Any, ...], Mapping[str, Any]], Callable[[Any], None] | None]
"""Called before an operation with its ordinal, name and arguments; may return what to call with the result."""


@dataclass
class Record:
    """What a forward pass left behind."""

    operations: dict[int, Operation] = field(default_factory=dict)
    """By the number of the autograd node."""
    inside: dict[int, list[str]] = field(default_factory=dict)
    """Operations that ran without gradients, by the number of the last node made before them."""
    called: set[str] = field(default_factory=set)
    """Qualified names of the modules that were called."""
    fused: list[str] = field(default_factory=list)
    """Operations that hold a whole layer."""
    cuts: dict[str, int] = field(default_factory=dict)
    """How often an operation read a value whose gradient had been cut, by the module that read it."""
    quantised: set[str] = field(default_factory=set)
    """Modules that computed with packed low-precision weights, which are no parameters."""
    count: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of one forward pass; `inputs` are the tensors whose influence counts."""

    def __init__(
        self,
        modules: Mapping[int, str],
        inputs: Sequence[Tensor],
        before_write: Callable[[Iterable[Tensor]], None],
        watcher: Watcher | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._before_write = before_write
        self.record = Record()
        self._names, self._stack, self._watcher = modules, [""], watcher
        self._noise: dict[int, Tensor] = {}
        self._influenced: dict[int, Tensor] = {storage_of(tensor): tensor for tensor in inputs}
        self._cut: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note it."""
        kwargs = kwargs or {}
        name = base_name(func)
        ordinal, self.record.count = self.record.count, self.record.count + 1
        read = tuple(tensors_in((args, kwargs)))
        schema = getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable:
            self._before_write(read)
        after = self._watcher(ordinal, name, args, kwargs) if self._watcher is not None else None
        number, grad = torch._C._autograd._get_sequence_nr() - 1, torch.is_grad_enabled()  # noqa: SLF001
        result = func(*args, **kwargs)
        if after is not None:
            after(result)
        tracked = any(tensor.requires_grad for tensor in read)
        if name.startswith("quantized"):
            self.record.quantised.add(self._stack[-1])
        if tracked and grad:
            known = self.record.operations.get(number)
            if known is None or (known.name == "clone" and name in SCALES):  # a conjugate made real before a product
                self.record.operations[number] = self._operation(name, ordinal, args, kwargs, read)
            if any(not t.requires_grad and t.is_floating_point() and storage_of(t) in self._cut for t in read):
                self.record.cuts[self._stack[-1]] = self.record.cuts.get(self._stack[-1], 0) + 1
            if name == "detach" or any(not t.is_floating_point() for t in tensors_in(result)):
                self._follow(name, read, result, derived=any(t.grad_fn is not None for t in read))
        else:
            if tracked:
                self.record.inside.setdefault(number, []).append(name)
            if name == "_transformer_encoder_layer_fwd":
                self.record.fused.append(f"{self._stack[-1]}: a fused encoder layer")
            self._follow(name, read, result, derived=any(t.grad_fn is not None for t in read if t.requires_grad))
        return result

    def _operation(
        self, name: str, ordinal: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], read: tuple[Tensor, ...]
    ) -> Operation:
        keep = name in SCALES
        reads_input = any(not t.requires_grad and storage_of(t) in self._influenced for t in read)
        arguments = tuple(self._seen(value, keep=keep) for value in args)
        keywords = {key: self._seen(value, keep=keep) for key, value in kwargs.items()}
        return Operation(name, ordinal, self._stack[-1], arguments, keywords, reads_input)

    def _seen(self, value: Any, *, keep: bool) -> Any:
        if isinstance(value, Tensor):
            kept = keep and (not value.requires_grad or value.numel() <= KEPT_ENTRIES)
            noise = not value.requires_grad and storage_of(value) in self._noise
            return Seen(tuple(value.shape), noise, value.detach() if kept else None)
        if isinstance(value, list | tuple):
            return tuple(self._seen(item, keep=keep) for item in value)
        return value

    def _follow(self, name: str, read: tuple[Tensor, ...], result: Any, *, derived: bool) -> None:
        """Hand on what is known of tensors outside the graph; they are kept alive, so that no address is used twice."""
        storages = [storage_of(tensor) for tensor in read]
        noise = name in NOISE or any(storage in self._noise for storage in storages)
        influenced = derived or any(storage in self._influenced for storage in storages)
        for tensor in tensors_in(result) if noise or influenced else ():
            if derived or any(storage in self._cut for storage in storages):
                self._cut[storage_of(tensor)] = tensor
            if noise:
                self._noise[storage_of(tensor)] = tensor
            if influenced:
                self._influenced[storage_of(tensor)] = tensor

    @property
    def running(self) -> str:
        """Qualified name of the module that runs at this moment."""
        return self._stack[-1]

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Know which module is running, by hooks on the class of all modules; they are gone afterwards."""

        def enter(module: nn.Module, _inputs: Any) -> None:
            self._stack.append(self._names.get(id(module), self._stack[-1]))
            self.record.called.add(self._stack[-1])

        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            self._stack.pop()

        entering = register_module_forward_pre_hook(enter)
        leaving = register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            entering.remove()
            leaving.remove()


@cache
def base_name(func: Any) -> str:
    """`add` for `aten.add_.Tensor`; operations of other libraries keep their library's name."""
    packet = getattr(func, "overloadpacket", None)
    if packet is None:
        return str(func)
    name: str = packet.__name__
    if getattr(func, "namespace", "aten") != "aten":
        return f"{func.namespace}.{name}"
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def storage_of(tensor: Tensor) -> int:
    """An address that all views of the same memory share."""
    try:
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001
    except (NotImplementedError, RuntimeError):  # sparse and opaque tensors have no storage
        return id(tensor)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
