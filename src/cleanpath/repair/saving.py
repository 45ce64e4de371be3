"""A mended network as a folder: its Python, its weights, the report. Nothing is overwritten.

model.py             `network()` builds it and loads the weights; plain torch where every layer is torch's own
weights.safetensors  all parameters and buffers, by the original's names
modules.pt           only where layers are of other packages: they are pickled, and those packages are needed
report.json report.md
"""

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from cleanpath.errors import UserError
from cleanpath.repair.fixed import Fixed
from cleanpath.repair.rewritten import CONTAINERS, Rewritten
from cleanpath.writing import write

_PLAIN = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Bilinear, nn.Embedding, nn.Identity, nn.Flatten),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
    *(nn.Softmax, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),
)
"""Layers whose own words are a call that makes them again."""
_HEAD = '''"""{title}

`network()` builds it and loads `weights.safetensors`, which stands beside this file. Written by cleanpath {version}.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
'''
_TAIL = '''

def network() -> nn.Module:
    """The network with its weights, in {mode} mode."""
    model = _built()
    held = load_file(str(Path(__file__).with_name("weights.safetensors")))
    model.load_state_dict({{name: held[SHARED.get(name, name)] for name in model.state_dict()}})
    return model{mode_call}
'''


def check_folder(folder: Path) -> None:
    """Refuse, before anything long, a folder that is there or cannot be made."""
    if folder.exists():
        raise UserError(f"--out {folder} exists; nothing is overwritten: give another name, or remove it")
    if not folder.parent.is_dir():
        raise UserError(f"--out {folder}: there is no folder {folder.parent}; make it first")


def save_folder(fixed: Fixed, folder: Path, batch: object, *, title: str, version: str) -> tuple[str, ...]:
    """Write the folder; what a reader of it needs beside torch.

    Raises `UserError` where the folder exists, or the network holds classes that no other process can import.
    """
    check_folder(folder)
    text, modules, needed = _python(fixed.model, title, version)
    weights, shared = _weights(fixed.model)
    told = f"SHARED = {shared!r}\n"
    image = batch[0] if isinstance(batch, tuple) and len(batch) == 1 else batch
    declared = isinstance(image, torch.Tensor) and image.dim() == 4
    size = tuple(image.shape[1:]) if declared and isinstance(image, torch.Tensor) else ()
    said = f"    model.default_cfg = {{'input_size': {size}, 'min_input_size': {size}}}\n" if declared else ""
    text = text.replace("\n\ndef network()", f"\n\n{told}\n\ndef network()").replace(
        "    return model.", f"{said}    return model."
    )
    folder.mkdir()
    if modules is not None:
        write(folder / "modules.pt", modules)
    write(folder / "weights.safetensors", save(weights))
    write(folder / "report.json", (json.dumps(fixed.to_data(), indent=1, allow_nan=False) + "\n").encode())
    write(folder / "report.md", f"# {title}\n\n```\n{fixed}\n```\n".encode())
    write(folder / "model.py", text.encode())
    return needed


