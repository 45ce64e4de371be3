"""In what the cells of a table are not run as the paper's: sentences, and a letter at each cell that one is said of.

A cell has a letter if its experiment differs from that of scale paper in what the letter stands for; nobody writes down
which cells those are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from cleanpath.experiment import Experiment
from cleanpath.paper.parts import Recipe, joined
from cleanpath.paper.published import published_table
from cleanpath.paper.scales import PAPER, Remark, Scale
from cleanpath.paper.tables import experiments

Key = tuple[str, str]
CHANGED, NETWORK, DATA, TRAINING, DECAY, GATES = "c", "n", "d", "t", "w", "g"
# What each letter stands for, alike in all tables; in the order in which a cell has them.
LETTERS = {
    CHANGED: "changed settings",
    NETWORK: "network",
    DATA: "data",
    TRAINING: "training",
    DECAY: "weight decay",
    GATES: "gates",
}
_FIELDS = {
    NETWORK: "network.depth",
    DATA: "data",
    TRAINING: "training",
    DECAY: "training.decay_on",
    GATES: "network.shortcut.gate_widening",
}


# What must be set for a sentence with the letter not to hold as it stands; one without a letter is of all settings.
_SETTINGS = {
    NETWORK: ("network.depth", "network.branch", "network.layout"),
    DATA: ("data.",),
    TRAINING: ("training.",),
    DECAY: ("training.decay_on",),
    GATES: ("network.shortcut.",),
}


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A sentence below a table; with a letter, the cells that it is said of, by row and column."""

    text: str
    letter: str = ""
    cells: frozenset[Key] = frozenset()


def deviations(
    recipe: Recipe, scale: Scale, made: Mapping[Key, Experiment], changes: Sequence[str]
) -> tuple[Deviation, ...]:
    """What is to be said of the cells that run, in the order in which a page says it; `changes` are of `--set`.

    A remark with a letter that no cell of the table has is left out.
    """
    parts = [joined(row, column) for row, column in recipe.cells()]
    translations = [Remark(text, letter=NETWORK) for text in scale.translations(recipe.name, parts)]
    about_all = scale.deviations if made else ()  # a drawing trains nothing
    remarks = [
        *(_of_the_scale(remark, changes) for remark in translations),
        *map(Remark, published_table(recipe.name).notes),
        *(_of_the_scale(remark, changes) if remark.letter else remark for remark in scale.notes.get(recipe.name, ())),
        *(_of_the_scale(remark, changes) for remark in about_all),
    ]
    paper = {(row, column): one for (row, column, _), one in experiments(recipe, PAPER, seeds=[0]).items()}
    found = [
        Deviation(text=remark.text, letter=remark.letter, cells=_differing(remark.letter, made, paper))
        for remark in remarks
    ]
    if changes:
        told = f"Set for this reproduction: {', '.join(changes)}. What scale {scale.name} says is of its own settings."
        found.insert(0, Deviation(text=told, letter=CHANGED, cells=frozenset(made)))
    return tuple(one for one in found if one.cells or not one.letter)


def _of_the_scale(remark: Remark, changes: Sequence[str]) -> Remark:
    """A sentence of a scale's as it can be said of its runs: of its own settings, where others were set."""
    about = _SETTINGS.get(remark.letter, ("",))
    touched = any(change.strip().startswith(about) for change in changes)
    return replace(remark, text=f"With the scale's own settings: {remark.text}") if touched else remark


def letters_of(key: Key, found: Sequence[Deviation]) -> tuple[str, ...]:
    """The letters of a cell."""
    of_cell = {one.letter for one in found if key in one.cells}
    return tuple(letter for letter in LETTERS if letter in of_cell)


def _differing(letter: str, here: Mapping[Key, Experiment], there: Mapping[Key, Experiment]) -> frozenset[Key]:
    if not letter:
        return frozenset()
    return frozenset(key for key, one in here.items() if _read(one, letter) != _read(there[key], letter))


def _read(one: Experiment, letter: str) -> object:
    return reduce(getattr, _FIELDS[letter].split("."), one)
