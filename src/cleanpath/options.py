"""What the verbs share: words that an option may be, shared options, completion. Never imports torch."""

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Columns(StrEnum):
    """Which columns of a table run."""

    first = "first"
    all = "all"


class Mode(StrEnum):
    """The mode in which a network is audited."""

    training = "training"
    eval = "eval"


class Kernels(StrEnum):
    """Which kernels a network is trained or tested on."""

    auto = "auto"
    plain = "plain"
    fused = "fused"


class Severity(StrEnum):
    """From which severity on findings make an audit fail."""

    error = "error"
    warning = "warning"
    note = "note"


class Form(StrEnum):
    """How an audit is printed."""

    text = "text"
    md = "md"
    github = "github"


class Things(StrEnum):
    """What `list` can list."""

    networks = "networks"
    tables = "tables"
    data = "data"
    recipes = "recipes"
    runs = "runs"
    settings = "settings"
    rules = "rules"


def rules(incomplete: str) -> list[str]:
    """Codes of rules that complete a word."""
    from cleanpath.auditing.judging import every_rule

    return [one.code for one in every_rule() if one.code.startswith(incomplete.upper())]


def recipes(incomplete: str) -> list[str]:
    """Names of recipes that complete a word."""
    from cleanpath.paper.recipes import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def networks(incomplete: str) -> list[str]:
    """Names of networks that complete a word."""
    from cleanpath.nn import catalog

    return [name for name in catalog.names() if name.startswith(incomplete)]


DATA = ("digits", "cifar10", "cifar100")


def shown(incomplete: str) -> list[str]:
    """Names of what `show` shows that complete a word."""
    data = [name for name in (*DATA, "folder:", "imagenet:") if name.startswith(incomplete)]
    shown_tables = [name for name in tables(incomplete) if name != "all"]
    return [*data, *networks(incomplete), *shown_tables, *recipes(incomplete), *runs(incomplete)]


def scales(incomplete: str) -> list[str]:
    """Scales that complete a word."""
    from cleanpath.paper.scales import SCALES

    return [name for name in SCALES if name.startswith(incomplete)]


def tables(incomplete: str) -> list[str]:
    """Names of tables that complete a word."""
    from cleanpath.paper.tables import ALL, RECIPES

    return [name for name in (*RECIPES, ALL) if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Run folders that complete a word."""
    from cleanpath.records import runs_below

    return [str(run.folder) for run in runs_below(Path("runs")) if str(run.folder).startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Root = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder that holds the runs.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting (`list settings`); may be repeated."),
]
ToTrain = Annotated[
    str,
    typer.Argument(
        help="A network, timm:NAME, torchvision:NAME, file.py:factory, or an experiment in a .toml or .json file.",
        autocompletion=networks,
    ),
]
DataName = Annotated[str | None, typer.Option("--data", help="The data set; `list data` names them. Default: digits.")]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="Where it computes; auto: a GPU if there is one."),
]
KernelChoice = Annotated[
    Kernels,
    typer.Option("--kernels", help="On a processor: torch's (plain) or cleanpath's, built here (fused)."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, its time and memory; run nothing.")]
NoForecast = Annotated[bool, typer.Option("--no-forecast", help="Do not say beforehand whether it will train.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start again, also what is finished.")]
Whats = Annotated[
    list[str],
    typer.Argument(metavar="WHAT...", help="Tables and figures (`list tables`), or all.", autocompletion=tables),
]
ScaleName = Annotated[
    str, typer.Option("--scale", help="quick, laptop or paper: `list tables` has their cost.", autocompletion=scales)
]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="N|claims[=N]",
        help="How many seeds each row runs with, or only those that claims compare; default: as the scale says.",
    ),
]
ColumnChoice = Annotated[Columns, typer.Option("--columns", help="All columns of each table, or the first.")]
OwnUnits = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="FILE.py", help="Add your own units as rows (@cleanpath.unit); repeatable."),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option("--cluster", metavar="HOST:PORT", help="Run on the Ray cluster with this head (docs/cluster.md)."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim of the paper is contradicted.")]
PageFile = Annotated[Path, typer.Option("--page", metavar="FILE", help="Where the HTML page goes.")]


def show(data: Mapping[str, Any], as_json: AsJson, print_it: Callable[[], None]) -> None:
    """The result on stdout, as JSON or in words."""
    if as_json:
        typer.echo(json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False))
    else:
        print_it()
