"""Rules on h: what the shortcut does to the signal. CP101 to CP106."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from cleanpath.auditing.rules.reading import chains, count, known, meant_and_odd, product
from cleanpath.auditing.rules.registry import Found, rule
from cleanpath.auditing.verdict import SAME

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import UnitRow

LOST = 0.1
"""A product of gains over depth below this, or above its inverse, is called lost (or blown up): one decade."""
LEVEL = 0.01
"""How far a gain may be from 1 and still count as 1: half a percent per unit is a factor of 1.3 over 54 units."""
MANY = 8
"""Units in a row from which a repeated defect is more than a detail."""
MANY_PROJECTIONS = 24
"""Between the 16 units of ResNet-34 with option C, which trains well, and the 54 of Table 1's row, which does not."""


UNLIKE = ", unlike most units of the path"


def _severity(total: float) -> str:
    return "error" if not LOST <= total <= 1 / LOST else "warning"


def _total(units: list["UnitRow"]) -> float:
    return product(unit.measurements.shortcut_gain for unit in units)


@rule("CP101", "transformed-shortcut", reference="equation (8); section 3")
def transformed_shortcut(profile: "Profile") -> Iterator[Found]:
    """Shortcuts carry a function of the signal where an identity was possible.

    Measured: The units whose shape does not change and whose shortcut is neither an identity nor one of the kinds that
        have a rule of their own (scaling, dropout, gate, projection); and the product of the gains ‖h'ᵀv‖/‖v‖.
    Why: Whatever stands on the shortcut is multiplied over all units (Π h' in equation (8)); the signal has no way
        around it, forward or backward.
    Evidence: Every row of the paper's Table 1 whose shortcut is no identity is worse than the identity.
    Remedy: Move the operation into the branch, behind the fork, so that the shortcut carries x itself.
    False alarms: Token reduction, pooling and resampling, which change what a position means, cannot be moved. Fewer
        than 8 units that are all built so are a note; where most units of the path have identities, one is a warning.
    """
    meant, odd = meant_and_odd(profile, lambda unit: unit.h.kind == "other" and not unit.changes_shape)
    for units, alone in ((meant, False), (odd, True)):
        if not units:
            continue
        total = _total(units)
        many = "error" if total < LOST else "warning"
        yield Found(
            severity=many if len(units) >= MANY else "warning" if alone else "note",
            units=units,
            sentence=f"{count(units)} carry a function of the signal on the shortcut "
            f"({units[0].h.description or 'unnamed'}){UNLIKE if alone else ''}; "
            f"over their depth it passes {total:.2g} of the gradient",
            quantity=f"product of the shortcuts' gains over {count(units)}",
            measured=total,
            expected="1",
            remedy="move the operation into the branch, so that the shortcut carries x itself",
        )


@rule("CP102", "scaled-shortcut", reference="equations (6) to (8); Table 1, constant scaling")
def scaled_shortcut(profile: "Profile") -> Iterator[Found]:
    """A shortcut multiplies the signal by a factor other than 1.

    Measured: λ of every shortcut that is a multiplication, and the product of λ over the units of the trunk.
    Why: Over L units the factor becomes Π λ (equation (8)): below 1 the direct gradient dies out exponentially, above
        1 it explodes; with normalisation the whole gradient then grows exponentially towards the input instead.
    Evidence: Table 1: ResNet-110 with λ = 0.5 fails to converge or ends at 12.35% instead of 6.61%.
    Remedy: Drop the factor; where the sum must not grow, scale the branch instead of the shortcut.
    False alarms: A learned scale that starts at 1 is not reported. Normalised sums such as (x + F)/√2 are a factor of
        the after-addition (CP203). A norm after the sum takes the factor out again (DeepNorm): what counts is then the
        direct path through both, and where that is kept it is a note.
    """
    units = [u for u in profile.units if u.h.kind == "scaling" and abs(_factor(u) - 1.0) > LEVEL]
    normed = [u for u in units if "normalisation" in u.f.kind]
    if units:
        total = product(u.measurements.direct_gain if u in normed else _factor(u) for u in units)
        worst = max(units, key=lambda u: abs(_factor(u) - 1.0))
        yield Found(
            severity="note" if len(normed) == len(units) and _severity(total) != "error" else _severity(total),
            units=units,
            sentence=f"the shortcut of {count(units)} is multiplied by {_factor(worst):.3g}"
            + (f": over their depth the direct path keeps {total:.2g}" if len(units) > 1 else "")
            + (", with the norm after each sum" if normed else ""),
            quantity=f"product of λ over {count(units)}",
            measured=total,
            expected="1",
            remedy="drop the factor, or scale the branch instead of the shortcut",
        )


