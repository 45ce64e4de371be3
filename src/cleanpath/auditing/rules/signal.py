"""Rules on the signal over depth: gradients and activations that grow or shrink geometrically. CP401 to CP403."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cleanpath.auditing.rules.reading import chains, count, decades_per_unit, known
from cleanpath.auditing.rules.registry import Found, NotApplicableError, rule

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import UnitRow

STEADY = 0.7
"""Share of the variance that a geometric law must explain."""
LEAST_UNITS = 6
COSTS, FAILS = 2.5, 4.5
"""Decades over the depth. At 110 and 164 layers the rows of Tables 1 and 2 that train well have at most 2.2; those that
fail have 5.1 to 7.1 (dropout 3.6), BN after addition 3.5 (benchmarks/finding_rates.py)."""


def _trend(units: Sequence["UnitRow"], key: str) -> tuple[float, float] | None:
    """Decades over the depth, from first to last, and how steady they are; None for too few units."""
    values = [value for unit in units if known(value := getattr(unit.measurements, key)) and value > 0]
    if len(values) < LEAST_UNITS:
        return None
    slope, steady = decades_per_unit(values)
    return slope * (len(values) - 1), steady


def _longest(profile: "Profile") -> list["UnitRow"]:
    chain = max(chains(profile), key=len, default=[])
    if len(chain) < LEAST_UNITS:
        raise NotApplicableError(f"no path of {LEAST_UNITS} units")
    return chain


@rule("CP401", "geometric-gradient", reference="equations (5) and (8)")
def geometric_gradient(profile: "Profile") -> Iterator[Found]:
    """The gradient grows or shrinks geometrically with depth.

    Measured: A straight line through log10 of rms(∂E/∂x_l) over the units of the longest path; its rise, and the share
        of the variance that it explains.
    Why: Layers near the input and near the output then learn at rates that differ by that factor; no single learning
        rate fits both. With normalisation a blocked shortcut shows as a gradient that explodes towards the input.
    Evidence: At initialisation, 54 units: the rows of Tables 1 and 2 that train well rise by at most 2.2 decades;
        scaled, closed-gate, 1×1 and plain shortcuts by 5.1 to 7.1, BN after addition by 3.5.
    Remedy: Make shortcut and after-addition identities; then scale or zero-start the branches' last layers.
    False alarms: Networks with very few units per stage, whose stage changes dominate; a loss on intermediate outputs.
    """
    units = _longest(profile)
    trend = _trend(units, "gradient_rms")
    if trend is None:
        raise NotApplicableError("no gradients were measured")
    rise, steady = trend
    if abs(rise) >= COSTS and steady >= STEADY:
        towards = "input" if rise < 0 else "output"
        factor = 10 ** (abs(rise) / (len(units) - 1))
        yield Found(
            severity="error" if abs(rise) >= FAILS else "warning",
            units=units,
            sentence=f"the gradient grows {factor:.3g} times per unit towards the {towards}: "
            f"{10 ** abs(rise):.2g} times "
            f"over {count(units)}",
            quantity=f"rise of log10 rms(∂E/∂x_l) over {count(units)}",
            measured=rise,
            expected=f"between −{COSTS:g} and {COSTS:g} decades",
            remedy="make shortcuts and after-additions identities, then scale or zero-start the branches' last layers",
        )


@rule("CP402", "geometric-signal", reference="equation (4); De and Smith 2020")
def geometric_signal(profile: "Profile") -> Iterator[Found]:
    """The forward signal grows or shrinks geometrically with depth.

    Measured: A straight line through log10 of rms(x_{l+1}) over the units of the longest path.
    Why: A sum of independent branches grows like the root of the depth, far below this; geometric growth means that
        every unit multiplies, and overflows or drowns what came before.
    Evidence: Residual networks without normalisation grow like 2^(L/2) (De and Smith 2020).
    Remedy: Normalise the branch, scale it by 1/√L, or start its last layer at zero.
    False alarms: Small networks whose width changes in most units.
    """
    units = _longest(profile)
    trend = _trend(units, "output_rms")
    if trend is None:
        raise NotApplicableError("no forward numbers were measured")
    rise, steady = trend
    if abs(rise) >= COSTS and steady >= STEADY:
        word = "grows" if rise > 0 else "shrinks"
        yield Found(
            severity="error" if abs(rise) >= FAILS else "warning",
            units=units,
            sentence=f"the signal {word} {10 ** (abs(rise) / (len(units) - 1)):.3g} times per unit, "
            f"{10 ** abs(rise):.2g} "
            f"times over {count(units)}",
            quantity=f"rise of log10 rms(x) over {count(units)}",
            measured=rise,
            expected=f"between −{COSTS:g} and {COSTS:g} decades",
            remedy="normalise the branch, scale it by 1/√L, or start its last layer at zero",
        )


@rule("CP403", "not-finite", reference="section 4: a clean path keeps both signals in range")
def not_finite(profile: "Profile") -> Iterator[Found]:
    """A value is not finite.

    Measured: The batch, the parameters, and the first operation whose output is not finite though its inputs are.
    Why: Everything computed from it is not finite either; a training step would destroy the weights.
    Evidence: Measured on this network and batch.
    Remedy: Look at the named operation: a division by zero, an overflow of float16, a logarithm of zero.
    False alarms: A mask of −∞ that is added to attention scores is no output of the network and not looked at.
    """
    if profile.network.first_non_finite is not None:
        yield Found(
            severity="error",
            sentence=f"a value is not finite, first at {profile.network.first_non_finite}",
            quantity="values that are not finite",
            expected="none",
            remedy="look at the named operation: a division by zero, an overflow, a logarithm of zero",
        )


@rule("CP404", "loss-at-start", reference="log(classes): the cross-entropy of a guess")
def loss_at_start(profile: "Profile") -> Iterator[Found]:
    """The loss at step 0 is far above that of a guess.

    Measured: The given cross-entropy, or without one, where the weights are known to be at their start, that against
        labels drawn uniformly; beside log(classes).
    Why: The network starts confidently wrong: its outputs are too large, and the first steps only undo that.
    Evidence: ResNet-110 at its start: 11.2 with ReLU before addition; other rows of Tables 1 and 2 near log 10 = 2.3.
    Remedy: Normalise before the head, or start the last layer at zero or smaller.
    False alarms: A loss that is no cross-entropy of the outputs is told by its gradient and not judged.
    """
    network = profile.network
    if network.classes is None:
        raise NotApplicableError("the output is not known to be that of a classifier")
    judged = network.loss if network.uniform_loss is not None and network.loss_given else network.uniform_loss
    if not network.loss_given and network.fresh is not True:
        raise NotApplicableError("no loss was given, and the weights are not known to be at their start")
    expected = math.log(network.classes)
    if known(judged) and judged > expected + max(2.0, 0.5 * expected):
        yield Found(
            severity="warning",
            sentence=f"the loss at the start is {judged:.3g}, a guess among {network.classes} classes has "
            f"{expected:.3g}",
            quantity="cross-entropy at the start",
            measured=judged,
            expected=f"about log({network.classes}) = {expected:.3g}",
            remedy="normalise before the head, or start the last layer smaller",
        )
