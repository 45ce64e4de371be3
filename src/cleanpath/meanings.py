"""What every setting is: type, default and meaning, from `experiment`'s fields and docstrings."""

import dataclasses
import inspect
import re
import types
import typing
from typing import Any

from cleanpath import settings

_ENTRY = re.compile(r"^`(\w+)`: (.+?)(?=\n`\w+`: |\n\n|\Z)", re.MULTILINE | re.DOTALL)


def entries(cls: type) -> dict[str, str]:
    """What a docstring says of fields: "`name`: meaning.", up to the next such line or an empty one."""
    return {name: " ".join(said.split()) for name, said in _ENTRY.findall(inspect.cleandoc(cls.__doc__ or ""))}


def rows() -> list[dict[str, Any]]:
    """Of every setting its name, type, default as `--set` takes it (None: it must be given), and meaning."""
    found: dict[str, dict[str, Any]] = {}
    for key, cls, field in settings.fields():
        row = {"name": key, "type": _type(settings.hints(cls)[field.name]), "default": _default(field)}
        found.setdefault(key, {**row, "meaning": entries(cls).get(field.name, "")})  # either network has channels
    return [*found.values()]


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"{_type(typing.get_args(hint)[0])}s"
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(option.__name__ for option in options if option is not type(None))


def _default(field: dataclasses.Field[Any]) -> str | None:
    value = field.default
    if value is dataclasses.MISSING:
        return None
    if isinstance(value, tuple):
        return ",".join(f"{each:g}" for each in value)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else str(value).lower()
