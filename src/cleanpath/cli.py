"""The verbs; no arithmetic. stdout is the result, stderr the progress, the exit code the answer.

0 done, 1 the answer is no (a cell crashed, with --strict a claim contradicted, a finding at or above --fail-on),
2 the user can mend it, 3 our bug, 130 and 143 interrupted.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cleanpath import __version__, examining, foreseeing, launched, options, reporting, showing, verbs
from cleanpath.errors import CleanpathError
from cleanpath.launched import PATIENCE, check_alone, processes, speaks
from cleanpath.options import (
    AsJson,
    ClusterAddress,
    ColumnChoice,
    Columns,
    DataName,
    Device,
    DryRun,
    Fresh,
    KernelChoice,
    Kernels,
    NoForecast,
    OwnUnits,
    PageFile,
    Root,
    ScaleName,
    Seeds,
    Settings,
    Strict,
    Things,
    ToTrain,
    Whats,
)
from cleanpath.usage import reworded, speak_any_encoding, stop_requests, stoppable, this_command

app = typer.Typer(
    name="cleanpath",
    help="Build, train and audit residual networks: He, Zhang, Ren and Sun (2016), exactly, and beyond.",
    epilog="Start with: cleanpath reproduce table1 table2",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"cleanpath {__version__}")
        raise typer.Exit
    if context.invoked_subcommand != "train":
        check_alone(str(context.invoked_subcommand))


@app.command("list")
def list_things(
    what: Annotated[Things, typer.Argument(help="What to list.")],
    pattern: Annotated[str, typer.Argument(help="A name with * and ?.")] = "*",
    runs: Root = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List networks, tables, data, recipes, runs, settings or rules.

    Examples: cleanpath list networks 'pre*'; cleanpath list runs --json
    """
    from cleanpath import inventory
    from cleanpath.report import listing, terminal

    tables = what == Things.tables
    rows = inventory.tables(pattern, runs) if tables else listing.rows(what, pattern, runs)

    def printed() -> None:
        if tables and (cells := inventory.printed_cells(rows)):
            terminal.print_rows(cells)
            typer.echo()
        terminal.print_rows(inventory.printed(rows) if tables else rows)

    options.show({"schema": f"cleanpath.list.{what}", "version": 1, what: rows}, as_json, printed)
    if what in listing.LEGENDS and not as_json:
        typer.echo(listing.LEGENDS[what], err=True)
    if tables and not as_json and (told := inventory.about_speed()):
        typer.echo(told, err=True)


app.command()(showing.show)


