"""Fixes that set weights where a network starts: projections at the identity, gates open, branches small.

They need no graph of the forward, only the audit's: which parameters enter where.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from cleanpath.auditing import kinds
from cleanpath.auditing.examine import Structure
from cleanpath.auditing.shortcut import mixes
from cleanpath.repair.places import RefusedError

OPEN = 6.0
"""The size of a gate's bias with which it passes 0.9975; the paper's best for both kinds of gating."""


@dataclass
class Start:
    """A unit and the parameters of the model that it is part of."""

    structure: Structure
    index: int
    parameters: dict[str, nn.Parameter]
    scaled: set[str] = field(default_factory=set)
    """Parameters that were multiplied already, in another unit that shares them."""

    @property
    def name(self) -> str:
        """As the audit calls it."""
        return self.structure.words.names[self.index]

    def weights(self, vertices: Sequence[int]) -> list[tuple[int, tuple[str, ...]]]:
        """The vertices at which parameters enter, with their names."""
        entering = [(v, self.structure.graph.weights(v)) for v in vertices]
        return [(v, names) for v, names in entering if names]


def identity_projection(start: Start) -> str:
    """A projection starts as an identity: the kernel's centre is the identity matrix, its bias zero."""
    unit, graph = start.structure.traced.units[start.index], start.structure.graph
    entering = start.weights(unit.shortcut.region)
    if len(entering) != 1 or unit.operand.weights:
        others = [graph.kinds[v] for v, _ in entering if not mixes(graph, v)]
        held = f"a {kinds.in_words(others[:1])[0]}" if others else f"{len(entering)} layers"
        raise RefusedError(f"its projection holds {held} beside its weights: it cannot be an identity")
    names = entering[0][1]
    weight = next((name for name in names if start.parameters[name].dim() > 1), None)
    if weight is None:
        raise RefusedError("its projection has no matrix of weights")
    _set_identity(start.parameters[weight])
    for name in names:
        if name != weight:
            start.parameters[name].data.zero_()
    return f"{weight} starts at the identity"


def _set_identity(weight: nn.Parameter) -> None:
    shape = tuple(weight.shape)
    if shape[0] != shape[1] and len(shape) == 2:
        raise RefusedError(f"its weights are {'×'.join(map(str, shape))}, no square matrix")
    if any(size % 2 == 0 for size in shape[2:]):
        raise RefusedError("its kernel has no centre")
    if shape[0] != shape[1]:
        raise RefusedError("its convolution is grouped, or changes the width")
    with torch.no_grad():
        if len(shape) == 2:
            nn.init.eye_(weight)
        else:
            nn.init.dirac_(weight)


def gate_biases(start: Start) -> list[str]:
    """Names of the biases of the gates on a shortcut.

    Raises `RefusedError` for a gate without one.
    """
    unit, graph = start.structure.traced.units[start.index], start.structure.graph
    gates = [start.parameters[name] for name in unit.operand.weights if name in start.parameters]
    entering = sorted(start.weights(list({*unit.shortcut.region, *unit.operand.factors})))
    layers = [name for _, names in entering for name in names if start.parameters[name].dim() > 1]
    vertex, last = entering[-1] if entering else (unit.sum, ())
    biases = [name for name in last if start.parameters[name].dim() == 1]
    if len(biases) != 1 or not layers or gates or graph.kinds[vertex] in kinds.SCALES:
        raise RefusedError("its gate has no bias of its own to set")
    if _feeds_branch(start, vertex):
        raise RefusedError("the layer of its gate also gives the branch, whose bias is not to be set")
    return biases


def _feeds_branch(start: Start, vertex: int) -> bool:
    """Whether the last layer of a gate reaches the sum otherwise than through the gate."""
    unit, graph = start.structure.traced.units[start.index], start.structure.graph
    gate = {*unit.shortcut.region, *unit.operand.factors}
    waiting, met = [vertex], set[int]()
    while waiting:
        one = waiting.pop()
        for child in graph.children[one]:
            if child == unit.sum and one not in gate:
                return True
            if child < unit.sum and child not in met and not (child in gate and graph.kinds[child] in kinds.GATES):
                met.add(child)
                waiting.append(child)
    return False


def small_branch(start: Start) -> str:
    """F starts as F/√L: its last weights and their bias are multiplied."""
    factor = 1 / math.sqrt(_depth(start.structure))
    names = [name for name in _last(start) if name not in start.scaled]
    if not names:
        raise RefusedError("its last weights are shared with another unit, where they were multiplied")
    start.scaled.update(names)
    with torch.no_grad():
        for name in names:
            start.parameters[name].mul_(factor)
    return f"{' and '.join(names)} multiplied by {factor:.3g}"


def _last(start: Start) -> tuple[str, ...]:
    """The parameters that enter last in a branch, if nothing bends the signal behind them."""
    unit, graph = start.structure.traced.units[start.index], start.structure.graph
    entering = start.weights([v for v in unit.branch if v != unit.sum])
    if not entering or len(unit.others) != 1:
        raise RefusedError("its branch is a sum of several, or holds no weights of its own")
    vertex, names = entering[-1]
    behind = [v for v in unit.branch if v > vertex and graph.kinds[v] in kinds.NORMS]
    if behind:
        raise RefusedError("a norm without weights ends its branch")
    return names


def _depth(structure: Structure) -> int:
    return max(1, sum(unit.parent is None for unit in structure.traced.units))


STARTS: dict[str, Callable[[Start], str]] = {
    "CP106": identity_projection,
    "CP402": small_branch,
}
"""By the code of the finding, in the order in which they are made; gates (CP104) are set by trial."""