def _factor(unit: "UnitRow") -> float:
    """The size of λ; of one that is no single number the gain of the shortcut; 1 where neither is known."""
    factor = unit.h.scale if unit.h.scale is not None else unit.measurements.shortcut_gain
    return abs(factor) if known(factor) else 1.0


@rule("CP103", "dropped-shortcut", reference="section 3.1; Table 1, dropout shortcut")
def dropped_shortcut(profile: "Profile") -> Iterator[Found]:
    """A shortcut is zeroed at random.

    Measured: Shortcuts on which a random mask multiplies the signal. In evaluation mode dropout does nothing and
        cannot be seen: audit in training mode.
    Why: In every unit a part of the signal is lost for good; on average the shortcut scales by the share that is kept.
    Evidence: Table 1: ResNet-110 with dropout 0.5 on the shortcut fails to converge.
    Remedy: Put the dropout into the branch (wide residual networks do), or drop whole branches (stochastic depth).
    False alarms: Dropout on an embedding before the first unit is not on a shortcut.
    """
    units = [unit for unit in profile.units if unit.h.kind == "dropout"]
    if units:
        total = _total(units)
        yield Found(
            severity="error" if len(units) >= 3 else "warning",
            units=units,
            sentence=f"the shortcut of {count(units)} is zeroed at random (dropout on h)",
            quantity=f"shortcuts with a random mask; product of their gains {total:.2g}",
            measured=float(len(units)),
            expected="0",
            remedy="move the dropout into the branch",
        )


@rule("CP104", "closed-gate", reference="section 3.1; Table 1, exclusive and shortcut-only gating; Highway networks")
def closed_gate(profile: "Profile") -> Iterator[Found]:
    """Gates on shortcuts start so far closed that the direct path is lost over depth.

    Measured: The rms of what each gate lets pass on the shortcut, and its product over all gated units of the trunk.
    Why: A gate of σ(0) = 0.5 in each of 54 units leaves 0.5⁵⁴ ≈ 6·10⁻¹⁷ of the direct gradient; the gates' biases
        decide at the start whether a deep network trains at all.
    Evidence: Table 1: exclusive gating fails to converge for biases 0 to −5 and reaches 8.70% at −6; shortcut-only
        gating ends at 12.86% at 0 and at 6.91% at −6.
    Remedy: Start the gates open: set their bias so that the shortcut passes at least 0.99, and exempt it from weight
        decay; better, remove the gate from the shortcut.
    False alarms: In a network of few units a half-closed gate costs little; nothing is reported above 0.1. A recurrent
        cell that runs several times closes on purpose, to forget: then it is a warning.
    """
    units = [unit for unit in profile.units if unit.h.kind == "gate" and known(unit.measurements.shortcut_gain)]
    total = _total(units)
    if units and total < LOST:
        each = total ** (1 / len(units))
        repeated = sum("#" in unit.name for unit in units)
        yield Found(
            severity="warning" if 2 * repeated > len(units) else "error",
            units=units,
            sentence=f"the gates on the shortcuts of {count(units)} {_now(profile)} closed: each passes {each:.2g}, "
            f"together {total:.2g} of the direct gradient",
            quantity=f"product of the gates over {count(units)}",
            measured=total,
            expected=f"at least {LOST:g}",
            remedy="start the gates open by their bias (−6 in the paper), exempt from weight decay",
        )


