"""A residual unit as the paper draws it: the shortcut straight down, the branch beside it, the sum, and f below.

What breaks the path is in the colour of alerts, with a cross and a word; a learned h that is an identity for now has a
word alone. Words of the model are escaped; the colours are those of the page (`drawing.css`). Never imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from cleanpath.auditing.values import UnitRow
from cleanpath.auditing.verdict import breaks_f, breaks_h, factor, free_h

_WIDTH, _NARROW = 276, 148
_TRUNK, _BRANCH = 70, 206  # where the two paths run
_BOX, _HIGH, _GAP, _CROSSED = 116, 20, 9, 20  # a box, and the space above it without and with a cross
_CHARACTERS = 18  # that a box holds
_MOST, _HEAD, _END = 9, 5, 3  # boxes of a branch that is not cut; of one that is, those before and after the cut
_WEIGHTS = ("conv", "linear", "attention", "product")
_ACTIVATIONS = ("relu", "gelu", "silu", "elu", "tanh", "sigmoid", "softmax", "clip")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A panel of a figure that draws a unit: its letter, its caption, and the unit."""

    letter: str
    caption: str
    unit: UnitRow
    above: int = 0
    """How many of the first operations of F belong to the unit above it."""


def unit_drawing(unit: UnitRow, *, key: str, title: str = "", above: int = 0) -> str:
    """The unit as SVG; `key` makes the ids of its text alternative unique in a page.

    A dashed line is drawn behind the first operations of F that belong to the unit `above`.
    """
    canvas = _Canvas()
    y = canvas.word(_TRUNK, 12, "x", "name") + 6
    entering = [_Box(word) for word in unit.before.operations]
    if unit.before.in_place:
        entering.append(_Box(unit.before.in_place, broken=True))
    fork = canvas.column(_TRUNK, y, entering) + 12
    canvas.line(_TRUNK, y, _TRUNK, fork)
    end = _paths(canvas, unit, fork, above)
    _leave(canvas, [_Box(word, broken=True) for word in after_words(unit)], end)
    return canvas.drawn(_WIDTH, key, title or unit.name, told(unit, above))


def stack_drawing(operations: Sequence[str], *, key: str, title: str) -> str:
    """Operations one after another, as the stem and the tail are."""
    canvas = _Canvas()
    boxes = [_Box(word) for word in cut(operations)]
    at = _NARROW // 2
    y = canvas.column(at, 8, boxes)
    canvas.line(at, 0, at, y + 10)
    canvas.arrow(at, y + 14)
    return canvas.drawn(_NARROW, key, title, f"{', then '.join(operations)}." if operations else "Nothing.")


def explained(key: str) -> str:
    """The unit of equations (1) and (2) with the names of its parts."""
    canvas = _Canvas()
    canvas.word(_TRUNK, 12, "x", "name")
    canvas.line(_TRUNK, 18, _TRUNK, 94)
    canvas.branch(30, 94)
    canvas.box(_BRANCH, 46, _Box("branch F"))
    canvas.words.append(f'<text x="{_TRUNK - 8}" y="66" text-anchor="end">shortcut h</text>')
    canvas.plus(_TRUNK, 94)
    canvas.words.append(f'<text x="{_TRUNK + 16}" y="116">y = h(x) + F(x)</text>')
    canvas.box(_TRUNK, 126, _Box("after-addition f"))
    canvas.line(_TRUNK, 103, _TRUNK, 164)
    canvas.arrow(_TRUNK, 168)
    canvas.words.append(f'<text x="{_TRUNK + 16}" y="166">x′ = f(y)</text>')
    canvas.bottom = 172
    told = "From x two paths lead to a sum: the shortcut h straight down, the branch F beside it; f follows the sum."
    return canvas.drawn(_WIDTH, key, "A residual unit", told)


