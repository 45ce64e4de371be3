"""A reproduction: the cells of some tables, run on all cores, and the tables that come of their records.

The driver never imports torch; the workers do.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cleanpath import estimate
from cleanpath.errors import SettingError, UserError
from cleanpath.experiment import Experiment, Network, Shortcut
from cleanpath.forecasting.values import CANNOT_SAY, FAILS, OUTCOMES, is_long
from cleanpath.grid import cluster as on_cluster
from cleanpath.grid import local, plan
from cleanpath.grid.plan import Cell
from cleanpath.measures import Wish, wanting
from cleanpath.nn import own
from cleanpath.paper.claims import cells_of
from cleanpath.paper.parts import Part, Recipe, joined
from cleanpath.paper.scales import SCALES, Scale, scale_of
from cleanpath.paper.seeding import Seeds, seeds_asked
from cleanpath.paper.tables import ALL, RECIPES, experiments, missing, recipes_of, seeded, with_rows
from cleanpath.paper.verdicts import Verdict
from cleanpath.records import Run, forget, runs_below
from cleanpath.report.claimed import contradicted, decided_by, few_seeds, verdicts_of
from cleanpath.report.claimed import to_data as claims_data
from cleanpath.report.collect import Read, collect, command, environment
from cleanpath.report.table import Table
from cleanpath.report.table import to_data as tables_data
from cleanpath.watch import Counting, Watch, say

MEASURED_ON_STEPS = ("quick", "laptop")
"""Scales of which a few steps can be tried here; the paper's networks may not fit into this machine."""

_NAMED = 5
"""How many cells that are said to fail are named."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a reproduction came to: its tables, the verdicts on the claims that they decide, and how it was made."""

    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    provenance: Mapping[str, Any]

    @property
    def contradicted(self) -> bool:
        """Whether a claim of the paper is contradicted."""
        return contradicted(self.verdicts)

    def to_data(self) -> dict[str, Any]:
        """As plain data: the schema of `cleanpath reproduce --json`."""
        return tables_data(self.tables, **self.provenance, **claims_data(self.tables, self.verdicts))


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Some tables at one scale with their seeds; its state is the run folders below `root`, nothing else."""

    recipes: tuple[Recipe, ...]
    scale: Scale
    seeds: Seeds
    all_columns: bool
    changes: tuple[str, ...]
    root: Path
    own: tuple[Path, ...] = ()
    """Files with units of the user's, which are rows of these tables."""

    def experiments(self, recipe: Recipe) -> dict[tuple[str, str, int], Experiment]:
        """What runs of a table, by row, column and seed."""
        return seeded(recipe, self.scale, self.seeds, columns=_wanted(recipe, self.all_columns), changes=self.changes)

    def cells(self) -> tuple[Cell, ...]:
        """What runs: the cells of the chosen columns; one that two tables share comes once."""
        return self._cells

    @cached_property
    def _cells(self) -> tuple[Cell, ...]:
        found = [one for recipe in self.recipes for one in self.experiments(recipe).values()]
        return plan.cells(found, self.root)

    def to_do(self, *, fresh: bool) -> list[Cell]:
        """The cells that have not ended, or with `fresh` all of them; the costliest first."""
        return plan.in_order(self.cells()) if fresh else plan.to_do(self.cells())

    def wishes(self, *, again: bool = False) -> list[tuple[Cell, Wish]]:
        """What is to be measured on the finished runs and is not there yet, or all of it `again`."""
        wanted: dict[Path, tuple[Cell, Wish]] = {}
        for recipe in self.recipes:
            parts = {(row.key, column.key): joined(row, column) for row, column in recipe.cells()}
            for (row, column, seed), experiment in self.experiments(recipe).items():
                view = parts[row, column].view
                wish = Wish(profiles=seed == 0, views=(view,) if view else ())
                cell = plan.cell(experiment, self.root)
                _, before = wanted.get(cell.folder, (cell, Wish()))
                wanted[cell.folder] = (cell, wish.together(before))
        return [
            (cell, wish)
            for cell, wish in wanted.values()
            if wanting(cell.run, wish) or (again and cell.status == "finished")
        ]

    def provenance(self, tables: Sequence[Table]) -> dict[str, Any]:
        """What was asked of a reproduction, and on what its runs ran."""
        seeds = {"seeds": self.seeds.every, "seeds_of_claims": self.seeds.most}
        asked = {**seeds, "all_columns": self.all_columns, "set": list(self.changes)}
        return {**asked, "measured_on": environment(tables)}

    def outcome(self, read: Read | None = None) -> Outcome:
        """The tables as they stand, with the verdicts on what they decide; `read` reads a run (`collect`)."""
        tables = tuple(self.tables(read))
        return Outcome(tables=tables, verdicts=tuple(verdicts_of(tables)), provenance=self.provenance(tables))

    def few_seeds(self) -> str | None:
        """Why its seeds are too few for claims, with the command that gives enough; None where they can."""
        names = [ALL] if len(self.recipes) == len(RECIPES) else [recipe.name for recipe in self.recipes]
        first = not self.all_columns
        again = command(names, self.scale, changes=self.changes, root=self.root, own=self.own, first=first)
        cells = _cells(self.recipes, self.scale, all_columns=self.all_columns)
        n = self.seeds.every if self.seeds.of_claims is None else self.seeds.most
        return few_seeds(cells, n, self.scale, command=again)

    def other_versions(self) -> list[str]:
        """A line for every file of the user's of whose units `root` has runs with another content of that file."""
        found = [_shortcut_of(run) for run in runs_below(self.root)] if self.own else []
        told = []
        for path in self.own:
            now = own.code_of(path)
            kinds = {row.shortcut.kind for row in own.rows_of(path)}
            if count := sum(one is not None and one.kind in kinds and one.code != now for one in found):
                runs = "1 run is" if count == 1 else f"{count} runs are"
                told.append(f"{runs} of another version of {path} and not shown: the file has changed since")
        return told

    def tables(self, read: Read | None = None) -> list[Table]:
        """The tables as the runs below `root` have them."""
        return [
            collect(
                recipe,
                self.scale,
                seeds=self.seeds,
                changes=self.changes,
                root=self.root,
                own=self.own if recipe.varies_unit else (),
                elsewhere=self.elsewhere[recipe.name],
                read=read,
                all_columns=self.all_columns,
            )
            for recipe in self.recipes
        ]

    @cached_property
    def elsewhere(self) -> dict[str, dict[tuple[str, str], str]]:
        """What fills the cells that the scale leaves out, by table; kept, since it takes its time and stays."""
        return {recipe.name: elsewhere(recipe, self.scale) for recipe in self.recipes}


