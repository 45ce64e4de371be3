"""A model whose forward, or that of the part that holds its units, is a graph that can be changed."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node

from cleanpath.auditing.examine import Structure, structure_of
from cleanpath.auditing.passes import Observer, Pass
from cleanpath.auditing.patient import Parts, Patient, drawing_from
from cleanpath.auditing.values import UnitRow
from cleanpath.devices import exact, of
from cleanpath.kernels import sound
from cleanpath.repair.comparing import call, check_same, outputs_of
from cleanpath.repair.guards import hooked, kept_generators
from cleanpath.repair.inplace import out_of_place
from cleanpath.repair.rewritten import OWN_NAMES, Rewritten, skeleton_of, source_of
from cleanpath.repair.tracing import Traced, UnreadableError, traced, within_any


@dataclass
class Captured:
    """A model of its own in which the module at `path` is a graph over a skeleton; the original is not touched."""

    whole: nn.Module
    """A copy of the model; at `path` stands what `skeleton` holds."""
    path: str
    skeleton: nn.Module
    graph: Graph
    trace: Traced
    turned: list[str] = field(default_factory=list)
    """Modules whose `inplace` was turned off."""
    added: dict[str, str] = field(default_factory=dict)
    """Modules that a fix has added, by the unit."""
    twin: "Captured | None" = None
    """The same in the other mode, where that is another graph."""
    training: bool = True
    """The mode of the graph, where there are two."""

    def model(self) -> nn.Module:
        """The network as it now is."""
        graphs = [one.graph for one in (self, self.twin) if one is not None]
        for graph in graphs:
            graph.lint()
        first, *other = graphs if self.training else reversed(graphs)
        part = Rewritten(self.skeleton, source_of(first, self.trace.fixed, *other))
        return placed(self.whole, self.path, part)

    def turned_in_whole(self) -> tuple[str, ...]:
        """The same by their names in the whole."""
        return tuple(f"{self.path}.{name}" if self.path else name for name in self.turned)

    @contextmanager
    def watched(self, watch: "Watch") -> Iterator[nn.Module]:
        """The model with its graph run node by node, each as an operation of the module that it came from."""
        part = self.skeleton
        placed(self.whole, self.path, part)
        part.__dict__["forward"] = watch.over(self)
        whole = self.whole if self.path else part
        modes = {one: one.training for one in whole.modules()}
        if self.twin is not None:
            whole.train(self.training)
        try:
            yield whole
        finally:
            part.__dict__.pop("forward", None)
            for one, mode in modes.items():
                one.training = mode


def placed(whole: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """The model with another module at a path; the part itself if that is the whole."""
    if not path:
        return part
    parent, _, name = path.rpartition(".")
    whole.get_submodule(parent)._modules[name] = part  # noqa: SLF001 (the name may be a number)
    return whole


class Watch:
    """Which node of a graph made which vertex of the audit's graph."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, int], list[Node]] = {}
        """Nodes by the autograd node and output number of what they gave."""
        self.kept: list[Any] = []
        self.spans: list[tuple[int, int, Node]] = []
        """Numbers of the autograd nodes that were made while a node ran."""

    def over(self, captured: Captured) -> Any:
        """A forward for the captured part."""
        shape = signature(source_of(captured.graph, {}).function())

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = shape.bind(None, *args, **kwargs)
            given.apply_defaults()
            self.made, self.kept, self.spans = {}, [], []
            return _Watching(captured, self).run(*list(given.arguments.values())[1:])

        return forward

    def nodes(self, seen: Pass, vertex: int) -> list[Node]:
        """The nodes that gave a vertex, in order; none if it lies inside one."""
        node, number = seen.graph.edges[vertex]
        return self.made.get((id(node), number), [])

    def inside(self, seen: Pass, vertex: int) -> Node | None:
        """The node during whose run a vertex was made."""
        at = seen.graph.edges[vertex][0]._sequence_nr()  # noqa: SLF001
        return next((node for first, last, node in self.spans if first <= at < last), None)


class _Watching(Interpreter):
    def __init__(self, captured: Captured, watch: Watch) -> None:
        super().__init__(captured.skeleton, garbage_collect_values=True, graph=captured.graph)
        self._watch = watch

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An input, a table of further ones among them, as it was given."""
        del target, args, kwargs
        return next(self.args_iter)

    def run_node(self, n: Node) -> Any:
        """As it is, with what autograd numbered meanwhile."""
        first = torch._C._autograd._get_sequence_nr()  # noqa: SLF001
        result = self._as_owner(n)
        self._watch.spans.append((first, torch._C._autograd._get_sequence_nr(), n))  # noqa: SLF001
        for one in [result] if n.op != "output" and isinstance(result, Tensor) else ():
            if one.grad_fn is not None:
                self._watch.kept.append(one.grad_fn)
                self._watch.made.setdefault((id(one.grad_fn), one.output_nr), []).append(n)
        return result

    def _as_owner(self, n: Node) -> Any:
        owner = self.submodules.get(n.meta.get("owner") or "")
        if n.op not in {"call_function", "call_method"} or owner is None or not n.meta.get("owner"):
            return super().run_node(n)
        run = super().run_node
        owner.__dict__["forward"] = lambda: run(n)
        try:
            return owner()
        finally:
            del owner.__dict__["forward"]


@dataclass
class Located:
    """The units of a captured model, with the nodes of its graph."""

    captured: Captured
    structure: Structure
    seen: Pass
    watch: Watch
    replaced: dict[Node, Node] = field(default_factory=dict)
    """Nodes that are gone by what was changed since, with those that stand for them."""

    def nodes(self, vertex: int) -> list[Node]:
        """The nodes that gave a vertex."""
        return [self.replaced.get(node, node) for node in self.watch.nodes(self.seen, vertex)]

    def inside(self, vertex: int) -> Node | None:
        """The node that made it."""
        return self.watch.inside(self.seen, vertex)


def locate(captured: Captured, batch: object, seed: int) -> Located:
    """Find the units anew, on the graph."""
    watch = Watch()
    with captured.watched(watch) as model:
        seen, structure = observed(model, batch, seed)
    return Located(captured, structure, seen, watch)


def observed(
    model: nn.Module, batch: object, seed: int, noting: AbstractContextManager[Any] | None = None
) -> tuple[Pass, Structure]:
    """One observed pass, during which something may note, and what it shows of the network's units."""
    parts = Parts.of(model)
    with Patient(parts) as patient, sound(model), exact(of(model)), noting or nullcontext():
        seen = Observer(patient).run(batch, seed)
        return seen, structure_of(parts, seen, patient.was_trainable())


