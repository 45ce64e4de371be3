"""Where the streets meet: an experiment becomes a network, images and a trained run."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

import cleanpath
from cleanpath import devices, networks, settings
from cleanpath.allocator import hand_back
from cleanpath.checkout import commit
from cleanpath.data.images import Images
from cleanpath.data.sources import load
from cleanpath.errors import KernelsError, NonFiniteError, Request, RunError, SettingError, Stopped, UserError
from cleanpath.experiment import Data, Experiment, Network, Training
from cleanpath.keeping import SECONDS_BETWEEN, RunKeeper, checkpoints
from cleanpath.machine import peak_memory, processor
from cleanpath.nn import catalog, checking, own, resnet
from cleanpath.records import Run, Writer, gone_on, numeric
from cleanpath.targeting import weights
from cleanpath.training import fused, optimizers, recompute
from cleanpath.training.keeper import SharedKeeper
from cleanpath.training.loop import train
from cleanpath.training.progress import Callback
from cleanpath.training.ranks import ALONE, Ranks, lost
from cleanpath.training.schedule import length

# A side of which 1/32 is left behind the stem and four stages.
_LEAST_IMAGENET_SIDE = 32
_NO_MEMORY = "allocate memory"  # what torch says of the processor's
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
    callbacks: Sequence[Callback] = (),
    request: Request | None = None,
    loaders: int = 0,
    seconds_between: float = SECONDS_BETWEEN,
    init: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    ranks: Ranks = ALONE,
    device: torch.device = devices.CPU,
    kernels: str = fused.AUTO,
) -> Run:
    """Train an experiment to its last iteration, from where an earlier try stopped, and record it in `folder`.

    `init` is the file of weights that the experiment begins with, if it names one. The run is saved every
    `seconds_between`. A `request` to stop is obeyed after the current step: the run is saved, and `Stopped` raised. A
    run that diverges ends too, with that as its result. torch's random state and number of threads are as before
    afterwards. Of several `ranks` the first one alone writes and speaks.

    `kernels` are `auto`, `plain` or `fused`; a run that goes on keeps to those that it began with.

    Raises `RankLostError` if another rank is gone or does not answer, `RunError` if the run's kernels cannot be had.
    """
    check(experiment)
    devices.check(device, experiment.training.precision)
    images = load(experiment.data)
    ranks.same("experiment", settings.digest(experiment))
    ranks.same("images", _sample(images))
    if not ranks.leads:
        callbacks, say = (), lambda _: None
    request = request or Request()
    with (
        threads_of_torch(threads),
        devices.forked(device),
        ExitStack() as stack,
        _ending(callbacks),
    ):
        path = fused.PLAIN  # as of several ranks

        def opened() -> Writer:
            nonlocal path
            begun = Run(folder)
            before = begun.environment if checkpoints(begun) else {}
            found = environment(threads, ranks.count, device)
            path = _kernels_of(folder, before, found, kernels, experiment.training, device)
            found["kernels"] = str(path)
            differing = _what_differs(before, found)
            writer = stack.enter_context(Writer(folder, experiment, gone_on(found, before), resume=True))
            for told in differing:
                say(told)
            return writer

        # The others do not look at a folder that is being written.
        writer = ranks.led(opened)
        kept = None
        if writer is not None:
            callbacks = (_Lines(writer), *callbacks)
            kept = RunKeeper(writer, request, seconds_between=seconds_between, say=say)
        keeper = kept if ranks.count == 1 else SharedKeeper(ranks, kept, request, experiment.seed)
        with _recorded(writer):
            torch.manual_seed(experiment.seed)
            network = networks.build(experiment.network, seed=experiment.seed)
            if init is not None:
                say(begin_with(network, init))
            network = network.to(device)
            if path.fitting(network) != path:
                path = _without_layers(kernels)
                if writer is not None:
                    writer.note(kernels=str(path))
            result = train(
                network,
                images,
                experiment.training,
                seed=experiment.seed,
                callbacks=callbacks,
                keeper=keeper,
                loaders=loaders,
                ranks=ranks,
                kernels=path,
            )
            if writer is not None:
                _finish(writer, network, images, result)
    return Run(folder)


@contextmanager
def _recorded(writer: Writer | None) -> Iterator[None]:
    """Have the run say how it ended if not well; one that diverged has come to its end."""
    try:
        yield
    except NonFiniteError as error:
        if writer is not None:
            writer.finish({"status": "diverged", "reason": str(error), "iterations": error.iteration - 1})
    except (Stopped, BrokenPipeError):
        raise  # nobody waits for this run any more: it counts as interrupted, not as failed
    except Exception as error:
        if isinstance(error, RuntimeError) and lost(error):
            raise  # another process is gone: interrupted as well
        if writer is not None:
            writer.fail(f"{type(error).__name__}: {error}")
        if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error)):
            raise UserError(
                f"not enough memory: {str(error).splitlines()[0]}; use a smaller network or batch"
            ) from error
        raise


def _finish(writer: Writer, network: torch.nn.Module, images: Images, result: Mapping[str, Any]) -> None:
    digest = writer.save_weights(save({k: v.cpu().contiguous() for k, v in network.state_dict().items()}))
    words = {"preparation": images.preparation.words(), "classes": json.dumps(list(images.classes))}
    writer.save_preparation(save(images.preparation.tensors(), metadata=words))
    writer.finish({"status": "finished", **result, "weights_sha256": digest, **_memory(network)})


def _memory(network: torch.nn.Module) -> dict[str, int]:
    return {"peak_memory": peak_memory(), **devices.peak_memory(devices.of(network))}


def _sample(images: Images) -> str:
    """What tells one data set from another: its labels, and its first images."""
    few = images.train.plain(torch.arange(min(8, len(images.train.labels))))
    parts = (images.train.labels, images.held_out.labels, few)
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()


def fit(
    model: torch.nn.Module,
    training: Training,
    data: Data | None = None,
    *,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    kernels: str = fused.AUTO,
) -> dict[str, float | int]:
    """Train any module in place as `training` says, without a run folder; the last iteration's errors and losses.

    It is trained where it is: on a GPU after `model.cuda()`.

    The model takes the data's images, (N, C, H, W), and gives logits, (N, classes). Weights are as they come; the
    order of images and their augmentation come from `seed`. On the processor a model in channels_last is trained on our
    own `kernels` where they have its layers; "plain" has torch's alone.

    Raises `SettingError` for a model that does not fit the data, `NonFiniteError` before the step in which a loss or a
    gradient is not finite.
    """
    images, device = load(data or Data()), devices.of(model)
    devices.check(device, training.precision)
    networks.check_logits(model, images.train.plain(torch.arange(2)).to(device), len(images.classes))
    with _ending(callbacks):
        path = fused.chosen(kernels, training, device, threads=torch.get_num_threads())
        return train(model, images, training, seed=seed, callbacks=callbacks, kernels=path)


class _Lines(Callback):
    """Writes the lines of a run's metrics."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def measured(self, line: Mapping[str, float | int]) -> None:
        self._writer.append(line)


