"""What is run, as frozen values; `settings` reads, writes, overrides and names them.

    Experiment = Network + Data + Training + seed

Pure data: no torch here. Ranges are checked when a value is made. Names of shortcuts and placements are
checked where they are defined, in `nn`, because a user's own file may add to them.

A docstring here has a line "`name`: meaning." for every field: `meanings` reads them for `cleanpath list settings`.
"""

import math
from dataclasses import dataclass, field

from cleanpath.errors import SettingError

FORMAT = 1
LATER = {"later": True}
"""Marks a setting that came after runs had been recorded: at its default it is no part of the digest, so that their
names stay."""
BRANCHES = ("one_layer", "two_layer", "bottleneck")
LAYOUTS = ("cifar", "imagenet")
NORMALISATIONS = ("batch", "group", "layer", "none")
ACTIVATIONS = ("relu", "gelu", "silu")


SAME_BITS = {"same_bits": True}
"""Marks a setting on which no number depends: it is never a part of the digest, and a run may go on with another."""


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """Which h a unit has, and what stands on F with it; the columns of the paper's Table 1.

    `None` means that the kind has no such part.

    `kind`: what h and F are made of: `identity`, another of the paper's or of docs/beyond.md, or `my_unit.py:NAME`.
    `scale`: λ of equation (6), by which the shortcut is multiplied.
    `branch_scale`: what F is multiplied by, behind its last BN.
    `bias`: the start of a gate's bias b_g.
    `rate`: the share that dropout drops; of stochastic depth, the share of steps without the last unit.

    Where the paper is silent, a named setting with a default:

    `inverted`: torch's form of dropout, which divides by the share that is kept.
    `norm`: a BN behind the convolution of a gate or a shortcut.
    `gate_widening`: a gate also where the width changes, with the unit's stride.

    Beyond the paper (docs/beyond.md), and users' own units:

    `start`: what a learnt scale of F starts with.
    `streams`: how many streams hyper-connections have.
    `reduction`: the factor by which squeeze-and-excitation narrows.
    `code`: the start of the SHA-256 of `my_unit.py`, filled in so that other code is another experiment.
    """

    kind: str = "identity"
    scale: float | None = None
    branch_scale: float | None = None
    bias: float | None = None
    rate: float | None = None
    inverted: bool = False
    norm: bool = False
    gate_widening: bool = True
    start: float | None = field(default=None, metadata=LATER)
    streams: int | None = field(default=None, metadata=LATER)
    reduction: int | None = field(default=None, metadata=LATER)
    code: str = field(default="", metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("scale", "branch_scale", "bias", "start"):
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), f"shortcut.{name} is {value}; must be finite")
        _require(self.rate is None or 0 <= self.rate < 1, f"shortcut.rate is {self.rate}; must be >= 0 and < 1")
        for name in ("streams", "reduction"):
            count = getattr(self, name)
            if count is not None:
                _at_least(f"shortcut.{name}", count, 1)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A residual network of the paper.

    `depth`: how many layers with weights, as in the paper's names.
    `branch`: the layers of F: `one_layer`, `two_layer` or `bottleneck`.
    `placement`: where BN and ReLU stand (Table 2), such as `original` or `full_preactivation`.
    `layout`: stem and stages for small images or large (Section 5, appendix): `cifar` or `imagenet`.
    `shortcut`: h of every unit.
    `widening`: h where the width changes: `A` pads with zeros, `B` projects, `D` pools and projects (docs/beyond.md);
    option C of the first paper is the kind `conv_1x1`.

    Where the paper is silent, a named setting with a default:

    `widening_input`: what the shortcut of a pre-activated unit that changes the width gets: `activated` (the authors'
    code shares the pre-activation) or `raw`.
    `widening_norm`: BN after the projection; false: the paper's counts, true: the first paper's ImageNet models.
    `padding`: where option A's zero channels go: `after` (the authors' Torch code) or `both` sides.
    `stride_on`: the strided layer of a bottleneck: `first` (the authors' Caffe and Lua code) or `middle`, the 3×3.

    What follows from data and name, or is beyond the paper:

    `width`: channels of the first stage; a bottleneck's units end with four times as many.
    `in_channels`: channels of the images; `train` takes them from the data.
    `num_classes`: classes; `train` takes them from the data.
    `normalisation`: what stands where a placement says BN: `batch`, `group`, `layer` or `none`.
    `activation`: what stands where a placement says ReLU: `relu`, `gelu` or `silu`.
    `inner`: the share of their width that F's inner layers keep.
    """

    depth: int
    branch: str
    placement: str
    layout: str = "cifar"
    shortcut: Shortcut = field(default_factory=Shortcut)
    widening: str = "A"
    widening_input: str = "activated"
    widening_norm: bool = False
    padding: str = "after"
    stride_on: str = "first"
    width: int = 16
    in_channels: int = 3
    num_classes: int = 10
    normalisation: str = field(default="batch", metadata=LATER)
    activation: str = field(default="relu", metadata=LATER)
    inner: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        _one_of("network.branch", self.branch, BRANCHES)
        _one_of("network.layout", self.layout, LAYOUTS)
        _one_of("network.widening", self.widening, ("A", "B", "D"))
        _one_of("network.normalisation", self.normalisation, NORMALISATIONS)
        _one_of("network.activation", self.activation, ACTIVATIONS)
        _require(math.isfinite(self.inner) and self.inner > 0, f"network.inner is {self.inner}; must be finite and > 0")
        _one_of("network.widening_input", self.widening_input, ("activated", "raw"))
        _one_of("network.padding", self.padding, ("after", "both"))
        _one_of("network.stride_on", self.stride_on, ("first", "middle"))
        for name, least in (("width", 1), ("in_channels", 1), ("num_classes", 2)):
            _at_least(f"network.{name}", getattr(self, name), least)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A network that is not the paper's.

    `target`: in place of the paper's settings: `timm:NAME`, `torchvision:NAME`, or `file.py:factory` of your own.
    `in_channels`: channels of the images; `train` takes them from the data.
    `num_classes`: classes; `train` takes them from the data.
    `code`: the start of the SHA-256 of a factory's file, filled in so that other code is another experiment; of a
    library's network the run records the library's version instead.
    """

    target: str
    in_channels: int = 3
    num_classes: int = 10
    code: str = ""

    def __post_init__(self) -> None:
        _require(":" in self.target, f"network.target is '{self.target}'; write timm:NAME or file.py:factory")
        for name, least in (("in_channels", 1), ("num_classes", 2)):
            _at_least(f"network.{name}", getattr(self, name), least)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, which of them are held out, and how they are augmented.

    `name`: `digits`, `cifar10`, `cifar100`, `folder:PATH` or `imagenet:PATH`.
    `held_out`: what is tested on: `test` (the reported split), or `validation`, a part of the training images.
    `augment`: `usual` (as the data set has it; the digits have none) or `none`; of photographs also `scale` and
    `scale_aspect`, the two ways of the paper's Table 5.
    `side`: the pixels to which files of images are brought.
    `broken`: what becomes of files that are no images: `refuse` or `skip`.
    """

    name: str = "digits"
    held_out: str = "test"
    augment: str = field(default="usual", metadata=LATER)
    side: int | None = field(default=None, metadata=LATER)
    broken: str | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        _one_of("data.held_out", self.held_out, ("test", "validation"))
        _one_of("data.augment", self.augment, ("usual", "none", "scale", "scale_aspect"))
        files = self.name.startswith(("folder:", "imagenet:"))
        for name in ("side", "broken"):
            given = getattr(self, name) is not None
            _require(not given or files, f"data.{name} is for folder:PATH and imagenet:PATH, not {self.name}")
        _require(
            files or self.augment in ("usual", "none"),
            f"data.augment={self.augment} is for photographs, not {self.name}; use usual or none",
        )
        if self.side is not None:
            _at_least("data.side", self.side, 8)
        if self.broken is not None:
            _one_of("data.broken", self.broken, ("refuse", "skip"))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the weights are found; the defaults are the paper's appendix: SGD with momentum, a warm-up and steps.

    `epochs`: the length, in passes over the images; this or `iterations`, never both.
    `iterations`: the length, in steps.
    `batch_size`: images per step.
    `optimizer`: `sgd` (torch's momentum), `caffe_sgd` (the authors' Caffe: the rate inside the velocity) or `adamw`.
    `lr`: the rate, before warm-up and schedule.
    `momentum`: of the velocity; β₁ of `adamw`.
    `nesterov`: Nesterov's momentum, with `sgd` only.
    `weight_decay`: the share of each weight that is added to its gradient (`adamw`: apart from it).
    `decay_on`: `all` parameters (the authors' Torch code), the `weights` of convolutions and linear layers (the first
    paper, as that code's README reports it), or `all_but_gate_bias` (decay alone closes a shortcut whose gate starts
    at −6).
    `schedule`: `steps` down at `lr_drops`, or `cosine`, to zero.
    `warmup`: so many iterations first, at a smaller rate.
    `warmup_factor`: the share of the rate with which the warm-up begins.
    `warmup_shape`: the warm-up stays there, `constant` (the paper), or rises from there, `linear`.
    `lr_drops`: where `steps` go down, as fractions of the length.
    `lr_drop_factor`: what the rate is multiplied by at each drop.
    `accumulation`: micro-batches per step; BN takes its statistics over each.
    `bn_group`: images over which BN takes its statistics in training (64 in the paper: a batch of 128 on two cards);
    none: the batch, or the micro-batch.
    `average`: decay of an exponential moving average of the weights, which is then what is tested and kept.
    `label_smoothing`: the share of a label that is spread over all classes.
    `mixup`: α of the Beta distribution by which pairs of images are mixed (Zhang et al. 2018); 0: none.
    `body_factor`: the share of the rate for all but the last layer, as fine-tuning has it.
    `class_weights`: `none`, or `balanced`: each class has the same say, as an image's loss counts images / (classes ·
    images of its class).
    `bn_images`: training images over which BN's mean and variance are taken anew, as plain averages, before every test
    (README of the first paper's Caffe models); 0: the running averages are tested.
    `memory`: `plain`, or `recompute`: units are computed again in the backward pass, the same bits in less memory.
    `precision`: `fp32`; `tf32`: products of fp32 numbers with 10 bits of mantissa, on a GPU that has them; or `bf16`:
    torch's autocast in the two passes of a step, where weights, sums and tests stay fp32.
    `clip`: the most that the norm of all gradients together may be, to which it is scaled down.
    `compile`: units run as `torch.compile` makes them, in training; numbers differ in their last bits.
    `fused`: the optimizer's step is one operation over all weights; numbers differ in their last bits.
    `deterministic`: on a GPU the same command gives the same bits; without it some sums are made in the order in which
    they come, which is faster in fp32 (docs/gpu.md).
    `graph`: on a GPU the two passes of a step are recorded once and replayed: the same bits, with less waiting.
    """

    epochs: int | None = None
    iterations: int | None = None
    batch_size: int = 128
    optimizer: str = field(default="sgd", metadata=LATER)
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_on: str = "all"
    schedule: str = field(default="steps", metadata=LATER)
    warmup: int = 0
    warmup_factor: float = 0.1
    warmup_shape: str = field(default="constant", metadata=LATER)
    lr_drops: tuple[float, ...] = (0.5, 0.75)
    lr_drop_factor: float = 0.1
    accumulation: int = field(default=1, metadata=LATER)
    bn_group: int | None = field(default=None, metadata=LATER)
    average: float | None = field(default=None, metadata=LATER)
    label_smoothing: float = field(default=0.0, metadata=LATER)
    mixup: float = field(default=0.0, metadata=LATER)
    body_factor: float = field(default=1.0, metadata=LATER)
    class_weights: str = field(default="none", metadata=LATER)
    bn_images: int = field(default=0, metadata=LATER)
    memory: str = field(default="plain", metadata=SAME_BITS)
    precision: str = field(default="fp32", metadata=LATER)
    clip: float | None = field(default=None, metadata=LATER)
    compile: bool = field(default=False, metadata=LATER)
    fused: bool = field(default=False, metadata=LATER)
    deterministic: bool = field(default=True, metadata=LATER)
    graph: bool = field(default=True, metadata=SAME_BITS)

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise SettingError("training: give either epochs or iterations, and not both")
        for name in ("epochs", "iterations"):
            value = getattr(self, name)
            if value is not None:
                _at_least(f"training.{name}", value, 1)
        _at_least("training.batch_size", self.batch_size, 2)
        _at_least("training.warmup", self.warmup, 0)
        for name in ("lr", "warmup_factor", "lr_drop_factor"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, f"training.{name} is {value}; must be finite and > 0")
        _require(0 <= self.momentum < 1, f"training.momentum is {self.momentum}; must be >= 0 and < 1")
        _require(not self.nesterov or self.momentum > 0, "training.nesterov needs training.momentum > 0")
        _one_of("training.optimizer", self.optimizer, ("sgd", "caffe_sgd", "adamw"))
        _require(not self.nesterov or self.optimizer == "sgd", "training.nesterov needs training.optimizer=sgd")
        for name in ("weight_decay", "mixup", "body_factor"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"training.{name} is {value}; must be finite and >= 0")
        _one_of("training.decay_on", self.decay_on, ("all", "weights", "all_but_gate_bias"))
        _one_of("training.schedule", self.schedule, ("steps", "cosine"))
        _one_of("training.warmup_shape", self.warmup_shape, ("constant", "linear"))
        _one_of("training.class_weights", self.class_weights, ("none", "balanced"))
        _at_least("training.bn_images", self.bn_images, 0)
        _one_of("training.memory", self.memory, ("plain", "recompute"))
        _one_of("training.precision", self.precision, ("fp32", "tf32", "bf16"))
        clip = self.clip
        _require(clip is None or (math.isfinite(clip) and clip > 0), f"training.clip is {clip}; must be finite and > 0")
        _require(
            not self.fused or self.optimizer != "caffe_sgd",
            "training.fused is for sgd and adamw; caffe_sgd has no such form",
        )
        for drop in self.lr_drops:
            _require(0 < drop < 1, f"training.lr_drops has {drop}; each is a fraction of the length, > 0 and < 1")
        _at_least("training.accumulation", self.accumulation, 1)
        micro, left = divmod(self.batch_size, self.accumulation)
        _require(
            not left and micro > 1,
            f"training.accumulation is {self.accumulation}; it must divide training.batch_size ({self.batch_size}) "
            "into parts of at least 2",
        )
        if self.bn_group is not None:
            _at_least("training.bn_group", self.bn_group, 2)
            _require(
                micro % self.bn_group == 0,
                f"training.bn_group is {self.bn_group}; it must divide the {micro} images that pass at once",
            )
        average = self.average
        _require(average is None or 0 < average < 1, f"training.average is {average}; must be > 0 and < 1")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, f"training.label_smoothing is {smoothing}; must be >= 0 and < 1")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One cell of a table, or one run of a user's: everything that decides its numbers.

    `network`: what is trained.
    `training`: how.
    `data`: on which images.
    `seed`: of weights, order of images, augmentation and dropout.
    `init`: the start of the SHA-256 of the weights that it begins with, as `--init` sets it; empty: weights drawn from
    the seed.
    `source`: where it comes from ("table1/original"): a label that is no part of the digest, so that tables share the
    runs that they have in common.

    Threads, processes, device and folder are not here: the run records them.
    """

    network: Network | Foreign
    training: Training
    data: Data = field(default_factory=Data)
    seed: int = 0
    init: str = field(default="", metadata=LATER)
    source: str = ""

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, f"seed is {self.seed}; must be >= 0 and < 2**63")


def _require(holds: bool, message: str) -> None:  # noqa: FBT001
    if not holds:
        raise SettingError(message)


def _at_least(name: str, value: int, least: int) -> None:
    _require(value >= least, f"{name} is {value}; must be >= {least}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} is '{value}'; choose one of {', '.join(choices)}")