@app.command()
def train(
    network: ToTrain,
    data: DataName = None,
    recipe: Annotated[
        str | None, typer.Option(help="How it is trained: `list recipes`.", autocompletion=options.recipes)
    ] = None,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="The seed of weights, order and dropout. Default: 0.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; default below ./runs.")] = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default: all cores.")] = None,
    loaders: Annotated[int, typer.Option(min=0, help="Processes that prepare batches ahead; 0: none.")] = 0,
    init: Annotated[
        Path | None, typer.Option(metavar="RUN|FILE", help="Begin with these weights; another head for other classes.")
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="tensorboard|FILE.py:FACTORY", help="Tell this callback too; repeatable."),
    ] = None,
    save_every: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Between two checkpoints.")] = 60.0,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Of processes that torchrun started, for each other.")
    ] = PATIENCE,
    kernels: KernelChoice = Kernels.auto,
    fresh: Fresh = False,
    no_forecast: NoForecast = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a network and record the run; `torchrun … -m cleanpath train` shares it among processes.

    Examples: cleanpath train preresnet20 --set training.epochs=5; cleanpath train run.toml --out runs/mine
    """
    from cleanpath import assemble, devices, single
    from cleanpath.grid.local import cores
    from cleanpath.report import terminal

    threads = threads or max(1, cores() // launched.processes_here())
    extra = [f"data.name={data}"] if data is not None else []
    extra += [f"seed={seed}"] if seed is not None else []
    if init is not None:
        init, digest = assemble.weights_of(init)
        extra.append(f"init={digest}")
    on = devices.chosen(device, beside=launched.place_here())
    experiment = single.experiment_of(network, [*(settings or []), *extra], recipe)
    devices.check(on, experiment.training.precision)
    if dry_run:
        check_alone("train --dry-run")
        plan = single.plan_run(
            experiment, out, threads=threads, device=on, kernels=kernels.value, init=init, foretold=not no_forecast
        )
        options.show(plan, as_json, lambda: terminal.print_run_plan(plan))
        return
    again = launched.with_torchrun(this_command(without="--fresh"))
    with (
        stop_requests(f"go on with: {again}", torchrun=processes() > 1) as request,
        launched.joined(patience, on.type) as ranks,
    ):
        run = single.train(
            experiment,
            out,
            threads=threads,
            fresh=fresh and not launched.tries_before(),
            request=request,
            loaders=loaders,
            seconds_between=save_every,
            init=init,
            log=log or (),
            ranks=ranks,
            here=launched.processes_here(),
            device=on,
            kernels=kernels.value,
            foretold=not no_forecast,
        )
        if not ranks.leads:
            return
    options.show(run.to_data(), as_json, lambda: terminal.print_run(run))
    if run.status == "diverged":
        raise typer.Exit(1)


@app.command()
def reproduce(
    what: Whats,
    scale: ScaleName = "quick",
    seeds: Seeds = None,
    columns: ColumnChoice = Columns.all,
    own_units: OwnUnits = None,
    settings: Settings = None,
    device: Device = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: one per core, up to 3 a GPU.")
    ] = None,
    cluster: ClusterAddress = None,
    kernels: KernelChoice = Kernels.auto,
    runs: Root = Path("runs"),
    page: PageFile = Path("reports/reproduction.html"),
    strict: Strict = False,
    fresh: Fresh = False,
    no_forecast: NoForecast = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run tables and figures of the paper and print ours beside the paper's.

    Examples: cleanpath reproduce all --scale quick; cleanpath reproduce table1 --with my_unit.py --seeds 1
    """
    from cleanpath import planning, recorded, reproduction
    from cleanpath.live import written
    from cleanpath.pages import Page, check_page
    from cleanpath.report import terminal

    check_page(page)
    job = reproduction.reproduction(
        what,
        scale=scale,
        seeds=seeds,
        all_columns=columns == Columns.all,
        changes=settings or [],
        root=runs,
        own_units=own_units or [],
    )
    if dry_run:
        with stoppable("nothing was started"):
            plan = planning.measured_plan(
                job,
                workers=workers,
                fresh=fresh,
                device=device,
                cluster=cluster,
                kernels=kernels.value,
                foretold=not no_forecast,
            )
        options.show(plan, as_json, lambda: terminal.print_plan(plan))
        return
    command = this_command(without="--fresh")
    shown = f"the tables as they stand: {shlex.join(['cleanpath', 'report', str(runs)])}"
    with stoppable(f"finished cells are kept; {shown}; go on with: {command}"):
        reproduction.run(
            job,
            workers=workers,
            device=device,
            cluster=cluster,
            kernels=kernels.value,
            fresh=fresh,
            foretold=not no_forecast,
            ready=lambda: recorded.record(job, command),
        )
    (found,) = written([Page(job=job, path=page, command=command)])
    options.show(found.to_data(), as_json, lambda: terminal.print_tables(found.tables, found.verdicts))
    typer.echo(f"page: {page}", err=True)
    if any(cell.status == "failed" for cell in job.cells()) or (strict and found.contradicted):
        raise typer.Exit(1)


app.command()(reporting.report)
app.command()(verbs.compare)


app.command()(examining.audit)
app.command()(foreseeing.forecast)
app.command()(verbs.evaluate)
app.command()(verbs.predict)
app.command()(verbs.export)


app.command()(examining.explain)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Print versions, threads, devices, memory and disk, and what is wrong with them.

    Examples: cleanpath doctor; cleanpath doctor --json
    """
    from cleanpath import health
    from cleanpath.report import terminal

    checks = health.checks(Path.cwd())
    data = {"schema": "cleanpath.doctor", "version": 1, "checks": checks}
    options.show(data, as_json, lambda: terminal.print_checks(checks))
    if any(check["status"] == "fail" for check in checks):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors become one or two lines and an exit code."""
    speak_any_encoding()
    launched.watch_start()
    try:
        code = app(args=examining.spread(sys.argv[1:]), standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CleanpathError as error:
        if speaks(str(error)):
            typer.echo(f"error: {error}", err=True)
        code = error.exit_code
    except TyperException as error:
        told = error.format_message()
        typer.echo(told if told.startswith("Usage:") else f"error: {reworded(error)}", err=True)
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except (BrokenPipeError, SystemExit):
        # typer makes a SystemExit of a broken pipe, and in this mode of nothing else. Whoever read our output has
        # seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception:  # noqa: BLE001 (whatever reaches this point is a bug, and is shown whole)
        import traceback

        traceback.print_exc()
        typer.echo("error: this is a bug of cleanpath; please report it with the lines above", err=True)
        code = 3
    sys.exit(code)