@contextmanager
def _ending(callbacks: Sequence[Callback]) -> Iterator[None]:
    """Tell the callbacks at the end, and give back the memory that a training on the processor has kept."""
    try:
        yield
    finally:
        hand_back()
        for each in callbacks:
            each.ended()


def _kernels_of(
    folder: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    asked: str,
    training: Training,
    device: torch.device,
) -> fused.Kernels:
    """What a run is trained on. Raises `RunError` where that would not be what it began with.

    On other devices or in other processes than `before` it is free: its last bits are others anyhow.
    """
    then, here = numeric(before) if before else {}, numeric(now)
    alike = all(then.get(key) == here[key] for key in ("processes", "device"))
    begun = then["kernels"].split()[0] if alike else ""
    if asked not in (fused.AUTO, begun or asked):
        raise RunError(
            f"{folder} was begun on {begun} kernels, and its bits would be others with --kernels {asked}; "
            "leave that out, or train the run anew with --fresh"
        )
    try:
        return fused.chosen(begun or asked, training, device, threads=here["threads"], processes=here["processes"])
    except SettingError as error:
        if not begun:
            raise
        raise KernelsError(
            f"{folder} was begun on fused kernels, and its bits would be others with plain ones. {error}: "
            "not for this run, unless it is trained anew with --fresh"
        ) from None


def _without_layers(asked: str) -> fused.Kernels:
    """Of a network with none of the layers of our kernels: torch's, unless ours are asked for."""
    if asked == fused.FUSED:
        raise SettingError(
            "no fused kernels: the network has no norm or convolution in an nn.Sequential that they could compute; "
            "leave --kernels out"
        )
    return fused.PLAIN


def _what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a run that goes on does not share with its earlier part, though bits depend on it."""
    found = numeric(now)
    return [
        f"{key} was {value} and is now {found[key]}: the run goes on, its last bits may differ"
        for key, value in (numeric(before) if before else {}).items()
        if value != found.get(key, value)
    ]


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
    found, own = weights.named_as(network, weights.read(path)), network.state_dict()
    last = optimizers.last_layer(network)
    head = {name for name, module in network.named_modules() if module is last}
    head = {f"{name}.{each}".lstrip(".") for name in head for each in last.state_dict()}
    fresh = {name for name in head if name not in found or found[name].shape != own[name].shape}
    fresh = head if fresh else fresh
    wrong = [
        name
        for name in own
        if name not in fresh
        and not (name.endswith("num_batches_tracked") and name not in found)  # files older than the counter
        and (name not in found or found[name].shape != own[name].shape)
    ]
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
    if isinstance(network, Network) and network.layout == "imagenet" and side < _LEAST_IMAGENET_SIDE:
        raise SettingError(
            f"{network.depth} is an ImageNet network, whose stem shrinks images of {side}×{side} pixels to nothing; "
            "use a network for small images, such as preresnet20"
        )
    length(experiment.training, len(images.train.labels))
    foreign = not isinstance(network, Network) or own.is_own(network.shortcut.kind)
    if isinstance(network, Network):
        own.check_recorded(network)
        with torch.device("meta"):
            built: torch.nn.Module = resnet.build(network)
    if foreign:
        few = images.train.plain(torch.arange(2))
        with torch.random.fork_rng(devices=[]):
            built = networks.build(network, seed=experiment.seed)
            if isinstance(network, Network) and isinstance(built, resnet.ResNet):
                checking.check_units(network, built, few)
            for training in (False, True):
                networks.check_logits(built, few, len(images.classes), training=training)
    if experiment.training.memory == "recompute":
        recompute.check(built)
    optimizers.check(built, experiment.training)


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """So many threads while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(threads: int, processes: int = 1, device: torch.device = devices.CPU) -> dict[str, Any]:
    """What a run's numbers may depend on besides the experiment: versions, threads, processes, processor, GPU.

    With the commit of cleanpath where it runs from a checkout.
    """
    return {
        "cleanpath": cleanpath.__version__,
        **({"commit": commit()} if commit() else {}),
        "python": platform.python_version(),
        **{library: metadata.version(library) for library in _LIBRARIES},
        "threads": threads,
        **({"processes": processes} if processes > 1 else {}),
        **devices.described(device),
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
