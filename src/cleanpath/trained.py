"""What a finished run is good for: its network, what it says of images, how good it is, and files for elsewhere."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from cleanpath import devices, networks, settings
from cleanpath.data.decode import BrokenImageError
from cleanpath.data.images import Split
from cleanpath.data.photographs import OnDisk
from cleanpath.data.preparation import Preparation
from cleanpath.data.sources import load as load_images
from cleanpath.errors import RunError, SettingError, UserError
from cleanpath.experiment import Experiment, Training
from cleanpath.records import Run
from cleanpath.targeting.seeded import seeded
from cleanpath.training.evaluation import outputs
from cleanpath.training.fused import AUTO, PLAIN, Kernels, chosen

_BATCH = 64
_LARGE = 320 / 224
_FIVE = 5
_BINS = 15
_Z = 1.959963984540054
"""Of a two-sided interval of 95%."""
_COMPARED = 8
_OPSET = 20


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network with its weights, how images are made ready for it, and the names of its classes."""

    run: Run
    network: nn.Module
    preparation: Preparation
    classes: tuple[str, ...]
    kernels: Kernels = PLAIN

    def on(self, device: torch.device, asked: str = AUTO) -> "Trained":
        """With the network on a device, and on the kernels that are `asked` for: auto, plain or fused.

        Raises `SettingError` where `fused` cannot be had.
        """
        found, network = chosen(asked, Training(epochs=1), device, threads=torch.get_num_threads()), self.network
        return replace(self, network=network.to(device), kernels=found.fitting(network))


def load(run: str | Path | Run) -> nn.Module:
    """The network of a finished run with its weights, in eval mode.

    Raises `RunError` if the run has not finished or its weights are damaged.
    """
    return trained(run).network


def trained(run: str | Path | Run) -> Trained:
    """Everything about a finished run. Raises `RunError` as `load` does."""
    run = run if isinstance(run, Run) else Run(Path(run))
    experiment = run.experiment
    result = run.result
    if result is None or result["status"] != "finished":
        raise RunError(f"{run.folder} is {run.status} and has no final weights; train it to its end")
    data = run.weights.read_bytes() if run.weights.is_file() else b""
    if sha256(data).hexdigest() != result["weights_sha256"]:
        raise RunError(f"{run.weights} is damaged: its SHA-256 is not the one that the run recorded; train again")
    network = _with(load_tensors(data), experiment)
    try:
        with safe_open(str(run.preparation), framework="pt") as file:
            words = file.metadata()
            prepared = Preparation.back({name: file.get_tensor(name) for name in ("mean", "std")}, words["preparation"])
            classes = tuple(json.loads(words["classes"]))
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{run.preparation} is missing or damaged ({error}); train again") from None
    return Trained(run=run, network=network, preparation=prepared, classes=classes)


def _with(weights: Mapping[str, Tensor], experiment: Experiment) -> nn.Module:
    with seeded(experiment.seed):
        network = networks.build(experiment.network, seed=experiment.seed)
    network.load_state_dict(weights)
    return network.eval()


