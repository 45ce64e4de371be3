"""What a run will cost: memory and disk from shapes, time from a few steps."""

import math
import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanpath import assemble, devices, networks
from cleanpath.allocator import keep_what_is_freed
from cleanpath.data.images import Split
from cleanpath.data.sources import load
from cleanpath.errors import UserError
from cleanpath.estimate import PROBED, Probe, Tried, probe_of
from cleanpath.experiment import Experiment, Network
from cleanpath.keeping import KEPT
from cleanpath.machine import free_memory, peak_memory, resident_memory
from cleanpath.nn import resnet
from cleanpath.training import fused
from cleanpath.training.loop import MOST_LINES, train
from cleanpath.training.memory import memory_of
from cleanpath.training.progress import Stepped
from cleanpath.training.ranks import ALONE, Ranks
from cleanpath.training.schedule import length

_NOTHING = torch.empty(0)
_STEPS, _STEPS_ON_GPU, _TESTED = 5, 12, 512
"""On a GPU the first ones are slower than those that are replayed."""
_LINE = 150
"""Bytes of a line of metrics."""
_AUDITED = 4_600
"""Bytes of two audits for each convolution: 246 kB for the 54 of ResNet-56's units."""
_TOLD_FROM = 2e9
_HELD, _FIRST = {"plain": 1.1, "recompute": 1.6}, 350_000_000
"""The allocator holds more than is in use, and libraries take their own at the first step (docs/memory.md)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Bytes that a run has resident at its most, and writes at its most; the largest batches that fit now."""

    memory: int
    needed: int
    """Of them, what is not resident now."""
    disk: int
    free: int | None
    largest_batch: dict[str, int] | None
    """By `training.memory`."""
    gpu: bool = False
    """Whether the memory is a GPU's."""


