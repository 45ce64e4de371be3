"""The units of an audit as rows of a table and as drawings: what is alike stands there once. Never imports torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cleanpath.auditing.profile import Profile
from cleanpath.auditing.text import after, branch, gain, likeness, number, repeats, shortcut, times
from cleanpath.auditing.values import UnitRow
from cleanpath.auditing.verdict import breaks_f, breaks_h
from cleanpath.report.anchors import Anchors
from cleanpath.report.drawing import stack_drawing, unit_drawing

DRAWN = 24  # drawings of one network; more are not drawn
_KEYS = ("forward_gain", "backward_gain", "direct_gain", "branch_share")
_BRANCH_WORDS = 8  # operations of F in a table; more are cut in the middle
Pair = tuple[UnitRow | None, UnitRow | None]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row: one unit, or several that are alike."""

    anchor: str
    bracket: str
    name: str
    times: str
    h: str
    F: str
    f: str
    order: str
    shape: str
    numbers: tuple[str, ...]
    broken: tuple[bool, bool]
    """h and f."""
    nested: str
    """The unit in whose branch it lies."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawing, or the stem or the tail, with what it stands for."""

    name: str
    times: str
    svg: str
    words: str = ""
    anchor: str = ""
    """Of the unit's row; empty for stem and tail."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Drawings that repeat together, as attention and MLP do."""

    drawings: tuple[Drawing, ...]
    words: str = ""


def collapsed(here: Profile, there: Profile | None, anchors: Anchors) -> list[Line]:
    """The rows of the table that the page shows."""
    return [_line(bracket, alike, anchors) for bracket, alike in _alike(here, there)]


def every(here: Profile, there: Profile | None, anchors: Anchors) -> list[Line]:
    """One row per unit, if a row of the table stands for several; what is shown above has its place there."""
    rows = list(_alike(here, there))
    if all(len(alike) == 1 for _, alike in rows):
        return []
    first = {alike[0] for _, alike in rows}
    return [_line("", [pair], anchors, place=pair not in first) for pair in pairs(here, there)]


def pairs(here: Profile, there: Profile | None) -> list[Pair]:
    """The units of both as they stand for each other; of one alone, each by itself."""
    return [(unit, None) for unit in here.units] if there is None else list(here.pairs(there))


def _alike(here: Profile, there: Profile | None) -> Iterator[tuple[str, list[Pair]]]:
    return repeats(pairs(here, there), _likeness, every=False)


def _likeness(pair: Pair) -> tuple[object, ...]:
    return tuple(unit and (likeness(unit), unit.h.operations, unit.branch.operations, unit.before) for unit in pair)


def _line(bracket: str, alike: Sequence[Pair], anchors: Anchors, *, place: bool = True) -> Line:
    sides = [[unit for pair in alike if (unit := pair[side]) is not None] for side in (0, 1)]
    sides = [units for units in sides if units]
    unit = sides[0][0]
    prefix = "" if alike[0][0] is not None else "there-"
    words = [[each(units[0]) for units in sides] for each in (shortcut, F, after, _order, _shape)]
    h, F_words, f, order, shape = map(_both, words)
    numbers = tuple(_both([number(gain(units, key)) for units in sides]) for key in _KEYS)
    return Line(
        anchor=(anchors.unit(prefix, unit.name) or "") if place else "",
        bracket=bracket.strip(),
        name=unit.name,
        times=times(len(alike)),
        h=h,
        F=F_words,
        f=f,
        order=order,
        shape=shape,
        numbers=numbers,
        broken=(breaks_h(unit), breaks_f(unit)),
        nested=unit.parent or "",
    )


def _both(words: Sequence[str]) -> str:
    return " → ".join(dict.fromkeys(words)) if len(set(words)) > 1 else words[0]


def F(unit: UnitRow) -> str:  # noqa: N802 (the paper's letter)
    """The branch's operations, else its layers; the middle of many left out."""
    words = unit.branch.operations
    if not words:
        return branch(unit)
    if len(words) > _BRANCH_WORDS:
        words = (*words[:4], f"… {len(words) - 7} more …", *words[-3:])
    return ", ".join(words)


def _order(unit: UnitRow) -> str:
    return unit.order or "–"


def _shape(unit: UnitRow) -> str:
    return "×".join(map(str, unit.shape)) or "–"


def drawings(profile: Profile, anchors: Anchors, prefix: str) -> tuple[list[Group], int]:
    """Stem, units and tail as drawings, and how many kinds of unit are not drawn."""
    groups, left_out = list[Group](), 0
    waiting = list[Drawing]()
    for at, (bracket, alike) in enumerate(repeats(profile.units, lambda unit: _likeness((unit, None)), every=False)):
        if at >= DRAWN:
            left_out += 1
            continue
        unit, repeated = alike[0], times(len(alike))
        waiting.append(
            Drawing(
                name=unit.name,
                times="" if bracket else repeated,
                svg=unit_drawing(unit, key=f"{prefix}drawing-{at}"),
                words=f"in the branch of {unit.parent}" if unit.parent else "",
                anchor=anchors.unit(prefix, unit.name) or "",
            )
        )
        if not bracket or bracket.startswith("└"):
            words = f"these {len(waiting)} together {repeated}" if bracket else ""
            groups.append(Group(drawings=tuple(waiting), words=words))
            waiting = []
    if waiting:
        groups.append(Group(drawings=tuple(waiting)))
    return [*_end("stem", profile.network.stem, prefix), *groups, *_end("tail", profile.network.tail, prefix)], left_out


def _end(word: str, operations: Sequence[str], prefix: str) -> list[Group]:
    if not operations:
        return []
    svg = stack_drawing(operations, key=f"{prefix}{word}-drawing", title=word)
    return [Group(drawings=(Drawing(name=word, times="", svg=svg),))]