def evaluation(found: Trained, data: str | None = None, view: str = "middle") -> dict[str, Any]:
    """Error with its interval, per class, confusion matrix and calibration on the held-out images of a data set.

    For photographs, `view` is the `middle` (224 of 256 pixels), `large` (the whole shorter side at 320, the paper's
    Section 5) or `ten` (ten crops of 224, whose probabilities are averaged: the first paper, Section 3.4).
    """
    experiment = found.run.experiment
    wanted = experiment.data if data is None else settings.override(experiment, [f"data.name={data}"]).data
    images = load_images(replace(wanted, augment="none"))
    if images.classes != found.classes:
        raise SettingError(
            f"{wanted.name} has the classes {_few(images.classes)}, the run learnt {_few(found.classes)}; "
            "give data with the same classes"
        )
    if images.preparation.side != found.preparation.side or images.channels != found.preparation.channels:
        raise SettingError(f"{wanted.name} has images of {images.side} pixels, the run takes {found.preparation.side}")
    device = devices.of(found.network)
    with devices.exact(device):
        pairs = list(_seen(found.network, images.on(device).held_out, view, found.kernels))
    logits, labels = torch.cat([one for one, _ in pairs]).cpu(), torch.cat([two for _, two in pairs]).cpu()
    guesses = logits.argmax(dim=1)
    wrong, count, most = int((guesses != labels).sum()), len(labels), len(found.classes)
    confusion = torch.bincount(labels * most + guesses, minlength=most * most).reshape(most, most)
    low, high = wilson(wrong, count)
    top5 = int((logits.topk(min(_FIVE, most), dim=1).indices == labels[:, None]).sum())
    return {
        "schema": "cleanpath.evaluation",
        "version": 1,
        "run": str(found.run.folder),
        "data": wanted.name,
        "view": view,
        "pixels": found.preparation.side if view != "large" else _large(found.preparation).side,
        "images": count,
        "kernels": str(found.kernels),
        "error": 100 * wrong / count,
        "interval": [100 * low, 100 * high],
        "top5_error": 100 * (1 - top5 / count) if most > _FIVE else None,
        "loss": float(functional.cross_entropy(logits, labels)),
        "calibration_error": calibration_error(logits, labels),
        "classes": list(found.classes),
        "class_errors": [
            100 * (1 - int(row[at]) / int(row.sum())) if row.sum() else None for at, row in enumerate(confusion)
        ],
        "confusion": confusion.tolist(),
    }