@rule("CP105", "open-gate", reference="section 3.1; Table 1, gating with b = −6 and −7")
def open_gate(profile: "Profile") -> Iterator[Found]:
    """Gates on shortcuts start open: the path is nearly an identity, but only for as long as they stay so.

    Measured: The product of the gates over the trunk (at least 0.1), the share of saturated entries, and rms(F)/rms(h).
    Why: The biases may move during training, by their gradient or by weight decay; where one gate serves both paths,
        an open shortcut suppresses the branch.
    Evidence: Table 1: even at their best bias, gates on shortcuts end above the identity (6.91% and 8.70%, 6.61%).
    Remedy: Replace the gate on the shortcut by an identity; where it must stay, watch it with `cleanpath.monitor`.
    False alarms: None: it is a note, not a defect.
    """
    units = [unit for unit in profile.units if unit.h.kind == "gate" and known(unit.measurements.shortcut_gain)]
    total = _total(units)
    if units and total >= LOST:
        saturated = max(unit.measurements.saturated_gate_share or 0.0 for unit in units)
        yield Found(
            severity="note",
            units=units,
            sentence=f"the gates on the shortcuts of {count(units)} {_now(profile)} open and pass {total:.2g} of the "
            f"direct gradient; "
            f"up to {saturated:.0%} of a gate's entries are saturated",
            quantity=f"product of the gates over {count(units)}",
            measured=total,
            expected="1, by an identity",
            remedy="replace the gate by an identity, or watch it during training",
        )


@rule("CP106", "projected-shortcut", reference="section 3.1; Table 1, 1×1 conv shortcut; first paper, Table 3")
def projected_shortcut(profile: "Profile") -> Iterator[Found]:
    """Shortcuts are projections in units that do not change the shape.

    Measured: The number of units on the trunk whose input and output have one shape and whose shortcut holds a weight
        layer; the first of a stage is left out where its stage has others.
    Why: A projection is a product of matrices over depth; it can represent the identity, but is not trained to it.
    Evidence: Good with 16 units (ResNet-34 option C, 24.19% against 24.52%), poor with 54 (ResNet-110, 12.22% against
        6.61%), in training error as well.
    Remedy: Use identity shortcuts wherever the shape allows it; where one must learn, start it as an identity.
    False alarms: One such unit at the head of a stage is common practice and not reported. Fewer than 8 units that are
        all built so are a note; where most units of the path have identities, one is a warning.
    """
    heads = _heads(profile)
    meant, odd = meant_and_odd(
        profile, lambda unit: unit.h.kind == "projection" and not unit.changes_shape and unit.name not in heads
    )
    for units, alone in ((meant, False), (odd, True)):
        if not units:
            continue
        many = "error" if len(units) >= MANY_PROJECTIONS else "warning"
        yield Found(
            severity=many if len(units) >= MANY else "warning" if alone else "note",
            units=units,
            sentence=f"the shortcut of {count(units)} is a projection though the shape does not change"
            f"{UNLIKE if alone else ''}",
            quantity="projections in units that keep their shape",
            measured=float(len(units)),
            expected="0, but for the first unit of a stage",
            remedy="use identity shortcuts where the shape does not change",
        )


def _now(profile: "Profile") -> str:
    return "start" if profile.network.fresh else "are"


def _heads(profile: "Profile") -> set[str]:
    """The first unit of each stage that has an identity shortcut in another unit."""
    found = set[str]()
    for chain in chains(profile):
        for _, units in groupby(chain, key=lambda unit: unit.stage):
            first, *others = units
            if any(unit.h.kind in SAME for unit in others):
                found.add(first.name)
    return found
