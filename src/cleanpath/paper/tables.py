"""Tables 1 and 2 as recipes: a row is a choice, a column a network, a scale the rest of the experiment.

The paper's numbers stand in `published/` under the same keys; a test compares the two.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Data, Experiment, Network, Shortcut, Training
from cleanpath.nn import catalog
from cleanpath.settings import override

Row = tuple[str, str, Mapping[str, object]]


def _gate(kind: str, bias: int) -> Shortcut:
    """A gate where the width stays: where it changes, (1 − g(x)) ⊙ x and g(x) ⊙ F(x) have no common shape.

    Deviations: the paper does not say what its gates do there. With strided gates in those two units as well, F starts
    at σ(−6) = 0.0025 everywhere, and the quick scale is over before a gate has opened (see docs/quick-scale.md).
    """
    return Shortcut(kind=kind, bias=float(bias), gate_widening=False)


# Key, what the page calls it, and the fields of `Network` that the row sets.
TABLE_1: tuple[Row, ...] = (
    ("original", "original", {"shortcut": Shortcut()}),
    ("constant_0_1", "constant scaling: shortcut 0, F 1", {"shortcut": Shortcut(kind="scaling", scale=0.0)}),
    ("constant_half_1", "constant scaling: shortcut 0.5, F 1", {"shortcut": Shortcut(kind="scaling", scale=0.5)}),
    (
        "constant_half_half",
        "constant scaling: shortcut 0.5, F 0.5",
        {"shortcut": Shortcut(kind="scaling", scale=0.5, branch_scale=0.5)},
    ),
    *(
        (
            f"exclusive_gating_{bias}",
            f"exclusive gating, b = {bias}",
            {"shortcut": _gate("exclusive_gating", bias)},
        )
        for bias in (0, -6, -7)
    ),
    *(
        (
            f"shortcut_only_gating_{bias}",
            f"shortcut-only gating, b = {bias}",
            {"shortcut": _gate("shortcut_only_gating", bias)},
        )
        for bias in (0, -6)
    ),
    ("conv_1x1", "1×1 convolution", {"shortcut": Shortcut(kind="conv_1x1", norm=True)}),
    ("dropout", "dropout 0.5", {"shortcut": Shortcut(kind="dropout", rate=0.5)}),
    # Not in the paper: its theory makes no product where h stays the identity, whatever the factor on F.
    (
        "constant_1_half",
        "constant scaling: shortcut 1, F 0.5 (not in the paper)",
        {"shortcut": Shortcut(kind="branch_scaling", branch_scale=0.5)},
    ),
)

TABLE_2: tuple[Row, ...] = (
    ("original", "original", {"placement": "original"}),
    ("bn_after_addition", "BN after addition", {"placement": "bn_after_addition"}),
    ("relu_before_addition", "ReLU before addition", {"placement": "relu_before_addition"}),
    ("relu_only_preactivation", "ReLU-only pre-activation", {"placement": "relu_only_preactivation"}),
    ("full_preactivation", "full pre-activation", {"placement": "full_preactivation"}),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One table: its rows, and its columns as catalog names; the first column is the one that runs by default."""

    name: str
    rows: tuple[Row, ...]
    columns: dict[str, str]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="table1", rows=TABLE_1, columns={"ResNet-110": "resnet110"}),
        Recipe(name="table2", rows=TABLE_2, columns={"ResNet-110": "resnet110", "ResNet-164": "resnet164"}),
    )
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a table is run on: data and training, alike for all rows of all tables, and what differs from the paper."""

    name: str
    data: Data
    training: Training
    in_channels: int
    deviations: tuple[str, ...]


SCALES = {
    "quick": Scale(
        name="quick",
        data=Data(name="digits"),
        training=Training(iterations=400, batch_size=64, lr=0.02, warmup=100),
        in_channels=1,
        deviations=(),
    ),
}


def recipe_of(name: str) -> Recipe:
    """The recipe of that table."""
    if name not in RECIPES:
        raise UnknownNameError("table", name, RECIPES)
    return RECIPES[name]


def scale_of(name: str) -> Scale:
    """The scale of that name."""
    if name not in SCALES:
        raise UnknownNameError("scale", name, SCALES)
    return SCALES[name]


def experiments(
    recipe: Recipe, scale: Scale, *, columns: Iterable[str], seeds: Iterable[int], changes: Sequence[str] = ()
) -> dict[tuple[str, str, int], Experiment]:
    """Every cell of a table under (row, column, seed); `changes` are `key=value` settings, alike for all."""
    seeds = tuple(seeds)
    return {
        (row, column, seed): override(
            Experiment(
                network=_network(recipe.columns[column], choice, scale),
                data=scale.data,
                training=scale.training,
                seed=seed,
                source=f"{recipe.name}/{row}",
            ),
            changes,
        )
        for column in columns
        for row, _, choice in recipe.rows
        for seed in seeds
    }


def _network(name: str, choice: Mapping[str, object], scale: Scale) -> Network:
    return replace(catalog.network(name, in_channels=scale.in_channels), **choice)  # type: ignore[arg-type]
