"""What a claim of the paper is, as data: which cells it compares, in what, which way, and what would refute it.

The claims themselves stand in `hypotheses/`; `verdicts.py` judges them on recorded values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Table, row and column, by the keys of `tables.py`.
Cell = tuple[str, str, str]

# As long as the paper's "first 10k iterations" of 64k (Fig. 6), as a part of a run of any length. It begins behind the
# warm-up: that is 400 of the paper's 10k, but longer than the whole part where a short run warms up for a quarter.
EARLY = 10_000 / 64_000


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that one run gives: its key, in words, its unit, how many decimals are told, and how it is measured."""

    key: str
    words: str
    unit: str
    digits: int
    definition: str


QUANTITIES: Mapping[str, Quantity] = {
    quantity.key: quantity
    for quantity in (
        Quantity(
            key="error",
            words="test error",
            unit="%",
            digits=2,
            definition="Share of test images that are classified wrongly at the last iteration, in percent.",
        ),
        Quantity(
            key="train_error",
            words="training error",
            unit="%",
            digits=2,
            definition="The same on the training images without augmentation, in eval mode.",
        ),
        Quantity(
            key="train_loss",
            words="training loss",
            unit="",
            digits=4,
            definition="Mean cross-entropy on the training images at the last iteration, in eval mode.",
        ),
        Quantity(
            key="early_loss",
            words="early training loss",
            unit="",
            digits=3,
            definition=(
                f"Mean of the training-loss curve over {EARLY:.2%} of the run behind its warm-up: as long as the "
                "paper's first 10,000 of 64,000 iterations, 400 of which are its warm-up."
            ),
        ),
        Quantity(
            key="area",
            words="mean training loss of the run",
            unit="",
            digits=3,
            definition="Mean of the training-loss curve over the whole run, the area under it.",
        ),
        Quantity(
            key="generalisation_gap",
            words="test error less training error",
            unit="%",
            digits=2,
            definition="`error` − `train_error`, in percentage points.",
        ),
        Quantity(
            key="negative_share",
            words="share of negative sums",
            unit="",
            digits=3,
            definition="Share of the elements of y_l = h(x_l) + F(x_l) that are below 0, mean over units.",
        ),
        Quantity(
            key="truncated",
            words="truncated by the ReLU",
            unit="",
            digits=3,
            definition="Σ max(0, −y_l) over the units of a stage, mean over elements and stages.",
        ),
        Quantity(
            key="truncated_share",
            words="truncated by the ReLU in a unit, of the signal",
            unit="",
            digits=3,
            definition="Mean of max(0, −y_l) over elements, over rms of x_l; mean over units, however many there are.",
        ),
        Quantity(
            key="scale_growth",
            words="growth of the signal",
            unit="×",
            digits=2,
            definition="rms of x_l after the last unit of a stage over that after its first, mean over stages.",
        ),
        Quantity(
            key="input_growth",
            words="growth of what convolutions read",
            unit="×",
            digits=2,
            definition=(
                "rms of the input of the first convolution of F in the last unit of a stage over that in its second "
                "unit, mean over stages."
            ),
        ),
        Quantity(
            key="response",
            words="standard deviation of responses",
            unit="",
            digits=3,
            definition=(
                "Standard deviation of the outputs of a 3×3 layer of stem or branches, behind its BN, mean over layers."
            ),
        ),
        Quantity(
            key="top5_error",
            words="top-5 error",
            unit="%",
            digits=2,
            definition="Share of test images whose class is not among the five likeliest, in percent.",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One number per seed: the sum over the cells `plus` less that over `minus`; one cell each is a difference.

    Two each compare two differences: `plus = (a, d)`, `minus = (b, c)` is (a − b) − (c − d); then `name` says of what.
    """

    plus: tuple[Cell, ...]
    minus: tuple[Cell, ...]
    name: str = ""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that are needed."""
        return (*self.plus, *self.minus)

    @property
    def formula(self) -> str:
        """The number in terms of its cells."""
        if len(self.cells) == 2:
            return f"{_path(*self.plus)} − {_path(*self.minus)}"
        (a, d), (b, c) = self.plus, self.minus
        return f"({_path(a)} − {_path(b)}) − ({_path(c)} − {_path(d)})"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One number per seed: pairs of cells whose values rise along the list less those that fall, as a share of all."""

    order: tuple[Cell, ...]
    name: str = ""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that are needed."""
        return self.order

    @property
    def formula(self) -> str:
        """The number in terms of its cells."""
        return f"rising − falling along {', '.join(map(_path, self.order))}"


Comparison = Contrast | Order

# What a claim says of the number d of each of its comparisons.
LOWER, HIGHER, EQUAL, NOT_HIGHER = "lower", "higher", "equal", "not_higher"
DIRECTIONS: Mapping[str, str] = {
    LOWER: "d < 0",
    HIGHER: "d > 0",
    EQUAL: "|d| < margin",
    NOT_HIGHER: "d < margin",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper. It holds if *all* of its comparisons go its way, and fails if one goes the other way.

    `decisive` is false where the paper itself says "presumably", or where a table only implies what is said here.
    """

    id: str
    hypothesis: str
    sentence: str
    quantity: str
    direction: str
    comparisons: tuple[Comparison, ...]
    margin: float = 0.0
    why_margin: str = ""
    refuted_if: str
    source: str
    decisive: bool = True

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells that are needed, each once."""
        return tuple(dict.fromkeys(cell for comparison in self.comparisons for cell in comparison.cells))

    @property
    def ways_against(self) -> int:
        """In how many ways it can be contradicted, each a test: by every comparison, and where equal to both sides."""
        return len(self.comparisons) * (2 if self.direction == EQUAL else 1)

    @property
    def formula(self) -> str:
        """What is claimed of its cells: `d < 0, d = table2/a/ResNet-110 − table2/b/ResNet-110`."""
        way = DIRECTIONS[self.direction].replace("margin", f"{self.margin:g}")
        if len(self.comparisons) > 1 and len({comparison.cells[0] for comparison in self.comparisons}) == 1:
            others = " or ".join(_path(cell) for cell in self.cells[1:])
            return f"{way}, d = {_path(self.cells[0])} − ({others})"
        return f"{way}, d = {' or '.join(comparison.formula for comparison in self.comparisons)}"

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "id": self.id,
            "hypothesis": self.hypothesis,
            "sentence": self.sentence,
            "quantity": self.quantity,
            "direction": self.direction,
            "margin": self.margin,
            "why_margin": self.why_margin,
            "refuted_if": self.refuted_if,
            "source": self.source,
            "decisive": self.decisive,
            "formula": self.formula,
            "cells": [list(cell) for cell in self.cells],
        }


def _path(cell: Cell) -> str:
    return "/".join(cell)


def cells_of(claims: Iterable[Claim]) -> tuple[Cell, ...]:
    """The cells of some claims, each once: those that need enough seeds."""
    return tuple(dict.fromkeys(cell for claim in claims for cell in claim.cells))


def claims_within(claims: Iterable[Claim], tables: Iterable[str]) -> tuple[Claim, ...]:
    """The claims that these tables can decide: all of their cells are there."""
    names = set(tables)
    return tuple(claim for claim in claims if {table for table, _, _ in claim.cells} <= names)