def reproduction(  # noqa: PLR0913 (keyword options)
    what: Sequence[str],
    *,
    scale: str,
    seeds: int | str | None,
    all_columns: bool,
    changes: Sequence[str],
    root: Path,
    own_units: Sequence[Path] = (),
) -> Reproduction:
    """The reproduction that the names ask for; the scale says how many seeds if the user does not (`seeds_asked`).

    Raises `UnknownNameError`, `SettingError` or `UserError`, before anything is written.
    """
    if root.exists() and not root.is_dir():
        raise SettingError(f"{root} is a file; choose another folder with --runs")
    chosen = scale_of(scale)
    asked, recipes = seeds_asked(seeds, chosen), _with_own(recipes_of(what), own_units)
    if asked.of_claims is not None:
        decided = decided_by(_cells(recipes, chosen, all_columns=all_columns), chosen)
        asked = replace(asked, claimed=frozenset(cells_of(decided)))
    job = Reproduction(
        recipes=recipes,
        scale=chosen,
        seeds=asked,
        all_columns=all_columns,
        changes=tuple(changes),
        root=root,
        own=tuple(own_units),
    )
    job.cells()
    return job


def _shortcut_of(run: Run) -> Shortcut | None:
    try:
        network = run.experiment.network
    except UserError:  # damaged, or of another version of cleanpath
        return None
    return network.shortcut if isinstance(network, Network) else None


def _wanted(recipe: Recipe, all_columns: bool) -> list[str]:  # noqa: FBT001 (of the one caller's keyword)
    """The columns that were asked for."""
    columns = [column.key for column in recipe.columns]
    return columns if all_columns else columns[:1]


def _cells(recipes: Sequence[Recipe], scale: Scale, *, all_columns: bool) -> set[tuple[str, str, str]]:
    """The cells that run, by table, row and column."""
    return {
        (recipe.name, row, column)
        for recipe in recipes
        for row, column, _ in experiments(recipe, scale, columns=_wanted(recipe, all_columns), seeds=[0])
    }


def _with_own(recipes: Sequence[Recipe], files: Sequence[Path]) -> tuple[Recipe, ...]:
    """The recipes with the user's units as rows of those tables that vary the unit."""
    rows = tuple(
        Part(
            key=row.name,
            label=f"{row.name} ({Path(path).name})",
            note=row.doc,
            choice={"shortcut": row.shortcut},
        )
        for path in dict.fromkeys(files)
        for row in own.rows_of(path)
    )
    if rows and not any(recipe.varies_unit for recipe in recipes):
        names = ", ".join(recipe.name for recipe in recipes_of(["all"]) if recipe.varies_unit)
        raise UserError(f"--with {files[0]}: no table that was asked for varies the unit; ask for one of {names}")
    return tuple(with_rows(recipe, rows) if rows and recipe.varies_unit else recipe for recipe in recipes)


def elsewhere(recipe: Recipe, scale: Scale) -> dict[tuple[str, str], str]:
    """For every cell that a scale leaves out, the command that fills it and what all cells of its kind cost there."""
    reasons = missing(recipe, scale)
    further = [SCALES[name] for name in list(SCALES)[list(SCALES).index(scale.name) + 1 :]]
    homes = {key: next(one for one in further if key not in missing(recipe, one)) for key in reasons}
    return {
        key: _filling(recipe, home, {at for at, one in homes.items() if (one.name, reasons[at]) == (home.name, reason)})
        for (key, reason), home in zip(reasons.items(), homes.values(), strict=True)
    }


