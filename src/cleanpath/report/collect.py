"""From run folders to the values of a table."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from cleanpath.experiment import Training
from cleanpath.paper.published import published_table
from cleanpath.paper.tables import Recipe, Scale, experiments
from cleanpath.records import Run, default_name
from cleanpath.report.table import DIVERGED, FAILED, FINISHED, MISSING, Cell, SeedResult, Table


def collect(recipe: Recipe, scale: Scale, *, seeds: Sequence[int], changes: Sequence[str], root: Path) -> Table:
    """The table as its runs below `root` have it; what was not run is missing."""
    paper = published_table(recipe.name)
    cells = experiments(recipe, scale, columns=recipe.columns, seeds=seeds, changes=changes)
    runs = {key: Run(root / default_name(experiment)) for key, experiment in cells.items()}
    typical = next(iter(cells.values()))
    changed = (f"Changed for this reproduction, against what is said below: {', '.join(changes)}.",) if changes else ()
    sets = "".join(f" --set {shlex.quote(change)}" for change in changes)
    rest = sets if root == Path("runs") else f"{sets} --runs {shlex.quote(str(root))}"
    rows = tuple(
        Cell(
            row=row,
            label=label,
            column=column,
            paper=paper.cells.get((row, column)),
            seeds=tuple(seed_result(runs[row, column, seed], seed) for seed in seeds),
        )
        for column in recipe.columns
        for row, label, _ in recipe.rows
    )
    return Table(
        name=recipe.name,
        title=paper.title,
        source=paper.source,
        quantity=paper.quantity,
        scale=scale.name,
        protocol=f"{typical.data.name}, {in_words(typical.training)}, last iteration",
        deviations=(*changed, *scale.deviations),
        columns=recipe.columns,
        cells=rows,
        fill=f"cleanpath reproduce {recipe.name} --scale {scale.name} --columns all --seeds {len(seeds)}{rest}",
    )


def facts(root: Path, tables: Sequence[Table]) -> dict[str, str]:
    """How the numbers were measured: runs and their time, versions, threads, machine."""
    seconds = sum({seed.run: seed.seconds or 0 for seed in _ended(tables)}.values())
    count = len({seed.run for seed in _ended(tables)})
    time = {"runs": str(count), "time of all runs together": f"{seconds / 60:.1f} minutes"}
    return {**time, **environment(root, tables)}


def environment(root: Path, tables: Sequence[Table]) -> dict[str, str]:
    """Versions, threads and machine of the runs behind some tables."""
    found: dict[str, set[str]] = {}
    for name in {seed.run for seed in _ended(tables)}:
        for key, value in Run(root / name).environment.items():
            found.setdefault(key, set()).add(str(value))
    return {key: " / ".join(sorted(values)) for key, values in sorted(found.items())}


def _ended(tables: Sequence[Table]) -> list[SeedResult]:
    return [s for table in tables for cell in table.cells for s in cell.seeds if s.status in (FINISHED, DIVERGED)]


def seed_result(run: Run, seed: int) -> SeedResult:
    """How one run of a cell ended, with its curves."""
    if not run.folder.is_dir():
        return SeedResult(seed=seed, status=MISSING)
    result = run.result if run.status != "damaged" else None
    if result is None:
        reason = run.failure
        return SeedResult(seed=seed, status=FAILED if reason else MISSING, run=run.name, reason=reason or "")
    lines = list(run.metrics())
    return SeedResult(
        seed=seed,
        status=DIVERGED if result["status"] == DIVERGED else FINISHED,
        error=result.get("error"),
        train_error=result.get("train_error"),
        loss_curve=tuple((line["iteration"], line["loss"]) for line in lines if "loss" in line),
        error_curve=tuple((line["iteration"], line["error"]) for line in lines if "error" in line),
        seconds=result.get("seconds"),
        run=run.name,
        reason=result.get("reason", ""),
    )


def in_words(training: Training) -> str:
    """How a run trains, in one line."""
    length = f"{training.iterations} iterations" if training.iterations else f"{training.epochs} epochs"
    warmup = f" after {training.warmup} at {training.lr * training.warmup_factor:g}" if training.warmup else ""
    drops = " and ".join(f"{100 * drop:g}%" for drop in training.lr_drops)
    steps = f", ×{training.lr_drop_factor:g} at {drops}" if drops else ""
    return (
        f"{length} of batch {training.batch_size}, lr {training.lr:g}{warmup}{steps}, "
        f"momentum {training.momentum:g}, weight decay {training.weight_decay:g} on {training.decay_on}"
    )
