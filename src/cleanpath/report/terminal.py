"""Results on a terminal: aligned tables on stdout, plain where it is not one."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table as Grid

from cleanpath.nn.summary_values import Summary, UnitSummary
from cleanpath.paper.published import PublishedTable
from cleanpath.paper.verdicts import Verdict
from cleanpath.records import Run
from cleanpath.report import claimed, table_text
from cleanpath.report.table import Table, clock, count, number, spread

_LEAST_WIDTH, _WIDE, _MOST_FITTED = 160, 100, 1000
_DAYS, _LONGEST, _A_GIGABYTE = 360_000, 3e9, 1e9  # seconds of 100 hours and of a century; bytes
_COLOURS = {
    "ok": "green",
    "fail": "red",
    "diverged": "red",
    "failed": "red",
    "warn": "yellow",
    "missing": "dim",
    "unfinished": "dim",
}
_COLOURS |= {"confirmed": "green", "contradicted": "red", "undecided": "yellow", "not run": "dim"}


def print_tables(found: Sequence[Table], verdicts: Sequence[Verdict] = ()) -> None:
    """The verdicts, one line each; then each table with ours beside the paper's."""
    console = _console()
    labels = claimed.labels_of(found)
    console.print(f"[bold]{escape(claimed.tally(verdicts, found))}[/]", soft_wrap=True)
    for verdict in verdicts:
        told = f"{verdict.claim.id}: {verdict.claim.sentence} {claimed.line_of(verdict, labels)}"
        console.print(f"{_coloured(verdict.verdict.replace('_', ' '))}  {escape(told)}", soft_wrap=True)
    for one in found:
        console.print(f"\n[bold]{one.name}: {escape(one.title)}[/]")
        console.print(f"paper: {escape(one.quantity)}")
        console.print(f"ours: scale {one.scale}, {escape(one.protocol)}")
        if one.cells:
            console.print(_cells(one, narrow=console.width < _WIDE))
        for label, note in one.notes:
            console.print(f"{escape(label)}: {escape(note)}", soft_wrap=True)
        for column in claimed.columns_of(one):
            for sentence in column.sentences:
                console.print(f"{escape(column.column)}: {escape(sentence)}", soft_wrap=True)
        if any(c.n < len(c.seeds) for c in one.cells):
            console.print(f"missing: fill with  {escape(one.fill)}", soft_wrap=True)
        for (reason, fill), cells_without in _left_out(one):
            these = "1 cell" if cells_without == 1 else f"{cells_without} cells"
            console.print(f"left out here, {these}: {escape(reason)}; fill with  {escape(fill)}", soft_wrap=True)
        if one.no_numbers:
            console.print(f"without a number of the paper's: {escape(one.no_numbers)}", soft_wrap=True)
    console.print()
    if told := table_text.about_intervals([cell for one in found for cell in one.cells]):
        console.print(escape(told), soft_wrap=True)
    for letter, line in dict.fromkeys(marked for one in found for marked in one.marked):
        console.print(f"- {letter}{': ' if letter else ''}{escape(line)}", soft_wrap=True)


def _cells(table: Table, *, narrow: bool) -> Grid:
    """The rows of a table, column by column; 80 letters wide where there are no more, with the words of rows folded."""
    interval = table_text.interval_head(table.cells).replace("; ", ";\n")
    heads = ("row", "paper", "ours", "mean ± std", interval, "n", "differs in", "status")
    grid = _grid(*heads, right=(1, 2, 3, 4, 5), gap=1 if narrow else 2)
    for head in grid.columns[1:]:
        head.no_wrap = True
    for column in dict.fromkeys(c.column for c in table.cells):
        if len(table.columns) > 1:
            grid.add_row(f"[bold]{escape(column)}[/]")
        for c in (c for c in table.cells if c.column == column):
            numbers = (number(c.paper, 2), number(c.median, c.digits), spread(c), table_text.interval(c), count(c))
            grid.add_row(*map(escape, (c.label, *numbers, table_text.letters(c))), _coloured(c.status))
    return grid


def _left_out(table: Table) -> list[tuple[tuple[str, str], int]]:
    """Why cells are not at this scale and what fills them, with how many they are."""
    return list(Counter((c.left_out, c.fill) for c in table.cells if c.left_out).items())


def print_markdown(found: Sequence[Table], verdicts: Sequence[Verdict] = ()) -> None:
    """The verdicts and the tables as Markdown."""
    sys.stdout.write("\n".join([claimed.to_markdown(found, verdicts), *map(_table_in_markdown, found)]))


def _table_in_markdown(table: Table) -> str:
    said = [f"- {column.column}: {told}\n" for column in claimed.columns_of(table) for told in column.sentences]
    return table_text.to_markdown(table) + ("\n" + "".join(said) if said else "")


def print_csv(found: Sequence[Table], verdicts: Sequence[Verdict] = ()) -> None:  # noqa: ARG001 (as the others)
    """The tables as one CSV."""
    sys.stdout.write(table_text.to_csv(found))


