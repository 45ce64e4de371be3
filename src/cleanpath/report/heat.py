"""The matrix of path gains as a heat map: one SVG path per colour, so that a thousand units weigh what sixty do."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType

from cleanpath.auditing.text import number
from cleanpath.report.audit_charts import Figure
from cleanpath.report.audit_series import Depth, Values, beyond_units

CELLS = 64
CLIP = 3  # decades
LEVELS = 6  # colours on either side of the middle
TABLE = 16  # cells of a side of the table
_FLOOR = 30.0  # decades; what is smaller, or zero, counts as that
_SIDE, _LEFT, _TOP = 300, 46, 22

# (a path that dies, one that passes unchanged, one that explodes), per theme.
ENDS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {"light": ("#0b3f7a", "#dfe3e8", "#9a3400"), "dark": ("#8ec5ff", "#343a44", "#ffab6b")}
)


def colours(theme: str) -> dict[str, str]:
    """The colour of every level by the name of its class: `h-6` to `h6`."""
    low, middle, high = ENDS[theme]
    return {f"h{level}": _mixed(middle, high if level > 0 else low, abs(level) / LEVELS) for level in levels()}


def levels() -> range:
    """From a path that loses all to one that explodes."""
    return range(-LEVELS, LEVELS + 1)


def heat_map(depth: Depth, *, key: str, whose: str = "") -> Figure | None:
    """None where no gain is known, or there is only one unit."""
    gains = depth.gains
    if len(gains) < 2 or not any(value is not None for row in gains for value in row):
        return None
    size = math.ceil(len(gains) / CELLS)
    cells = binned(gains, size)
    title = f"{whose}{_statement(depth)}"
    notes = [f"Each cell is the geometric mean over {size} × {size} pairs of units."] if size > 1 else []
    table_size = math.ceil(len(gains) / TABLE)
    if table_size > 1:
        notes.append(f"The table holds geometric means over {table_size} × {table_size} pairs.")
    head, rows = _table(gains, table_size)
    return Figure(
        key=key,
        title=title,
        caption="Row: the unit whose input is reached, from the first above. Column: the unit at whose output the path "
        "starts. The diagonal is each unit alone, the upper right corner the whole way. Grey passes unchanged, blue is "
        "lost, orange grows; the colours end at 10⁻³ and 10³, three decades either way.",
        svg=_svg(depth, cells, size, key, title),
        notes=(*notes, *beyond_units(depth)),
        head=head,
        rows=rows,
        least=1,
    )


def binned(gains: Sequence[Values], size: int) -> list[list[float | None]]:
    """Means of log10 over squares of `size` cells; None where no cell is known."""
    logs = [[None if value is None or math.isnan(value) else _log(value) for value in row] for row in gains]
    count = math.ceil(len(gains) / size)
    cells: list[list[float | None]] = []
    for down in range(count):
        rows = logs[down * size : (down + 1) * size]
        known = ([v for row in rows for v in row[a * size : (a + 1) * size] if v is not None] for a in range(count))
        cells.append([sum(values) / len(values) if values else None for values in known])
    return cells


def level(log: float) -> int:
    """The colour of a cell."""
    return round(min(max(log / CLIP, -1.0), 1.0) * LEVELS)


def _log(value: float) -> float:
    if value <= 0:
        return -_FLOOR
    return min(max(math.log10(value), -_FLOOR), _FLOOR) if math.isfinite(value) else _FLOOR


def _statement(depth: Depth) -> str:
    gain = depth.direct[0]
    known = [value for row in depth.gains for value in row if value is not None and math.isfinite(value)]
    between = f"between any two units it is {number(min(known))} to {number(max(known))}" if known else ""
    if gain is None:
        return f"The direct path does not lead through all units; {between or 'no gain is finite'}."
    return f"From the last unit to the first the direct path has the gain {number(gain)}; {between or 'not finite'}."


def _svg(depth: Depth, cells: Sequence[Sequence[float | None]], size: int, key: str, title: str) -> str:
    cell = _SIDE / len(cells)
    shapes = "".join(
        f'<path class="h{value}" d="{path}"/>' for value in levels() if (path := _path(cells, value, cell))
    )
    marks = "".join(
        f'<path class="grid" d="M{_n(at / size * cell)} 0V{_SIDE}M0 {_n(at / size * cell)}H{_SIDE}"/>'
        for at, _ in depth.boundaries[:CELLS]
    )
    count = len(depth.units)
    words = [
        *((0, _SIDE + 14, "start", "1"), (_SIDE, _SIDE + 14, "end", str(count))),
        *((-6, 10, "end", "1"), (-6, _SIDE, "end", str(count))),
        *((_SIDE / 2, _SIDE + 14, "middle", "from the output of unit"), (0, -8, "start", "to the input of unit")),
    ]
    texts = "".join(f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{end}">{word}</text>' for x, y, end, word in words)
    wide, high = _LEFT + _SIDE + 12, _TOP + _SIDE + 56
    told = f"A matrix of {count} × {count} path gains above the diagonal, by colour from 10^-{CLIP} to 10^{CLIP}."
    return (
        f'<svg class="heat" role="img" aria-labelledby="chart-{key}-name chart-{key}-text" viewBox="0 0 {wide} {high}">'
        f'<title id="chart-{key}-name">{escape(title)}</title><desc id="chart-{key}-text">{escape(told)}</desc>'
        f'<g transform="translate({_LEFT},{_TOP})">{shapes}{marks}<path class="frame" d="M0 0H{_SIDE}V{_SIDE}H0Z"/>'
        f"{texts}{_legend()}</g></svg>"
    )


def _path(cells: Sequence[Sequence[float | None]], value: int, cell: float) -> str:
    """All cells of one colour; neighbours in a row as one rectangle."""
    parts = []
    for down, row in enumerate(cells):
        at = 0
        while at < len(row):
            end = at
            while end < len(row) and (log := row[end]) is not None and level(log) == value:
                end += 1
            if end > at:
                top, bottom, left, right = (_n(each * cell) for each in (down, down + 1, at, end))
                parts.append(f"M{left} {top}H{right}V{bottom}H{left}Z")
            at = max(end, at + 1)
    return "".join(parts)


def _legend() -> str:
    count = 2 * LEVELS + 1
    wide, y = 12, _SIDE + 24
    left = (_SIDE - count * wide) / 2
    boxes = "".join(
        f'<rect class="h{value}" x="{_n(left + at * wide)}" y="{y}" width="{wide}" height="10"/>'
        for at, value in enumerate(levels())
    )
    words = ((left, "≤ 10⁻³"), (left + count * wide / 2, "1"), (left + count * wide, "≥ 10³"))
    return boxes + "".join(f'<text x="{_n(x)}" y="{y + 22}" text-anchor="middle">{word}</text>' for x, word in words)


def _table(gains: Sequence[Values], size: int) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    cells = binned(gains, size)
    names = [
        str(start + 1) if size == 1 else f"{start + 1}–{min(start + size, len(gains))}"
        for start in range(0, len(gains), size)
    ]
    rows = tuple(
        (name, *("–" if log is None else number(10.0**log) for log in row))
        for name, row in zip(names, cells, strict=True)
    )
    return ("to \\ from", *names), rows


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _mixed(start: str, end: str, share: float) -> str:
    parts = ((int(start[at : at + 2], 16), int(end[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in parts)