def told(unit: UnitRow, above: int = 0) -> str:
    """The drawing in words, for who cannot see it."""
    parts = [f"Before the fork: {', '.join(unit.before.operations)}."] if unit.before.operations else []
    if unit.before.in_place:
        parts.append(f"Broken: {unit.before.in_place} overwrites x before it is shared.")
    h = f"h is {unit.h.kind}{f' by {factor(unit.h.scale)}' if unit.h.scale is not None else ''}"
    free = ", learned: an identity now, and free to leave it" if free_h(unit) else ""
    parts.append(f"{h}{', which breaks the path' if breaks_h(unit) else free}.")
    parts.append(f"F: {', '.join(unit.branch.operations or unit.branch.layers) or 'not known'}.")
    if above:
        parts.append(f"Of F, {' and '.join(unit.branch.operations[:above])} are of the unit above, for F alone.")
    after = "f is nothing." if not breaks_f(unit) else f"f is {unit.f.kind}, which breaks the path."
    return " ".join([*parts, after])


def after_words(unit: UnitRow) -> list[str]:
    """The operations after the sum."""
    return unit.f.kind.split("+") if breaks_f(unit) else []


def shortcut_words(unit: UnitRow) -> list[str]:
    """The operations of h; a scaling by its λ, what has no word by its kind, an identity by none."""
    if unit.h.kind == "identity":
        return []
    if unit.h.kind == "scaling" and unit.h.scale is not None:
        return [f"× {factor(unit.h.scale)}{', learned' if free_h(unit) else ''}"]
    return cut(unit.h.operations) or [unit.h.kind.replace("_", " ")]


def cut(operations: Sequence[str]) -> list[str]:
    """A long list without its middle, which is counted."""
    if len(operations) <= _MOST:
        return list(operations)
    middle = len(operations) - _HEAD - _END
    return [*operations[:_HEAD], f"… {middle} more", *operations[-_END:]]


@dataclass(frozen=True)
class _Box:
    word: str
    broken: bool = False
    free: bool = False
    """Whether it is learned, and nothing only for now."""

    @property
    def kind(self) -> str:
        lowered = self.word.lower()
        sort = "weight" if lowered.startswith(_WEIGHTS) else "bend" if lowered in _ACTIVATIONS else "plain"
        return f"{sort} broken" if self.broken else sort


