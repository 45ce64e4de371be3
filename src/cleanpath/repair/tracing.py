"""Read a module's forward into a graph of operations (torch.fx), with the values of one call beside the symbols.

Python's control flow is followed where only shapes and constants decide. A submodule whose forward cannot be read is
called as it is. The graph is read in training and in evaluation mode; where they differ by a flag, the flag is read
from its module at every call, so that `train()` and `eval()` go on to work.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy

from cleanpath.repair.guards import (
    GuardedTracer,
    GuardError,
    Kept,
    attributes_of,
    changed_attribute,
    decided_by_shapes,
    loads_in_its_own_way,
    uncheckable,
)
from cleanpath.repair.symbols import Symbol, bound

MOST_TRIES = 40
"""How often a submodule more is left unread before the whole is given up."""
_LAYERS_WITH_SUMS = (
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.TransformerEncoder, nn.TransformerDecoder),
    nn.Transformer,
)
"""Modules of torch's own that are read all the same."""


class UnreadableError(Exception):
    """A forward that cannot be read as a graph; the message says where and why."""


@dataclass
class Traced:
    """A graph whose nodes know their `owner`, `value` and the arguments that they write to (`writes`) in `meta`."""

    graph: Graph
    leaves: dict[str, str] = field(default_factory=dict)
    """Submodules that are called as they are though they hold others, with the reason."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Inputs that are no tensors: the graph holds for these values only."""
    constants: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the forward made from constants."""


def traced(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], homes: Sequence[str] = ()) -> Traced:
    """The graph of a module's forward for a call; the module is not touched. `homes` are the modules that add.

    Raises `UnreadableError` where the module's own forward cannot be read.
    """
    leaves: dict[str, str] = {}
    for _ in range(MOST_TRIES):
        try:
            training = _read(module, args, kwargs, leaves, training=True)
            evaluation = _read(module, args, kwargs, leaves, training=False)
            _join(training.graph, evaluation.graph)
        except _OwnForwardError as error:
            path = error.path
            while path in leaves:  # what is wrong with it comes from outside: it is used in another way than called
                path = path.rpartition(".")[0]
            if not path:
                raise UnreadableError(error.reason) from error
            leaves |= dict.fromkeys(_alike_ones(module, path, homes), error.reason)
            continue
        training.leaves = {name: leaves[name] for name in leaves if _is_called(training.graph, name)}
        return training
    raise UnreadableError(f"more than {MOST_TRIES} of its submodules cannot be read")


def _alike_ones(module: nn.Module, path: str, homes: Sequence[str]) -> list[str]:
    """A module and those of its class, as what cannot be read in one cannot in others; not those that hold a sum."""
    kind = type(module.get_submodule(path))
    every = [name for name, one in module.named_modules(remove_duplicate=False) if type(one) is kind]
    return [path, *(name for name in every if not any(within_any(home, {name}) for home in homes))]


class _OwnForwardError(Exception):
    """The forward of one module cannot be read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


