"""Every table and figure of the paper as a recipe, and the experiments of its cells at a scale.

Rows and columns stand in `rows.py` (the paper's) and `questions.py` (what is asked beside), what they are run as in
`scales.py`, the paper's numbers in `published/`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.experiment import Experiment
from cleanpath.paper import questions, rows
from cleanpath.paper.parts import Part, Recipe, joined
from cleanpath.paper.scales import Scale
from cleanpath.paper.seeding import Seeds
from cleanpath.settings import override

ALL = "all"
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *(rows.TABLE_1, rows.TABLE_2, rows.TABLE_3, rows.TABLE_4, rows.TABLE_5, rows.RESNET_101),
        *(rows.FIGURE_1, rows.FIGURE_2, rows.FIGURE_3, rows.FIGURE_4, rows.FIGURE_5, rows.FIGURE_6),
        *(questions.DEPTH, questions.SHORTCUTS, questions.RESPONSES, questions.GATE_BIAS, questions.TRUNCATION),
        *(questions.WARMUP, questions.BEYOND),
    )
}


def recipe_of(name: str) -> Recipe:
    """The recipe of that table or figure."""
    if name not in RECIPES and "=" in name:
        raise SettingError(f"'{name}' is no table; write --set before each setting: --set {name}")
    if name not in RECIPES:
        raise UnknownNameError("table", name, (*RECIPES, ALL), see="cleanpath list tables")
    return RECIPES[name]


def recipes_of(names: Iterable[str]) -> tuple[Recipe, ...]:
    """The recipes of those names, each once; `all` is every one."""
    wanted = dict.fromkeys(names)
    expanded = [one for name in wanted for one in (RECIPES if name == ALL else (name,))]
    return tuple(recipe_of(name) for name in dict.fromkeys(expanded))


def has_limit(table: str, row: str, column: str) -> bool:
    """Whether the paper's limit of 20% is for the error in that cell; not where there is no such cell."""
    cells = RECIPES[table].cells() if table in RECIPES else ()
    return any(joined(one, other).has_limit for one, other in cells if (one.key, other.key) == (row, column))


def stand_ins(cells: Iterable[tuple[str, str, str]], scale: Scale) -> str:
    """What stands for the paper's networks and data in cells by table, row and column; empty where nothing does."""
    parts = {
        (recipe.name, row.key, column.key): joined(row, column)
        for recipe in RECIPES.values()
        for row, column in recipe.cells()
    }
    return scale.stand_ins((cell[0], parts[cell]) for cell in cells)


def with_rows(recipe: Recipe, added: Sequence[Part]) -> Recipe:
    """The recipe with rows of a user's behind its own, where its columns are of small images.

    Raises `UserError` for a row whose name is taken.
    """
    keys = {row.key for row in recipe.rows}
    for row in added:
        if row.key in keys:
            raise UserError(f"{recipe.name} has a row '{row.key}' already; give the unit another name")
        keys.add(row.key)
    large = {(row.key, column.key) for row in added for column in recipe.columns if column.data == "ImageNet"}
    return replace(recipe, rows=(*recipe.rows, *added), absent=recipe.absent | large)


def missing(recipe: Recipe, scale: Scale) -> dict[tuple[str, str], str]:
    """The cells that a scale cannot run, by row and column, with the reason."""
    reasons = {
        (row.key, column.key): scale.missing(recipe.name, row, column, joined(row, column))
        for row, column in recipe.cells()
    }
    return {key: reason for key, reason in reasons.items() if reason}


def experiments(
    recipe: Recipe,
    scale: Scale,
    *,
    columns: Iterable[str] | None = None,
    seeds: Iterable[int],
    changes: Sequence[str] = (),
) -> dict[tuple[str, str, int], Experiment]:
    """Every cell of a table that the scale can run, under (row, column, seed); all columns if none are named.

    `changes` are `key=value` settings, alike for all.
    """
    if any(change.partition("=")[0].strip() == "seed" for change in changes):
        raise SettingError("--set seed would give all seeds of a row one run; say how many with --seeds N")
    seeds, left_out = tuple(seeds), missing(recipe, scale)
    wanted = {column.key for column in recipe.columns} if columns is None else set(columns)
    plain = {
        (row.key, column.key): _experiment(recipe.name, scale, row.key, joined(row, column))
        for row, column in recipe.cells()
        if column.key in wanted and (row.key, column.key) not in left_out
    }
    changed = {key: override(one, changes) for key, one in plain.items()} if changes else plain
    _check_apart(recipe.name, plain, changed, changes)
    return {(*key, seed): replace(one, seed=seed) for key, one in changed.items() for seed in seeds}


def seeded(
    recipe: Recipe,
    scale: Scale,
    seeds: Seeds,
    *,
    columns: Iterable[str] | None = None,
    changes: Sequence[str] = (),
) -> dict[tuple[str, str, int], Experiment]:
    """The same, each cell with its own seeds."""
    made = experiments(recipe, scale, columns=columns, seeds=range(seeds.most), changes=changes)
    return {key: one for key, one in made.items() if one.seed in seeds.of(recipe.name, *key[:2])}


def _experiment(table: str, scale: Scale, row: str, part: Part) -> Experiment:
    return Experiment(
        network=scale.network(table, part),
        data=scale.data_of(part),
        training=scale.training(table, part),
        source=f"{table}/{row}",
    )


def _check_apart(
    table: str,
    plain: Mapping[tuple[str, str], Experiment],
    changed: Mapping[tuple[str, str], Experiment],
    changes: Sequence[str],
) -> None:
    """Raise `SettingError` if settings make rows the same that are not; some rows print two numbers of one run."""
    first: dict[Experiment, tuple[str, str]] = {}
    for key, experiment in changed.items():
        other = first.setdefault(replace(experiment, source=""), key)
        if replace(plain[other], source="") != replace(plain[key], source=""):
            which = f"rows {other[0]} and {key[0]}" if other[0] != key[0] else f"columns {other[1]} and {key[1]}"
            raise SettingError(f"--set {', '.join(changes)} makes {which} of {table} the same")
