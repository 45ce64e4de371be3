"""The verb `report`: tables and their pages from the runs that exist. No arithmetic; never imports torch by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cleanpath import options
from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.options import (
    AsJson,
    ColumnChoice,
    Columns,
    OwnUnits,
    PageFile,
    Root,
    ScaleName,
    Seeds,
    Settings,
    Strict,
)
from cleanpath.usage import stoppable, this_command

if TYPE_CHECKING:
    from cleanpath.pages import Page
    from cleanpath.reproduction import Outcome

# What a folder of runs says of itself.
_RECORDED = {
    **{name: f"--{name}" for name in ("scale", "seeds", "columns", "runs")},
    "own_units": "--with",
    "settings": "--set",
}


def report(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT...|RUNS",
            help="Tables and figures (`list tables`), or all; or a folder of runs that `reproduce` made.",
            autocompletion=options.tables,
        ),
    ],
    scale: ScaleName = "quick",
    seeds: Seeds = None,
    columns: ColumnChoice = Columns.all,
    own_units: OwnUnits = None,
    settings: Settings = None,
    runs: Root = Path("runs"),
    page: PageFile = Path("reports/reproduction.html"),
    live: Annotated[
        bool, typer.Option("--live", help="Write the page anew while runs go on, until they are done.")
    ] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="With --live: between two pages.")] = 5.0,
    strict: Strict = False,
    as_format: Annotated[str, typer.Option("--format", help="text, md or csv.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Print tables from the runs that exist and write their page; train nothing.

    Examples: cleanpath report table1 --format md; cleanpath report runs --live
    """
    from cleanpath import live as following
    from cleanpath import recorded, reproduction
    from cleanpath.pages import Page, check_page
    from cleanpath.report import terminal

    if as_format not in terminal.FORMATS:
        raise SettingError(f"--format is '{as_format}'; choose one of {', '.join(terminal.FORMATS)}")
    check_page(page)
    folder = _folder(context, what)
    single: tuple[Page, ...] = ()
    if folder is not None:
        whole, single = recorded.pages_of(folder, page, this_command())
    else:
        job = reproduction.reproduction(
            what,
            scale=scale,
            seeds=seeds,
            all_columns=columns == Columns.all,
            changes=settings or [],
            root=runs,
            own_units=own_units or [],
        )
        if not live:
            recorded.check_runs(job, named=_is_given(context, "runs"))
        whole = (Page(job=job, path=page, command=this_command()),)
    pages = [*whole, *single]
    if live:
        names = ", ".join(str(one.path) for one in pages)
        typer.echo(f"page: {names}, written anew until the runs are done; Ctrl-C ends that", err=True)
        with stoppable(f"{names} stands as the runs do now; go on with: {this_command()}"):
            found = following.follow(pages, every=every)
    else:
        found = following.written(pages)
    shown = found[: len(whole)]
    data = _of_folder(whole, shown) if folder is not None else shown[0].to_data()
    options.show(data, as_json, lambda: terminal.show_tables([(one.tables, one.verdicts) for one in shown], as_format))
    for told in dict.fromkeys(line for one in pages for line in one.job.other_versions()):
        typer.echo(told, err=True)
    for one in pages:
        typer.echo(f"page: {one.path}", err=True)
    if strict and any(one.contradicted for one in found):
        raise typer.Exit(1)


def _folder(context: typer.Context, what: Sequence[str]) -> Path | None:
    """The folder of runs that is meant; None if tables are."""
    from cleanpath.paper.tables import ALL, RECIPES

    others = [word for word in what if word not in (ALL, *RECIPES) and "=" not in word]
    folders = [word for word in others if Path(word).is_dir()]
    if others and not folders:
        known, see = (ALL, *RECIPES), "cleanpath list tables"
        raise UnknownNameError("table and no folder of runs", others[0], known, see=see)
    if not folders:
        return None
    if len(what) > 1:
        raise UserError(f"report takes tables, or one folder of runs: {folders[0]} is a folder; give it alone")
    given = [option for name, option in _RECORDED.items() if _is_given(context, name)]
    if given:
        raise UserError(f"{given[0]} is for tables: what was asked of the runs in {folders[0]} is recorded there")
    return Path(folders[0])


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _of_folder(pages: Sequence["Page"], found: Sequence["Outcome"]) -> dict[str, Any]:
    """What the pages of a folder of runs hold, as plain data."""
    each = [{"page": str(one.path), **outcome.to_data()} for one, outcome in zip(pages, found, strict=True)]
    return {"schema": "cleanpath.reports", "version": 1, "reports": each}
