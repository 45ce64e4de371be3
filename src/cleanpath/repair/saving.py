"""A mended network as a folder: its Python, its weights, the report. Nothing is overwritten.

model.py             `network()` builds it and loads the weights; plain torch where every layer is torch's own
weights.safetensors  all parameters and buffers, by the original's names
modules.pt           only where layers are of other packages: they are pickled, and those packages are needed
report.json report.md

What was written is loaded and compared, bit for bit, before it gets its name.
"""

import copy
import io
import json
import os
import pickle
import runpy
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cleanpath.devices import of
from cleanpath.errors import UserError
from cleanpath.repair.captured import capture, home_of
from cleanpath.repair.comparing import outputs_of, same_numbers
from cleanpath.repair.fixed import Fixed
from cleanpath.repair.rebuilt import lines_of
from cleanpath.repair.rewritten import Rewritten
from cleanpath.repair.tracing import UnreadableError
from cleanpath.writing import write

_HEAD = '''"""A network that cleanpath {version} has mended: TITLE says which.

`network()` builds it and loads `weights.safetensors`, which stands beside this file.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
'''
_TAIL = '''

TITLE = {title!r}
SHARED = {shared!r}
OTHER_MODE = {other_mode!r}


def network() -> nn.Module:
    """The network with its weights, in {mode} mode; the modules of OTHER_MODE are in the other one."""
    model = _built()
    held = load_file(str(Path(__file__).with_name("weights.safetensors")))
    model.load_state_dict({{name: held[SHARED.get(name, name)] for name in model.state_dict()}})
{declared}{laid}    model.train({training})
    for name in OTHER_MODE:
        model.get_submodule(name).training = {other}
    return model
'''
_DECLARED = """    # The size of an image, by the name that timm gives it: `cleanpath audit` reads there what to feed.
    model.default_cfg = {{'input_size': {size}, 'min_input_size': {size}}}
"""
_SCRIPTS = ("_cleanpath_target", "__main__")
"""How modules begin that no other process can import."""


def check_folder(folder: Path) -> None:
    """Refuse, before anything long, a folder that is there or cannot be made."""
    if folder.exists():
        raise UserError(f"--out {folder} exists; nothing is overwritten: give another name, or remove it")
    if not folder.parent.is_dir():
        raise UserError(f"--out {folder}: there is no folder {folder.parent}; make it first")


@dataclass(frozen=True)
class _Written:
    """How a network is built again."""

    body: str
    """The class and `_built`."""
    modules: bytes | None = None
    """What modules.pt holds."""
    needed: tuple[str, ...] = ()


