"""From vertices and numbers to the rows of a profile; means and spreads over batches and draws."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from math import prod
from types import MappingProxyType

from torch.nn.parameter import is_lazy

from cleanpath.auditing.describe import Around, branch_parameters, owners
from cleanpath.auditing.graph import Graph
from cleanpath.auditing.operations import Words
from cleanpath.auditing.patient import Parts
from cleanpath.auditing.trace import Traced, Unit
from cleanpath.auditing.values import (
    AfterRow,
    BranchRow,
    Measurements,
    NetworkRow,
    NotSeen,
    ShortcutRow,
    UnitRow,
)

Values = Mapping[tuple[str, str], float]

RATIOS = MappingProxyType(
    {
        "forward_gain": ("output_rms", "input_rms"),
        "branch_share": ("branch_rms", "shortcut_rms"),
        "backward_gain": ("gradient_rms", "output_gradient_rms"),
        "direct_gain": ("direct_input_rms", "direct_output_rms"),
        "saturated_gate_share": ("saturated", "saturated_of"),
    }
)
ITSELF = (
    *("input_rms", "output_rms", "gradient_rms", "negative_share", "branch_negative_share", "branch_gradient"),
    *("shortcut_defect", "after_defect", "shortcut_gain", "after_gain", "dead_relu_share"),
)


@dataclass(frozen=True)
class Drawn:
    """What one measured pass gave: numbers by unit name and quantity, and those of the network."""

    values: Values = field(default_factory=dict)
    loss: float | None = None
    gradient_norm: float | None = None
    classes: int | None = None
    uniform_loss: float | None = None
    non_finite: str | None = None
    not_seen: tuple[NotSeen, ...] = ()


def unit_rows(
    parts: Parts,
    graph: Graph,
    units: Sequence[Unit],
    around: Sequence[Around],
    words: Words,
    drawn: Sequence[Drawn],
) -> tuple[UnitRow, ...]:
    """One row per unit."""
    names = words.names
    sizes = {name: parameter.numel() for name, parameter in parts.parameters.items()}
    total = sum(sizes.values())
    grouped = [_by_unit(one.values) for one in drawn if one.values]
    rows = list[UnitRow]()
    zero = cache(lambda: _zeros(parts))
    for unit, place, name, told in zip(units, around, names, words.units, strict=True):
        branch = branch_parameters(graph, unit)
        after = tuple(dict.fromkeys(n for v in place.after_region for n in graph.weights(v)))
        own = sum(sizes[n] for n in {*branch, *unit.shortcut.weights, *after})
        row = UnitRow(
            name=name,
            h=ShortcutRow(
                kind=unit.shortcut.kind,
                scale=unit.shortcut.scale,
                description=unit.shortcut.description,
                operations=told.shortcut,
                layers=owners(unit.shortcut.weights),
            ),
            branch=BranchRow(operations=told.branch, layers=owners(branch), parameters=sum(sizes[n] for n in branch)),
            f=AfterRow(kind="+".join(place.after) or "nothing", layers=owners(after)),
            before=told.before,
            source=told.source,
            parent=None if unit.parent is None else names[unit.parent],
            order=place.order,
            stage=place.stage,
            previous=None if place.previous is None else names[place.previous],
            fork=_where(graph, unit.fork),
            sum=_where(graph, unit.sum),
            shape=graph.shapes[unit.sum],
            changes_shape=_changed(graph.shapes[unit.fork], graph.shapes[unit.sum]),
            parameters=own,
            parameter_share=own / total if total else 0.0,
        )
        every = [_measurements(own[name], row) for own in grouped]
        row = replace(row, measurements=_over(every, _mean), spread=_over(every, _deviation))
        if row.measurements.branch_share == 0.0 and row.measurements.branch_gradient and _closed(graph, unit, zero()):
            row = replace(row, branch=replace(row.branch, starts_at_zero=True))
        rows.append(row)
    return tuple(rows)


def network_row(
    parts: Parts,
    graph: Graph | None,
    drawn: Sequence[Drawn],
    traced: Traced | None = None,
    words: Words | None = None,
) -> NetworkRow:
    """What concerns the whole network."""
    flags = {module.training for module in parts.modules.values()}
    reasons = (
        Counter(traced.set_aside.values()) + Counter(reason for _, reason in traced.unsure)
        if traced
        else Counter[str]()
    )
    row = NetworkRow(
        parameters=sum(parameter.numel() for parameter in parts.parameters.values() if not is_lazy(parameter)),
        mode="mixed" if len(flags) > 1 else "training" if True in flags else "eval",
        draws=sum(bool(one.values) or one.loss is not None for one in drawn),
        loss=_mean([one.loss for one in drawn]),
        gradient_norm=_mean([one.gradient_norm for one in drawn]),
        gradient_profile=tuple(
            _mean([one.values.get((name, "gradient_rms")) for one in drawn]) for name in (words.names if words else ())
        ),
        first_non_finite=next((one.non_finite for one in drawn if one.non_finite), None),
        sums=len(traced.units) + sum(reasons.values()) if traced else 0,
        set_aside=dict(reasons),
        stem=words.stem if words else (),
        tail=words.tail if words else (),
        classes=next((one.classes for one in drawn if one.classes), None),
        uniform_loss=_mean([one.uniform_loss for one in drawn]),
    )
    if graph is None:
        return row
    joined = (v for v, kind in enumerate(graph.kinds) if kind == "cat" and len(graph.live_parents(v)) > 1)
    return replace(row, concatenations=sum(1 for _ in joined))


def _changed(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a signal has other sizes than before; the same ones in another order, or joined, are no change."""
    traded = len(before) == len(after) and sorted(before) != sorted(after)
    return traded or prod(before) != prod(after)