FORMATS: dict[str, Callable[[Sequence[Table], Sequence[Verdict]], None]] = {
    "text": print_tables,
    "md": print_markdown,
    "csv": print_csv,
}


def show_tables(found: Sequence[tuple[Sequence[Table], Sequence[Verdict]]], form: str) -> None:
    """Tables with the verdicts on them in one of the `FORMATS`; several groups of them one after the other."""
    if form == "csv":
        found = [([table for tables, _ in found for table in tables], [])]
    for at, (tables, verdicts) in enumerate(found):
        if at:
            sys.stdout.write("\n")
        FORMATS[form](tables, verdicts)


def print_plan(plan: dict[str, Any]) -> None:
    """The cells of a grid, and what is left to do."""
    console = _console()
    foretold = ("forecast",) if any(row["forecast"] for row in plan["cells"]) else ()
    grid = _grid("cell", "status", "time", "memory", "disk", *foretold, right=(2, 3, 4))
    for row in plan["cells"]:
        cost = (_long(row["seconds"]), _gigabytes(row["memory"]) if row["memory"] else "–", _megabytes(row["disk"]))
        cost = cost if row["status"] == "to do" else ("–", "–", "–")
        said = (_foretold(row["forecast"]),) if foretold else ()
        grid.add_row(escape(row["cell"]), row["status"], *cost, *said)
    console.print(grid)
    hours = f"{plan['worker_seconds'] / 3600:,.1f} {'core' if plan['devices'] == ['cpu'] else 'GPU worker'}-hours"
    memory = f", {_gigabytes(plan['memory'])} of memory" if plan["memory"] else ""
    console.print(
        f"{plan['to_do']} of {len(plan['cells'])} to do on {plan['workers']} workers: about {_long(plan['seconds'])}"
        f"{_until(plan['seconds'])}, {hours}{memory}, {_megabytes(plan['disk'])} on disk ({plan['how']}); "
        "nothing was written"
    )
    if plan["disk"] > plan["free_disk"]:
        console.print(f"only {_megabytes(plan['free_disk'])} are free where the runs go: choose another --runs")
    if plan["to_do"]:
        console.print(f"not in these times: {plan['left_out']}")
    for line in plan["missing"]:
        console.print(escape(line), soft_wrap=True)


def _foretold(found: dict[str, Any] | None) -> str:
    """An outcome with its probability; a dash for a cell that is not to be run."""
    if found is None:
        return "–"
    chance = found["probabilities"].get(found["outcome"])
    return f"{found['outcome']}{'' if chance is None else f' {chance:.0%}'}"


def _long(seconds: float) -> str:
    return f"{seconds / 3600:,.0f} hours" if seconds > _DAYS else clock(seconds)


def _until(seconds: float) -> str:
    """When that will be, begun now; nothing where nothing is to be done or beyond the calendar."""
    if not 0 < seconds < _LONGEST:
        return ""
    return f" (until {datetime.now().astimezone() + timedelta(seconds=seconds):%a %-d %b %Y %H:%M} if begun now)"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count < _A_GIGABYTE else _gigabytes(count)


def print_run_plan(plan: dict[str, Any]) -> None:
    """The experiment as TOML, and its cost."""
    console = _console()
    console.print(escape(plan["toml"]), highlight=False)
    disk, what = f"{plan['disk'] / 1e6:,.1f} MB on disk", "memory" if plan["device"] == "cpu" else "GPU memory"
    memory = f"{_gigabytes(plan['memory'])} of {what}"
    if plan["seconds"] is None:
        found = f"{memory}, and {_gigabytes(plan['free_memory'])} are free: not tried; {disk}"
    else:
        found = f"about {clock(plan['seconds'])}, {memory} (a few steps, just now), {disk}"
    console.print(f"run {escape(plan['folder'])}: {found}; nothing was written", soft_wrap=True)
    if plan["forecast"] is not None:
        console.print(escape(plan["forecast"]["words"]), soft_wrap=True)
    if plan["largest_batch"] is not None:
        batches = ", ".join(f"{batch:,} with training.memory={way}" for way, batch in plan["largest_batch"].items())
        console.print(f"largest batch that fits into {_gigabytes(plan['free_memory'])}: {batches}", soft_wrap=True)


def print_run(run: Run) -> None:
    """What a run came to, and what can be done next."""
    console = _console()
    result = run.result
    if result is None:
        console.print(f"{escape(run.name)}: {run.status}")
    elif result["status"] == "diverged":
        console.print(f"{escape(run.name)}: diverged; {escape(result['reason'])}")
    else:
        console.print(
            f"{escape(run.name)}: error {result['error']:.1f}% (last iteration, {result['iterations']}), "
            f"training error {result['train_error']:.1f}%, {clock(result['seconds'])}"
        )
    console.print(f"recorded in {escape(str(run.folder))}")


