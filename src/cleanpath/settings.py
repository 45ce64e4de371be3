"""Experiments to and from plain data, TOML and JSON, their digest, and `key=value` overrides; every value is typed."""

import dataclasses
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import tomli_w

from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.experiment import FORMAT, Experiment, Network, Training
from cleanpath.nn import own

LARGEST_FILE = 1_000_000
_SEE = "cleanpath list settings"
_PARTS: dict[tuple[str, str], Any] = {}  # groups that were built: the runs of a folder share them
# Two ways to say one thing: setting the first clears the second.
_ALTERNATIVES = {"training.epochs": "training.iterations", "training.iterations": "training.epochs"}


@cache  # asked for by every digest, of which a grid takes thousands
def hints(cls: type) -> dict[str, Any]:
    """The type of every field."""
    return typing.get_type_hints(cls)


def to_data(experiment: Experiment) -> dict[str, Any]:
    """Plain dictionaries, lists, strings and numbers; what is `None` or an empty label is left out."""
    data = {"format": FORMAT, **_to_plain(experiment)}
    for label in ("source", "init"):
        if not data[label]:
            data.pop(label)
    return data


def from_data(data: Mapping[str, Any], *, where: str = "experiment") -> Experiment:
    """The experiment that `to_data` wrote; unknown keys, wrong types and other formats are refused by name."""
    values = dict(data)
    found = values.pop("format", None)
    if found != FORMAT:
        raise SettingError(f"{where}: format {found}, this cleanpath reads {FORMAT}; use the matching version")
    experiment = _build(Experiment, values, "", where)
    assert isinstance(experiment, Experiment)
    return experiment


def digest(experiment: Experiment) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON: it names the run.

    Without `source`, settings on which no bit depends, and those that came later and are at their default.
    """
    init = f'"init":{json.dumps(experiment.init)},' if experiment.init else ""
    data, network, training = map(_canonical, (experiment.data, experiment.network, experiment.training))
    canonical = (
        f'{{"data":{data},"format":{FORMAT},{init}"network":{network},"seed":{experiment.seed},"training":{training}}}'
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@lru_cache(maxsize=4096)  # parts are shared by the cells of a grid, which may be ten thousand
def _canonical(part: Any) -> str:
    """A part of an experiment, as its digest has it: JSON with sorted keys, without what is left out there."""
    data = _to_plain(part)
    _leave_out(part, data)
    if isinstance(part, Network):
        _leave_out(part.shortcut, data["shortcut"])
        if own.is_own(part.shortcut.kind):
            # The file's content is `code`; from which folder it was given decides nothing.
            data["shortcut"]["kind"] = own.split(part.shortcut.kind)[1]
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _leave_out(part: Any, data: dict[str, Any]) -> None:
    for each in dataclasses.fields(part):
        at_default = getattr(part, each.name) == each.default
        if each.metadata.get("same_bits") or (each.metadata.get("later") and at_default):
            data.pop(each.name, None)


def to_toml(experiment: Experiment) -> str:
    """The experiment as TOML, complete: the file runs unchanged."""
    return tomli_w.dumps(to_data(experiment))


def read(path: Path) -> Experiment:
    """The experiment in a `.toml` or `.json` file."""
    if not path.exists():
        raise SettingError(f"{path} does not exist")
    if path.is_dir():
        raise SettingError(f"{path} is a folder; a .toml or .json file is needed")
    if path.stat().st_size > LARGEST_FILE:
        raise SettingError(f"{path} has {path.stat().st_size / 1e6:.1f} MB; the limit is {LARGEST_FILE / 1e6:.0f} MB")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} is not UTF-8 (byte {error.object[error.start]:#x} at {error.start})") from None
    try:
        data = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise SettingError(f"{path} holds a {type(data).__name__}; a table of settings is needed")
    return from_data(data, where=str(path))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table whose keys come once, as TOML has them."""
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is set twice")
    return data


def override(experiment: Experiment, settings: Iterable[str]) -> Experiment:
    """The experiment with `key=value` settings applied; keys are dotted, as in `training.epochs=2`."""
    data = to_data(experiment)
    given: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SettingError(f"--set {setting}: write key=value")
        if given.get(key, text) != text:
            raise SettingError(f"{key} is given twice: {given[key]} and {text}")
        given[key] = text
    for key, text in given.items():
        other = _ALTERNATIVES.get(key)
        if other in given:
            raise SettingError(f"{key} and {other} are both given; they say the same thing, keep one")
        *parts, name = key.split(".")
        kind = _kind_of(key)
        target = data
        for part in parts:
            target = target.setdefault(part, {})
        target[name] = _parse(key, text, kind)
        if other is not None:
            target.pop(other.split(".")[-1], None)
    return from_data(data, where="--set")


