"""Where the streets meet: an experiment becomes a network, images and a trained run."""

import hashlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import cleanpath
from cleanpath.data.sources import load
from cleanpath.errors import NonFiniteError, Request, SettingError, Stopped, UserError
from cleanpath.experiment import Data, Experiment, Training
from cleanpath.keeping import SECONDS_BETWEEN, RunKeeper
from cleanpath.nn import catalog, resnet
from cleanpath.records import Run, Writer
from cleanpath.targeting import weights
from cleanpath.training.loop import train
from cleanpath.training.progress import Progress
from cleanpath.training.schedule import length

# A side of which 1/32 is left behind the stem and four stages.
_LEAST_IMAGENET_SIDE = 32
_LIBRARIES = ("torch", "numpy", "scikit-learn")


def build(name: str, **settings: Any) -> resnet.ResNet:
    """A network of the catalog by name, as an ordinary `nn.Module` in training mode.

    Settings replace fields of `cleanpath.Network`: `build("preresnet164", num_classes=100)`,
    `build("resnet110", shortcut=Shortcut(kind="scaling", scale=0.5))`. Weights start as the paper says, drawn from
    torch's global generator.

    Raises `UnknownNameError` or `SettingError` with the nearest valid values.
    """
    return resnet.build(catalog.network(name, **settings))


def fitted_to(experiment: Experiment) -> Experiment:
    """The experiment with the network's channels and classes those of its data."""
    images = load(experiment.data)
    network = replace(experiment.network, in_channels=images.channels, num_classes=len(images.classes))
    return replace(experiment, network=network)