def _seen(network: nn.Module, split: Split, view: str, kernels: Kernels) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of a split, seen as `view` says."""
    device = devices.of(network)
    if view == "middle":
        yield from outputs(network, split, kernels=kernels)
        return
    if not isinstance(split, OnDisk):
        raise SettingError(f"--view {view} is for photographs of more than 64 pixels; these are small: use middle")
    if view == "large":
        large = replace(split, preparation=_large(split.preparation))
        few, usual = (each.plain(torch.arange(1)).to(device) for each in (large, split))
        networks.check_logits(network, few, network(usual).shape[1])
        yield from outputs(network, large, kernels=kernels)
        return
    with torch.inference_mode(), kernels.of(network)():
        for indices in torch.split(torch.arange(len(split.labels)), _BATCH // 8):
            crops = split.ten(indices).to(device)
            shares = network(crops.flatten(0, 1)).softmax(dim=1).unflatten(0, crops.shape[:2]).mean(dim=1)
            yield shares.log(), split.labels[indices].to(device)


def _large(preparation: Preparation) -> Preparation:
    """320 pixels for networks of 224, and nothing cut off the shorter side."""
    return replace(preparation, side=round(preparation.side * _LARGE), border=0.0)


def wilson(wrong: int, count: int) -> tuple[float, float]:
    """The interval of 95% of a share (Wilson 1927)."""
    share, z2 = wrong / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Mean distance of confidence and accuracy over 15 bins of confidence (Guo et al. 2017)."""
    confidence, guesses = logits.softmax(dim=1).max(dim=1)
    right = (guesses == labels).double()
    place = (confidence * _BINS).long().clamp(max=_BINS - 1)
    gaps = [abs(float((right[at] - confidence[at].double()).sum())) for at in (place == b for b in range(_BINS))]
    return sum(gaps) / len(labels)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are given, and all files below folders. Raises `UserError` for what is not there."""
    found = list[Path]()
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"no file or folder {path}")
    return found


def predictions(found: Trained, files: Sequence[Path], most: int) -> Iterator[dict[str, Any]]:
    """For every file the likeliest classes with their probabilities, or why it cannot be read; batch by batch."""
    device, ours = devices.of(found.network), found.kernels.of(found.network)
    for start in range(0, len(files), _BATCH):
        good, bad, ready = list[Path](), dict[Path, str](), list[Tensor]()
        for path in files[start : start + _BATCH]:
            try:
                ready.append(found.preparation.of_files([path]))
                good.append(path)
            except BrokenImageError as error:
                bad[path] = str(error)
        with torch.inference_mode(), devices.exact(device), ours():
            shares = found.network(torch.cat(ready).to(device)).softmax(dim=1).cpu() if ready else torch.empty(0, 1)
        top = {path: row.topk(min(most, len(row))) for path, row in zip(good, shares, strict=True)}
        for path in files[start : start + _BATCH]:
            if path in bad:
                yield {"file": str(path), "broken": bad[path]}
                continue
            values, places = top[path]
            named = zip(places.tolist(), values.tolist(), strict=True)
            yield {
                "file": str(path),
                "classes": [{"name": found.classes[at], "probability": share} for at, share in named],
            }


def export(found: Trained, form: str, target: Path) -> dict[str, Any]:
    """Write the network as a file for elsewhere, open it again, and compare both on held-out images.

    The file describes how images are made ready and names the classes.
    """
    if target.exists():
        raise UserError(f"{target} is there already; nothing was overwritten, choose another --out")
    images = load_images(replace(found.run.experiment.data, augment="none")).held_out
    x = images.plain(torch.arange(min(_COMPARED, len(images.labels))))
    with torch.inference_mode():
        expected = found.network(x)
    words = {
        "preparation": found.preparation.words(),
        "mean": json.dumps(found.preparation.mean.flatten().tolist()),
        "std": json.dumps(found.preparation.std.flatten().tolist()),
        "classes": json.dumps(list(found.classes)),
        "input": json.dumps(["N", *x.shape[1:]]),
        "network": json.dumps(settings.to_data(found.run.experiment)["network"]),
    }
    network, folded = (found.network, 0) if form == "safetensors" else _folded(found.network)
    again = _FORMS[form](replace(found, network=network), x, target, words)
    return {
        "schema": "cleanpath.export",
        "version": 1,
        "run": str(found.run.folder),
        "format": form,
        "file": str(target),
        "bytes": target.stat().st_size,
        "norms_folded": folded,
        "norms_left": sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()),
        "compared_images": len(x),
        "largest_difference": float((again - expected).abs().max()),
    }


def _folded(network: nn.Module) -> tuple[nn.Module, int]:
    """The network with every BN that directly follows a convolution folded into it, and how many those were.

    Of a pre-activation unit the first BN reads the sum and stays. A network that `torch.fx` cannot trace stays whole.
    """
    from torch.fx.experimental.optimization import fuse  # torch 2.11 warns of what this loads

    try:
        folded = fuse(network)
    except Exception:  # noqa: BLE001 (foreign code with control flow; it is exported as it is)
        return network, 0
    before, after = (sum(isinstance(m, nn.BatchNorm2d) for m in n.modules()) for n in (network, folded))
    return folded.to(memory_format=torch.channels_last), before - after


def _safetensors(found: Trained, x: Tensor, target: Path, words: dict[str, str]) -> Tensor:
    save_file({name: value.contiguous() for name, value in found.network.state_dict().items()}, target, words)
    with torch.inference_mode():
        return _with(load_tensors(target.read_bytes()), found.run.experiment)(x)  # type: ignore[no-any-return]


def _onnx(found: Trained, x: Tensor, target: Path, words: dict[str, str]) -> Tensor:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'cleanpath[export]'") from None
    batch = torch.export.Dim("N")
    program = torch.onnx.export(
        found.network,
        (x,),
        dynamo=True,
        opset_version=_OPSET,
        dynamic_shapes=({0: batch},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for key, value in words.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(target))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": x.contiguous().numpy()})[0])


def _torch_export(found: Trained, x: Tensor, target: Path, words: dict[str, str]) -> Tensor:
    batch = torch.export.Dim("N")
    program = torch.export.export(found.network, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, target, extra_files={f"{key}.json": value for key, value in words.items()})
    with torch.inference_mode():
        return torch.export.load(target).module()(x)  # type: ignore[no-any-return]


_FORMS = {"safetensors": _safetensors, "onnx": _onnx, "torch-export": _torch_export}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
