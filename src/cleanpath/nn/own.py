"""A user's own units as names: which a file makes, and the digest of the file; read without torch, nothing is run."""

import ast
import hashlib
import io
import os
import re
import sysconfig
import tokenize
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cleanpath.errors import SettingError, UserError
from cleanpath.experiment import Network, Shortcut

NAME = re.compile(r"[\w-]+")
OURS = frozenset(
    {
        *("identity", "none", "scaling", "branch_scaling", "exclusive_gating", "shortcut_only_gating"),
        *("conv_1x1", "dropout", "skip_init", "layer_scale", "weighted_residual", "stochastic_depth"),
        *("squeeze_excitation", "highway", "fixup", "deepnorm", "hyper_connections", "manifold_hyper_connections"),
    }
)
"""Names of cleanpath's kinds of shortcut, which no unit of a user's may have: known before their modules load."""
_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Row:
    """A unit of a user's file as a row of a table: its name, the first line of its docstring, and the setting."""

    name: str
    doc: str
    shortcut: Shortcut


def is_own(kind: str) -> bool:
    """Whether a kind of shortcut is a unit in a user's file, `my_unit.py:NAME`."""
    return kind.rpartition(":")[0].endswith(".py")


def split(kind: str) -> tuple[str, str]:
    """The file and the name in it."""
    path, _, name = kind.rpartition(":")
    return path, name


def code_of(path: str | Path) -> str:
    """The start of the SHA-256 of a file's code: comments and lines without code do not count.

    Raises `UserError` if there is no such file.
    """
    if not Path(path).is_file() and is_own(str(path)):
        raise UserError(f"{path} names a unit; give the file, {split(str(path))[0]}, for all units that it makes")
    if not Path(path).is_file():
        raise UserError(f"no file {path}; run from the folder that it was given from, or give its path")
    return digest(Path(path).read_bytes())


def digest(source: bytes) -> str:
    """The start of the SHA-256 of Python's code; of anything else, of all of it."""
    with suppress(tokenize.TokenError, SyntaxError, LookupError, UnicodeDecodeError):
        source = _without_comments(source)
    return hashlib.sha256(source).hexdigest()[:_DIGITS]


_NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER)


def _without_comments(source: bytes) -> bytes:
    source = source.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # as Python reads them
    ends, rows = dict[int, int](), set[int]()
    encoding = "utf-8"
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.ENCODING:
            encoding = token.string
        elif token.type == tokenize.COMMENT:
            ends[token.start[0]] = token.start[1]
        elif token.type not in (*_NO_CODE, tokenize.INDENT, tokenize.DEDENT):
            rows.update(range(token.start[0], token.end[0] + 1))
    lines = source.decode(encoding).split("\n")
    kept = (lines[row - 1][: ends[row]].rstrip() if row in ends else lines[row - 1] for row in sorted(rows))
    return "\n".join(kept).encode()


def check_code(setting: Shortcut) -> None:
    """Raise `UserError` if the file of a user's own unit is not the one that the setting is of."""
    path, _ = split(setting.kind)
    if code_of(path) != setting.code and setting.code:
        raise UserError(f"{path} has changed since the experiment was made; put it back, or train anew")


def with_code(network: Network, *, anew: bool = False) -> Network:
    """The network with the digest of its unit's file, if it has such a unit and no digest yet, or `anew`.

    The path is written as short as it can be, so that `./my_unit.py` and `my_unit.py` are one experiment.
    """
    shortcut = network.shortcut
    if not is_own(shortcut.kind) or (shortcut.code and not anew):
        return network
    path, name = split(shortcut.kind)
    found = replace(shortcut, kind=f"{Path(path).as_posix()}:{name}", code=code_of(path))
    return replace(network, shortcut=found)


def check_recorded(network: Network) -> None:
    """Raise `SettingError` for a unit of a user's that a recorded run could not be made again with."""
    setting = network.shortcut
    if is_own(setting.kind) and not setting.code:
        path, _ = split(setting.kind)
        raise SettingError(
            f"shortcut '{setting.kind}' without shortcut.code does not say which content of {path} it means; "
            f"set network.shortcut.code={code_of(path)}"
        )


def rows_of(path: str | Path) -> tuple[Row, ...]:
    """The units that a file makes with `@cleanpath.unit("name")`, in its order, read from the source.

    Raises `UserError` for a file that is missing or no Python, that makes no unit, and for names that are no literals
    or come twice.
    """
    code = code_of(path)
    try:
        tree = ast.parse(Path(path).read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"cannot import {path} ({told(error)})") from None
    called = _called(tree)
    rows = [
        Row(
            name=name,
            doc=(ast.get_docstring(node) or "").partition("\n")[0],
            shortcut=Shortcut(kind=f"{Path(path).as_posix()}:{name}", code=code),
        )
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for name in _names(node, path, called)
    ]
    if not rows:
        raise UserError(no_unit(path))
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two units are called '{name}'; give one of them another name")
    return tuple(rows)


def _called(tree: ast.Module) -> frozenset[str]:
    """What a file calls `cleanpath.unit`, by its imports: `cp.unit`, or the name that it imports the function under."""
    found = {"cleanpath.unit", "unit"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {f"{one.asname}.unit" for one in node.names if one.name == "cleanpath" and one.asname}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "cleanpath":
            found |= {one.asname for one in node.names if one.name == "unit" and one.asname}
    return frozenset(found)


def _names(node: ast.FunctionDef, path: str | Path, called: frozenset[str]) -> Iterator[str]:
    """What the decorators of a function call it."""
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) not in called:
            continue
        given = decorator.args[0] if decorator.args else next((k.value for k in decorator.keywords), None)
        if not isinstance(given, ast.Constant) or not isinstance(given.value, str):
            raise UserError(f"{path}, line {decorator.lineno}: write the unit's name as text, @cleanpath.unit('name')")
        if not NAME.fullmatch(given.value):
            raise UserError(f"{path}: a unit cannot be called '{given.value}'; use letters, digits, _ and -")
        yield given.value


def no_unit(path: str | Path) -> str:
    """What is said of a file without a unit."""
    return f"{path} makes no unit; put @cleanpath.unit('name') above a function from a unit's parts to an nn.Module"


def told(error: BaseException) -> str:
    """What somebody else's code raised, on one line, and where in it."""
    text = " ".join(str(error).split())[:200]
    name = type(error).__name__
    return f"{name}: {text}{place(error)}" if text else f"{name}{place(error)}"


def _libraries() -> list[str]:
    return [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]


def place(error: BaseException) -> str:
    """File and line of the last call that is neither cleanpath's nor a library's; empty where there is none."""
    ours = (f"{Path(__file__).parents[1]}{os.sep}", *(f"{place}{os.sep}" for place in _libraries()))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*ours, "<"))]
    return f"; {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
