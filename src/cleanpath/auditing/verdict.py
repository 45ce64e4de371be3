"""One sentence about a profile: is the path clean, and if not, where is it first broken? Never imports torch."""

from collections.abc import Sequence

from cleanpath.auditing.values import NetworkRow, NotSeen, UnitRow

SAME = ("identity", "identity_pad", "identity_slice")


def breaks_h(unit: UnitRow) -> bool:
    """Whether the shortcut is what the paper calls broken; a projection where the shape changes is what it allows."""
    return unit.h.kind not in SAME and not (unit.changes_shape and unit.h.kind == "projection")


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
    changes = sum(not unit.clean for unit in units) - len(broken)
    count = f"{len(units)} residual unit{'s' if len(units) > 1 else ''}"
    if not broken:
        beside = f", apart from {changes} where the shape changes" if changes else ""
        return f"clean: {count}, every shortcut and after-addition is an identity{beside}{caveat}"
    first = broken[0]
    where = f"first in {first.name} ({_reason(first)})"
    return f"not clean: {count}, in {len(broken)} of them the path is no identity, {where}{caveat}"


def _reason(unit: UnitRow) -> str:
    if unit.h.kind == "scaling" and unit.h.scale is not None:
        shortcut = f"h scales by {unit.h.scale:.4g}"
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