class _Reader(GuardedTracer):
    """Traces one mode; every symbol carries the value that it has in the example."""

    proxy_buffer_attributes = True  # a table of places may be sliced by a length that is a symbol, as a parameter is

    def __init__(self, leaves: Mapping[str, str], examples: Mapping[str, Any]) -> None:
        super().__init__()
        self._leaves, self._examples = leaves, examples
        self._stack = [""]
        self._decided = set[Node]()
        self.failed: str | None = None
        self.fixed: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Torch's own layers, but for those that hold sums, and what could not be read."""
        if module_qualified_name in self._leaves or isinstance(m, torch.jit.ScriptModule):
            return True
        return not isinstance(m, _LAYERS_WITH_SUMS) and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Follow which module's forward runs; the innermost that fails is noted."""
        if self.evaluating:
            return forward(*args, **kwargs)
        self._stack.append(self.path_of_module(m))
        try:
            found = super().call_module(m, forward, args, kwargs)
            self.check_draws()
        except Exception:
            if self.failed is None:
                self.failed = self._stack[-1]
            raise
        else:
            return found
        finally:
            self._stack.pop()

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:  # noqa: FBT001 (torch.fx calls it so)
        """An input that is no tensor is given to the forward as it is; a decorated forward is called as it stands."""
        del is_module, concrete_args
        given, keywords, self.fixed = bound(
            root_fn, self._examples, lambda name, default: self.create_proxy("placeholder", name, default, {})
        )
        return (lambda root: root_fn(root, *given, **keywords)), [self.root]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter as a symbol, but not while a value is computed."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: Node) -> Proxy:
        """Our kind of symbol."""
        return Symbol(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **keywords: Any) -> Any:
        """A symbol and its value."""
        if not self.evaluating:
            self.check_draws()
        found = super().create_proxy(kind, target, args, kwargs, *more, **keywords)
        node = found.node
        node.meta["owner"] = self._stack[-1] if kind != "call_module" else self._stack[-2]
        if kind == "placeholder":
            node.meta["value"] = self._examples.get(str(target).lstrip("*"))
            return found
        self.evaluating = True  # torch.fx has put itself before every call of a module
        try:
            _evaluate(node, self.root)
        except Exception:  # noqa: BLE001, S110 (a batch of one in training mode: the other mode gives the values)
            pass
        finally:
            self.evaluating = False
        self.check_mode(node)
        return found

    def create_arg(self, a: Any) -> Any:
        """A table with a class of its own, as transformers' outputs are, is made by calling its class."""
        kind: Any = type(a)
        if isinstance(a, dict) and is_dataclass(kind):
            values = {one.name: getattr(a, one.name) for one in fields(kind)}
            given = {name: self.create_arg(value) for name, value in values.items() if value is not None}
            return self.create_node("call_function", type(a), (), given)
        return super().create_arg(a)

    def to_bool(self, obj: Proxy) -> bool:
        """What shapes and constants decide is decided as in the example; other shapes fail where they would differ."""
        value = obj.node.meta.get("value")
        by_shape = decided_by_shapes(obj.node)
        if "value" not in obj.node.meta or (isinstance(value, Tensor) and (by_shape is None or value.numel() != 1)):
            return super().to_bool(obj)
        if by_shape:
            self._hold(obj, obj if value else (operator.not_, obj), "a condition on a shape", bool(value))
        return bool(value)

    def number(self, obj: Proxy) -> int | float:
        """A number that Python asks for, as the length of a loop: that of the example, checked at every call."""
        value = obj.node.meta.get("value")
        if not isinstance(value, int | float) or not decided_by_shapes(obj.node):
            raise GuardError("a number that comes from values decides in Python")
        self._hold(obj, (operator.eq, obj, value), "a number from a shape", value)
        return value

    def _hold(self, obj: Proxy, condition: Any, what: str, value: float) -> None:
        """Check at every call what was decided."""
        if self.evaluating or obj.node in self._decided:
            return
        self._decided.add(obj.node)
        if isinstance(condition, tuple):
            condition = self.create_proxy("call_function", condition[0], condition[1:], {})
        said = f"{what} in {self._stack[-1] or 'forward'} was {value} when this network was rewritten"
        self.create_proxy("call_function", torch._assert, (condition, said), {})  # noqa: SLF001 (as timm does)

    def iter(self, obj: Proxy) -> Iterator[Any]:
        """Over a tuple of known length."""
        value = obj.node.meta.get("value")
        if isinstance(value, tuple | list | torch.Size):
            return iter([obj[place] for place in range(len(value))])  # type: ignore[index]
        return super().iter(obj)

    def keys(self, obj: Proxy) -> Any:
        """Of a table of known keys."""
        value = obj.node.meta.get("value")
        return list(value) if isinstance(value, Mapping) else super().keys(obj)


def _evaluate(node: Node, root: nn.Module) -> None:
    """What a node gives in the example, and which of its arguments it wrote to."""
    try:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda one: one.meta["value"])
    except KeyError:
        return
    tensors = [(one, one.meta["value"]) for one in node.all_input_nodes if isinstance(one.meta["value"], Tensor)]
    versions = [value._version for _, value in tensors]  # noqa: SLF001 (the counter of writes)
    with torch.no_grad():
        if node.op == "get_attr":
            value: Any = operator.attrgetter(str(node.target))(root)
        elif node.op == "call_function":
            value = node.target(*args, **kwargs)  # type: ignore[operator]
        elif node.op == "call_method":
            value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        elif node.op == "call_module":
            value = root.get_submodule(str(node.target))(*args, **kwargs)
        else:
            return
    node.meta["value"] = value
    written = [one for (one, tensor), before in zip(tensors, versions, strict=True) if tensor._version != before]  # noqa: SLF001
    node.meta["writes"] = [one for one in written if one.op != "get_attr"]  # running statistics are meant