def _filling(recipe: Recipe, scale: Scale, cells: set[tuple[str, str]]) -> str:
    filled_by = f"cleanpath reproduce {recipe.name} --scale {scale.name}"
    if scale.name in MEASURED_ON_STEPS:
        return f"{filled_by} (its cost here: cleanpath list tables {recipe.name})"
    whole = experiments(recipe, scale, seeds=range(scale.seeds))
    those = {plan.apart(one) for (row, column, _), one in whole.items() if (row, column) in cells}
    hours = estimate.gpu_hours(those)
    return f"{filled_by} (about {hours:,.0f} GPU-hours of the paper's time for these cells, an estimate)"


def run(  # noqa: PLR0913 (keyword options)
    job: Reproduction,
    *,
    workers: int | None,
    fresh: bool,
    device: str = "cpu",
    cluster: str | None = None,
    kernels: str = "auto",
    foretold: bool = True,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the cells that have not ended (with `fresh`, all of them), and measure what the tables print of them.

    On a device of this machine, which all share, or on the Ray `cluster` whose head is at that address; runs are
    measured on the processor. Where the runs are long and on this machine, a line says first what is `foretold` of
    them. `ready` is called when all is checked, before anything is written.
    """
    if cluster is not None:
        if device != "cpu":
            raise UserError(f"--device {device} is for this machine; the cells of a cluster run on its processors")
        on_cluster.check(cluster, listening=True)
    cells, todo, devices = job.cells(), job.to_do(fresh=fresh), local.devices_of(device)
    places = local.check_cells(todo, devices, kernels) if todo else devices
    at_a_time = workers or len(places)
    ready()
    if todo:
        say_what_seeds_can(job)
        where = f"{at_a_time} at a time" if cluster is None else f"on the cluster at {cluster}"
        say(f"{len(todo)} of {len(cells)} cells to do, {where}")
        if job.scale.name not in MEASURED_ON_STEPS:
            say(f"an estimate: {gpu_hours(todo)}")
        if fresh:
            forget(cell.run for cell in todo)
        if foretold and cluster is None:
            _foretell(todo, at_a_time, places)
        with Watch(todo, done=len(cells) - len(todo)) as watch:
            if cluster is None:
                local.run_cells(todo, workers=at_a_time, tell=watch.tell, devices=places, kernels=kernels)
            else:
                on_cluster.run_cells(todo, address=cluster, workers=workers, tell=watch.tell, kernels=kernels)
    _measure(job, local.cores() if cluster is not None else at_a_time, again=fresh)


def _foretell(todo: Sequence[Cell], workers: int, devices: Sequence[str]) -> None:
    """One line: how many of the kinds of cells that have long runs are said to train, and which are not."""
    runs = Counter(plan.kind(cell) for cell in todo)
    kinds = {plan.kind(cell): cell for cell in reversed(todo)}
    long = [cell for kind, cell in kinds.items() if is_long(kind.training.iterations or 0, runs[kind])]
    if not long:
        return
    found = local.forecast_cells(long, workers=workers, devices=devices)
    # A process that died has left nothing; two kinds may have one source.
    said = [(cell.label, one) for cell in long if (one := found.get(cell.folder.name)) is not None]
    counted = Counter(one["outcome"] for _, one in said)
    bad = [name for name, one in said if one["outcome"] == FAILS]
    names = f": {', '.join(bad[:_NAMED])}{', …' if len(bad) > _NAMED else ''}" if bad else ""
    counts = ", ".join(f"{name} {counted[name]}" for name in (*OUTCOMES, CANNOT_SAY) if counted[name])
    say(f"forecast of {len(said)} kinds of cells: {counts}{names} (docs/forecast.md; --no-forecast leaves it out)")


def say_what_seeds_can(job: Reproduction) -> None:
    """Say it where its seeds are too few for claims."""
    if few := job.few_seeds():
        say(few)


def _measure(job: Reproduction, workers: int, *, again: bool) -> None:
    wishes, ended = job.wishes(again=again), 0
    if not wishes:
        return
    with Counting(
        "finished runs measured: sums, responses and audits of their weights; nothing is trained"
    ) as counting:

        def tell(_: Cell) -> None:
            nonlocal ended
            ended += 1
            counting.tell(ended, len(wishes))

        troubles = local.observe_cells(wishes, workers=workers, tell=tell)
    for trouble in troubles:
        say(f"not measured: {trouble}")


def gpu_hours(cells: Sequence[Cell]) -> str:
    """What cells take at the paper's scale, in words."""
    known = [cell.experiment for cell in cells if estimate.known(cell.experiment)]
    return f"{estimate.gpu_hours(known):,.0f} GPU-hours of the paper's time"