def home_of(unit: UnitRow) -> str:
    """The path of the module in which the sum of a unit stands; empty if that is the network itself."""
    home = unit.sum.partition(" in ")[2]
    return "" if home == "(root)" else home


def capture(model: nn.Module, batch: object, homes: Sequence[str], seed: int) -> Captured:
    """The whole model as a graph; else, read in its call, a module inside that holds all of `homes`, where sums are.

    The outermost in which no sum lies in a part that is called as it is; if there is none, that with the fewest.
    The graph computes the same as the model, bit for bit, in both modes, or `UnreadableError` says why there is none.
    """
    reasons, found = list[str](), list[tuple[int, Captured]]()
    for path in dict.fromkeys(("", *_holders(model, homes))):
        try:
            captured = _captured(model, path, batch, seed, homes)
        except UnreadableError as error:
            reasons.append(f"{path or '(root)'}: {error}")
            continue
        unread = [f"{path}.{name}" if path else name for name in captured.trace.leaves]
        found.append((sum(any(f"{home}.".startswith(f"{one}.") for one in unread) for home in homes), captured))
        if not found[-1][0]:
            break
    if not found:
        raise UnreadableError("; ".join(reasons))
    return min(found, key=lambda one: one[0])[1]


def _holders(model: nn.Module, homes: Sequence[str]) -> list[str]:
    """Modules with a forward of their own that hold all these, the outermost first."""
    parts = [home.split(".") for home in homes]
    shared: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    paths = [".".join(shared[:end]) for end in range(1, len(shared) + 1)]
    return [path for path in paths if not isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict)]


def _captured(model: nn.Module, path: str, batch: object, seed: int, homes: Sequence[str]) -> Captured:
    whole = copy.deepcopy(model)
    part = whole.get_submodule(path) if path else whole
    _check_names(part)
    hooks = hooked(part)
    args, kwargs = _call_of(whole, part, batch, seed) if path else call(batch)
    inner = [home.removeprefix(f"{path}.") if path else home for home in homes]
    with kept_generators(), drawing_from(seed):
        trace = traced(part, args, kwargs, inner)
    graphs = [one for one in (trace.graph, trace.evaluation) if one is not None]
    called = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_module"}
    lost = [name or "(root)" for name in hooks if not within_any(name, called)]
    if lost:
        raise UnreadableError(f"hooks on {lost[0]} would be lost")
    modules = dict(part.named_modules(remove_duplicate=False))
    turned = list(dict.fromkeys(name for graph in graphs for name in out_of_place(graph, modules)))
    for node in (node for graph in graphs for node in graph.nodes):
        node.meta.pop("value", None)
    skeleton = skeleton_of(part, called, trace.constants)
    every = [Captured(whole, path, skeleton, graph, trace, turned) for graph in graphs]
    found = every[0]
    if len(every) > 1:
        training, evaluation = every
        training.twin, evaluation.twin, evaluation.training = evaluation, training, False
        evaluation.added = training.added
        found = training if model.training else evaluation
    with kept_generators():
        check_same(model, found.model(), batch, seed)
    return found


def _check_names(part: nn.Module) -> None:
    """Two names are taken in what is made."""
    for name in OWN_NAMES:
        if name in {*part._modules, *part._parameters, *part._buffers}:  # noqa: SLF001
            raise UnreadableError(f"it holds something called {name}, a name of the rewritten network's own")


def _call_of(whole: nn.Module, part: nn.Module, batch: object, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """With what a module inside is called."""
    calls = list[tuple[tuple[Any, ...], dict[str, Any]]]()
    scratch = copy.deepcopy(whole)
    names = {id(one): name for name, one in whole.named_modules()}
    inner = scratch.get_submodule(names[id(part)])
    handle = inner.register_forward_pre_hook(lambda _m, a, k: calls.append((a, k)), with_kwargs=True)
    outputs_of(scratch, batch, seed)
    handle.remove()
    if len(calls) != 1:
        raise UnreadableError(f"it is called {len(calls)} times in a pass")
    return calls[0]
