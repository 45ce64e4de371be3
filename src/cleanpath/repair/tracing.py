"""Read a module's forward into a graph of operations (torch.fx), with the values of one call beside the symbols.

Python's control flow is followed where only shapes and constants decide. A submodule whose forward cannot be read is
called as it is. The graph is read in training and in evaluation mode; where they differ by a flag, the flag is read
from its module at every call, so that `train()` and `eval()` go on to work.
"""

import operator
from collections import OrderedDict
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
    asks_for_finite,
    attributes_of,
    changed_attribute,
    decided_by_shapes,
    loads_in_its_own_way,
    uncheckable,
)
from cleanpath.repair.joining import OwnForwardError, join
from cleanpath.repair.symbols import Call, Symbol

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
    """In both modes, or in training alone."""
    leaves: dict[str, str] = field(default_factory=dict)
    """Submodules that are called as they are though they hold others, with the reason."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Inputs that are no tensors: the graph holds for these values only."""
    constants: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the forward made from constants."""
    evaluation: Graph | None = None
    """Of evaluation mode, if that is another."""


def traced(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], homes: Sequence[str] = ()) -> Traced:
    """The graph of a module's forward for a call; the module is not touched. `homes` are the modules that add.

    Raises `UnreadableError` where the module's own forward cannot be read.
    """
    leaves: dict[str, str] = {}
    for _ in range(MOST_TRIES):
        try:
            training = _read(module, args, kwargs, leaves, training=True)
            evaluation = _read(module, args, kwargs, leaves, training=False)
            try:
                join(training.graph, evaluation.graph)
            except OwnForwardError as error:
                if error.path and not any(within_any(home, {error.path}) for home in homes):
                    raise  # it is called as it is
                training = _read(module, args, kwargs, leaves, training=True)  # joining has changed it
                _keep_both(training, evaluation)
        except OwnForwardError as error:
            path = error.path
            while path in leaves:  # what is wrong with it comes from outside: it is used in another way than called
                path = path.rpartition(".")[0]
            if not path:
                raise UnreadableError(error.reason) from error
            leaves |= dict.fromkeys(_alike_ones(module, path, homes), error.reason)
            continue
        graphs = [one for one in (training.graph, training.evaluation) if one is not None]
        training.leaves = {name: leaves[name] for name in leaves if any(_is_called(graph, name) for graph in graphs)}
        return training
    raise UnreadableError(f"more than {MOST_TRIES} of its submodules cannot be read")


def _keep_both(training: Traced, evaluation: Traced) -> None:
    """Two graphs of one forward, whose constants have names of their own."""
    for node in evaluation.graph.nodes:
        if node.op == "get_attr" and node.target in evaluation.constants:
            node.target = f"_evaluation{node.target}"
    training.constants |= {f"_evaluation{name}": value for name, value in evaluation.constants.items()}
    training.evaluation = evaluation.graph


def _alike_ones(module: nn.Module, path: str, homes: Sequence[str]) -> list[str]:
    """A module and those of its class, as what cannot be read in one cannot in others; not those that hold a sum."""
    kind = type(module.get_submodule(path))
    every = [name for name, one in module.named_modules(remove_duplicate=False) if type(one) is kind]
    return [path, *(name for name in every if not any(within_any(home, {name}) for home in homes))]


class _Reader(GuardedTracer):
    """Traces one mode; every symbol carries the value that it has in the example."""

    proxy_buffer_attributes = True  # a table of places may be sliced by a length that is a symbol, as a parameter is

    def __init__(self, leaves: Mapping[str, str], call: Call) -> None:
        super().__init__()
        self._leaves, self._call = leaves, call
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
        passing = (
            m not in (self.submodule_paths or {}) and not m.state_dict()
        )  # made in the forward, as nn.Softmax(-1)(x)
        if self.evaluating or passing:
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
        given, keywords, self.fixed = self._call.symbolic(
            lambda name, default: self.create_proxy("placeholder", name, default, {})
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
            node.meta["value"] = self._call.examples.get(str(target).lstrip("*"))
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
        if kind is OrderedDict:
            return self.create_node("call_function", OrderedDict, (self.create_arg(dict(a)),), {})
        try:
            return super().create_arg(a)
        except NotImplementedError as error:
            name = type(a).__name__
            hint = "; give use_cache=False with the batch" if name.endswith("Cache") else ""
            raise GuardError(f"it hands on an object of {name}, which no graph holds{hint}") from error

    def to_bool(self, obj: Proxy) -> bool:
        """What shapes and constants decide is decided as in the example; other shapes fail where they would differ."""
        value = obj.node.meta.get("value")
        if "value" not in obj.node.meta:
            return super().to_bool(obj)
        if not self.evaluating and not asks_for_finite(obj.node) and decided_by_shapes(obj.node):
            self._hold(obj, obj if value else (operator.not_, obj), "a condition on a shape", bool(value))
        return bool(value)

    def number(self, obj: Proxy) -> int | float:
        """A number that Python asks for, as the length of a loop: that of the example, checked at every call."""
        value = obj.node.meta.get("value")
        shaped = not self.evaluating and decided_by_shapes(obj.node)
        if not isinstance(value, int | float):
            raise TypeError(f"a {type(value).__name__} is no number")
        if shaped:
            self._hold(obj, (operator.eq, obj, value), "a number from a shape", value)
        return value

    def _hold(self, obj: Proxy, condition: Any, what: str, value: float) -> None:
        """Check at every call what was decided."""
        if obj.node in self._decided:
            return
        self._decided.add(obj.node)
        if isinstance(condition, tuple):
            condition = self.create_proxy("call_function", condition[0], condition[1:], {})
        said = f"{what} in {self._stack[-1] or 'forward'} was {value} when this network was rewritten"
        self.create_proxy("call_function", torch._assert, (condition, said), {})  # noqa: SLF001 (as timm does)

    def iter(self, obj: Proxy) -> Iterator[Any]:
        """Over a tuple of known length, or the rows of a tensor."""
        value = obj.node.meta.get("value")
        if isinstance(value, tuple | list | torch.Size | Tensor):
            return iter([obj[place] for place in range(len(obj))])  # type: ignore[index]
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
    node.meta["writes"] = [one for one in written if one.op != "get_attr"]
    node.meta["counts"] = {str(one.target) for one in written if one.op == "get_attr"}  # that it is kept is meant


def is_kept(node: Node) -> bool:
    """Whether a node stays though nobody reads it: modules may keep statistics, functions may write."""
    checks = node.op == "call_function" and "assert" in getattr(node.target, "__name__", "")
    effects = any(node.meta.get(kind) for kind in ("writes", "draws", "counts"))
    return node.op in {"placeholder", "output", "call_module"} or checks or effects


def _read(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], leaves: Mapping[str, str], *, training: bool
) -> Traced:
    scratch = deepcopy(module).train(training)
    own_copy = deepcopy((args, dict(kwargs)))
    reader = _Reader(leaves, Call.of(scratch.forward, *own_copy))
    before = {name: buffer.clone() for name, buffer in scratch.named_buffers()}
    known, kept = {*vars(scratch)}, attributes_of(scratch)
    try:
        with _quiet_autocast(), reader.guarding():
            graph = reader.trace(scratch)
            reader.check_draws()
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        kind = "" if isinstance(error, GuardError) else f"{type(error).__name__}: "
        raise OwnForwardError(reader.failed or "", f"{kind}{reason}") from error
    _state_is_in_leaves(scratch, graph, before)
    _nothing_is_lost(scratch, graph, kept)
    for name, value in reader.fixed.items():
        if uncheckable(value):
            raise OwnForwardError("", f"its input {name.lstrip('*')} is a {type(value).__name__}, not compared later")
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
    """A module that assigns to buffers of its own is called as it is; what it writes in place stands in the graph."""
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    counted = {name for node in graph.nodes for name in node.meta.get("counts", ())}
    for name, buffer in scratch.named_buffers():
        owner = name.rpartition(".")[0]
        if name not in before or within_any(owner, called):
            continue
        now: Any = buffer  # a symbol after `self.count += 1`, which assigns what was written to in place
        if name in counted and isinstance(now, Proxy) and name in now.node.meta.get("counts", ()):
            continue
        if isinstance(now, Proxy) or (name not in counted and not torch.equal(buffer, before[name])):
            raise OwnForwardError(owner, "it writes to buffers of its own")


def _nothing_is_lost(scratch: nn.Module, graph: Graph, kept: Kept) -> None:
    """Nor are plain attributes set in a graph, nor does what replaces a module load checkpoints as its class does."""
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    now = {name: one for name, one in attributes_of(scratch).items() if not within_any(name, called)}
    changed = changed_attribute(kept, now)
    if changed is not None:
        raise OwnForwardError(changed[0], f"it keeps state of its own ({changed[1]})")
    for name in now:
        own = loads_in_its_own_way(scratch.get_submodule(name))
        if own is not None:
            raise OwnForwardError(name, f"its class has a {own} of its own")


def within_any(name: str, called: set[str]) -> bool:
    """Whether a module is one of these, or lies inside one."""
    return any(name == one or name.startswith(f"{one}.") for one in called)


def _is_called(graph: Graph, name: str) -> bool:
    return any(node.op == "call_module" and node.target == name for node in graph.nodes)
