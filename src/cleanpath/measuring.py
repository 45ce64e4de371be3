"""Measuring a run: the signal in its network at the start, at moments of the training and at the end.

    y_l = h(x_l) + F(x_l), of which a ReLU after the addition takes away max(0, −y_l)

The images are the same 64 of those held out, spread evenly over them. BN normalises with the statistics of these images
throughout: at the start there are no others. The network is afterwards as before, bit for bit, so that a run that is
measured on its way is the run that it would have been.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath import devices, measures, networks, trained
from cleanpath.auditing.examine import audit
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.values import UnitRow
from cleanpath.data.sources import load
from cleanpath.experiment import Data, Experiment, Network
from cleanpath.measures import Wish
from cleanpath.nn.asymmetric import Asymmetric
from cleanpath.nn.resnet import ResNet
from cleanpath.nn.unit import ResidualUnit
from cleanpath.records import Run
from cleanpath.training.progress import Callback, Progress
from cleanpath.writing import write

IMAGES = 64
MOMENTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Fractions of a run between its start and its end."""


@dataclass
class Signals:
    """What one pass showed of every unit, in order, and of every 3×3 layer."""

    negative_share: dict[str, float] = field(default_factory=dict)
    """Share of y < 0, by unit."""
    gap: dict[str, float] = field(default_factory=dict)
    """Mean of max(0, −y), by unit."""
    input_rms: dict[str, float] = field(default_factory=dict)
    """rms(x_l), by unit."""
    output_rms: dict[str, float] = field(default_factory=dict)
    """rms(x_{l+1}), by unit."""
    read_rms: dict[str, float] = field(default_factory=dict)
    """rms of what F's first convolution reads, by unit."""
    responses: dict[str, float] = field(default_factory=dict)
    """Standard deviation behind the BN of each 3×3 convolution of stem and branches, by the BN's name."""

    def numbers(self) -> dict[str, float]:
        """One number per quantity; those that the network does not have are left out."""
        found = {
            "negative_share": _mean(self.negative_share.values()),
            "truncated": _mean(sum(stage) for stage in _by_stage(self.gap)),
            "truncated_share": _mean(
                gap / self.input_rms[unit] for unit, gap in self.gap.items() if self.input_rms[unit]
            ),
            "scale_growth": _mean(stage[-1] / stage[0] for stage in _by_stage(self.output_rms) if stage[0]),
            "input_growth": _mean(
                stage[-1] / stage[1] for stage in _by_stage(self.read_rms) if len(stage) > 1 and stage[1]
            ),
            "response": _mean(self.responses.values()),
        }
        return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def _mean(values: Any) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _by_stage(of_units: dict[str, float]) -> list[list[float]]:
    """The units' numbers, a list per stage."""
    stages: dict[str, list[float]] = defaultdict(list)
    for name, value in of_units.items():
        stages[name.rpartition(".")[0]].append(value)
    return list(stages.values())


def signals(network: nn.Module, images: Tensor) -> Signals:
    """One pass of one of our networks in training mode; nothing of a network that is not ours."""
    found = Signals()
    if not isinstance(network, ResNet):
        return found
    images = images.to(devices.of(network))
    with _undisturbed(network), torch.no_grad(), ExitStack() as hooks:
        for name, unit in network.units().items():
            for handle in _watched(name, unit, found):
                hooks.callback(handle.remove)
        for name, norm in _behind_convolutions(network):
            hooks.callback(norm.register_forward_hook(_noting(found.responses, name, _std)).remove)
        network.train()
        network(images)
    return found


