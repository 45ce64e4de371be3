"""From run folders to the values of a table."""

import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cleanpath import measures
from cleanpath.experiment import Experiment, Training
from cleanpath.paper.claims import EARLY, QUANTITIES
from cleanpath.paper.deviations import Deviation, deviations, letters_of
from cleanpath.paper.held_out import held_out_images
from cleanpath.paper.parts import Recipe, joined
from cleanpath.paper.published import PublishedTable, published_table
from cleanpath.paper.scales import Scale
from cleanpath.paper.seeding import Seeds
from cleanpath.paper.silent import where_silent
from cleanpath.paper.tables import missing, seeded
from cleanpath.records import Run, default_name
from cleanpath.report.table import DIVERGED, FAILED, FINISHED, MISSING, UNFINISHED, Cell, SeedResult, Table

Read = Callable[[Run, int, str], SeedResult]


def collect(  # noqa: PLR0913 (keyword options)
    recipe: Recipe,
    scale: Scale,
    *,
    seeds: Seeds,
    changes: Sequence[str],
    root: Path,
    own: Sequence[Path] = (),
    elsewhere: Mapping[tuple[str, str], str] | None = None,
    read: Read | None = None,
    all_columns: bool = True,
) -> Table:
    """The table as its runs below `root` have it; what was not run is missing.

    `own` are the files of a user's units among its rows. `elsewhere` says by row and column what fills cells that the
    scale does not have. `read` reads a run, with the number of its seed and a view of the test images.
    """
    read = read or seed_result
    paper = published_table(recipe.name)
    made = seeded(recipe, scale, seeds, changes=changes)
    runs = {key: Run(root / default_name(experiment)) for key, experiment in made.items()}
    plain = {(row, column): one for (row, column, _), one in made.items()}
    differing = (
        *deviations(recipe, scale, plain, changes),
        *(Deviation(text=told) for told in where_silent(plain, lambda cells: _cells_in_words(recipe, cells, made))),
    )
    parts = {(row.key, column.key): joined(row, column) for row, column in recipe.cells()}
    left_out = missing(recipe, scale)
    cells = [
        Cell(
            row=row.key,
            label=row.words,
            column=column.key,
            paper=paper.cells.get((row.key, column.key)),
            seeds=tuple(
                read(runs[row.key, column.key, seed], seed, parts[row.key, column.key].view)
                for seed in seeds.of(recipe.name, row.key, column.key)
                if (row.key, column.key, seed) in runs
            ),
            quantity=parts[row.key, column.key].quantity or "error",
            note=row.note,
            left_out=left_out.get((row.key, column.key), ""),
            fill=(elsewhere or {}).get((row.key, column.key), ""),
            reference=row.reference,
            judged=parts[row.key, column.key].has_limit,
            test_images=held_out_images(plain[row.key, column.key].data) if (row.key, column.key) in plain else None,
            deviates=letters_of((row.key, column.key), differing),
        )
        for row, column in recipe.cells()
    ]
    return Table(
        name=recipe.name,
        title=paper.title,
        source=paper.source,
        quantity=paper.quantity,
        scale=scale.name,
        protocol=_protocol(recipe, made),
        deviations=tuple(one.text for one in differing),
        letters=tuple(one.letter for one in differing),
        columns=tuple(column.key for column in recipe.columns),
        cells=(*cells, *_external(paper)),
        fill=command(
            [recipe.name],
            scale,
            changes=changes,
            root=root,
            own=own,
            seeds=seeds.option,
            first=not all_columns and any(cell.column == cells[0].column and not cell.n for cell in cells),
        ),
        quantities={cell.quantity: QUANTITIES[cell.quantity].words for cell in cells},
        no_numbers=paper.no_numbers,
        curves=recipe.curves,
        overlays=recipe.overlays,
        changes=tuple(changes),
    )


def command(  # noqa: PLR0913 (keyword options)
    names: Sequence[str],
    scale: Scale,
    *,
    changes: Sequence[str],
    root: Path,
    own: Sequence[Path],
    seeds: str = "",
    first: bool = False,
) -> str:
    """What runs some tables as they were asked for, or the `first` column of each; it can be pasted."""
    words = ["cleanpath", "reproduce", *names, "--scale", scale.name, *seeds.split()]
    words += ["--columns", "first"] if first else []
    words += [word for change in changes for word in ("--set", change)]
    words += [word for path in own for word in ("--with", str(path))]
    words += [] if root == Path("runs") else ["--runs", str(root)]
    return shlex.join(words)


def _external(paper: PublishedTable) -> list[Cell]:
    """Competitors' numbers, as printed."""
    return [
        Cell(row=row, label=row, column=column, paper=value, seeds=(), external=True, judged=False)
        for (row, column), value in paper.cells.items()
        if row in paper.external
    ]


