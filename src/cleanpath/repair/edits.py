"""A fix described as an edit of the source, for networks that cannot be read: file, line, before and after."""

import ast
import inspect
import linecache
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_AFTER = {
    "CP101": ("h(x) + F(x)", "x + F(x)"),
    "CP102": ("λ * x + F(x)", "x + F(x)"),
    "CP103": ("dropout(x) + F(x)", "x + F(x)"),
    "CP201": ("x = f(x + F(x))", "x = x + F(f(x)), and f once more before the head"),
    "CP202": ("x = norm(x + F(x))", "x = x + F(norm(x)), and a norm before the head"),
    "CP203": ("c * (x + F(x))", "x + c * F(x)"),
    "CP204": ("F(x) begins with an operation in place", "the same operation without inplace"),
    "CP301": ("x + relu(F(x))", "x + F(x)"),
    "CP501": ("head(x)", "head(norm(x))"),
}


class Lines(TorchFunctionMode):
    """While it lasts, the line of the source is noted by which each result of an operation came about."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[Any, int], tuple[str, int]] = {}

    def of(self, node: Any, number: int) -> tuple[str, int] | None:
        """File and line of what an autograd node gave."""
        return self._made.get((node, number))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.grad_fn is not None:
            self._made.setdefault((result.grad_fn, result.output_nr), _line_outside())
        return result


_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def _line_outside() -> tuple[str, int]:
    """The innermost line that is neither torch's nor ours."""
    frame: Any = sys._getframe(1)  # noqa: SLF001
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def edit_of(code: str, module: nn.Module | None, at: tuple[str, int] | None = None) -> str:
    """Where the sum of a unit stands, and what to write there; the class of its module tells if the line is not known.

    Empty where there is no source.
    """
    if code not in _AFTER or module is None:
        return ""
    before, after = _AFTER[code]
    if code in {"CP201", "CP202"} and type(module).__module__ == "torch.nn.modules.transformer":
        before, after = "norm_first=False", "norm_first=True, and norm=nn.LayerNorm(d_model) around the whole stack"
    if at is not None and (line := linecache.getline(*at).strip()):
        return f"{'/'.join(Path(at[0]).parts[-2:])}:{at[1]}: {line}\n  instead of {before} write {after}"
    try:
        file = inspect.getsourcefile(type(module)) or ""
        lines, first = inspect.getsourcelines(type(module).forward)
    except (OSError, TypeError, AttributeError):  # of a script of TorchScript there is none
        return ""
    place = "/".join(Path(file).parts[-2:])
    line_of_sum = _line_of_sum("".join(lines))
    if line_of_sum is None:
        return f"{place}:{first}: instead of {before} write {after}"
    return f"{place}:{first + line_of_sum - 1}: {lines[line_of_sum - 1].strip()}\n  instead of {before} write {after}"


def _line_of_sum(source: str) -> int | None:
    """Where a forward most likely adds its shortcut: the last of its outermost sums, of those that read its input."""
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a comment at the margin
        return None
    arguments = next((node.args.args for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), [])
    signal = arguments[1].arg if len(arguments) > 1 else ""
    found = [(not _reads(node, signal), depth, -getattr(node, "lineno", 1)) for node, depth in _sums(tree, 0)]
    return -min(found)[2] if found else None


def _sums(node: ast.AST, depth: int) -> Iterator[tuple[ast.AST, int]]:
    """All sums with the number of expressions around each; an index is none of a tensor."""
    if _adds(node):
        yield node, depth
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.Subscript) and name == "slice":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _sums(child, depth + isinstance(node, ast.expr))


def _reads(node: ast.AST, name: str) -> bool:
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node))


def _adds(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add)