def _watched(name: str, unit: nn.Module, found: Signals) -> Iterator[Any]:
    """Hooks on the parts of a unit; a unit of a user's own shows no more than its output."""
    yield unit.register_forward_hook(_noting(found.output_rms, name, _rms))
    if not isinstance(unit, ResidualUnit):
        return

    def of_sum(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        y = inputs[0]
        found.negative_share[name] = float((y < 0).double().mean())
        found.gap[name] = float((-y).clamp(min=0).double().mean())

    def of_unit(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.input_rms[name] = _rms(inputs[0])

    def of_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.read_rms[name] = _rms(inputs[0])

    yield unit.register_forward_pre_hook(of_unit)
    yield unit.after.register_forward_pre_hook(of_sum)
    first = next((part for part in unit.branch.modules() if isinstance(part, nn.Conv2d)), None)
    if first is not None:
        yield first.register_forward_pre_hook(of_input)


def _noting(into: dict[str, float], name: str, of: Callable[[Tensor], float]) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        into[name] = of(output)

    return hook


def _behind_convolutions(network: ResNet) -> Iterator[tuple[str, nn.Module]]:
    """The BN behind each 3×3 convolution of the stem and of every branch."""
    first = next((m for m in network.stem.get_submodule("activation").modules() if isinstance(m, nn.BatchNorm2d)), None)
    if first is not None:
        yield "stem", first
    for name, unit in network.units().items():
        branch = getattr(unit, "branch", None)
        rows = [part for part in branch.modules() if isinstance(part, nn.Sequential)] if branch is not None else []
        for row in rows:
            for (layer, one), (_, following) in pairwise(row.named_children()):
                if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3) and isinstance(following, nn.BatchNorm2d):
                    yield f"{name}.{layer}", following


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _std(x: Tensor) -> float:
    return float(x.double().std(correction=0))


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Buffers, training flags and the random state as they were; draws meanwhile are always the same."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    flags = {module: module.training for module in network.modules()}
    try:
        with devices.forked(devices.of(network)):
            torch.manual_seed(0)
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, flag in flags.items():
            module.training = flag


def looked_at(data: Data) -> Tensor:
    """The images that are measured with, (64, C, H, W): spread evenly over those held out."""
    held_out = load(replace(data, augment="none")).held_out
    count = len(held_out.labels)
    return held_out.plain(torch.arange(min(IMAGES, count)) * count // min(IMAGES, count))


class Moments(Callback):
    """Measures a run at some moments of its training, into its folder; a run that goes on keeps its earlier ones."""

    def __init__(self, folder: Path, data: Data) -> None:
        self._run, self._data = Run(folder), data
        self._network: nn.Module | None = None
        self._images: Tensor | None = None
        self._points: list[dict[str, Any]] = []

    def began(self, network: nn.Module, iteration: int) -> None:
        """Take the network; forget what an earlier try measured beyond this iteration."""
        self._network = network if isinstance(network, ResNet) else None
        earlier = measures.read(self._run, measures.MOMENTS).get("points", [])
        self._points = [point for point in earlier if point["iteration"] <= iteration]

    def stepped(self, progress: Progress) -> None:
        """Measure if this is one of the moments."""
        at = progress.iteration
        moments = {max(1, round(part * progress.total)) for part in MOMENTS} - {progress.total}
        if self._network is None or at not in moments or any(point["iteration"] == at for point in self._points):
            return
        if self._images is None:
            self._images = looked_at(self._data)
        self._points.append({"iteration": at, **signals(self._network, self._images).numbers()})
        _write(self._run.folder / measures.MOMENTS, {"schema": "cleanpath.moments", "points": self._points})


def measure(run: Run, wish: Wish) -> None:
    """Measure a finished run and write what is wanted into its folder; what is there already is made again.

    Raises `RunError` if the run has not finished or its weights are damaged.
    """
    found = trained.trained(run)
    experiment = run.experiment
    digest = (run.result or {})["weights_sha256"]
    for view in wish.views:
        data = trained.evaluation(found, view=view)
        _write(run.folder / measures.evaluation_file(view), {**data, "weights_sha256": digest})
    if not measures.of_these_weights(run, [measures.MEASURED]):
        for name in measures.PROFILES:
            (run.folder / name).unlink(missing_ok=True)
    images = looked_at(experiment.data)
    start = started(experiment)
    if wish.profiles:
        for name, network, fresh in zip(measures.PROFILES, (start, found.network), (True, False), strict=True):
            audited(network, images, fresh=fresh).save(run.folder / name)
    first, last = (signals(network, images) for network in (start, found.network))
    _write(
        run.folder / measures.MEASURED,
        {
            "schema": "cleanpath.measured",
            "weights_sha256": digest,
            "numbers": measures.NUMBERS,
            "images": len(images),
            "start": first.numbers(),
            "end": last.numbers(),
            "responses": list(last.responses.values()),
            "negative_shares": list(last.negative_share.values()),
            "gaps": list(last.gap.values()),
        },
    )


def started(experiment: Experiment) -> nn.Module:
    """The network as its training began; a run that began with given weights is shown with those of its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        return networks.build(experiment.network, seed=experiment.seed)


def audited(network: nn.Module, images: Tensor, *, fresh: bool) -> Profile:
    """The profile of a network in training mode."""
    profile = audit(network.train(), images)
    return replace(profile, network=replace(profile.network, fresh=True)) if fresh else profile


def typical_unit(network: Network, *, asymmetric: bool = False) -> tuple[UnitRow, int]:
    """The second unit of a network, which keeps the width: its structure, as an audit of made-up images sees it.

    And how many of the first operations of F belong to the unit above it: those of its f, in the `asymmetric` form of
    the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randn(2, network.in_channels, 16, 16)
        built = networks.build(network, seed=0)
        above = 0
        if asymmetric and isinstance(built, ResNet):
            first = next(iter(built.units().values()))
            above = sum(1 for each in first.get_submodule("after").modules() if not list(each.children()))
            profile = audit(Asymmetric(built).train(), images)
        else:
            profile = audit(built.train(), images)
    return profile.units[1], above


def _write(path: Path, data: dict[str, Any]) -> None:
    write(path, (json.dumps({**data, "version": measures.VERSION}, indent=1, allow_nan=False) + "\n").encode())