def _protocol(recipe: Recipe, made: Mapping[tuple[str, str, int], Experiment]) -> str:
    """How the table's runs are trained: most of its cells, and which of them otherwise."""
    ways: dict[str, list[tuple[str, str]]] = {}
    for (row, column), one in {(row, column): one for (row, column, _), one in made.items()}.items():
        augmented = f" augmented by {one.data.augment}" if one.data.name.startswith("imagenet:") else ""
        ways.setdefault(f"{one.data.name}{augmented}, {in_words(one.training)}", []).append((row, column))
    if not ways:
        return "nothing is trained"
    usual, *others = sorted(ways, key=lambda way: -len(ways[way]))
    besides = "".join(f"; {_cells_in_words(recipe, ways[way], made)}: {way}" for way in others)
    return f"{usual}, last iteration{besides}"


def _cells_in_words(recipe: Recipe, cells: Sequence[tuple[str, str]], made: Iterable[tuple[str, str, int]]) -> str:
    """Some cells by name: a column or a row of which no other cell runs is named once."""
    others = {(row, column) for row, column, _ in made} - set(cells)
    columns = {column for _, column in cells} - {column for _, column in others}
    rows = {row for row, column in cells if column not in columns} - {row for row, _ in others}
    rest = [(row, column) for row, column in cells if column not in columns and row not in rows]
    return " and ".join(
        [
            *(column.words for column in recipe.columns if column.key in columns),
            *(row.words for row in recipe.rows if row.key in rows),
            *(f"{recipe.row(row).words} in {column}" for row, column in rest),
        ]
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
        for key, value in {"device": "cpu", **Run(root / name).environment}.items():
            found.setdefault(key, set()).add(str(value))
    return {key: " / ".join(sorted(values)) for key, values in sorted(found.items())}


def _ended(tables: Sequence[Table]) -> list[SeedResult]:
    return [s for table in tables for cell in table.cells for s in cell.seeds if s.status in (FINISHED, DIVERGED)]


def seed_result(run: Run, seed: int, view: str = "") -> SeedResult:
    """How one run of a cell ended, with its curves and what was measured on it; of one that has not, the curves so far.

    With a `view` of the test images, errors are those with it, and none where it was not taken.
    """
    if not run.folder.is_dir():
        return SeedResult(seed=seed, status=MISSING)
    damaged = run.status == "damaged"
    result = None if damaged else run.result
    lines = [] if damaged else run.metrics()
    losses = tuple((line["iteration"], line["loss"]) for line in lines if "loss" in line)
    errors = tuple((line["iteration"], line["error"]) for line in lines if "error" in line)
    if result is None:
        reason = run.failure or ""
        return SeedResult(
            seed=seed,
            status=FAILED if reason else UNFINISHED if lines else MISSING,
            loss_curve=losses,
            error_curve=errors,
            run=run.name,
            reason=reason,
        )
    training = run.experiment.training
    planned = training.iterations or (losses[-1][0] if losses and result["status"] != DIVERGED else None)
    error = result.get("error")
    measured = {**measures.numbers(run), **_of_curve(losses, training.warmup, planned)}
    if view:
        seen = measures.evaluated(run, view)
        error = seen.get("error")
        measured |= {"top5_error": seen["top5_error"]} if seen.get("top5_error") is not None else {}
    if error is not None and result.get("train_error") is not None:
        measured["generalisation_gap"] = error - result["train_error"]
    return SeedResult(
        seed=seed,
        status=DIVERGED if result["status"] == DIVERGED else FINISHED,
        error=error,
        train_error=result.get("train_error"),
        train_loss=result.get("train_loss"),
        measured=measured,
        series=measures.lines(run),
        loss_curve=losses,
        error_curve=errors,
        seconds=result.get("seconds"),
        run=run.name,
        reason=result.get("reason", ""),
    )


def _of_curve(losses: Sequence[tuple[int, float]], warmup: int, planned: int | None) -> dict[str, float]:
    """Means of the training loss: over the whole curve, and over its beginning behind the warm-up.

    The second is of a run's `planned` iterations, not of those that it came to: of a run that diverged later it is
    known, of one that did not come so far it is not.
    """
    if not losses:
        return {}
    found = {"area": sum(loss for _, loss in losses) / len(losses)}
    if planned is not None:
        last = min(planned, warmup + math.ceil(EARLY * planned))
        early = [loss for at, loss in losses if warmup < at <= last]
        if early and losses[-1][0] >= last:
            found["early_loss"] = sum(early) / len(early)
    return found


def in_words(training: Training) -> str:
    """How a run trains, in one line."""
    length = f"{training.iterations} iterations" if training.iterations else f"{training.epochs} epochs"
    warmup = f" after {training.warmup} at {training.lr * training.warmup_factor:g}" if training.warmup else ""
    drops = " and ".join(f"{100 * drop:.3g}%" for drop in training.lr_drops)
    steps = f", ×{training.lr_drop_factor:g} at {drops}" if drops else ""
    momentum = f"{'Nesterov ' if training.nesterov else ''}momentum {training.momentum:g}"
    return (
        f"{length} of batch {training.batch_size}, lr {training.lr:g}{warmup}{steps}, "
        f"{momentum}, weight decay {training.weight_decay:g} on {training.decay_on}"
    )