def is_kept(node: Node) -> bool:
    """Whether a node stays though nobody reads it: modules may keep statistics, functions may write."""
    checks = node.op == "call_function" and "assert" in getattr(node.target, "__name__", "")
    return node.op in {"placeholder", "output", "call_module"} or checks or bool(node.meta.get("writes"))


def _read(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], leaves: Mapping[str, str], *, training: bool
) -> Traced:
    import inspect

    scratch = deepcopy(module).train(training)
    own_copy = deepcopy((args, dict(kwargs)))
    bound = inspect.signature(scratch.forward).bind(*own_copy[0], **own_copy[1])
    bound.apply_defaults()
    reader = _Reader(leaves, bound.arguments)
    before = {name: buffer.clone() for name, buffer in scratch.named_buffers()}
    known, kept = {*vars(scratch)}, attributes_of(scratch)
    try:
        with _quiet_autocast(), reader.guarding():
            graph = reader.trace(scratch)
            reader.check_draws()
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        kind = "" if isinstance(error, GuardError) else f"{type(error).__name__}: "
        raise _OwnForwardError(reader.failed or "", f"{kind}{reason}") from error
    _state_is_in_leaves(scratch, graph, before)
    _nothing_is_lost(scratch, graph, kept)
    for name, value in reader.fixed.items():
        if uncheckable(value):
            raise _OwnForwardError("", f"its input {name.lstrip('*')} is a {type(value).__name__}, not compared later")
    graph.eliminate_dead_code(is_impure_node=is_kept)
    constants = {
        name: value for name, value in vars(scratch).items() if name not in known and isinstance(value, Tensor)
    }
    return Traced(graph, {}, reader.fixed, constants)


@contextmanager
def _quiet_autocast() -> Iterator[None]:
    """Tracing runs with gradients on, whatever the caller's mode: some forwards take another way without."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def _state_is_in_leaves(scratch: nn.Module, graph: Graph, before: Mapping[str, Tensor]) -> None:
    """A module that keeps count in buffers of its own is called as it is: what it does there stands in no graph."""
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for name, buffer in scratch.named_buffers():
        owner = name.rpartition(".")[0]
        if name in before and not torch.equal(buffer, before[name]) and not within_any(owner, called):
            raise _OwnForwardError(owner, "it writes to buffers of its own")


def _nothing_is_lost(scratch: nn.Module, graph: Graph, kept: Kept) -> None:
    """Nor are plain attributes set in a graph, nor does what replaces a module load checkpoints as its class does."""
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    now = {name: one for name, one in attributes_of(scratch).items() if not within_any(name, called)}
    changed = changed_attribute(kept, now)
    if changed is not None:
        raise _OwnForwardError(changed[0], f"it keeps state of its own ({changed[1]})")
    for name in now:
        own = loads_in_its_own_way(scratch.get_submodule(name))
        if own is not None:
            raise _OwnForwardError(name, f"its class has a {own} of its own")


def within_any(name: str, called: set[str]) -> bool:
    """Whether a module is one of these, or lies inside one."""
    return any(name == one or name.startswith(f"{one}.") for one in called)


def _is_called(graph: Graph, name: str) -> bool:
    return any(node.op == "call_module" and node.target == name for node in graph.nodes)


def _join(training: Graph, evaluation: Graph) -> None:
    """Make one graph of both modes: a flag that differs is read from the module that read it."""
    pairs = list(zip(training.nodes, evaluation.nodes, strict=False))
    same = {other: one for one, other in pairs}
    for one, other in pairs:
        if (one.op, one.target) != (other.op, other.target):
            raise _OwnForwardError(one.meta.get("owner", ""), "it takes another way in training than in evaluation")
    if len(training.nodes) != len(evaluation.nodes):
        raise _OwnForwardError("", "it takes another way in training than in evaluation")
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
    if isinstance(here, bool) and isinstance(there, bool) and here is not there:
        owner = node.meta.get("owner", "")
        with node.graph.inserting_before(node):
            flag = node.graph.create_node("get_attr", f"{owner}.training" if owner else "training", name="training")
            flag.meta.update(owner=owner, value=here)
            if not here:
                flag = node.graph.create_node("call_function", operator.not_, (flag,), name="evaluating")
                flag.meta.update(owner=owner, value=here)
        return flag
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
    raise _OwnForwardError(node.meta.get("owner", ""), "it computes with other numbers in training than in evaluation")


def _alike(here: Any, there: Any) -> bool:
    try:
        return bool(here == there)
    except Exception:  # noqa: BLE001 (a constant of any class)
        return False
