"""One sentence about a profile: is the path clean, and if not, where is it first broken? Never imports torch."""

from collections.abc import Sequence

from cleanpath.auditing.values import NetworkRow, NotSeen, UnitRow

SAME = ("identity", "identity_pad", "identity_slice")
_LEARNED = ("scaling", "projection")
_NEAR = 1e-6  # a defect of h that is rounding


def breaks_h(unit: UnitRow) -> bool:
    """Whether the shortcut is what the paper calls broken; a projection where the shape changes is what it allows."""
    return not (unit.h.kind in SAME or allowed_to_project(unit) or free_h(unit))


def allowed_to_project(unit: UnitRow) -> bool:
    """Whether h is a projection where the shape changes, as in the paper."""
    return unit.changes_shape and unit.h.kind == "projection"


def free_h(unit: UnitRow) -> bool:
    """Whether h has weights with which it is an identity now and need not stay one: a learned scale of 1, for one."""
    if unit.h.kind not in _LEARNED or not unit.h.layers or allowed_to_project(unit):
        return False
    defect = unit.measurements.shortcut_defect
    return unit.h.scale == 1.0 if defect is None else defect <= _NEAR


def factor(scale: float) -> str:
    """λ with four digits; with its distance from 1, if it is not 1 and four digits would say so."""
    told = f"{scale:.4g}"
    return f"1 {'+' if scale > 1 else '−'} {abs(scale - 1):.1g}" if told == "1" and scale != 1 else told


def breaks_f(unit: UnitRow) -> bool:
    """Whether something stands on the path after the sum."""
    return unit.f.kind != "nothing"


def verdict(units: Sequence[UnitRow], network: NetworkRow, not_seen: Sequence[NotSeen]) -> str:
    """The sentence."""
    caveat = (
        f"; {len(not_seen)} things were not seen"
        if len(not_seen) > 1
        else "; one thing was not seen"
        if not_seen
        else ""
    )
    if network.first_non_finite is not None:
        return f"not finite: the first value that is not stands at {network.first_non_finite}{caveat}"
    if not units:
        return f"{_why_none(network, not_seen)}{caveat}"
    broken = [unit for unit in units if breaks_h(unit) or breaks_f(unit)]
    free = [unit for unit in units if free_h(unit) and unit not in broken]
    changes = sum(not unit.clean for unit in units) - len(broken) - len(free)
    count = f"{len(units)} residual unit{'s' if len(units) > 1 else ''}"
    if not broken:
        beside = f", apart from {changes} where the shape changes" if changes else ""
        if free:
            learned = f"in {len(free)} of them h is learned and an identity only now, first in {_place(free[0])}"
            return f"clean now, not by construction: {count}, {learned}{beside}{caveat}"
        return f"clean: {count}, every shortcut and after-addition is an identity{beside}{caveat}"
    others = f"{len(free)} others" if len(free) > 1 else "one other"
    besides = f"; in {others} h is learned and an identity only now" if free else ""
    first = broken[0]
    where = f"first in {_place(first)}"
    return f"not clean: {count}, in {len(broken)} of them the path is no identity, {where}{besides}{caveat}"


def _place(unit: UnitRow) -> str:
    return f"{unit.name} ({_reason(unit)})"


def _reason(unit: UnitRow) -> str:
    if unit.h.kind == "scaling" and unit.h.scale is not None:
        shortcut = f"h scales by {factor(unit.h.scale)}"
    else:
        shortcut = f"h is {unit.h.kind}" if unit.h.kind not in SAME else ""
    after = f"f is {unit.f.kind}" if unit.f.kind != "nothing" else ""
    return ", ".join(part for part in (shortcut, after) if part)


def _why_none(network: NetworkRow, not_seen: Sequence[NotSeen]) -> str:
    if network.concatenations:
        return f"no residual units: paths are joined by concatenation ({network.concatenations} times), not by addition"
    if network.sums:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in network.set_aside.items())
        return f"no residual units: none of {network.sums} sums is one ({reasons})"
    if not_seen:
        return "no residual units were found"
    return "no residual units: no operation adds two signals that both come from the input"