def save_folder(fixed: Fixed, folder: Path, batch: object, *, title: str, version: str) -> tuple[str, ...]:
    """Write the folder; what a reader of it needs beside torch.

    Raises `UserError` where the folder exists, the network holds classes that no other process can import, or what
    was written does not compute the same.
    """
    check_folder(folder)
    title = " ".join(title.split())
    model = _readable(fixed, batch)
    weights, shared = _weights(model)
    ended = _HEAD.format(version=version), _tail(model, batch, shared, title)
    why = ""
    for written in _ways(model):
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            scratch.mkdir()
            if written.modules is not None:
                write(scratch / "modules.pt", written.modules)
            write(scratch / "weights.safetensors", save(weights))
            write(scratch / "model.py", f"{ended[0]}{written.body}\n{ended[1]}".encode())
            why = _difference(model, scratch, batch)
            if why:
                continue
            write(scratch / "report.json", (json.dumps(fixed.to_data(), indent=1, allow_nan=False) + "\n").encode())
            write(scratch / "report.md", f"# {title}\n\n```\n{fixed}\n```\n".encode(errors="replace"))
            check_folder(folder)
            scratch.rename(folder)
        except OSError as error:
            raise UserError(f"--out {folder} cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return written.needed
    raise UserError(f"the network cannot be saved: {why}; use `cleanpath.fix` in Python")


def _readable(fixed: Fixed, batch: object) -> nn.Module:
    """The network; where only its weights were changed and its classes are a script's, read as a graph."""
    kinds = {type(module) for module in fixed.model.modules()}
    if Rewritten in kinds or not _of_scripts((one.__module__, one.__qualname__) for one in kinds):
        return fixed.model
    try:
        return capture(fixed.model, batch, [home_of(unit) for unit in fixed.after.units], 0).model()
    except UnreadableError as error:
        name = _of_scripts((one.__module__, one.__qualname__) for one in kinds)
        raise UserError(f"{_script(name)}, and its forward cannot be read: {error}; {_INSTEAD}") from error


_INSTEAD = "put it into a package, or use `cleanpath.fix` in Python"


def _of_scripts(places: Iterable[tuple[str, str]]) -> str:
    """The first name that stands in a script or in a function; empty if none does."""
    there = ((module.startswith(_SCRIPTS) or "<locals>" in name, name) for module, name in sorted(places))
    return next((name for unreachable, name in there if unreachable), "")


def _script(name: str) -> str:
    where = "function" if "<locals>" in name else "script"
    return f"{name} is a class of a {where}, which no other process can import"


def _packages(modules: Iterable[str]) -> tuple[str, ...]:
    """The packages of modules, without torch and what Python brings."""
    roots = {module.partition(".")[0] for module in modules}
    return tuple(sorted(roots - {"torch", "safetensors", *sys.stdlib_module_names}))


def _weights(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name; those that several names share are stored once."""
    kept, shared, first = dict[str, Tensor](), dict[str, str](), dict[tuple[Any, ...], str]()
    for name, value in model.state_dict().items():
        key = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and key in first:
            shared[name] = first[key]
            continue
        first[key] = name
        kept[name] = value.detach().cpu().contiguous().clone()
    return kept, shared


def _tail(model: nn.Module, batch: object, shared: dict[str, str], title: str) -> str:
    image = batch[0] if isinstance(batch, tuple) and len(batch) == 1 else batch
    channels_last = any(
        one.is_contiguous(memory_format=torch.channels_last) and not one.is_contiguous()
        for one in model.parameters()
        if one.dim() == 4
    )
    size = tuple(image.shape[1:]) if isinstance(image, Tensor) and image.dim() == 4 else ()
    return _TAIL.format(
        title=title,
        shared=shared,
        other_mode=[name for name, one in model.named_modules() if one.training is not model.training],
        mode="training" if model.training else "evaluation",
        training=model.training,
        other=not model.training,
        declared=_DECLARED.format(size=size) if size else "",
        laid="    model.to(memory_format=torch.channels_last)\n" if channels_last else "",
    )


def _ways(model: nn.Module) -> Iterator[_Written]:
    """By hand if every layer is torch's own, then pickled."""
    path, part = next(((n, m) for n, m in model.named_modules() if isinstance(m, Rewritten)), ("", None))
    named = list[tuple[str, str]]() if part is None else list(part.source.names.values())
    if name := _of_scripts(named):
        raise UserError(f"{_script(name)}, and the forward calls it; {_INSTEAD}")
    needed = _packages(module for module, _ in named)
    if part is not None and not path and (lines := lines_of(part, "model")) is not None:
        made = ["def _built() -> nn.Module:", "    model = Network()", *(f"    {line}" for line in lines)]
        yield _Written("\n".join([_class(part), "", "", *made, "    return model"]), None, needed)
    data, others = _pickled(model, path, part)
    body = ["def _built() -> nn.Module:"]
    body += ['    model = torch.load(Path(__file__).with_name("modules.pt"), map_location="cpu", weights_only=False)']
    if part is not None:
        parent, _, name = path.rpartition(".")
        body += ["    made = Network()", f"    inner = model.get_submodule({path!r})"]
        body += ["    made.__dict__.update(vars(inner))"]
        body += [f"    model.get_submodule({parent!r})._modules[{name!r}] = made" if path else "    model = made"]
        body[:0] = [_class(part), "", ""]
    else:
        body[:0] = ["", ""]
    yield _Written("\n".join([*body, "    return model"]), data, tuple(sorted({*needed, *others})))


def _class(part: Rewritten) -> str:
    imports = [line for line in part.source.imports().splitlines() if line != "import torch"]
    lines = [f"    {line}".rstrip() for line in part.source.text.strip().splitlines()]
    space = "\n".join(imports)
    return (f"{space}\n" if space else "") + "\n\nclass Network(nn.Module):\n" + "\n".join(lines)


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
        if name := _of_scripts((one.__module__, one.__qualname__) for one in classes):
            raise UserError(f"{_script(name)}, and its forward could not be read; {_INSTEAD}")
        for name in (path for path, one in whole.named_modules() if is_parametrized(one)):
            raise UserError(
                f"{name or 'the network'} has a parametrization (such as weight_norm or spectral_norm), which torch "
                "cannot pickle: use `cleanpath.fix` in Python and save the state_dict, or take it off before by "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        held = io.BytesIO()
        torch.save(whole, held)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"the network cannot be written to a file: {said}") from error
    finally:
        if parent is not None:
            parent._modules[path.rpartition(".")[2]] = part  # noqa: SLF001
    return held.getvalue(), _packages(one.__module__ for one in classes)


def _difference(model: nn.Module, folder: Path, batch: object) -> str:
    """What is not the same in the network that the folder gives; empty if it is, bit for bit, in both modes."""
    try:
        loaded = runpy.run_path(str(folder / "model.py"))["network"]().to(of(model))
        if _structure(loaded) != _structure(model):
            return "it is loaded with other parameters or modes"
        state = loaded.state_dict()
        if not _same(list(model.state_dict().values()), list(state.values())):
            return "it is loaded with other weights"
        for training in (None, True, False):
            mine, other = copy.deepcopy(model), copy.deepcopy(loaded)
            if training is not None:
                mine.train(training)
                other.train(training)
            try:
                wanted = outputs_of(mine, batch, 0)
            except Exception:  # noqa: BLE001, S112 (a batch of one in training: the other mode is compared)
                continue
            if not _same(wanted, outputs_of(other, batch, 0)):
                return "what is loaded computes something else"
    except Exception as error:  # noqa: BLE001 (it runs text that was made for this network)
        return f"what was written cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
    return ""


def _structure(model: nn.Module) -> dict[str, Any]:
    """Parameters with those that are one, and each module's mode, by name."""
    first = dict[int, str]()
    told = dict[str, Any]()
    for name, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        told[name] = (first.setdefault(id(value), name), value.shape, value.dtype, value.requires_grad)
    return told | {f"{name}:mode": one.training for name, one in model.named_modules(remove_duplicate=False)}


def _same(here: Sequence[Tensor], there: Sequence[Tensor]) -> bool:
    return len(here) == len(there) and all(map(same_numbers, here, there))
