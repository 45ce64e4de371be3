"""The rows of a profile, as plain values: units, the network, and what could not be seen. Never imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ShortcutRow:
    """h: `identity`, `identity_pad`, `identity_slice`, `scaling`, `projection`, `gate`, `dropout` or `other`."""

    kind: str
    """One of the words above."""
    scale: float | None = None
    """λ of a scaling, where it is one known number (the mean of a learned vector)."""
    description: str = ""
    """The operations between fork and sum."""
    operations: tuple[str, ...] = ()
    """The same as words, in order: `conv 1×1/2`, `normalisation`."""
    layers: tuple[str, ...] = ()
    """Qualified names of the modules that hold parameters on the shortcut."""


@dataclass(frozen=True, kw_only=True)
class BranchRow:
    """F: its weight layers in the order of use."""

    operations: tuple[str, ...] = ()
    """What it does, in words and in order: `normalisation`, `relu`, `conv 3×3`; of nested units only their number."""
    starts_at_zero: bool = False
    """Whether it gives zero because its last scale or weights are zero: the unit starts as an identity."""
    layers: tuple[str, ...] = ()
    """Qualified names of the modules that hold its parameters."""
    parameters: int = 0
    """How many, units nested in it included."""


@dataclass(frozen=True, kw_only=True)
class AfterRow:
    """f: `nothing`, or what follows the sum, its operations joined by `+`."""

    kind: str = "nothing"
    """The word."""
    layers: tuple[str, ...] = ()
    """Qualified names of the modules that hold parameters after the sum."""


@dataclass(frozen=True, kw_only=True)
class BeforeRow:
    """What stands between the unit before (its f included) and this unit's fork: both paths share it."""

    operations: tuple[str, ...] = ()
    """In words and in order; empty for nothing."""
    in_place: str = ""
    """The operation of this unit's own that overwrites x_l before it is shared, and its module; empty for none."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The numbers of one unit; None where there is nothing to measure."""

    forward_gain: float | None = None
    """rms(x_{l+1}) / rms(x_l)."""
    input_rms: float | None = None
    """rms(x_l)."""
    output_rms: float | None = None
    """rms(x_{l+1})."""
    branch_share: float | None = None
    """rms(F) / rms(h)."""
    cosine: float | None = None
    """Of F and h, as vectors."""
    backward_gain: float | None = None
    """rms(∂E/∂x_l) / rms(∂E/∂x_{l+1})."""
    gradient_rms: float | None = None
    """rms(∂E/∂x_l)."""
    direct_gain: float | None = None
    """The backward gain with every branch cut: h' and f' alone."""
    shortcut_defect: float | None = None
    """‖Jᵀv − v‖ / ‖v‖ of h for a random v; 0 for an identity, |1 − λ| for a scaling."""
    after_defect: float | None = None
    """The same for f."""
    shortcut_gain: float | None = None
    """‖Jᵀv‖ / ‖v‖ of h for a random v: λ for a scaling, the rms of a gate."""
    after_gain: float | None = None
    """The same for f."""
    branch_negative_share: float | None = None
    """Share of the entries of F below zero; 0 if a ReLU is its last operation."""
    negative_share: float | None = None
    """Share of the entries of y = h + F below zero: what a ReLU after the sum would cut off."""
    dead_relu_share: float | None = None
    """Of the ReLU of F or f of which most is shut: the share of channels that are zero for the whole batch."""
    saturated_gate_share: float | None = None
    """Share of the gates' entries below 0.01 or above 0.99."""
    branch_gradient: float | None = None
    """‖∂E/∂w‖ over the parameters w of F that are to be trained."""


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """One residual unit."""

    name: str
    """Unique: the module that holds its layers and its sum, or what its layers share; `#2` for the second of a name."""
    h: ShortcutRow
    """The shortcut."""
    branch: BranchRow
    """F."""
    f: AfterRow
    """What follows the sum."""
    before: BeforeRow = BeforeRow()
    """What both paths share."""
    source: str = ""
    """File and line of the class of the unit's module, `nets/unit.py:12`; empty where there is none."""
    parent: str | None = None
    """Name of the unit in whose branch this one lies."""
    order: str | None = None
    """`pre`: a norm or activation precedes the weights; `post`: it follows the sum; None: neither."""
    stage: int = 1
    """Units on one path whose sums are of one size; counted from 1."""
    previous: str | None = None
    """The unit whose output leads to this one's fork."""
    fork: str = ""
    """The operation and module that computed x_l."""
    sum: str = ""
    """The operation and module that computed y."""
    shape: tuple[int, ...] = ()
    """Of the sum."""
    changes_shape: bool = False
    """Whether the sum has another shape than the fork."""
    parameters: int = 0
    """Of shortcut, branch and f."""
    parameter_share: float = 0.0
    """Of the network's parameters."""
    measurements: Measurements = Measurements()
    """Means over batches and draws; the table above."""
    spread: Measurements = Measurements()
    """Standard deviation over batches and draws."""

    @property
    def clean(self) -> bool:
        """Whether both h and f are identities, so that equation (4) holds."""
        return self.h.kind == "identity" and self.f.kind == "nothing"


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """What concerns the whole network."""

    parameters: int = 0
    """Of all modules."""
    mode: str = "eval"
    """`training`, `eval`, or `mixed`."""
    draws: int = 0
    """Batches times draws that the means and spreads are taken over."""
    loss: float | None = None
    """The given loss, or the random projection of the outputs."""
    loss_given: bool = False
    """Whether the loss is the user's own."""
    gradient_norm: float | None = None
    """Of all parameters together."""
    gradient_profile: tuple[float | None, ...] = ()
    """rms(∂E/∂x_l) of every unit, in order."""
    first_non_finite: str | None = None
    """The batch, a parameter, or the first operation whose output is not finite though its inputs are."""
    sums: int = 0
    """Sums of two operands that the input reaches; those that are no units are counted by reason below."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """Reasons and counts."""
    concatenations: int = 0
    """Concatenations of signals, as in densely connected networks."""
    stem: tuple[str, ...] = ()
    """The operations from the input to the first unit's fork, in words."""
    tail: tuple[str, ...] = ()
    """The operations from the last unit to the output, in words; f of the last unit left out."""
    classes: int | None = None
    """Of a classifier: the size of the last axis of its only output; with a loss, if that is a cross-entropy of it."""
    uniform_loss: float | None = None
    """Cross-entropy of a classifier's output against labels drawn uniformly; log(classes) if it says nothing yet."""
    fresh: bool | None = None
    """Whether the weights are known to be at their start; None: not known."""
    frozen: tuple[str, ...] = ()
    """The outermost modules none of whose parameters are to be trained."""
    frozen_share: float = 0.0
    """Of the network's parameters."""
    unreached: tuple[str, ...] = ()
    """The outermost modules with trainable parameters that were never called, or that no output depends on."""
    optimizer: "OptimizerRow | None" = None
    """What the given optimizer does to gates and scales."""


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """The optimizer that was given to the audit, as far as it concerns gates and scales."""

    kind: str
    """Its class."""
    rate: float
    """The learning rate of its first group."""
    half_life: float | None = None
    """Steps in which its weight decay alone halves a parameter, at that rate; None without decay."""
    decayed_gates: tuple[str, ...] = ()
    """Biases of gates on shortcuts under weight decay."""
    decayed_scales: tuple[str, ...] = ()
    """Learned scales of shortcuts and branches under weight decay."""
    decayed_norms: int = 0
    """How many scales and biases of norms are under weight decay."""
    missing: tuple[str, ...] = ()
    """Trainable parameters that it does not hold."""


@dataclass(frozen=True, kw_only=True)
class NotSeen:
    """Something the audit could not look into, or is unsure of."""

    what: str
    """The kind of thing."""
    where: str
    """The module, by its qualified name."""
    reason: str
    """Why."""
    count: int = 1
    """How often."""
