"""Who may import whom: read from the source, and once from a live interpreter."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache

import pytest

import cleanpath
from tests.helpers import SOURCE

FREE_OF_TORCH = (
    *("cleanpath", "cleanpath.*.__init__", "cleanpath.errors", "cleanpath.experiment", "cleanpath.settings"),
    "cleanpath.meanings",
    *(
        "cleanpath.records",
        "cleanpath.naming",
        "cleanpath.reading",
        "cleanpath.locking",
        "cleanpath.checkout",
        "cleanpath.nn.catalog",
        "cleanpath.nn.own",
        "cleanpath.nn.summary_values",
        "cleanpath.paper.*",
    ),
    *("cleanpath.grid.*", "cleanpath.report.*", "cleanpath.watch", "cleanpath.reproduction", "cleanpath.cli"),
    *("cleanpath.estimate", "cleanpath.inventory", "cleanpath.measures", "cleanpath.nn.multiply_adds"),
    *("cleanpath.machine_speed", "cleanpath.planning"),
    *("cleanpath.usage", "cleanpath.health", "cleanpath.launched", "cleanpath.training.progress", "cleanpath.__main__"),
    *("cleanpath.auditing.profile", "cleanpath.auditing.values", "cleanpath.auditing.text"),
    *("cleanpath.auditing.verdict", "cleanpath.auditing.finding", "cleanpath.auditing.judging"),
    *("cleanpath.auditing.rules.*", "cleanpath.options", "cleanpath.showing", "cleanpath.verbs"),
    *("cleanpath.forecasting.values", "cleanpath.forecasting.rule", "cleanpath.forecasting.judging"),
    "cleanpath.foreseeing",
    *("cleanpath.pages", "cleanpath.recorded", "cleanpath.live", "cleanpath.reporting", "cleanpath.examining"),
)
HEAVY = ("torch", "torchvision", "safetensors", "sklearn")


def modules() -> dict[str, ast.Module]:
    """Every module by its dotted name; a package under its own name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = ("cleanpath", *path.relative_to(SOURCE).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()
PACKAGES = {".".join(("cleanpath", *path.parent.relative_to(SOURCE).parts)) for path in SOURCE.rglob("__init__.py")}


def statements(tree: ast.Module, *, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements that run: at the top of a module, or `everywhere`, inside functions too."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


@cache
def imported(name: str, *, everywhere: bool = True) -> frozenset[str]:
    """What a module imports, by dotted name."""
    found = set()
    for node in statements(MODULES[name], everywhere=everywhere):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert node.module is not None, f"{name} imports relatively"
        assert not node.level, f"{name} imports relatively"
        members = {f"{node.module}.{alias.name}" for alias in node.names}
        found |= members & set(MODULES)
        # `from package import module` needs no more of the package than importing the module does.
        if not members <= set(MODULES):
            found.add(node.module)
    return frozenset(found)


def ancestors(name: str) -> list[str]:
    """The packages that are imported before a module is."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def reached(name: str) -> set[str]:
    """Everything that importing a module imports, packages included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        waiting += ancestors(at)
        if at in MODULES:
            waiting += imported(at, everywhere=False)
    return seen


def ours(name: str) -> frozenset[str]:
    """The modules of cleanpath that a module imports anywhere, without the package itself."""
    return frozenset(other for other in imported(name) if other.startswith("cleanpath."))


def within(name: str, *parts: str) -> bool:
    """Whether a module is one of these parts of cleanpath or below it."""
    return any(name == f"cleanpath.{part}" or name.startswith(f"cleanpath.{part}.") for part in parts)


def free_of_torch() -> list[str]:
    packages = [name for name in MODULES if name in PACKAGES]
    named = [name for name in MODULES if any(fnmatchcase(name, pattern) for pattern in FREE_OF_TORCH)]
    return sorted({*packages, *named})


def test_list_of_modules_without_torch_names_only_what_exists() -> None:
    names = [name if name not in PACKAGES else f"{name}.__init__" for name in MODULES] + list(MODULES)
    assert [pattern for pattern in FREE_OF_TORCH if not any(fnmatchcase(name, pattern) for name in names)] == []
    assert len(free_of_torch()) > 20


@pytest.mark.parametrize("name", free_of_torch())
def test_module_reaches_no_torch_when_imported(name: str) -> None:
    heavy = {other for other in reached(name) if other.split(".")[0] in HEAVY}
    assert heavy == set(), f"{name} reaches {sorted(heavy)}"


def test_reading_of_imports_finds_torch_where_it_is() -> None:
    assert "torch" in reached("cleanpath.assemble")
    assert "torch" in reached("cleanpath.nn.unit")


def test_all_modules_without_torch_load_without_torch() -> None:
    names = [name for name in free_of_torch() if name != "cleanpath.__main__"]
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\nsys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "nn")])
def test_nn_imports_torch_errors_and_experiment_only(name: str) -> None:
    outside = {other.split(".")[0] for other in imported(name)} - set(sys.stdlib_module_names) - {"cleanpath"}
    assert outside <= {"torch"}
    assert {other for other in ours(name) if not within(other, "nn", "errors", "experiment")} == set()


@pytest.mark.parametrize(
    ("street", "forbidden"),
    [
        ("auditing", ("nn", "data", "training")),
        ("repair", ("nn", "data", "training", "paper", "report", "records")),
        ("forecasting", ("nn", "data", "training", "paper", "grid", "report", "records", "assemble")),
        ("training", ("nn", "paper")),
        ("fast", ("nn", "data", "training", "auditing", "paper", "grid", "report", "records", "assemble")),
        ("report", ("grid", "training", "data", "assemble", "single")),
        ("data", ("nn", "training", "paper", "grid", "report", "auditing", "records")),
        ("paper", ("data", "training", "grid", "report", "auditing", "records")),
        ("records", ("data", "training", "grid", "report", "auditing", "paper")),
    ],
)
def test_street_does_not_import_another(street: str, forbidden: tuple[str, ...]) -> None:
    members = [name for name in MODULES if within(name, street)]
    assert members
    crossing = {name: sorted(other for other in ours(name) if within(other, *forbidden)) for name in members}
    assert {name: others for name, others in crossing.items() if others} == {}


def test_nobody_imports_the_command_line() -> None:
    assert [name for name in MODULES if "cleanpath.cli" in imported(name)] == ["cleanpath.__main__"]


def cycles() -> list[str]:
    """The circles of imports, those inside functions included."""
    done: set[str] = set()
    found = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" → ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for other in sorted(ours(name) & set(MODULES)):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert done == set(MODULES)
    return found


def test_imports_make_no_cycle() -> None:
    assert cycles() == []


def test_no_module_bears_the_name_of_a_public_function() -> None:
    top = {name.split(".")[1] for name in MODULES if "." in name}
    assert top & set(cleanpath.__all__) == set()


def test_public_names_load_and_are_those_that_type_checkers_see() -> None:
    assert all(getattr(cleanpath, name) is not None for name in cleanpath.__all__)
    assert set(cleanpath.__all__) == set(cleanpath._HOMES)
    typed = {
        alias.name
        for node in ast.walk(MODULES["cleanpath"])
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == set(cleanpath.__all__)
    with pytest.raises(AttributeError, match="no attribute 'audit_everything'"):
        _ = cleanpath.audit_everything


def test_no_file_is_long_and_the_whole_is_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path.name: length for path, length in lengths.items() if length > 400} == {}
    assert sum(lengths.values()) <= 38_000


def test_there_is_no_utils() -> None:
    assert [path for path in SOURCE.rglob("*.py") if path.stem in ("utils", "util", "helpers", "common", "misc")] == []