def run(  # noqa: PLR0913 (keyword options)
    experiment: Experiment,
    folder: Path,
    *,
    threads: int,
    on_step: Callable[[Progress], None] | None = None,
    request: Request | None = None,
    loaders: int = 0,
    seconds_between: float = SECONDS_BETWEEN,
    init: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Train an experiment to its last iteration, from where an earlier try stopped, and record it in `folder`.

    `init` is the file of weights that the experiment begins with, if it names one.
    It is saved every `seconds_between`. A `request` to stop is obeyed after the current step: the run is saved, and
    `Stopped` raised. A run that diverges
    ends too, with that as its result. torch's random state and number of threads are as before afterwards.
    """
    check(experiment)
    images = load(experiment.data)
    with (
        _threads(threads),
        torch.random.fork_rng(devices=[]),
        Writer(folder, experiment, environment(threads), resume=True) as writer,
    ):
        try:
            torch.manual_seed(experiment.seed)
            network = resnet.build(experiment.network)
            if init is not None:
                say(begin_with(network, init))
            network = network.to(memory_format=torch.channels_last)
            result = train(
                network,
                images,
                experiment.training,
                seed=experiment.seed,
                record=writer.append,
                on_step=on_step,
                keeper=RunKeeper(writer, request or Request(), seconds_between=seconds_between, say=say),
                loaders=loaders,
            )
            digest = writer.save_weights(save({k: v.contiguous() for k, v in network.state_dict().items()}))
            words = {"preparation": images.preparation.words(), "classes": json.dumps(list(images.classes))}
            writer.save_preparation(save(images.preparation.tensors(), metadata=words))
            writer.finish({"status": "finished", **result, "weights_sha256": digest, "peak_memory": peak_memory()})
        except NonFiniteError as error:
            writer.finish({"status": "diverged", "reason": str(error), "iterations": error.iteration - 1})
        except (Stopped, BrokenPipeError):
            raise  # nobody waits for this run any more: it counts as interrupted, not as failed
        except Exception as error:
            writer.fail(f"{type(error).__name__}: {error}")
            if isinstance(error, RuntimeError) and "allocate memory" in str(error):
                raise UserError(
                    f"not enough memory: {str(error).splitlines()[0]}; use a smaller network or batch"
                ) from error
            raise
    return writer.run


def fit(
    model: torch.nn.Module,
    training: Training,
    data: Data | None = None,
    *,
    seed: int = 0,
    on_step: Callable[[Progress], None] | None = None,
) -> dict[str, float | int]:
    """Train any module in place as `training` says, without a run folder; the last iteration's errors and losses.

    The model takes the data's images, (N, C, H, W), and gives logits, (N, classes). Weights are as they come; the
    order of images and their augmentation come from `seed`.

    Raises `SettingError` for a model that does not fit the data, `NonFiniteError` before the step in which a loss or a
    gradient is not finite.
    """
    images = load(data or Data())
    few = images.train.plain(torch.arange(2))
    flags = {module: module.training for module in model.modules()}
    try:
        with torch.inference_mode():
            logits = model.eval()(few)
    except RuntimeError as error:
        raise SettingError(f"the model does not take images of {tuple(few.shape[1:])}: {error}") from None
    finally:
        for module, flag in flags.items():
            module.training = flag
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, len(images.classes)):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise SettingError(f"the model gives {found} for 2 images; logits of {len(images.classes)} classes are needed")
    return train(model, images, training, seed=seed, record=lambda _: None, on_step=on_step)


def weights_of(run_or_file: Path) -> tuple[Path, str]:
    """A finished run's weights, or a file of them, and the start of its SHA-256. Raises `UserError`."""
    path = Run(run_or_file).weights if run_or_file.is_dir() else run_or_file
    if not path.is_file():
        raise UserError(f"--init {run_or_file}: there are no weights; give a finished run, or a file of weights")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def begin_with(network: torch.nn.Module, path: Path) -> str:
    """Fill a network with weights of another; the last layer stays as drawn where its shape differs.

    Raises `UserError` if anything else differs: nothing is half loaded.
    """
    found, own = weights.read(path), network.state_dict()
    head = {name for name in own if name.startswith("head.linear.")}
    fresh = {name for name in head if name not in found or found[name].shape != own[name].shape}
    fresh = head if fresh else fresh
    wrong = [n for n in own if n not in fresh and (n not in found or found[n].shape != own[n].shape)]
    wrong += [name for name in found if name not in own]
    if wrong:
        raise UserError(
            f"{path} does not fit: {wrong[0]}{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''} differ; "
            "the network must be the one that the weights are of, but for its classes"
        )
    network.load_state_dict({name: value for name, value in found.items() if name not in fresh}, strict=False)
    return f"begins with {path}" + (", its last layer with weights of its own" if fresh else "")


def check(experiment: Experiment) -> None:
    """Raise what is wrong with an experiment before anything is written: names, sizes, lengths."""
    images = load(experiment.data)
    network = experiment.network
    if (network.in_channels, network.num_classes) != (images.channels, len(images.classes)):
        raise SettingError(
            f"{experiment.data.name} has images of {images.channels} channels in {len(images.classes)} classes, "
            f"the network takes {network.in_channels} and gives {network.num_classes}; "
            "set network.in_channels and network.num_classes"
        )
    side = images.side
    if network.layout == "imagenet" and side < _LEAST_IMAGENET_SIDE:
        raise SettingError(
            f"{network.depth} is an ImageNet network, whose stem shrinks images of {side}×{side} pixels to nothing; "
            "use a network for small images, such as preresnet20"
        )
    length(experiment.training, len(images.train.labels))
    with torch.device("meta"):
        resnet.build(network)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(experiment: Experiment, *, threads: int) -> tuple[float, int]:
    """Seconds that a run of the experiment takes, from a few steps of it, and this process's peak memory in bytes."""
    steps = 5
    images = load(experiment.data)
    moments: list[float] = []

    def on_step(progress: Progress) -> None:  # noqa: ARG001
        moments.append(time.perf_counter())

    with _threads(threads), torch.random.fork_rng(devices=[]):
        network = resnet.build(experiment.network).to(memory_format=torch.channels_last)
        short = replace(experiment.training, iterations=steps, epochs=None, warmup=0)
        moments.append(time.perf_counter())
        train(network, images, short, seed=0, record=lambda _: None, on_step=on_step)
    took = [later - sooner for sooner, later in pairwise(moments)]
    step = statistics.median(took[1:-1])  # the first warms up, the last contains an evaluation
    evaluation = max(0.0, took[-1] - step)
    count = len(images.train.labels)
    total = length(experiment.training, count)
    epochs = math.ceil(total * experiment.training.batch_size / count)
    of_training_images = evaluation * count / len(images.held_out.labels)
    return total * step + epochs * evaluation + of_training_images, peak_memory()


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def environment(threads: int) -> dict[str, Any]:
    """What a run's numbers may depend on besides the experiment: versions, threads, processor."""
    return {
        "cleanpath": cleanpath.__version__,
        "python": platform.python_version(),
        **{library: metadata.version(library) for library in _LIBRARIES},
        "threads": threads,
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
