"""Tables with invented curves, shaped as a reproduction at scale quick makes them."""

import math
from dataclasses import replace

from cleanpath.measures import by_unit
from cleanpath.paper.claims import QUANTITIES
from cleanpath.paper.published import published_table
from cleanpath.paper.tables import RECIPES
from cleanpath.report.table import DIVERGED, FAILED, FINISHED, MISSING, Cell, SeedResult, Table

ITERATIONS = 400
# Where the test error ends, per row of Table 1; rows of Table 2 converge, but for one.
ENDS = {
    "constant_0_1": 92.0,
    "constant_half_1": 89.0,
    "constant_half_half": 70.0,
    "exclusive_gating_0": 89.0,
    "shortcut_only_gating_0": 89.0,
    "conv_1x1": 69.0,
    "dropout": 90.0,
    "bn_after_addition": 72.0,
}
FILL = "cleanpath reproduce table2 --scale quick --columns all --seeds 3"


def run(end: float, seed: int, iterations: int = ITERATIONS) -> SeedResult:
    """A run whose test error falls from 90% to `end`, with a loss that goes with it."""
    low = 0.003 + end / 45
    loss = tuple(
        (i, (low + 2.3 * math.exp(-i / 60 * (100 - end) / 100)) * (1 + 0.3 * math.sin(7.1 * i + seed)))
        for i in range(1, iterations + 1)
    )
    error = tuple(
        (i, round(end + (90 - end) * math.exp(-i / 70) + 0.2 * seed, 1)) for i in range(20, iterations + 1, 20)
    )
    return SeedResult(
        seed=seed,
        status=FINISHED,
        error=error[-1][1] if error else None,
        train_error=end / 2,
        loss_curve=loss,
        error_curve=error,
        seconds=48.0,
    )


def diverged(seed: int = 0, iterations: int = 60) -> SeedResult:
    """A run that stopped because its loss was not finite."""
    whole = run(90.0, seed, iterations)
    loss = (*whole.loss_curve, (iterations + 1, math.inf))
    return replace(whole, status=DIVERGED, error=None, loss_curve=loss, reason="loss is inf, first at stage2.3.branch")


def crashed(seed: int = 0) -> SeedResult:
    """A run that ended with an exception, without curves."""
    return SeedResult(seed=seed, status=FAILED, reason="out of memory")


def missing(seed: int = 0) -> SeedResult:
    """A run that was not made."""
    return SeedResult(seed=seed, status=MISSING)


def cell(row: str = "original", *seeds: SeedResult, **changes: object) -> Cell:
    """A cell of the one-column table."""
    plain = Cell(row=row, label=row, column="ResNet-110", paper=6.61, seeds=seeds)
    return replace(plain, **changes)  # type: ignore[arg-type]


def table(*cells: Cell, **changes: object) -> Table:
    """A table of those cells."""
    plain = Table(
        name="table1",
        title="Types of shortcut, ResNet-110, CIFAR-10",
        source="He, Zhang, Ren and Sun, 2016, Table 1",
        quantity="test error in percent, median of 5 runs; fail: above 20%",
        scale="quick",
        protocol="digits, 400 iterations, batch 64, learning rate 0.02",
        deviations=("Digits (8×8) in place of CIFAR-10.", "400 iterations in place of 64,000."),
        columns=tuple(dict.fromkeys(cell.column for cell in cells)),
        cells=cells,
        fill=FILL,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def paper_table(name: str, seeds: int = 3, ran: tuple[str, ...] = ("ResNet-110",)) -> Table:
    """A table of the paper; columns that were not run are missing."""
    published = published_table(name)
    cells = tuple(
        Cell(
            row=row.key,
            label=row.words,
            column=column,
            paper=published.cells.get((row.key, column)),
            seeds=tuple(run(ENDS.get(row.key, 1.8), s) if column in ran else missing(s) for s in range(seeds)),
            reference=row.reference,
        )
        for column in published.columns
        for row in RECIPES[name].rows
        if (row.key, column) not in RECIPES[name].absent
    )
    about = {"title": published.title, "source": published.source, "quantity": published.quantity}
    return table(*cells, name=name, overlays=RECIPES[name].overlays, **about)


def measured(name: str, quantity: str, seeds: int = 3) -> Table:
    """A table whose cells print a quantity of the signal, with its lines by layer, unit and iteration."""
    cells = tuple(
        Cell(
            row=row.key,
            label=row.words,
            column=column.key,
            paper=None,
            quantity=row.quantity or column.quantity,
            judged=False,
            seeds=tuple(
                replace(
                    run(1.8, seed),
                    measured={quantity: 0.5},
                    series={
                        row.quantity or column.quantity: tuple(
                            (float(at), 10.0 / at + place + seed) for at in range(1, 8 + 2 * place)
                        ),
                        by_unit(row.quantity or column.quantity): tuple(
                            (float(at), 0.1 * at + seed) for at in range(1, 5)
                        ),
                    },
                )
                for seed in range(seeds)
            ),
        )
        for place, (row, column) in enumerate(RECIPES[name].cells())
    )
    words = {quantity: QUANTITIES[quantity].words}
    return table(*cells, name=name, overlays=RECIPES[name].overlays, quantities=words)