def cost(experiment: Experiment, ranks: Ranks = ALONE, here: int = 1, device: torch.device = devices.CPU) -> Cost:
    """Of one process, from one forward pass on two images; nothing is trained.

    So many of the ranks are `here` and share the free memory; each has a GPU of its own.
    """
    training, images = experiment.training, load(experiment.data)
    _check_weights(experiment)
    with torch.random.fork_rng(devices=[]):
        network = networks.build(experiment.network, seed=experiment.seed)
        counted = memory_of(network, images.train.plain(torch.arange(2)), training)
    gpu = device.type == "cuda"
    resident, free = (0, devices.free_memory(device)) if gpu else (resident_memory(), free_memory())
    here = 1 if gpu else here
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    lines = min(MOST_LINES, length(training, len(images.train.labels)))
    largest = None
    if free is not None:
        ways = {way: replace(training, memory=way) for way in ("plain", "recompute")}
        room, count = max(0, free // here - _FIRST), len(images.train.labels)
        largest = {
            way: counted.largest_batch(one, int(room / _HELD[way]), images=count, processes=ranks.count)
            for way, one in ways.items()
        }
    pixels = sum(getattr(split, "pixels", _NOTHING).nbytes for split in (images.train, images.held_out)) if gpu else 0
    needed = _FIRST + pixels + round(_HELD[training.memory] * counted.of(training, len(ranks.share(training))))
    return Cost(
        memory=resident + needed,
        needed=needed,
        disk=round(KEPT * counted.fixed + weights + lines * _LINE),
        free=free,
        largest_batch=largest,
        gpu=gpu,
    )


def _check_weights(experiment: Experiment) -> None:
    """Raise `UserError` before a network is built whose weights alone are too many."""
    free = free_memory()
    if free is None or not isinstance(experiment.network, Network):
        return  # others were built to be checked
    with torch.device("meta"):
        weights = sum(p.numel() * p.element_size() for p in resnet.build(experiment.network).parameters())
    if weights > free:
        raise UserError(
            f"not enough memory: the weights alone take {weights / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "use a smaller network"
        )


def fits(found: Cost, processes: int = 1) -> bool:
    """Whether so many processes of a run fit into what is free; so too where the system does not tell."""
    # A small run needs less at its first step.
    return found.free is None or _needed(found, processes) - processes * _FIRST <= found.free


def _needed(found: Cost, processes: int) -> int:
    return found.needed * (1 if found.gpu else processes)


def told(found: Cost, processes: int = 1) -> str:
    """A line for who starts a large run; empty for a small one. Raises `UserError` if it cannot fit.

    For so many `processes` on this machine.
    """
    needed = _needed(found, processes)
    if not fits(found, processes):
        assert found.free is not None
        said = " and ".join(
            f"training.batch_size={batch} with training.memory={way}"
            for way, batch in (found.largest_batch or {}).items()
            if batch >= 2
        )
        remedy = f"what fits: {said}" if said else "nothing fits: use a smaller network, or more memory"
        on = " on the GPU" if found.gpu else ""
        raise UserError(f"the run takes {needed / 1e9:.1f} GB and {found.free / 1e9:.1f} GB are free{on}; {remedy}")
    each = f" in each of {processes} processes" if processes > 1 else ""
    what = "GPU memory" if found.gpu else "memory"
    return f"takes about {found.memory / 1e9:.1f} GB of {what}{each}" if needed > _TOLD_FROM else ""


def probe() -> tuple[Probe, Probe]:
    """Seconds of a step on one thread, on images of 8 pixels and of 32."""
    keep_what_is_freed()
    found = []
    for side, batch in ((8, 64), (32, 32)):
        with assemble.threads_of_torch(1), torch.random.fork_rng(devices=[]):
            network = networks.build(PROBED.network, seed=0)
            images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
            labels = torch.zeros(batch, dtype=torch.long)
            moments = [time.perf_counter()]
            for _ in range(_STEPS):
                functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
                network.zero_grad()
                moments.append(time.perf_counter())
        seconds = statistics.median(later - sooner for sooner, later in pairwise(moments[1:]))
        found.append(probe_of(PROBED, side, batch, seconds))
    small, large = found
    return small, large


def disk(network: nn.Module) -> int:
    """What a finished run of a grid keeps on disk, with its measurements and the audits beside its curves."""
    weights: int = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    return weights + MOST_LINES * _LINE + convolutions * _AUDITED


def shaped(experiment: Experiment) -> int:
    """The same, from shapes alone."""
    assert isinstance(experiment.network, Network)
    with torch.device("meta"):
        return disk(resnet.build(experiment.network))


def measure(
    experiment: Experiment, *, threads: int, device: torch.device = devices.CPU, kernels: str = fused.AUTO
) -> Tried:
    """What a run of the experiment takes, from a few steps of it.

    The memory is this process's peak, on a GPU what its tensors took there.
    """
    images = load(experiment.data)
    training, count = experiment.training, len(images.train.labels)
    steps = _STEPS if device.type == "cpu" else _STEPS_ON_GPU
    # No epoch ends among the steps, and the tests at the end are on few images.
    few = replace(
        images,
        train=_First(images.train, min(count, (steps + 1) * training.batch_size)),
        held_out=_First(images.held_out, min(len(images.held_out.labels), _TESTED)),
    )
    moments: list[float] = []
    on_step = Stepped(lambda _: moments.append(time.perf_counter()))
    with assemble.threads_of_torch(threads), torch.random.fork_rng(devices=[]):
        network = networks.build(experiment.network, seed=experiment.seed).to(device)
        short = replace(training, iterations=steps, epochs=None, warmup=0, bn_images=0)
        moments.append(time.perf_counter())
        path = fused.chosen(kernels, training, device, threads=threads)
        train(network, few, short, seed=0, callbacks=[on_step], kernels=path)
    took = [later - sooner for sooner, later in pairwise(moments)]
    step = statistics.median(took[1:-1])  # the first warms up, the last contains an evaluation
    of_one = max(0.0, took[-1] - step) / len(few.held_out.labels)
    total = length(training, count)
    tested = math.ceil(total * training.batch_size / count) * len(images.held_out.labels) + count
    memory = devices.peak_memory(device).get("gpu_memory", 0) or peak_memory()
    return Tried(seconds=total * step + tested * of_one, memory=memory, disk=disk(network))


@dataclass(frozen=True)
class _First:
    """The first images of a split."""

    split: Split
    count: int

    @property
    def labels(self) -> Tensor:
        return self.split.labels[: self.count]

    def plain(self, indices: Tensor) -> Tensor:
        return self.split.plain(indices)

    def on(self, device: torch.device) -> "_First":
        return replace(self, split=self.split.on(device))

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        return self.split.drawn(indices, epochs, seed)