def _zeros(parts: Parts) -> frozenset[str]:
    """Names of the parameters that are zero throughout; looked at only where a branch gives zero."""
    return frozenset(name for name, p in parts.parameters.items() if not p.is_meta and not bool(p.detach().any()))


def _closed(graph: Graph, unit: Unit, zero: frozenset[str]) -> bool:
    """Whether one of the operations of F has all its parameters at zero: it opens with the first step."""
    entering = (graph.weights(vertex) for vertex in (*unit.branch, unit.sum))
    return any(names and zero.issuperset(names) for names in entering)


def _where(graph: Graph, vertex: int) -> str:
    operation = graph.operations[vertex]
    module = operation.module if operation is not None else ""
    return f"{graph.kinds[vertex]} in {module or '(root)'}"


def _by_unit(values: Values) -> dict[str, dict[str, float]]:
    grouped = defaultdict[str, dict[str, float]](dict)
    for (name, what), value in values.items():
        grouped[name][what] = value
    return grouped


def _measurements(own: Mapping[str, float], row: UnitRow) -> Measurements:
    found: dict[str, float | None] = {key: own[key] for key in ITSELF if key in own}
    for key, (above, below) in RATIOS.items():
        if below in own and (above in own or key == "direct_gain"):
            found[key] = _ratio(own.get(above, 0.0), own[below])
    if "inner_product" in own:
        found["cosine"] = _ratio(own["inner_product"], own["shortcut_rms"] * own["branch_rms"])
    if "gradient_rms" in own:
        if row.h.kind == "identity":
            found |= {"shortcut_defect": 0.0, "shortcut_gain": 1.0}
        if row.f.kind == "nothing":
            found |= {"after_defect": 0.0, "after_gain": 1.0}
    return Measurements(**{key: value for key, value in found.items() if value is not None})


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


def _over(every: Sequence[Measurements], statistic: Callable[[Sequence[float | None]], float | None]) -> Measurements:
    return Measurements(**{f.name: statistic([getattr(one, f.name) for one in every]) for f in fields(Measurements)})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and all(map(math.isfinite, known)) else sum(known) if known else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < 2 or not all(map(math.isfinite, known)):
        return None
    mean = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
