"""What a table is made of, as data: rows and columns, each a part of the experiments in its cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cleanpath.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A row or a column: its key, what a page calls it, and what it decides of its cells; empty: the other decides.

    `network` and `data` are the paper's words ("ResNet-110", "CIFAR-10"), which a scale translates. `choice` sets
    fields of `Network`, `training` fields of `Training`; `recipe` names the paper's way of training, empty for that of
    its CIFAR tables. `quantity` is what is printed of a run, `view` how photographs are tested (Table 5).
    """

    key: str
    label: str = ""
    network: str = ""
    data: str = ""
    augment: str = ""
    choice: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)
    recipe: str = ""
    quantity: str = ""
    view: str = ""
    reference: str = "original"
    """The row whose curves stand in grey behind its own."""
    note: str = ""
    """What it is and where it is from, for rows beyond the paper."""

    @property
    def words(self) -> str:
        """The label, or the key where it says enough."""
        return self.label or self.key

    @property
    def has_limit(self) -> bool:
        """Whether the limit of 20% is for its number: a test error on CIFAR-10, as in Table 1, whose caption has it."""
        return self.data == "CIFAR-10" and self.quantity in ("", "error")


# What the axis of a panel counts: iterations, layers from the first to the last or from the largest response to the
# smallest, or units.
ITERATION, LAYER, RANK, UNIT = "iteration", "layer", "rank", "unit"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Cells whose lines the paper draws in one panel: its caption, row and column of each, and what its axis counts.

    The lines are of the quantity that the cells print; for test errors the training loss is beside them.
    """

    caption: str
    cells: tuple[tuple[str, str], ...]
    across: str = ITERATION


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One table or figure: which cells it has; what each is run on, a scale says.

    A table without rows is a drawing, of which nothing is trained. `absent` are the pairs of row and column that the
    table does not have.
    """

    name: str
    rows: tuple[Part, ...] = ()
    columns: tuple[Part, ...] = ()
    absent: frozenset[tuple[str, str]] = frozenset()
    varies_unit: bool = False
    """Whether a user's own unit can be one more row."""
    curves: bool = False
    """Whether it is a figure of curves."""
    overlays: tuple[Overlay, ...] = ()
    """Its panels with the lines of several cells."""

    def cells(self) -> tuple[tuple[Part, Part], ...]:
        """Every row and column that the table has, column by column."""
        return tuple(
            (row, column) for column in self.columns for row in self.rows if (row.key, column.key) not in self.absent
        )

    def row(self, key: str) -> Part:
        """The row of that key."""
        return next(row for row in self.rows if row.key == key)


def joined(row: Part, column: Part) -> Part:
    """What a row and a column decide together. Raises `SettingError` if both decide the same field."""
    found: dict[str, object] = {"key": row.key}
    for name in ("network", "data", "augment", "recipe", "quantity", "view"):
        one, other = getattr(row, name), getattr(column, name)
        if one and other and one != other:
            raise SettingError(f"{name} of {row.key} is {one}, of {column.key} {other}; only one can decide it")
        found[name] = one or other
    for name in ("choice", "training"):
        one, other = getattr(row, name), getattr(column, name)
        if both := sorted(set(one) & set(other)):
            raise SettingError(f"{row.key} and {column.key} both set {both[0]}; only one can decide it")
        found[name] = {**one, **other}
    return Part(**found)  # type: ignore[arg-type]
