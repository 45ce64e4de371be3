"""Rules on f and on what overwrites h: what the trunk does between two units. CP201 to CP205."""

from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from cleanpath.auditing.rules.reading import (
    ACTIVATIONS,
    NORMS,
    WEIGHTS,
    chains,
    count,
    known,
    meant_and_odd,
    product,
    unlike,
)
from cleanpath.auditing.rules.registry import Found, rule
from cleanpath.auditing.rules.shortcut import LEVEL, LOST, UNLIKE

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import UnitRow

VERY_DEEP = 54
"""Units of ResNet-110, where the paper's own networks begin to differ (6.61% and 6.37%)."""
THIN, LEAST = 1e-2, 1e-4
"""What the direct path keeps below which f costs, and is an error. With a ReLU after each of 333 sums it keeps 0.09."""
GONE = 1e-9
"""The same for norms on the trunk, whose gradient is not the direct one alone."""


def _words(unit: "UnitRow") -> set[str]:
    return set(unit.f.kind.split("+")) - {"nothing"}


def _bent(unit: "UnitRow") -> bool:
    """Whether f is something else than norms (CP202) and factors (CP203)."""
    words = _words(unit)
    return bool(words) and "normalisation" not in words and words != {"scaling"}


@rule("CP201", "activation-after-addition", reference="section 4.1; Table 2; Figure 1")
def activation_after_addition(profile: "Profile") -> Iterator[Found]:
    """An activation, or another function that is no norm and no factor, stands after the addition: f is no identity.

    Measured: The units whose f holds such a function and no norm, and what the direct path keeps over those of them
        that keep the shape.
    Why: f stands on the trunk: a ReLU there cuts off what is negative in every unit, and x_{l+1} is no sum of x_l and
        F any more (equation (4) does not hold).
    Evidence: ResNet-1001 on CIFAR-10: 7.61% with ReLU after the addition, 4.92% with pre-activation, and a slow start;
        at 110 layers 6.61% and 6.37%.
    Remedy: Use the pre-activation unit: norm and activation before the weights, nothing after the sum.
    False alarms: Networks of fewer than 54 units that are all built so (ResNet-50: 16 units) train well, some with a
        warm-up of the rate (the paper's 0.01 for 400 iterations): for them it is a note, if the path keeps 0.01. Where
        most units of the path have nothing after the addition, one that has is a warning: mostly an oversight.
    """
    # CP204 tells of what overwrites the next unit's input; behind the last sum the same stands as the final activation.
    overwritten = {unit.previous for unit in profile.units if unit.before.in_place}
    overwritten |= {chain[-1].name for chain in chains(profile) if any(unit.before.in_place for unit in chain)}
    meant, odd = meant_and_odd(profile, lambda unit: _bent(unit) and unit.name not in overwritten)
    for units, alone in ((meant, False), (odd, True)):
        if not units:
            continue
        inside = [unit for unit in units if not unit.changes_shape]
        total = product(unit.measurements.direct_gain for unit in inside)
        costs = alone or len(units) >= VERY_DEEP or total < THIN
        yield Found(
            severity="error" if len(units) >= 3 and total < LEAST else "warning" if costs else "note",
            units=units,
            sentence=f"{' and '.join(sorted(_words(units[0])))} stands after the addition of {count(units)}"
            f"{UNLIKE if alone else ''}; with every branch cut, {total:.2g} of the gradient passes "
            + ("them" if len(inside) == len(units) else f"the {len(inside)} that keep the shape"),
            quantity=f"product of the direct gains over {count(inside)}",
            measured=total,
            expected="1",
            remedy="move the activation into the branch, before the weights (full pre-activation)",
        )


@rule("CP202", "norm-on-trunk", reference="section 4.1; Table 2, BN after addition; Xiong et al. 2020 (post-LN)")
def norm_on_trunk(profile: "Profile") -> Iterator[Found]:
    """A normalisation stands on the trunk, after the addition.

    Measured: The units whose f holds a norm, and what the direct path keeps over each chain of them.
    Why: The norm divides the whole sum by its size, in every unit anew; the direct gradient shrinks by about 1/√2 per
        unit where branch and shortcut are of one size.
    Evidence: Table 2: BN after addition is worse at 110 layers (8.17% against 6.61%). Post-LN transformers of 12
        layers train with a warm-up; Xiong et al. 2020 show why deeper ones need pre-LN.
    Remedy: Put the norm at the head of the branch (pre-activation, pre-LN), and one after the last unit.
    False alarms: Encoders of BERT's kind (12 layers, 24 units) are built this way and train with a warm-up; where the
        path keeps a tenth of the gradient, as it also does with DeepNorm's weights on the shortcut, it is a note. A
        last unit whose norm is the network's final one is not reported.
    """
    for chain in chains(profile):
        units = [unit for unit in chain if "normalisation" in _words(unit)]
        alone = unlike(units, chain)
        if alone:
            units = [unit for unit in units if unit is not chain[-1]]
        if not units:
            continue
        total = product(unit.measurements.direct_gain for unit in units)
        lost = len(units) >= 3 and total < LOST
        yield Found(
            severity="error" if lost and total < GONE else "warning" if lost or alone else "note",
            units=units,
            sentence=f"a normalisation stands on the trunk after the addition of {count(units)}"
            f"{UNLIKE if alone else ''}; with every branch cut, {total:.2g} of the gradient passes them",
            quantity=f"product of the direct gains over {count(units)}",
            measured=total,
            expected="1",
            remedy="put the norm at the head of the branch (pre-activation, pre-LN), and one after the last unit",
        )