def _weights(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name; those that several names share are stored once."""
    kept, shared, first = dict[str, torch.Tensor](), dict[str, str](), dict[tuple[int, int, tuple[int, ...]], str]()
    for name, value in model.state_dict().items():
        key = (value.data_ptr(), value.numel(), tuple(value.shape))
        if value.numel() and key in first:
            shared[name] = first[key]
            continue
        first[key] = name
        kept[name] = value.detach().cpu().contiguous()
    return kept, shared


def _python(model: nn.Module, title: str, version: str) -> tuple[str, bytes | None, tuple[str, ...]]:
    path, part = next(((n, m) for n, m in model.named_modules() if isinstance(m, Rewritten)), ("", None))
    head = _HEAD.format(title=title, version=version)
    tail = _TAIL.format(
        mode="training" if model.training else "evaluation", mode_call=".train()" if model.training else ".eval()"
    )
    if part is not None and not path and (lines := _built_by_hand(part)) is not None:
        made = ["def _built() -> nn.Module:", "    model = Network()", *lines, "    return model"]
        return f"{head}{_class(part)}\n\n\n" + "\n".join(made) + "\n" + tail, None, ()
    data, needed = _pickled(model, path, part)
    opening = '    model = torch.load(Path(__file__).with_name("modules.pt"), weights_only=False)'
    if part is None:
        body = ["def _built() -> nn.Module:", opening, "    return model"]
        return f"{head}\n\n" + "\n".join(body) + "\n" + tail, data, needed
    parent, _, name = path.rpartition(".")
    place = (
        "    return made"
        if not path
        else (f"    model.get_submodule({parent!r})._modules[{name!r}] = made\n    return model")
    )
    body = ["def _built() -> nn.Module:", opening, "    made = Network()"]
    body += [f"    inner = model.get_submodule({path!r})", "    made.__dict__.update(vars(inner))", place]
    return f"{head}{_class(part)}\n\n\n" + "\n".join(body) + "\n" + tail, data, needed


def _class(part: Rewritten) -> str:
    imports = [line for line in part.source.imports().splitlines() if line != "import torch"]
    lines = [f"    {line}".rstrip() for line in part.source.text.strip().splitlines()]
    space = "\n".join(imports)
    return (f"{space}\n" if space else "") + "\n\nclass Network(nn.Module):\n" + "\n".join(lines)


def _built_by_hand(part: nn.Module) -> list[str] | None:
    """Lines that make every module by a call of torch; None if one is of another kind."""
    lines, met = list[str](), dict[int, str]()
    for line in _lines(part, "model", met):
        if line is None:
            return None
        lines.append(f"    {line}")
    return lines


def _lines(module: nn.Module, name: str, met: dict[int, str]) -> Iterator[str | None]:
    met[id(module)] = name
    unsaved = module._non_persistent_buffers_set  # noqa: SLF001
    for key, value in module._parameters.items():  # noqa: SLF001
        made = f"nn.Parameter({_empty(value)}, requires_grad={value.requires_grad})" if value is not None else "None"
        yield f"{name}.register_parameter({key!r}, {made})"
    for key, buffer in module._buffers.items():  # noqa: SLF001
        if key in unsaved or buffer is None:
            yield None
        else:
            yield f"{name}.register_buffer({key!r}, {_empty(buffer)})"
    for key, child in module._modules.items():  # noqa: SLF001
        yield from _child(name, key, child, met)


def _child(name: str, key: str, child: nn.Module | None, met: dict[int, str]) -> Iterator[str | None]:
    inner = f"{name}.{key}" if key.isidentifier() else f"{name}.get_submodule({key!r})"
    if child is None or (child._parameters and not all(map(_trains_or_none, child._parameters.values()))):  # noqa: SLF001
        yield None
    elif id(child) in met:
        yield f"{name}._modules[{key!r}] = {met[id(child)]}"
    elif type(child) in _PLAIN and not _hooked(child):
        met[id(child)] = inner
        yield f"{name}._modules[{key!r}] = nn.{child}"
    elif type(child) in {nn.Module, *CONTAINERS}:
        yield f"{name}._modules[{key!r}] = nn.{type(child).__name__}()"
        yield from _lines(child, inner, met)
    else:
        yield None


def _trains_or_none(parameter: nn.Parameter | None) -> bool:
    return parameter is None or (parameter.requires_grad and parameter.dtype is torch.float32)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001


def _empty(tensor: torch.Tensor) -> str:
    return f"torch.zeros({tuple(tensor.shape)}, dtype={tensor.dtype})"


def _pickled(model: nn.Module, path: str, part: Rewritten | None) -> tuple[bytes, tuple[str, ...]]:
    """All modules, the rewritten one without its forward; the packages that their classes are of."""
    bare = nn.Module()
    if part is not None:
        kept = {key: value for key, value in vars(part).items() if key.startswith("_") and key != "_run"}
        bare.__dict__.update(kept, training=part.training)
    whole: Any = model
    parent = None
    if path:
        parent, name = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        parent._modules[name] = bare  # noqa: SLF001 (put back below)
    elif part is not None:
        whole = bare
    try:
        classes = {type(one) for one in whole.modules()}
        alone = [one for one in classes if one.__module__.startswith(("_cleanpath_target", "__main__"))]
        if alone:
            raise UserError(
                f"{alone[0].__qualname__} is a class of a script, which no other process can import, and its forward "
                "could not be read; put it into a package, or use `cleanpath.fix` in Python"
            )
        held = io.BytesIO()
        torch.save(whole, held)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(f"the network cannot be written to a file: {error}") from error
    finally:
        if parent is not None:
            parent._modules[path.rpartition(".")[2]] = part  # noqa: SLF001
    return held.getvalue(), tuple(sorted({one.__module__.partition(".")[0] for one in classes} - {"torch"}))
