"""A captured network as a module: the modules and names of the original, and a forward that is generated Python."""

import importlib
import keyword
import linecache
import math
import re
import textwrap
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph

from cleanpath.errors import UserError
from cleanpath.repair.symbols import conditions, holds_marks

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""What holds modules keeps its class if it is one of these, so that it can be indexed as before."""


OWN_NAMES = ("source", "_run")
"""Attributes of a rewritten network, which no child may have."""


@dataclass(frozen=True)
class Source:
    """A forward as text, and what its names stand for: name to (module, qualified name); a module alone has no name."""

    text: str
    names: Mapping[str, tuple[str, str]]

    def imports(self) -> str:
        """The same names as lines of Python."""
        lines = list[str]()
        for name, (module, qualified) in sorted(self.names.items()):
            if name == "NoneType":
                lines.append("NoneType = type(None)")
            elif not qualified:
                lines.append(f"import {module}" if module == name else f"import {module} as {name}")
            elif "." in qualified:
                lines += [f"import {module}", f"{name} = {module}.{qualified}"]
            else:
                lines.append(f"from {module} import {qualified}" + (f" as {name}" if qualified != name else ""))
        return "\n".join(dict.fromkeys(lines))

    def function(self) -> Any:
        """The forward, compiled; its lines are known to tracebacks and debuggers."""
        file = f"<cleanpath rewritten {abs(hash(self.text)):x}>"
        linecache.cache[file] = (len(self.text), None, self.text.splitlines(keepends=True), file)
        space: dict[str, Any] = {name: _found(module, qualified) for name, (module, qualified) in self.names.items()}
        exec(compile(self.text, file, "exec"), space)  # noqa: S102 (text that fx generated from the user's own network)
        return space["forward"]


def source_of(graph: Graph, fixed: Mapping[str, Any], evaluation: Graph | None = None) -> Source:
    """The graph as Python, or two by the mode; `fixed` inputs are checked where it is called.

    Raises `UserError` for an operation that no other process could import.
    """
    names, (head, body) = _python(graph)
    lines = [head, *_checks(graph, fixed)]
    if evaluation is None:
        return Source("\n".join([*lines, body]), names)
    others, (_, other) = _python(evaluation)
    if any(names.get(name, place) != place for name, place in others.items()):
        raise UserError("its two modes call different functions by one name")
    lines += ["    if self.training:", textwrap.indent(body, "    "), "    else:", textwrap.indent(other, "    ")]
    return Source("\n".join(lines), {**names, **others})


def _python(graph: Graph) -> tuple[dict[str, tuple[str, str]], tuple[str, str]]:
    """What the names of a graph stand for; its first line, and the others."""
    code = graph.python_code(root_module="self")
    names = {name: _place(name, value) for name, value in code.globals.items()}
    used = {name: place for name, place in names.items() if name in code.src}
    head, _, body = _without_keywords(code.src[code.src.index("def forward") :], graph).partition("\n")
    return used, (head, body)


def _without_keywords(text: str, graph: Graph) -> str:
    """A module or parameter whose name is a word of Python's own is read by getattr, which torch.fx forgets."""
    for target in {str(node.target) for node in graph.nodes if node.op in {"call_module", "get_attr"}}:
        parts = target.split(".")
        if any(map(keyword.iskeyword, parts)):
            wrong = right = "self"
            for part in parts:
                wrong = f"{wrong}.{part}" if part.isidentifier() else f'getattr({wrong}, "{part}")'
                plain = part.isidentifier() and not keyword.iskeyword(part)
                right = f"{right}.{part}" if plain else f'getattr({right}, "{part}")'
            text = re.sub(re.escape(wrong) + r"(?!\w)", right, text)
    return text


