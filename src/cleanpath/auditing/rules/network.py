"""Rules on the network and its optimizer: ends, frozen or unreached parts, weight decay. CP501 to CP603."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cleanpath.auditing.rules.reading import NORMS, WEIGHTS, count, trunk
from cleanpath.auditing.rules.registry import Found, NotApplicableError, rule

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import OptimizerRow


@rule("CP501", "missing-final-norm", reference="appendix: an extra activation after the last unit; Xiong et al. 2020")
def missing_final_norm(profile: "Profile") -> Iterator[Found]:
    """A pre-activation network has no normalisation after its last unit.

    Measured: Where most units have their norm before the weights: the operations between the last unit and the next
        weights.
    Why: The trunk of a pre-activation network is a plain sum that grows with depth; the head sees it raw.
    Evidence: The paper's appendix puts BN and ReLU after the last unit; pre-LN transformers have a final norm.
    Remedy: Put a norm (and for ReLU networks the activation) after the last unit, before pooling and head.
    False alarms: A body whose head, with its own norm, is another module; networks without norms in the trunk's units.
    """
    units = trunk(profile)
    pre = [unit for unit in units if unit.order == "pre" and NORMS & set(unit.branch.operations[:2])]
    if len(units) < 3 or 2 * len(pre) <= len(units):
        raise NotApplicableError("not a pre-activation network with norms")
    before_weights = list[str]()
    for word in profile.network.tail:
        if word.startswith(WEIGHTS):
            break
        before_weights.append(word)
    ends = units[-1].f.kind != "nothing"
    if not NORMS & set(before_weights) and not ends and profile.network.tail:
        yield Found(
            severity="warning",
            units=[units[-1]],
            sentence="no normalisation stands between the last unit and the head, though the units normalise "
            "before their "
            "weights",
            quantity="operations between the last unit and the head",
            expected="a norm",
            remedy="put a norm after the last unit",
        )


@rule("CP502", "frozen-part", reference="the optimizer's side of equation (2): what does not move")
def frozen_part(profile: "Profile") -> Iterator[Found]:
    """Some modules are frozen while others are to be trained.

    Measured: The outermost modules none of whose parameters require a gradient.
    Why: It is fine-tuning as usual, or a flag that was forgotten; nothing in a training run tells the two apart.
    Evidence: Measured on this network.
    Remedy: If it was not meant: `module.requires_grad_(True)`.
    False alarms: Fine-tuning; fixed position embeddings. It is a note.
    """
    network = profile.network
    if network.frozen and network.frozen != ("(root)",):
        yield Found(
            severity="note",
            sentence=f"{_listed(network.frozen)} {'is' if len(network.frozen) == 1 else 'are'} frozen, "
            f"{network.frozen_share:.1%} of all parameters",
            quantity="share of frozen parameters",
            measured=network.frozen_share,
            expected="0, unless meant",
            remedy="if it was not meant: module.requires_grad_(True)",
        )


@rule("CP503", "unreached-part", reference="equation (5): no path, no gradient")
def unreached_part(profile: "Profile") -> Iterator[Found]:
    """Modules with trainable parameters get no gradient from this batch.

    Measured: The outermost modules that were never called, or that no output depends on.
    Why: Their parameters stay as they are (or only decay), whatever the loss.
    Evidence: Measured on this network and batch.
    Remedy: Call the module, return what it computes, or remove it.
    False alarms: Modules for another task or mode: a mask token, an auxiliary head that is off in this mode.
    """
    parts = profile.network.unreached
    if parts:
        yield Found(
            severity="note",
            sentence=f"{_listed(parts)} {'holds' if len(parts) == 1 else 'hold'} trainable parameters that no output "
            "of this batch depends on",
            quantity="modules that get no gradient",
            measured=float(len(parts)),
            expected="0",
            remedy="call the module, return what it computes, or remove it",
        )


def _optimizer(profile: "Profile") -> "OptimizerRow":
    if profile.network.optimizer is None:
        raise NotApplicableError("no optimizer was given")
    return profile.network.optimizer


@rule("CP601", "decayed-gate", reference="section 3.1, on the bias of the gates")
def decayed_gate(profile: "Profile") -> Iterator[Found]:
    """Weight decay acts on the biases of gates on shortcuts.

    Measured: With an optimizer given: the biases of gates that are in a group with weight decay, and the steps in
        which decay alone halves them.
    Why: The bias keeps the shortcut open; decay pulls it to 0, where the gate passes half.
    Evidence: Computed: decay of 10⁻⁴ alone, at rate 0.1 and momentum 0.9, takes a bias from −6 to −6 exp(−0.5) = −3.64
        in 5,000 steps.
    Remedy: Put the biases of gates into a group of their own with weight_decay=0.
    False alarms: A training so short that decay moves nothing.
    """
    row = _optimizer(profile)
    if row.decayed_gates:
        after = f", which halves them in {row.half_life:,.0f} steps" if row.half_life else ""
        yield Found(
            severity="warning",
            sentence=f"{row.kind} decays the biases of gates on shortcuts ({_listed(row.decayed_gates)}){after}: "
            "the gates will close",
            quantity="gate biases under weight decay",
            measured=float(len(row.decayed_gates)),
            expected="0",
            remedy="put gate biases into a parameter group with weight_decay=0",
        )


@rule("CP602", "decayed-scale", reference="equation (8): λ is pulled towards 0")
def decayed_scale(profile: "Profile") -> Iterator[Found]:
    """Weight decay acts on learned scales of shortcuts or branches.

    Measured: With an optimizer given: learned scales in a group with weight decay.
    Why: A scale on a shortcut is λ of equation (8), and decay pulls it to 0 in every unit at once; one on a branch is
        pulled towards a unit that does nothing.
    Evidence: Equation (8).
    Remedy: Put scales (and usually norms and biases) into a group with weight_decay=0.
    False alarms: Scales on branches, where decay is a mild prior for shallow networks: then a note.
    """
    row = _optimizer(profile)
    if row.decayed_scales:
        shortcut = any(unit.h.kind == "scaling" and unit.h.layers for unit in profile.units)
        yield Found(
            severity="warning" if shortcut else "note",
            sentence=f"{row.kind} decays {count(row.decayed_scales, 'learned scale')} ({_listed(row.decayed_scales)})",
            quantity="learned scales under weight decay",
            measured=float(len(row.decayed_scales)),
            expected="0",
            remedy="put learned scales into a parameter group with weight_decay=0",
        )


@rule("CP603", "left-out-parameter", reference="the update rule: what is not held does not move")
def left_out_parameter(profile: "Profile") -> Iterator[Found]:
    """The optimizer does not hold some trainable parameters.

    Measured: With an optimizer given: parameters that require a gradient and are in none of its groups.
    Why: They get gradients and never move; a module that was added after the optimizer was made is the usual cause.
    Evidence: Measured on this network.
    Remedy: Make the optimizer after the model is complete, or add a group.
    False alarms: Several optimizers for one model; give the audit the one in question.
    """
    row = _optimizer(profile)
    if row.missing:
        yield Found(
            severity="warning",
            sentence=f"{row.kind} does not hold {count(row.missing, 'trainable parameter')} ({_listed(row.missing)})",
            quantity="trainable parameters outside the optimizer",
            measured=float(len(row.missing)),
            expected="0",
            remedy="make the optimizer after the model is complete",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
