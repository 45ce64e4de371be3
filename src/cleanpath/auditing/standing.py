"""How a network stands before it is trained: fresh or not, what is frozen, what an optimizer will decay."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cleanpath.auditing import kinds
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.patient import Parts
from cleanpath.auditing.trace import Unit
from cleanpath.auditing.values import OptimizerRow
from cleanpath.errors import UserError


def standing(parts: Parts, trainable: Sequence[bool]) -> dict[str, Any]:
    """The fields of a network's row that concern its parameters; `trainable` are their flags at the door."""
    frozen = [name for name, wanted in zip(parts.parameters, trainable, strict=True) if not wanted]
    sizes = {name: 0 if is_lazy(p) else p.numel() for name, p in parts.parameters.items()}
    share = sum(sizes[name] for name in frozen) / max(sum(sizes.values()), 1)
    return {"fresh": _fresh(parts), "frozen": _outermost(parts, set(frozen)), "frozen_share": share}


def _fresh(parts: Parts) -> bool | None:
    """Whether no batch has passed in training mode yet, as the counters of batch normalisation have it."""
    counters = [getattr(module, "num_batches_tracked", None) for module in parts.modules.values()]
    known = [counter for counter in counters if counter is not None and not counter.is_meta]
    return not any(bool(counter) for counter in known) if known else None


def _outermost(parts: Parts, names: set[str]) -> tuple[str, ...]:
    """The largest modules all of whose parameters are among `names`."""
    outside = {above for name in parts.parameters.keys() - names for above in _upwards(name)}
    holders = {above for name in names for above in _upwards(name)} - outside
    return tuple(name or "(root)" for name in parts.modules if name in holders and _above(name) not in holders)


def _upwards(parameter: str) -> Iterator[str]:
    """The modules that hold a parameter, the network itself included."""
    name = parameter
    while name:
        name = name.rpartition(".")[0]
        yield name


def _above(name: str) -> str | None:
    return name.rpartition(".")[0] if name else None


def optimizer_row(parts: Parts, graph: Graph, units: Sequence[Unit], optimizer: Optimizer) -> OptimizerRow:
    """What the optimizer's weight decay acts on, and what it leaves out.

    Raises `UserError` if it holds none of the network's parameters.
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    held = {name: groups[id(p)] for name, p in parts.parameters.items() if id(p) in groups}
    if not held:
        raise UserError(
            f"this {type(optimizer).__name__} holds none of the model's parameters; give the one that will train it"
        )
    decayed = {name for name, group in held.items() if group.get("weight_decay")}
    gates = [name for name in _gate_biases(parts, units) if name in decayed]
    scales = [name for name in _scales(graph, units) if name in decayed]
    norms = {n for v, kind in enumerate(graph.kinds) if kind in kinds.NORMS for n in graph.weights(v)}
    group = held[(gates or scales or sorted(decayed) or list(held))[0]]
    return OptimizerRow(
        kind=type(optimizer).__name__,
        rate=float(group.get("lr", math.nan)),
        half_life=_half_life(type(optimizer).__name__, group),
        decayed_gates=tuple(gates),
        decayed_scales=tuple(scales),
        decayed_norms=len(norms & decayed),
        missing=tuple(name for name, p in parts.parameters.items() if p.requires_grad and name not in held),
    )


def _gate_biases(parts: Parts, units: Sequence[Unit]) -> list[str]:
    every = (name for unit in units if unit.shortcut.kind == "gate" for name in unit.shortcut.weights)
    return [name for name in dict.fromkeys(every) if parts.parameters[name].dim() == 1]


def _scales(graph: Graph, units: Sequence[Unit]) -> list[str]:
    """Learned vectors that multiply a shortcut or a branch as a whole."""
    found = [name for unit in units if unit.shortcut.kind == "scaling" for name in unit.shortcut.weights]
    for unit in units:
        multiplied = (v for v in (*unit.branch, unit.sum) if graph.kinds[v] in {"mul", "addcmul"})
        found.extend(name for vertex in multiplied for name in graph.weights(vertex))
    return list(dict.fromkeys(found))


def _half_life(kind: str, group: Mapping[str, Any]) -> float | None:
    """Ln 2 / (lr · decay), for SGD with momentum μ times (1 − μ); None where decay does not act by itself."""
    strength = group.get("lr", 0.0) * group.get("weight_decay", 0.0)
    if kind == "SGD":
        strength /= max(1.0 - group.get("momentum", 0.0), 1e-12)
    elif kind != "AdamW":
        return None
    return math.log(2.0) / strength if strength > 0 else None


def check_optimizer(optimizer: object, model: nn.Module) -> None:
    """Refuse what is no optimizer, before anything long."""
    if not isinstance(optimizer, Optimizer):
        raise UserError(
            f"optimizer must be a torch.optim.Optimizer over {type(model).__name__}'s parameters, "
            f"this is a {type(optimizer).__name__}"
        )