@dataclass
class _Canvas:
    """What has been drawn: paths first, so that boxes and words lie above them."""

    paths: list[str] = field(default_factory=list)
    boxes: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    bottom: int = 0

    def line(self, x: int, y: int, to_x: int, to_y: int, kind: str = "path") -> None:
        self.paths.append(f'<path class="{kind}" d="M{x} {y}L{to_x} {to_y}"/>')

    def branch(self, fork: int, end: int) -> None:
        """Out of the trunk, down, and back into the sum."""
        self.paths.append(
            f'<path class="path" d="M{_TRUNK} {fork}H{_BRANCH}V{end}H{_TRUNK + 10}"/>'
            f'<path class="head" d="M{_TRUNK + 10} {end}l7 -4v8z"/>'
            f'<circle class="dot" cx="{_TRUNK}" cy="{fork}" r="2.5"/>'
        )

    def arrow(self, x: int, y: int) -> None:
        self.paths.append(f'<path class="head" d="M{x} {y}l-4 -7h8z"/>')
        self.bottom = max(self.bottom, y + 2)

    def boundary(self, y: int) -> None:
        """Where a unit begins that does not begin at its fork."""
        self.line(4, y, _WIDTH - 4, y, "boundary")
        self.words.append(f'<text x="{_TRUNK + 6}" y="{y + 13}">unit begins</text>')

    def plus(self, x: int, y: int) -> None:
        cross = f"M{x - 5} {y}H{x + 5}M{x} {y - 5}V{y + 5}"
        self.boxes.append(f'<circle class="sum" cx="{x}" cy="{y}" r="9"/><path class="path" d="{cross}"/>')

    def word(self, x: int, y: int, words: str, kind: str) -> int:
        self.words.append(f'<text class="{kind}" x="{x}" y="{y}" text-anchor="middle">{escape(words)}</text>')
        self.bottom = max(self.bottom, y + 4)
        return y

    def box(self, x: int, y: int, box: _Box) -> None:
        """One operation; a word that is too long is cut, and whole in its title."""
        short = box.word if len(box.word) <= _CHARACTERS else f"{box.word[: _CHARACTERS - 1]}…"
        whole = f"<title>{escape(box.word)}</title>" if short != box.word else ""
        corner = 10 if box.kind.startswith("bend") else 2
        size = f'x="{x - _BOX // 2}" y="{y}" width="{_BOX}" height="{_HIGH}" rx="{corner}"'
        self.boxes.append(
            f'<g class="{box.kind}">{whole}<rect {size}/>'
            f'<text x="{x}" y="{y + 14}" text-anchor="middle">{escape(short)}</text></g>'
        )
        self.bottom = max(self.bottom, y + _HIGH + 4)

    def cross(self, x: int, y: int) -> None:
        self.words.append(
            f'<path class="cross" d="M{x - 5} {y - 5}l10 10m0 -10l-10 10"/>'
            f'<text class="alert" x="{x + 10}" y="{y + 4}">broken</text>'
        )

    def column(self, x: int, y: int, boxes: Sequence[_Box]) -> int:
        """Boxes below each other from y on, a cross above each run of broken ones, a word above one of free ones.

        Returns where they end.
        """
        before = False
        for box in boxes:
            marked = (box.broken or box.free) and not before
            if marked and box.broken:
                self.cross(x, y + _CROSSED // 2)
            elif marked:
                self.words.append(f'<text x="{x + 4}" y="{y + _CROSSED // 2 + 4}">identity now</text>')
            y += _CROSSED if marked else _GAP
            self.box(x, y, box)
            y += _HIGH
            before = box.broken or box.free
        return y

    def drawn(self, width: int, key: str, title: str, told: str) -> str:
        """The SVG with its text alternative."""
        body = "".join([*self.paths, *self.boxes, *self.words])
        return (
            f'<svg class="unit" role="img" aria-labelledby="{key}-name {key}-text" '
            f'width="{width}" height="{self.bottom}" viewBox="0 0 {width} {self.bottom}">'
            f'<title id="{key}-name">{escape(title)}</title><desc id="{key}-text">{escape(told)}</desc>{body}</svg>'
        )


def _paths(canvas: _Canvas, unit: UnitRow, fork: int, above: int) -> int:
    """Both paths from the fork to the sum; the height of the sum."""
    broken, free = breaks_h(unit), free_h(unit)
    straight = [_Box(word, broken=broken, free=free) for word in shortcut_words(unit)]
    beside = [_Box(word) for word in cut(unit.branch.operations)] or [_Box("F")]
    tall = max(_height(straight), _height(beside))
    end = fork + tall + 24
    canvas.line(_TRUNK, fork, _TRUNK, end)
    canvas.branch(fork, end)
    canvas.column(_TRUNK, fork + (tall - _height(straight)) // 2 + 4, straight)
    top = fork + (tall - _height(beside)) // 2 + 4
    canvas.column(_BRANCH, top, beside)
    if above:
        canvas.boundary(top + above * (_HIGH + _GAP) + _GAP // 2)
    canvas.word(_BRANCH, fork - 5, "F", "name")
    if not straight:
        canvas.word(_TRUNK - 12, fork + tall // 2 + 12, "h", "name")
    canvas.plus(_TRUNK, end)
    return end


def _leave(canvas: _Canvas, boxes: Sequence[_Box], start: int) -> None:
    """What follows the sum, and the unit's output."""
    y = canvas.column(_TRUNK, start + 9, boxes) + 14
    canvas.line(_TRUNK, start + 9, _TRUNK, y)
    canvas.arrow(_TRUNK, y + 4)
    canvas.word(_TRUNK, y + 18, "x′", "name")


def _height(boxes: Sequence[_Box]) -> int:
    marked = bool(boxes) and (boxes[0].broken or boxes[0].free)
    return len(boxes) * (_HIGH + _GAP) + (_CROSSED - _GAP if marked else 0)
