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
NESTING = (list, tuple, dict)


@dataclass(slots=True)
class Seen:
    """A tensor that an operation read: its shape and what is known of its origin."""

    shape: tuple[int, ...]
    noise: bool
    value: Tensor | None


@dataclass(slots=True)
class Operation:
    """One differentiable operation as it was called, with what it read and gave until `forget`."""

    name: str
    ordinal: int
    module: str
    reads_input: bool
    noise: frozenset[int]
    """Ids of the tensors it read that random numbers went into."""
    in_place: bool = False
    """Whether it wrote over its first argument."""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    _described: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def keep(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """Hold on to what it read and gave."""
        self.args, self.kwargs, self.result = args, kwargs, result

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The positional arguments; tensors among them are replaced by `Seen`."""
        return self._seen()[0]

    def argument(self, position: int, keyword: str, default: Any = None) -> Any:
        """The argument at a position or under a keyword."""
        arguments, keywords = self._seen()
        if keyword in keywords:
            return keywords[keyword]
        return arguments[position] if position < len(arguments) else default

    def intact(self, written: Mapping[int, int]) -> bool:
        """Whether all it read and gave still stands in memory, by the last operations that wrote to each storage."""
        kept = tensors_in((self.args, self.kwargs, self.result))
        return all(written.get(storage_of(tensor), -1) < self.ordinal for tensor in kept)

    def forget(self) -> None:
        """Let go of all tensors; arguments that somebody asked for are still known, but no constants."""
        self.args, self.kwargs, self.result = (), {}, None
        for value in () if self._described is None else (*self._described[0], *self._described[1].values()):
            if isinstance(value, Seen):
                value.value = None

    def _seen(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._described is None:
            described = {key: self._described_as(value) for key, value in self.kwargs.items()}
            self._described = (tuple(map(self._described_as, self.args)), described)
        return self._described

    def _described_as(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            kept = self.name in SCALES and (not value.requires_grad or value.numel() <= KEPT_ENTRIES)
            return Seen(tuple(value.shape), id(value) in self.noise, value.detach() if kept else None)
        if isinstance(value, list | tuple):
            return tuple(map(self._described_as, value))
        return value


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
    influenced: Mapping[int, Tensor] = field(default_factory=dict)
    """Tensors outside the graph that the input has a part in, by their storage."""
    written: dict[int, int] = field(default_factory=dict)
    """The last operation that wrote to a storage."""
    count: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations of one forward pass; `inputs` are the tensors whose influence counts.

    Without a watcher every operation keeps its tensors, so that they can be measured once the units are known.
    """

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
        self.record.influenced = self._influenced
        self._cut: dict[int, Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Compiled modules run as they are written (`uncompiled`): there is nothing that dynamo must skip."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note it."""
        kwargs = kwargs or {}
        name, writes = nature(func)
        record = self.record
        ordinal, record.count = record.count, record.count + 1
        read = tensors_in(args)
        if kwargs:
            read.extend(tensors_in(kwargs))
        if writes:
            self._before_write(read)
            written = [*(args[place] for place in writes if place < len(args)), kwargs]
            record.written.update((storage_of(tensor), ordinal) for tensor in tensors_in(written))
        after = self._watcher(ordinal, name, args, kwargs) if self._watcher is not None else None
        number = torch._C._autograd._get_sequence_nr() - 1  # noqa: SLF001
        result = self._call(func, args, kwargs)
        if after is not None:
            after(result)
        beside = [tensor for tensor in read if not tensor.requires_grad]
        tracked = len(beside) < len(read)
        if tracked and torch.is_grad_enabled():
            origins = [(tensor, storage_of(tensor)) for tensor in beside]
            known = record.operations.get(number)
            if known is None or (known.name == "clone" and name in SCALES):  # a conjugate made real before a product
                influenced = any(storage in self._influenced for _, storage in origins)
                noise = frozenset(id(tensor) for tensor, storage in origins if storage in self._noise)
                operation = Operation(name, ordinal, self._stack[-1], influenced, noise, 0 in writes)
                if self._watcher is None:
                    operation.keep(args, kwargs, result)
                record.operations[number] = operation
            if self._cut and any(t.is_floating_point() and storage in self._cut for t, storage in origins):
                record.cuts[self._stack[-1]] = record.cuts.get(self._stack[-1], 0) + 1
            if name == "detach" or not all(tensor.is_floating_point() for tensor in tensors_in(result)):
                self._follow(name, read, result, derived=any(t.grad_fn is not None for t in read))
        else:
            if tracked:
                record.inside.setdefault(number, []).append(name)
            if name == "_transformer_encoder_layer_fwd":
                record.fused.append(f"{self._stack[-1]}: a fused encoder layer")
            self._follow(name, read, result, derived=any(t.grad_fn is not None for t in read if t.requires_grad))
        if name.startswith("quantized"):
            record.quantised.add(self._stack[-1])
        return result

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The operation itself: whatever is raised in here is the model's own."""
        return func(*args, **kwargs)

    def _follow(self, name: str, read: Sequence[Tensor], result: Any, *, derived: bool) -> None:
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
    def following_modules(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Know which of these is running, by hooks on the class of all modules; they are gone afterwards."""

        def enter(module: nn.Module, _inputs: Any) -> None:
            self._stack.append(self._names.get(id(module), self._stack[-1]))
            self.record.called.add(self._stack[-1])

        def leave(module: nn.Module, _inputs: Any, _output: Any) -> None:
            if id(module) not in hooked:
                leave_last(module, _inputs, _output)

        def leave_last(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            del self._stack[max(len(self._stack) - 1, 1) :]  # what ran before the hooks came was never entered

        # A module's own hooks run after those on the class of all modules; what they compute is the module's too. Those
        # of the whole are left: one of them may be the monitor's, which ends the watching while torch walks over them.
        inner = [module for module in modules if self._names.get(id(module))]
        own = [module for module in inner if module._forward_hooks]  # noqa: SLF001
        hooked = {id(module) for module in own}
        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
            *(module.register_forward_hook(leave_last, always_call=True) for module in own),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@cache
def nature(func: Any) -> tuple[str, tuple[int, ...]]:
    """An operation's base name, and the places of the arguments it writes to."""
    schema = getattr(func, "_schema", None)
    given = schema.arguments if schema is not None and schema.is_mutable else ()
    return base_name(func), tuple(
        place for place, one in enumerate(given) if one.alias_info and one.alias_info.is_write
    )


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


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    found = list[Tensor]()
    for item in (value.values() if isinstance(value, dict) else value) if isinstance(value, NESTING) else ():
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, NESTING):
            found.extend(tensors_in(item))
    return found
