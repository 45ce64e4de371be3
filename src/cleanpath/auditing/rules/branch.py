"""Rules on F: what the branch adds. CP301 to CP306."""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from cleanpath.auditing.rules.reading import count, inside_stages, known, trunk
from cleanpath.auditing.rules.registry import Found, rule

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile

SILENT = 1e-6
"""rms(F)/rms(h) below which float32 sums hardly change x."""
LOUD = 30.0
"""rms(F)/rms(h) above which x_{l+1} is F, and the shortcut's share is lost in it."""
LOUD_FIRST = 1000.0
"""The same for the first unit, whose shortcut is often an embedding of small values: up to 750 in good networks."""
SHUT = 0.75
"""Share of the channels of one ReLU; healthy networks are below it but for the few that the rates list."""
ENOUGH = 16
"""Entries of a channel in the batch; of four, all are negative in every sixteenth channel by chance."""


@rule("CP301", "non-negative-branch", reference="section 4.1; Table 2, ReLU before addition")
def non_negative_branch(profile: "Profile") -> Iterator[Found]:
    """The branch's output cannot be negative: the signal can only grow.

    Measured: The share of entries of F below zero in each unit of the trunk; 0 where a ReLU is its last operation.
    Why: A residual function should take values on both sides of zero; with F ≥ 0 every channel of x_l increases from
        unit to unit, which impairs what it can represent and makes the forward signal grow.
    Evidence: Table 2: ReLU before addition, 7.84% against 6.61% at 110 layers.
    Remedy: End the branch with weights or a norm, not with an activation.
    False alarms: A branch that is multiplied by a negative factor behind the sum.
    """
    units = [unit for unit in trunk(profile) if unit.measurements.branch_negative_share == 0.0]
    units = [unit for unit in units if (unit.measurements.branch_share or 0.0) > 0.0]
    if units:
        last = units[0].branch.operations[-1] if units[0].branch.operations else "its last operation"
        yield Found(
            severity="warning",
            units=units,
            sentence=f"the branch of {count(units)} gives no negative number (it ends with {last}): the signal "
            f"only grows",
            quantity="share of negative entries of F",
            measured=0.0,
            expected="about 0.5",
            remedy="end the branch with weights or a norm, not with an activation",
        )


@rule("CP302", "dead-branch", reference="equation (5): the branch's term is missing")
def dead_branch(profile: "Profile") -> Iterator[Found]:
    """A branch adds nothing and gets no gradient: it cannot come alive.

    Measured: rms(F)/rms(h), and the norm of the gradient over the branch's parameters.
    Why: The unit does nothing but cost time; no step of the optimizer changes that.
    Evidence: Measured on this network; two zero-initialised layers in a row, or a factor 0, do it.
    Remedy: Initialise only one layer of the branch at zero; look for a ReLU that is never open, or a factor of 0.
    False alarms: A branch that this batch does not reach, such as an expert of a mixture.
    """
    units = [
        unit
        for unit in profile.units
        if known(unit.measurements.branch_share)
        and unit.measurements.branch_share < SILENT
        and not unit.measurements.branch_gradient
        and unit.measurements.gradient_rms
    ]
    if units:
        yield Found(
            severity="error" if 2 * len(units) > len(profile.units) else "warning",
            units=units,
            sentence=f"the branch of {count(units)} adds nothing and receives no gradient",
            quantity="rms(F)/rms(h)",
            measured=max(unit.measurements.branch_share or 0.0 for unit in units),
            expected="above 0, or a gradient that opens it",
            remedy="initialise only one layer of the branch at zero, and no constant factor",
        )


@rule("CP303", "silent-branch", reference="Goyal et al. 2017; Bachlechner et al. 2021 (ReZero)")
def silent_branch(profile: "Profile") -> Iterator[Found]:
    """Branches start at zero on purpose: every unit is an identity until the first step.

    Measured: Units whose branch gives exactly zero because its last scale or weights are zero, and whose parameters
        get a gradient.
    Why: It is no defect: the network starts shallow and opens its branches as it learns. It is said because every
        other number of such a unit speaks of an identity, not of the trained network.
    Evidence: A zero γ in the last BN is common practice for large batches (Goyal et al. 2017).
    Remedy: None needed; audit trained weights to judge the branches.
    False alarms: None: it is a note.
    """
    units = [unit for unit in profile.units if unit.branch.starts_at_zero]
    if units:
        yield Found(
            severity="note",
            units=units,
            sentence=f"the branch of {count(units)} starts at zero (its last scale or weights are zero) and "
            f"opens with the "
            "first steps; that is a choice, not a defect",
            quantity="rms(F)/rms(h)",
            measured=0.0,
            expected="0 by choice",
            remedy="none needed; audit trained weights to judge these branches",
        )