def print_network(name: str, summary: Summary, *, every: bool) -> None:
    """A network's units; neighbours that are alike stand in one line unless `every`."""
    console = _console()
    shape = "×".join(map(str, summary.input))
    console.print(
        f"[bold]{escape(name)}[/]: {summary.parameters:,} parameters, {summary.macs / 1e6:,.1f} million multiply-adds "
        f"on {shape}, {summary.depth} weighted layers, {len(summary.units)} units"
    )
    grid = _grid("unit", "before both", "h", "F", "f", "output", "parameters", "multiply-adds", right=(6, 7))
    for alike in _alike(summary.units, every=every):
        first, last = alike[0], alike[-1]
        named = first.name if len(alike) == 1 else f"{first.name} … {last.name.rpartition('.')[2]} ×{len(alike)}"
        grid.add_row(
            escape(named.removeprefix("stages.")),
            *map(escape, (first.before, first.h, first.branch, first.f)),
            "×".join(map(str, first.output)),
            f"{first.parameters:,}",
            f"{first.macs:,}",
        )
    console.print(grid)


def print_published(table: PublishedTable) -> None:
    """A table as the paper has it."""
    console = _console()
    console.print(f"[bold]{table.name}: {escape(table.title)}[/]\n{escape(table.quantity)}\n{escape(table.source)}")
    grid = _grid("row", *table.columns, right=tuple(range(1, len(table.columns) + 1)))
    for row in dict.fromkeys(row for row, _ in table.cells):
        name = f"{row} (another method)" if row in table.external else row
        grid.add_row(name, *(_printed(table, row, column) for column in table.columns))
    if table.cells:
        console.print(grid)
    for line in (*table.notes, *([table.no_numbers] if table.no_numbers else [])):
        console.print(escape(line), soft_wrap=True)


def _printed(table: PublishedTable, row: str, column: str) -> str:
    """A number as the paper prints it, with mean and deviation where it has them."""
    value, spread_of = table.cells.get((row, column)), table.spreads.get((row, column))
    mean_and_std = f" ({spread_of[0]:.2f} ± {spread_of[1]:.2f})" if spread_of else ""
    return number(value, 2) + mean_and_std


def print_recipe(found: dict[str, Any]) -> None:
    """What a recipe is, and every setting of it."""
    console = _console()
    console.print(f"[bold]{found['name']}[/]: {escape(found['what'])}\n", soft_wrap=True)
    grid = _grid("setting", "value")
    for name, value in found["training"].items():
        if value is not None:
            grid.add_row(f"training.{name}", _short(value))
    console.print(grid)


def print_text(shown: RenderableType) -> None:
    """What was laid out elsewhere, as an audit is."""
    _console().print(shown, soft_wrap=False)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the same keys, one line each; what a terminal has no room for goes on below."""
    console = _console()
    if not rows:
        console.print("none")
        return
    heads = [key.replace("_", " ") for key in rows[0]]
    texts = [["–" if value is None else _short(value) for value in row.values()] for row in rows]
    if console.is_terminal and len(rows) <= _MOST_FITTED:
        grid = _grid(*heads)
        for cells in texts:
            grid.add_row(*map(escape, cells))
        # A name that is short enough to be copied whole is not cut.
        grid.columns[0].no_wrap = max(len(str(next(iter(row.values())))) for row in rows) <= console.width // 2
        console.print(grid)
        return
    widths = [max(map(cell_len, column)) for column in zip(heads, *texts, strict=True)]
    lines = ("  ".join(map(set_cell_size, cells, widths)).rstrip() for cells in (heads, *texts))
    console.print("\n".join(lines), soft_wrap=True, markup=False, emoji=False)


def print_comparison(found: dict[str, Any]) -> None:
    """Settings that differ, what differs of where they ran, then results; a column per run."""
    grid = _grid("", *map(escape, found["runs"]))
    for part in ("settings", "environment", "results"):
        if found[part]:
            grid.add_row(f"[bold]{part}[/]")
        for key, values in found[part].items():
            grid.add_row(f"  {key}", *("–" if value is None else escape(_short(value)) for value in values))
    _console().print(grid)


def print_checks(checks: Sequence[dict[str, str]]) -> None:
    """One line per check, with what to do where something is wrong."""
    console = _console()
    for check in checks:
        remedy = f"; {check['remedy']}" if check["remedy"] else ""
        console.print(f"{_coloured(check['status'])}  {check['name']}: {escape(check['found'] + remedy)}")


def _alike(units: Sequence[UnitSummary], *, every: bool) -> list[list[UnitSummary]]:
    def kind(unit: UnitSummary) -> tuple[object, ...]:
        stage = unit.name.rpartition(".")[0]
        return (stage, unit.before, unit.h, unit.branch, unit.f, unit.output, unit.parameters)

    return [[unit] for unit in units] if every else [list(group) for _, group in groupby(units, kind)]


def _grid(*heads: str, right: Sequence[int] = (), gap: int = 2) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for index, head in enumerate(heads):
        grid.add_column(head, justify="right" if index in right else "left", overflow="fold")
    return grid


def _console() -> Console:
    """Colours where stdout is a terminal; never narrower than our tables need, so that lines are not cut in files."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _LEAST_WIDTH))


def _coloured(status: str) -> str:
    colour = _COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
