"""A forecast of an experiment: its network, its first batches and its optimizer, as its run would have them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cleanpath import assemble, devices, networks, settings
from cleanpath.data.sources import load
from cleanpath.data.stream import batches
from cleanpath.errors import CleanpathError
from cleanpath.experiment import Experiment, Training
from cleanpath.forecasting.foresee import measured
from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.values import STEPS, Forecast, Measured, is_long
from cleanpath.training.losses import Loss
from cleanpath.training.optimizers import optimizer_of
from cleanpath.training.schedule import length
from cleanpath.watch import say


def of_experiment(
    experiment: Experiment, *, threads: int, device: torch.device = devices.CPU, init: Path | None = None
) -> Forecast:
    """Whether its run will train; torch's random state and threads are as before afterwards.

    Asked at the rate behind the warm-up, on the batches that the run begins with.
    """
    found = judged(measured_of(experiment, threads=threads, device=device, init=init))
    unlike = tuple(_unlike(experiment.training))
    doubts = (f"its steps differ from the run's, not imitated: {', '.join(unlike)}",) if unlike else ()
    return replace(found, doubts=(*found.doubts, *doubts))


def _unlike(training: Training) -> Iterator[str]:
    """The settings in which the steps of a forecast are not those of the run."""
    if training.accumulation > 1:
        yield "training.accumulation"  # the same sums; BN sees whole batches here
    if training.bn_group not in (None, training.batch_size):
        yield "training.bn_group"
    if training.precision != "fp32":
        yield "training.precision"
    if training.mixup:
        yield "training.mixup"


def measured_of(
    experiment: Experiment, *, threads: int, device: torch.device = devices.CPU, init: Path | None = None
) -> Measured:
    """What the rule is given of it."""
    training, images = experiment.training, load(experiment.data)
    stream = batches(images.train, training.batch_size, seed=experiment.seed, start=1, end=STEPS, loaders=0)
    with assemble.threads_of_torch(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        network = networks.build(experiment.network, seed=experiment.seed)
        if init is not None:
            assemble.begin_with(network, init)
        network = network.to(device)
        given = [(x.to(device), y.to(device)) for x, y in stream]
        optimizer = optimizer_of(network, training)
        for group in optimizer.param_groups:
            group["lr"] = training.lr * group["factor"]
        loss = _loss(training, images.train.labels)
        return measured(network, given, optimizer=optimizer, loss=loss, clip=training.clip)


def _loss(training: Training, labels: Tensor) -> Any:
    """The loss that the run minimises, but for mixed pairs."""
    of = Loss(replace(training, accumulation=1), labels)
    return lambda logits, target: of(logits, target, target, 1.0)


def is_worth(experiment: Experiment) -> bool:
    """Whether one run of it is long enough for a forecast that nobody asked for."""
    return is_long(length(experiment.training, len(load(experiment.data).train.labels)))


def if_possible(
    experiment: Experiment, *, threads: int, device: torch.device, init: Path | None = None
) -> Forecast | None:
    """The forecast, or None where none can be made, which is said: a run is not to fail for it."""
    try:
        return of_experiment(experiment, threads=threads, device=device, init=init)
    except (CleanpathError, RuntimeError) as error:  # memory of a processor that is used up is a plain RuntimeError
        say(f"no forecast: {(str(error) or type(error).__name__).splitlines()[0]}")
        return None


def data_of(experiment: Experiment, found: Forecast) -> dict[str, Any]:
    """The schema of `cleanpath forecast --json`: the forecast, and of what it is."""
    return {**found.to_data(), "experiment": settings.to_data(experiment)}