@rule("CP304", "dominant-branch", reference="section 3: the shortcut is to carry the signal")
def dominant_branch(profile: "Profile") -> Iterator[Found]:
    """A branch is so much larger than its shortcut that the unit is no residual unit in effect.

    Measured: rms(F)/rms(h) of the trunk's units that keep the shape; for the first of them the limit is 1000.
    Why: x_{l+1} is then F alone: the shortcut's signal is lost in its rounding or its noise, the network plain.
    Evidence: Over the audited families the ratio is below 30 but for the units listed by the sweep; see the rates.
    Remedy: Scale the branch's last layer down (by 1/√L, or start it at zero), or normalise the branch.
    False alarms: An embedding of small values before the first transformer layers.
    """
    limits = [LOUD_FIRST, *[LOUD] * len(profile.units)]
    shares = ((unit, unit.measurements.branch_share) for unit in inside_stages(profile))
    units = [unit for (unit, share), limit in zip(shares, limits, strict=False) if known(share) and share > limit]
    if units:
        worst = max(units, key=lambda unit: unit.measurements.branch_share or 0.0)
        yield Found(
            severity="warning",
            units=units,
            sentence=f"the branch of {count(units)} is up to {worst.measurements.branch_share:.3g} times as "
            f"large as its "
            f"shortcut (in {worst.name}): the shortcut hardly counts",
            quantity="rms(F)/rms(h)",
            measured=worst.measurements.branch_share,
            expected=f"at most {LOUD:g}",
            remedy="scale the branch's last layer down, or start it at zero",
        )


@rule("CP305", "strided-1x1", reference="first paper, Table 1; the appendix leaves the place of the stride open")
def strided_1x1(profile: "Profile") -> Iterator[Found]:
    """A branch shrinks the image in a 1×1 convolution, which never sees three of four pixels.

    Measured: Branches that contain a 1×1 convolution with stride above 1.
    Why: With stride 2 a 1×1 kernel reads a quarter of its input; the 3×3 convolution that follows cannot recover it.
    Evidence: Common implementations since 2016 have the stride on the 3×3 convolution for about half a percent of
        error on ImageNet; the paper's own code has it on the 1×1.
    Remedy: Move the stride to the 3×3 convolution.
    False alarms: An exact rebuild of the paper's bottlenecks, as ours.
    """
    units = [u for u in profile.units if any(op.startswith("conv 1×1/") for op in u.branch.operations)]
    if units:
        yield Found(
            severity="note",
            units=units,
            sentence=f"the branch of {count(units)} shrinks the image in a 1×1 convolution, which skips 3 of 4 pixels",
            quantity="strided 1×1 convolutions in branches",
            measured=float(len(units)),
            expected="0",
            remedy="move the stride to the 3×3 convolution",
        )


@rule("CP306", "dead-relu", reference="section 4.2, on the truncation by ReLU")
def dead_relu(profile: "Profile") -> Iterator[Found]:
    """Most channels of one of a unit's ReLUs are zero for the whole batch.

    Measured: For each ReLU of F and f the share of channels in which nothing is above zero; the largest.
    Why: A channel that is never open passes no gradient and does not learn.
    Evidence: Over the audited families at initialisation the share is near 0.
    Remedy: Lower the learning rate, or look for a large negative bias; with trained weights some of it is sparsity.
    False alarms: A batch of alike inputs; one with fewer than 16 entries per channel is not judged.
    """
    units = [unit for unit in profile.units if (unit.measurements.dead_relu_share or 0.0) > SHUT]
    units = [unit for unit in units if prod(unit.shape) >= ENOUGH * max(unit.shape[1:], default=1)]
    if units:
        worst = max(units, key=lambda unit: unit.measurements.dead_relu_share or 0.0)
        yield Found(
            severity="warning",
            units=units,
            sentence=f"in {count(units)} a ReLU is shut for the whole batch in most channels, up to "
            f"{worst.measurements.dead_relu_share:.0%} in {worst.name}",
            quantity="share of shut channels of a ReLU",
            measured=worst.measurements.dead_relu_share,
            expected=f"at most {SHUT:g}",
            remedy="look for large negative biases or a rate that was too high",
        )