@rule("CP203", "scaled-sum", reference="equation (8), with f' for h'")
def scaled_sum(profile: "Profile") -> Iterator[Found]:
    """The sum of shortcut and branch is multiplied by a factor.

    Measured: The units whose f is a multiplication by a factor other than 1, and the product of its gains over depth.
    Why: A factor on the sum is a factor on the shortcut: (x + F)/√2 keeps the variance, and over 54 units leaves 10⁻⁸
        of the direct path.
    Evidence: Equation (8); Table 1, constant scaling 0.5 and 0.5 (12.35% against 6.61%).
    Remedy: Scale the branch alone (for example by 1/√L), so that the shortcut stays an identity.
    False alarms: In a network of few units (a U-Net with skip_scale 1/√2) the product stays above 0.1: then it is a
        note.
    """
    for chain in chains(profile):
        units = [unit for unit in chain if _words(unit) == {"scaling"} and _scales(unit.measurements.after_gain)]
        if not units:
            continue
        total = product(unit.measurements.after_gain for unit in units)
        alone = unlike(units, chain)
        yield Found(
            severity="error" if not LOST <= total <= 1 / LOST else "warning" if alone else "note",
            units=units,
            sentence=f"the sum of {count(units)} is multiplied by a factor{UNLIKE if alone else ''}; "
            f"over their depth it leaves {total:.2g}",
            quantity=f"product of the factors over {count(units)}",
            measured=total,
            expected="1",
            remedy="scale the branch instead of the sum",
        )


def _scales(gain: float | None) -> bool:
    return known(gain) and abs(gain - 1.0) > LEVEL


@rule("CP204", "overwritten-shortcut", reference="equation (1): F and h read one x_l")
def overwritten_shortcut(profile: "Profile") -> Iterator[Found]:
    """An operation in place at the head of a unit overwrites x_l before the shortcut has read it.

    Measured: Operations that write into the unit's own input, in a module of the unit itself, before branch and
        shortcut part.
    Why: The line reads as if it belonged to the branch, but the shortcut then carries its result: with
        `nn.ReLU(inplace=True)` first in the branch, the network is one with a ReLU on the trunk.
    Evidence: The graph: the sum's operand is the overwritten tensor. The paper's identity h is lost without any error.
    Remedy: Drop `inplace=True` there, or write y = op(x) and keep x for the shortcut.
    False alarms: A unit that means to share the operation with both paths (the first unit of the appendix) and writes
        it in place on its input.
    """
    units = [unit for unit in profile.units if unit.before.in_place]
    if units:
        yield Found(
            severity="warning",
            units=units,
            sentence=f"{units[0].before.in_place} works in place on the input of {count(units)}, "
            "so that the shortcut carries its result instead of x",
            quantity="units whose input is overwritten by themselves",
            measured=float(len(units)),
            expected="0",
            remedy="drop inplace=True at the head of the branch",
        )


@rule("CP205", "odd-end", reference="appendix, on the first and the last unit")
def odd_end(profile: "Profile") -> Iterator[Found]:
    """The first or the last unit is treated otherwise than its order needs.

    Measured: Where the units are of one order: whether the first takes an activated signal (from the stem or its own
        norm), and whether the last has the after-addition that the others have.
    Why: In a pre-activation network the first branch must see an activated signal exactly once; in an original one the
        head expects what f gives.
    Evidence: The appendix of the paper, which treats both ends with care.
    Remedy: Give the first and the last unit what the others have.
    False alarms: A head that brings its own activation.
    """
    for chain in chains(profile):
        if len(chain) < 4 or any(unit.before.in_place for unit in chain):
            continue  # what overwrites the input stands between all units but not after the last: CP204 tells it
        first, last, inner = chain[0], chain[-1], chain[1:-1]
        kinds = {unit.f.kind for unit in inner}
        if len(kinds) == 1 and last.f.kind not in kinds and last.f.kind == "nothing":
            yield _end(last, f"the last unit has no {inner[0].f.kind} after its sum, as all others have")
        pre = all(unit.order == "pre" for unit in inner)
        if pre and first.order is None and not _activated(profile, first):
            yield _end(first, "the first unit's weights see the raw signal, those of all others an activated one")


def _activated(profile: "Profile", unit: "UnitRow") -> bool:
    ahead = takewhile(lambda word: not word.startswith(WEIGHTS), unit.branch.operations)
    words = {*profile.network.stem[-3:], *ahead}
    return bool(words & (NORMS | ACTIVATIONS))


def _end(unit: "UnitRow", sentence: str) -> Found:
    return Found(
        severity="warning",
        units=[unit],
        sentence=sentence,
        quantity="order of operations",
        expected="as in the other units",
        remedy="give it the norm and activation that the others have",
    )
