"""Where a unit stands in a captured graph: its sum, the operand that is the shortcut, and what lies on it."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch.fx import Node

from cleanpath.auditing.describe import Around
from cleanpath.auditing.trace import Unit
from cleanpath.repair.captured import Located


class RefusedError(Exception):
    """A unit at which a fix is not made; the message says why."""


@dataclass
class Place:
    """One unit."""

    located: Located
    index: int

    @property
    def unit(self) -> Unit:
        """As the graph of the audit shows it."""
        return self.located.structure.traced.units[self.index]

    @property
    def around(self) -> Around:
        """Its f, its neighbours."""
        return self.located.structure.around[self.index]

    @property
    def name(self) -> str:
        """As the audit calls it."""
        return self.located.structure.words.names[self.index]

    def sum(self) -> Node:
        """The node that adds.

        Raises `RefusedError` if the sum lies inside a module that could not be read.
        """
        found = self.located.nodes(self.unit.sum)
        made = self.located.inside(self.unit.sum)
        if made is None or not found or made.op == "call_module":
            where = _said(self.located, made)
            raise RefusedError(f"its sum lies {where}")
        return made

    def operand(self) -> tuple[Node, Node]:
        """The node that adds the shortcut, and its argument that is the shortcut."""
        (vertex, *others) = self.unit.operand.factors
        own = self.located.nodes(vertex)
        adding = [self.sum()]
        for part in self.unit.partial_sums:
            node = self.located.inside(part)
            adding += [node] if node is not None else []
        for node in adding:
            met = [one for one in node.all_input_nodes if one in own]
            if len(met) == 1 and not others:
                return node, met[0]
        raise RefusedError(f"its sum ({adding[0].name}) is not written as a plain addition of the shortcut")

    def shape(self, vertex: int) -> tuple[int, ...]:
        """Of a vertex."""
        return self.located.seen.graph.shapes[vertex]

    def node_of(self, vertex: int) -> Node:
        """The first node that gives a vertex.

        Raises `RefusedError` if it lies inside a module that could not be read.
        """
        found = self.located.nodes(vertex)
        if not found:
            raise RefusedError(f"what it reads lies {_said(self.located, self.located.inside(vertex))}")
        return found[0]

    def region(self, vertices: Iterable[int]) -> list[Node]:
        """The nodes that made these vertices, in order, each once."""
        found = [self.located.inside(vertex) for vertex in vertices]
        return list(dict.fromkeys(node for node in found if node is not None))

    def vertices_of(self, node: Node) -> list[int]:
        """The vertices of the shortcut that were made while a node ran."""
        return [v for v in self.unit.shortcut.region if self.located.inside(v) is node]

    def of_kind(self, vertices: Iterable[int], *groups: frozenset[str]) -> list[int]:
        """Those vertices whose operation is of one of these groups."""
        wanted = frozenset[str]().union(*groups)
        return [v for v in vertices if self.located.seen.graph.kinds[v] in wanted]


def _said(located: Located, node: Node | None) -> str:
    if node is None:
        return "outside of what could be read"
    reason = located.captured.trace.leaves.get(str(node.target))
    why = f" ({reason})" if reason else ""
    return f"inside {node.target}, which is called as it is{why}" if node.op == "call_module" else f"in {node}"


def places(located: Located) -> list[Place]:
    """All units, in the order of the audit."""
    return [Place(located, index) for index in range(len(located.structure.traced.units))]


def owner(node: Node) -> str:
    """The module in which a node's operation is called."""
    return str(node.meta.get("owner") or "(root)")


def bypass(place: Place, node: Node, users: Iterable[Node], among: Iterable[int]) -> None:
    """Let these users read the one of a node's inputs that gives one of the vertices `among`."""
    source = source_of(place, node, among)
    for user in users:
        user.replace_input_with(node, source)


def source_of(place: Place, node: Node, among: Iterable[int]) -> Node:
    """The one of a node's inputs that gives one of the vertices `among`."""
    given = {one for vertex in among for one in place.located.nodes(vertex)}
    sources = [one for one in node.all_input_nodes if one in given]
    if len(sources) != 1:
        raise RefusedError(f"{node.name} has {len(sources)} inputs that carry the signal")
    return sources[0]