class Rewritten(nn.Module):
    """A network whose forward was read, changed and written anew; parameters and modules have their old names.

    `source` is the forward as Python. It can be copied, pickled, trained, compiled and exported like any module.
    """

    def __init__(self, skeleton: nn.Module, source: Source) -> None:
        super().__init__()
        self.__dict__.update({key: value for key, value in skeleton.__dict__.items() if key.startswith("_")})
        self.training = skeleton.training
        self.source = source
        self._run = source.function()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `source` says."""
        return self._run(self, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._run = self.source.function()


def skeleton_of(module: nn.Module, called: set[str], constants: Mapping[str, Tensor]) -> nn.Module:
    """The modules of a network without the forwards that the graph replaces: same names, parameters and buffers."""
    made = _bare(module, "", called, {})
    for name, value in constants.items():
        made.register_buffer(name, value.detach().clone(), persistent=False)
    return made


def _bare(module: nn.Module, path: str, called: set[str], met: dict[int, nn.Module]) -> nn.Module:
    if id(module) in met:
        return met[id(module)]
    unread = not module._modules and type(module).__module__.startswith("torch.nn.")  # noqa: SLF001
    if path in called or (path and unread):
        met[id(module)] = module
        return module
    # Not by its truth: an empty container is false.
    bare = next((kind for kind in CONTAINERS if type(module) is kind), nn.Module)()
    met[id(module)] = bare
    bare.training = module.training
    unsaved = module._non_persistent_buffers_set  # noqa: SLF001
    for name, parameter in module._parameters.items():  # noqa: SLF001
        bare.register_parameter(name, parameter)
    for name, buffer in module._buffers.items():  # noqa: SLF001
        bare.register_buffer(name, buffer, persistent=name not in unsaved)
    for name, child in module._modules.items():  # noqa: SLF001
        inner = None if child is None else _bare(child, f"{path}.{name}" if path else name, called, met)
        bare._modules[name] = inner  # noqa: SLF001 (a name may be a number, as in a Sequential)
    return bare


def _place(name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, types.ModuleType):
        return value.__name__, ""
    if isinstance(value, float):
        return "math", "nan" if math.isnan(value) else "inf"  # of numbers, torch.fx has these two alone as names
    if value is type(None):
        return "builtins", "type"
    module = getattr(value, "__module__", None) or "torch"
    qualified = getattr(value, "__qualname__", getattr(value, "__name__", ""))
    module = {"torch._ops": "torch", "_operator": "operator"}.get(module, module)
    try:
        found = _found(module, qualified)
    except (ImportError, AttributeError):
        found = None
    if found is not value and getattr(found, "__name__", None) != getattr(value, "__name__", ""):
        raise UserError(
            f"the forward calls {module}.{qualified}, which cannot be imported by that name; make {name} one"
        )
    return module, qualified


def _found(module: str, qualified: str) -> Any:
    if (module, qualified) == ("builtins", "type"):
        return type(None)
    found: Any = importlib.import_module(module)
    for part in qualified.split(".") if qualified else ():
        found = getattr(found, part)
    return found


def _checks(graph: Graph, fixed: Mapping[str, Any]) -> list[str]:
    """Lines that refuse other values of inputs than those with which the forward was read."""
    lines = []
    for node in graph.nodes:
        target = str(node.target)
        if node.op != "placeholder" or target not in fixed:
            continue
        name, value = target.lstrip("*") if target.startswith("*") else node.name, fixed[target]
        wrong = " or ".join(conditions(name, value, _shown))
        if target.startswith("*") and not value:
            wrong = name
        if wrong and not keyword.iskeyword(name):
            told = "a table of the same kind" if holds_marks(value) else repr(value)
            said = f"{name} must be {told}, as when this network was rewritten"
            lines += [f"    if {wrong}:", f"        raise ValueError({said!r})"]
    return lines


def _shown(value: Any) -> str:
    """A plain value as Python, also where its own text is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, torch.Size | tuple):
        return f"({''.join(f'{_shown(one)}, ' for one in value)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_shown(one)}' for key, one in value.items())}}}"
    return repr(value)
