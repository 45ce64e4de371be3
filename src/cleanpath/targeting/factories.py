"""A user's own network: `path/to/file.py:factory`, or `package.module:factory`.

The file is imported under a name of its own, so that it can neither hide nor be hidden by a module of the same name;
relative imports work, and so do imports of files beside it.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from cleanpath.errors import UnknownNameError, UserError
from cleanpath.targeting.seeded import seeded

_ROOT = "_cleanpath_target"


def build(where: str, name: str, seed: int, **offered: Any) -> tuple[nn.Module, Any]:
    """What a factory returns: a module, and the inputs that it may return beside it (None if it does not).

    `where` is a file or a dotted module; the factory gets those of the `offered` arguments that it has.
    """
    with seeded(seed):
        made_there = made(where, name, **offered)
    is_pair = isinstance(made_there, tuple) and len(made_there) == 2
    module, given = made_there if is_pair else (made_there, None)
    if not isinstance(module, nn.Module):
        raise UserError(f"{where}:{name}() returned a {type(module).__name__}; an nn.Module is needed")
    return module, given


def made(where: str, name: str, **offered: Any) -> Any:
    """What a factory returns, whatever it is; it gets those of the `offered` arguments that it has."""
    is_file = where.endswith(".py")
    folder = Path(where).resolve().parent if is_file else Path.cwd()
    with _beside(folder):
        found: Any = _imported(lambda: _file(Path(where)) if is_file else importlib.import_module(where), where)
        for part in name.split("."):
            if not hasattr(found, part):
                raise UnknownNameError(f"factory in {where}", part, _offers(found, offered))
            found = getattr(found, part)
        return _called(found, f"{where}:{name}", offered)


def offers(where: str) -> list[str]:
    """The functions and module classes that a file defines and that need no arguments."""
    with _beside(Path(where).resolve().parent):
        return _offers(_imported(lambda: _file(Path(where)), where), {})


def _called(found: Any, said: str, offered: Mapping[str, Any]) -> Any:
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise UserError(f"{said} is a {type(found).__name__}; a function that returns an nn.Module is needed")
    needed = [name for name in _needed(found) if name not in offered]
    if needed:
        without = f"with at most {', '.join(offered)}" if offered else "without arguments"
        raise UserError(f"{said} needs {', '.join(needed)}; a factory is called {without}, so wrap it in one")
    try:
        return found(**{name: value for name, value in offered.items() if name in _named(found)})
    except Exception as error:
        raise UserError(f"{said}() failed: {_said(error)}") from error


def _needed(found: Any) -> list[str]:
    return [name for name, one in _named(found).items() if one.default is one.empty]


def _named(found: Any) -> dict[str, inspect.Parameter]:
    """The parameters that have names of their own."""
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return {}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: one for name, one in parameters.items() if one.kind not in variable}


def _offers(found: Any, offered: Mapping[str, Any]) -> list[str]:
    home = getattr(found, "__name__", "")
    return [
        name
        for name, one in vars(found).items()
        if not name.startswith("_")
        and (
            isinstance(one, nn.Module)
            or (callable(one) and getattr(one, "__module__", "") == home and not {*_needed(one)} - {*offered})
        )
    ]


def _imported(load: Callable[[], ModuleType], where: str) -> ModuleType:
    try:
        return load()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import '{where}' ({_said(error)})") from error


def _file(path: Path) -> ModuleType:
    """Import a file below a package that stands for the first folder above it that is no package."""
    if not path.is_file():
        raise UserError(f"no file {path}; a target is path/to/file.py:factory")
    path = path.resolve()
    top = path.parent
    while (top / "__init__.py").is_file() and top.parent != top:
        top = top.parent
    root = f"{_ROOT}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
        del sys.modules[name]
    package = ModuleType(root)
    package.__path__ = [str(top)]
    sys.modules[root] = package
    parent = ".".join([root, *path.parent.relative_to(top).parts])
    importlib.import_module(parent)
    spec = importlib.util.spec_from_file_location(f"{parent}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported; a target is path/to/file.py:factory")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let files of a folder be imported by their bare names meanwhile; what they hide is put back."""
    path, before = list(sys.path), dict(sys.modules)
    names = {one.stem for one in folder.glob("*.py")} | {one.parent.name for one in folder.glob("*/__init__.py")}
    names -= {*sys.stdlib_module_names, "cleanpath"}
    hidden = [name for name in before if name.partition(".")[0] in names and not _stays(before[name], folder)]
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in hidden:
            sys.modules[name] = before[name]


def _stays(module: ModuleType, folder: Path) -> bool:
    """Whether a module is a neighbour itself, or an installed library, which is never imported twice."""
    path = Path(str(getattr(module, "__file__", None) or ""))
    return folder in path.parents or "site-packages" in path.parts


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
