"""What runs will take, estimated from shapes: seconds on this machine, GPU-hours at the paper's scale; without torch.

    seconds = steps · (per layer · weighted layers + multiply-adds of a step / speed)

The two numbers of a machine come of two short probes in a process of their own, or of finished runs. Estimates, never
measurements: `--dry-run` measures.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from cleanpath.experiment import Experiment, Foreign, Training
from cleanpath.nn import catalog
from cleanpath.nn.multiply_adds import layers, multiply_adds
from cleanpath.paper import recipes
from cleanpath.paper.held_out import TEST_IMAGES

# Images to train on, and pixels of a side, of the data sets of the tables.
_IMAGES = {"digits": 1_297, "cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167}
_SIDES = {"digits": 8, "cifar10": 32, "cifar100": 32, "imagenet": 224}
_PASSES = 3
"""A step counts as three forward passes: forward, and backward to inputs and to weights."""
# Section 5: ResNet-1001 took about 27 hours on two GPUs, ResNet-200 about three weeks on eight.
_STATED = {
    "cifar": ("preresnet1001", 32, "cifar10", 27 * 2),
    "imagenet": ("preresnet200", 224, "imagenet", 21 * 24 * 8),
}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of one core: seconds that a weighted layer costs in every step, and multiply-adds a second."""

    per_layer: float
    multiply_adds: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A few steps of a network, measured: layers, multiply-adds of a step, seconds of it."""

    layers: int
    multiply_adds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Of a run, from a few steps of it: seconds of all, and bytes of memory and on disk."""

    seconds: float
    memory: int
    disk: int


PROBED = Experiment(network=catalog.network("resnet20"), training=Training(iterations=1))
"""What the speed of a machine is measured with."""


def probe_of(experiment: Experiment, side: int, batch: int, seconds: float) -> Probe:
    """A probe of that many seconds a step."""
    assert not isinstance(experiment.network, Foreign)
    count = _PASSES * batch * multiply_adds(experiment.network, side)
    return Probe(layers=layers(experiment.network), multiply_adds=float(count), seconds=seconds)


def speed_of(small: Probe, large: Probe) -> Speed:
    """The line through two probes, of small images and of large ones; no number below zero."""
    steepness = (large.seconds / large.layers - small.seconds / small.layers) / (
        large.multiply_adds / large.layers - small.multiply_adds / small.layers
    )
    steepness = max(steepness, 1e-13)
    per_layer = max(0.0, small.seconds / small.layers - steepness * small.multiply_adds / small.layers)
    return Speed(per_layer=per_layer, multiply_adds=1 / steepness)


def known(experiment: Experiment) -> bool:
    """Whether the shapes of a run are known without looking at its data."""
    return not isinstance(experiment.network, Foreign) and _kind(experiment) in _IMAGES


def steps(experiment: Experiment) -> int:
    """Iterations of a run."""
    return steps_of(experiment.training, _IMAGES[_kind(experiment)])


def steps_of(training: Training, images: int) -> int:
    """Iterations on so many images."""
    if training.iterations is not None:
        return training.iterations
    assert training.epochs is not None
    return training.epochs * images // training.batch_size


def work(experiment: Experiment) -> float:
    """Multiply-adds of a whole run's training."""
    assert not isinstance(experiment.network, Foreign)
    passed = experiment.training.batch_size * steps(experiment)
    return _PASSES * passed * multiply_adds(experiment.network, _SIDES[_kind(experiment)])


def seconds(experiment: Experiment, speed: Speed) -> float:
    """What a run takes on one core, with one test of the held-out images per epoch."""
    assert not isinstance(experiment.network, Foreign)
    count, training = steps(experiment), experiment.training
    one = work(experiment) / count
    step = speed.per_layer * layers(experiment.network) + one / speed.multiply_adds
    tested = TEST_IMAGES[_kind(experiment)] / (_PASSES * training.batch_size)
    epochs = count * training.batch_size / _IMAGES[_kind(experiment)]
    return step * (count + tested * epochs)


def corrected(estimated: Iterable[tuple[float, float]]) -> float | None:
    """By how much finished runs took longer than was estimated: the median ratio; None without runs."""
    ratios = [took / said for took, said in estimated if said > 0 and took > 0]
    return statistics.median(ratios) if ratios else None


def gpu_hours(experiments: Iterable[Experiment]) -> float:
    """GPU-hours of the paper's time: what it states for two networks, in proportion to the multiply-adds."""
    return sum(work(one) / paper_speed(_layout(one)) for one in experiments) / 3600


@cache
def paper_speed(layout: str) -> float:
    """Multiply-adds a second of one of the paper's GPUs, from what Section 5 states and the length of the training."""
    name, side, data, hours = _STATED[layout]
    training = recipes.paper() if layout == "cifar" else recipes.paper_imagenet()
    passed = _PASSES * steps_of(training, _IMAGES[data]) * training.batch_size
    return passed * multiply_adds(catalog.network(name), side) / (3600 * hours)


def _layout(experiment: Experiment) -> str:
    assert not isinstance(experiment.network, Foreign)
    return experiment.network.layout


def _kind(experiment: Experiment) -> str:
    return experiment.data.name.partition(":")[0]