def differences(one: Experiment, other: Experiment) -> dict[str, tuple[Any, Any]]:
    """The settings in which two experiments differ, as dotted key to the two values."""
    a, b = flat(one), flat(other)
    return {key: (a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)}


def free() -> frozenset[str]:
    """The dotted keys of settings on which no bit depends."""
    return frozenset(f"training.{each.name}" for each in dataclasses.fields(Training) if each.metadata.get("same_bits"))


def flat(experiment: Experiment) -> dict[str, Any]:
    """Every setting that is not None, under its dotted key."""
    return _flat(_to_plain(experiment))


def names() -> tuple[str, ...]:
    """Every dotted key that `--set` knows."""
    return tuple(dict.fromkeys(key for key, _, _ in fields()))


def fields(cls: type = Experiment, prefix: str = "") -> Iterator[tuple[str, type, dataclasses.Field[Any]]]:
    """Every setting: its dotted key, and the class and field that hold it; two classes may have the same key."""
    for field in dataclasses.fields(cls):
        groups = _groups(hints(cls)[field.name])
        for group in groups:
            yield from fields(group, f"{prefix}{field.name}.")
        if not groups:
            yield f"{prefix}{field.name}", cls, field


def _groups(kind: Any) -> tuple[Any, ...]:
    """The groups of settings that a value may be: none, one, or either of two."""
    return tuple(one for one in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(one))


def _kind_of(key: str) -> Any:  # a type or a union of types
    kind: Any = Experiment
    for part in key.split("."):
        known = [hints(group) for group in _groups(kind)]
        kind = next((each[part] for each in known if part in each), None)
        if kind is None:
            raise UnknownNameError("setting", key, names(), see=_SEE)
    if _groups(kind):
        raise SettingError(f"{key} is a group of settings: {', '.join(k for k in names() if k.startswith(key + '.'))}")
    return kind


def _parse(key: str, text: str, kind: Any) -> Any:
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in options and text.lower() == "none":
        return None
    if bool in options:
        if text.lower() not in ("true", "false"):
            raise SettingError(f"{key}: '{text}' is neither true nor false")
        return text.lower() == "true"
    if str in options:
        return text
    if int in options:
        try:
            return int(text)
        except ValueError:
            number = _number(text)
            hint = f"; write {int(number)}" if number is not None and number.is_integer() else ""
            raise SettingError(f"{key}: '{text}' is not a whole number{hint}") from None
    if float in options:
        number = _number(text)
        if number is None and text.strip().lower() not in ("nan", "inf", "-inf"):
            raise SettingError(f"{key}: '{text}' is not a number")
        return float(text)
    items = [item for item in text.strip("[]()").split(",") if item.strip()]
    return [_parse(key, item.strip(), typing.get_args(kind)[0]) for item in items]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _to_plain(value: Any, kind: Any = None) -> Any:
    """Equal values become equal data: a float is written as one even where 1 or −0.0 was given."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kinds = hints(type(value))
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _to_plain(item, kinds[name]) for name, item in items if item is not None}
    if isinstance(value, tuple):
        return [_to_plain(item, typing.get_args(kind)[0]) for item in value]
    return float(value) + 0.0 if float in (kind, *typing.get_args(kind)) else value


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _build(cls: type, data: Mapping[str, Any], prefix: str, where: str) -> Any:
    kinds = hints(cls)
    unknown = sorted(set(data) - set(kinds))
    if unknown and prefix + unknown[0] in names():
        raise SettingError(f"{where}: {prefix}{unknown[0]} does not go with {prefix}{next(iter(data))}; leave one out")
    if unknown:
        error = UnknownNameError("setting", prefix + unknown[0], names(), see=_SEE)
        raise SettingError(f"{where}: {error}")
    values = {name: _typed(value, kinds[name], prefix + name, where) for name, value in data.items()}
    required = (f.name for f in dataclasses.fields(cls) if _is_required(f))
    missing = [prefix + name for name in required if name not in values]
    if missing:
        raise SettingError(f"{where}: {', '.join(missing)} is missing")
    return cls(**values)


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _typed(value: Any, kind: Any, key: str, where: str) -> Any:
    if groups := _groups(kind):
        if not isinstance(value, dict):
            raise SettingError(f"{where}: {key} is {value!r}; a table of settings is needed")
        text = (key, repr(value))
        if text not in _PARTS:
            nearest = min(groups, key=lambda group: len(set(value) - {each.name for each in dataclasses.fields(group)}))
            _PARTS[text] = _build(nearest, value, f"{key}.", where)
        return _PARTS[text]
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise SettingError(f"{where}: {key} is {value!r}; a list is needed")
        return tuple(_typed(item, typing.get_args(kind)[0], key, where) for item in value)
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if float in options and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) not in options:
        names = " or ".join(option.__name__ for option in options if option is not type(None))
        raise SettingError(f"{where}: {key} is {value!r}; {names} is needed")
    return value
