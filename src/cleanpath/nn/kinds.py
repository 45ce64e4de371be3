"""Kinds of units: a function from the parts of a unit to the unit, registered under its name.

Ours are registered with `kind`, a user's own with `cleanpath.unit` in a file of their own.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import own
from cleanpath.nn.catalog import WeightLayer
from cleanpath.nn.layers import ACTIVATION, NORM

if TYPE_CHECKING:
    from cleanpath.nn.resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a unit is made of before its kind is applied.

    `shortcut` is an identity, or what serves where the width changes (option A, B or D). `layers` are F's weight
    layers. `index` counts the units of the network from 1 to `count`.
    """

    before: nn.Module
    shortcut: nn.Module
    branch: nn.Module
    after: nn.Module
    in_channels: int
    out_channels: int
    stride: int
    layers: tuple[WeightLayer, ...]
    index: int
    count: int
    network: Network

    @property
    def changes_width(self) -> bool:
        """Whether the shortcut cannot be an identity."""
        return not isinstance(self.shortcut, nn.Identity)

    def norm(self, channels: int) -> nn.Module:
        """The network's norm; an identity where it has none."""
        return NORM[self.network.normalisation](channels)

    def activation(self) -> nn.Module:
        """The network's activation."""
        return ACTIVATION[self.network.activation]()


Maker = Callable[[Parts, Shortcut], nn.Module]
Finish = Callable[["ResNet", Shortcut], None]


def _nothing(built: "ResNet", setting: Shortcut) -> None:
    """Most kinds change no more than their units."""


@dataclass(frozen=True)
class Kind:
    """A registered kind: the settings it needs, those it may have, how to make its unit.

    `finish` does what the kind asks of the network beside its units, when all weights have their start.
    """

    needs: frozenset[str]
    takes: frozenset[str]
    make: Maker
    finish: Finish = _nothing
    home: str = ""
    """The file of a user's own unit."""


KINDS: dict[str, Kind] = {}


def kind(
    name: str, *, needs: Iterable[str] = (), takes: Iterable[str] = (), finish: Finish = _nothing
) -> Callable[[Maker], Maker]:
    """Register a function as the maker of the units of a kind of ours."""
    assert name in own.OURS, f"add '{name}' to own.OURS, or a user's unit could take its name"

    def register(make: Maker) -> Maker:
        KINDS[name] = Kind(frozenset(needs), frozenset(takes), make, finish)
        return make

    return register


def kind_of(setting: Shortcut) -> Kind:
    """The kind that a setting names, checked: nothing it needs is missing, nothing is set that it would not read.

    A kind `my_unit.py:NAME` is loaded from its file, which must be the one that the setting's `code` is of.
    """
    found = _loaded(setting) if own.is_own(setting.kind) else _registered(setting.kind)
    default = Shortcut()
    given = {f.name for f in fields(Shortcut) if getattr(setting, f.name) != getattr(default, f.name)}
    given -= {"kind", "code"} if own.is_own(setting.kind) else {"kind"}
    if missing := found.needs - given:
        raise SettingError(f"shortcut '{setting.kind}' needs {_named(missing)}")
    if unread := given - found.needs - found.takes:
        reads = _named(found.needs | found.takes) or "no settings"
        raise SettingError(f"shortcut '{setting.kind}' does not read {_named(unread)}; it reads {reads}")
    return found


def _registered(name: str) -> Kind:
    known = OWN | KINDS
    if name not in known:
        raise UnknownNameError("shortcut", name, known)
    return known[name]


def _named(settings: Iterable[str]) -> str:
    return ", ".join(f"shortcut.{name}" for name in sorted(settings))


# ---- a user's own units

OwnMaker = Callable[[Parts], nn.Module]
OWN: dict[str, Kind] = {}
"""Units of modules that were imported, or of a notebook, by their bare names."""
_loading: ContextVar[dict[str, Kind] | None] = ContextVar("_loading", default=None)


def unit(name: str) -> Callable[[OwnMaker], OwnMaker]:
    """Make a unit of your own a kind of shortcut: a decorator for a function from a unit's `Parts` to an `nn.Module`.

        @cleanpath.unit("halved")
        def halved(parts):
            h = Half(parts.shortcut)
            return ResidualUnit(before=parts.before, shortcut=h, branch=parts.branch, after=parts.after)

    The unit takes (N, in_channels, H, W) to (N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉). Afterwards
    `Shortcut(kind="halved")` builds networks with it; from elsewhere it is `Shortcut(kind="path/to/file.py:halved")`.

    Raises `UserError` for a name that is taken.
    """

    def register(make: OwnMaker) -> OwnMaker:
        if not own.NAME.fullmatch(name):
            raise UserError(f"a unit cannot be called '{name}'; use letters, digits, _ and -")
        if name in own.OURS:
            raise UserError(f"there is a shortcut '{name}' of cleanpath's already; give the unit another name")
        home = inspect.getfile(make) if inspect.isfunction(make) else ""
        made = Kind(frozenset(), frozenset(), lambda parts, _: _checked(make, parts), home=home)
        into = _loading.get()
        if into is None:  # what a notebook says again replaces what it said before
            if name in OWN and OWN[name].home != home:
                raise UserError(f"there is a unit '{name}' of {OWN[name].home} already; give this one another name")
            OWN[name] = made
        elif name in into:
            raise UserError(f"two units are called '{name}'; give one of them another name")
        else:
            into[name] = made
        return make

    return register


def load_units(path: str | Path) -> Mapping[str, Kind]:
    """The units that a file makes with `cleanpath.unit`, by their names; loaded once as long as it does not change.

    Raises `UserError` for a file that is missing or cannot be imported, that makes no unit, or a name that is taken.
    """
    return _load(Path(path).resolve(), own.code_of(path), str(path))


def _loaded(setting: Shortcut) -> Kind:
    path, name = own.split(setting.kind)
    own.check_code(setting)
    units = load_units(path)
    if name not in units:
        raise UnknownNameError(f"unit in {path}", name, units)
    return units[name]


@cache
def _load(path: Path, code: str, said: str) -> Mapping[str, Kind]:
    units: dict[str, Kind] = {}
    module = f"_cleanpath_units_{code}"
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    token = _loading.set(units)
    try:
        with _beside(path.parent):
            spec.loader.exec_module(loaded)
    except UserError as error:
        raise UserError(f"{said}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import {said} ({own.told(error)})") from error
    else:
        if not units:
            raise UserError(own.no_unit(said))
        return units
    finally:
        _loading.reset(token)


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours meanwhile."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _checked(make: OwnMaker, parts: Parts) -> nn.Module:
    """What a user's function makes, if it is a module."""
    name = getattr(make, "__name__", "the unit")
    try:
        made: Any = make(parts)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}() failed at unit {parts.index} of {parts.count}: {own.told(error)}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{name}() returned a {type(made).__name__}; an nn.Module is needed")
    return made
