"""Weights from a foreign file into a module: tensors only, nothing executed, nothing half loaded.

`.safetensors`, or a `.pt` (`.pth`, `.bin`) that `torch.load(weights_only=True)` accepts and that holds dense tensors.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cleanpath.errors import UserError

MOST_BYTES = 32 << 30
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load(module: nn.Module, path: Path) -> str:
    """Fill a module with the weights of a file, and say what was done; on any difference nothing is changed."""
    tensors = read(path)
    names, done = _matched(module, tensors)
    _same(module, names, path)
    module.load_state_dict(names, strict=False)
    return f"weights of {path.name}{done}"


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises `UserError` for anything else that it may hold."""
    if not path.is_file():
        raise UserError(f"no file {path}; --weights takes a .safetensors file, or a .pt with tensors only")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path.name} has {path.stat().st_size >> 30} GiB; at most {MOST_BYTES >> 30} are read")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return _dense(_pickled(path), path)
    raise UserError(f"{path.name} is neither .safetensors nor .pt; re-save it with safetensors.torch.save_file")


def _safetensors(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > path.stat().st_size - 8:
        raise UserError(f"{path.name}: header length exceeds the file; it is cut short, or no safetensors file")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is no safetensors file ({_line(error)})") from None


def _pickled(path: Path) -> Any:
    """What torch finds in a file without running any code of it."""
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path.name} is an old tar pickle, or no file of torch; re-save with torch.save, or as safetensors"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path.name} is damaged ({_line(error)})") from None
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise UserError(f"{path.name} is a TorchScript archive; save its state_dict() with torch.save")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise UserError(f"{path.name} is compressed, which torch never does; refused")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a sparse tensor is refused right after
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"refers to {found[1]}" if found else "holds more than tensors"
        raise UserError(
            f"{path.name} {what}; refused, since loading it could run code. Re-save it as safetensors"
        ) from None
    except Exception as error:  # noqa: BLE001 (a hostile file may fail anywhere in torch)
        raise UserError(f"{path.name} cannot be read ({_line(error)})") from None


def _dense(found: Any, path: Path) -> dict[str, Tensor]:
    """The flat table of dense tensors, taken out of the usual wrappers."""
    for wrapper in _WRAPPERS:
        inner = found.get(wrapper) if isinstance(found, Mapping) else None
        if isinstance(inner, Mapping):
            found = inner
    if not isinstance(found, Mapping) or not found:
        raise UserError(
            f"{path.name} holds a {type(found).__name__}; a table of tensors by name is needed (state_dict())"
        )
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path.name}: '{name}' is a {type(value).__name__}, not a tensor; save only the state_dict()"
            )
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise UserError(f"{path.name}: '{name}' is no dense tensor ({value.layout}); refused")
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in found.values()}
    if sum(value.numel() * value.element_size() for value in found.values()) > 4 * sum(held.values()) + (1 << 20):
        raise UserError(f"{path.name}: its tensors claim far more elements than it stores; refused")
    return dict(found)


def named_as(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the module's names, where a wrapper's prefix is all that differs."""
    return _matched(module, tensors)[0]


def _matched(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors under the module's names: as they are, or without a wrapper's prefix that all of them have."""
    wanted = module.state_dict(keep_vars=True).keys()
    base = getattr(module, "base_model_prefix", "")
    for prefix in (*_PREFIXES, *([f"{base}."] if base else [])):
        if all(name.startswith(prefix) for name in tensors) and not any(name.startswith(prefix) for name in wanted):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}, f" without '{prefix}'"
    return dict(tensors), ""


def _same(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise what differs between a module and a table of tensors: names first, then shapes."""
    own = module.state_dict(keep_vars=True)
    given = {own[name].data_ptr() for name in own.keys() & tensors.keys()}
    missing = [
        name
        for name, value in own.items()
        if name not in tensors
        and not name.endswith("num_batches_tracked")
        and (value.numel() == 0 or value.data_ptr() not in given)  # a tied weight is stored once
    ]
    unexpected = [name for name in tensors if name not in own]
    if missing or unexpected:
        said = [f"{len(rows)} {word} ({_first(rows)})" for word, rows in _words(missing, unexpected) if rows]
        raise UserError(
            f"{path.name} does not fit the network: {', '.join(said)}; is it of another architecture or size?"
        )
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{path.name} does not fit the network: {name} is {_shape(value)} there and {_shape(own[name])} here"
            )


def _words(missing: list[str], unexpected: list[str]) -> Iterable[tuple[str, list[str]]]:
    return ("missing", missing), ("unexpected", unexpected)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a scalar"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
