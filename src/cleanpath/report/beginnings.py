"""The networks of a table before their first step: the unit, and the signal over depth, beside what became of them.

    forward   rms(x_{l+1}) / rms(x_1)
    backward  rms(∂E/∂x_l) / rms(∂E/∂x_{L+1})

over the units l = 1 to L, from the profile that was cached with the run. The line of an identity path stays near 1; one
that leaves it by decades says why training fails. Never imports torch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

from cleanpath import measures
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.text import number, usable
from cleanpath.auditing.values import UnitRow
from cleanpath.errors import UserError
from cleanpath.report.audit_series import Depth
from cleanpath.report.table import Cell, Table

_WIDTH, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 310, 92, 40, 6, 18, 18
_LEAST, _MOST = 1e-12, 1e12  # what lies beyond is drawn at the edge

Line = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """A network at its initialisation: its gains over depth, and one of its units that keep the width."""

    forward: tuple[float | None, ...]
    backward: tuple[float | None, ...]
    unit: UnitRow | None


def beginnings(root: Path, tables: Iterable[Table]) -> dict[str, Beginning]:
    """What the profiles below `root` say of the cells of the tables, by run; runs without one are left out."""
    found: dict[str, Beginning] = {}
    for table in tables:
        for cell in table.cells:
            for seed in cell.seeds:
                path = root / seed.run / measures.PROFILES[0]
                if not seed.run or seed.run in found or not path.is_file():
                    continue
                if (one := _read(path, path.stat().st_mtime_ns)) is not None:
                    found[seed.run] = one
    return found


@lru_cache(maxsize=512)
def _read(path: Path, _written: int) -> Beginning | None:
    """What a profile of that time says, read once; None if it is damaged or of another version: it is made again."""
    try:
        return beginning(Profile.load(path))
    except UserError:
        return None


def beginning(profile: Profile) -> Beginning:
    """What a profile says."""
    depth = Depth(profile)
    start = depth.units[0].measurements.input_rms if depth.units else None
    forward = tuple(value / start if usable(value) and usable(start) else None for value in depth.of("output_rms"))
    return Beginning(forward=forward, backward=depth.whole, unit=typical(profile.units))


def typical(units: Sequence[UnitRow]) -> UnitRow | None:
    """A unit as the paper draws them: not the first, and one that keeps the width."""
    keep = [unit for unit in units if not unit.changes_shape and unit.parent is None]
    return keep[1] if len(keep) > 1 else keep[0] if keep else None


def of_cell(cell: Cell, found: Mapping[str, Beginning]) -> Beginning | None:
    """The first seed of the cell that has one."""
    return next((found[seed.run] for seed in cell.seeds if seed.run in found), None)


def sentence(one: Beginning) -> str:
    """Where both lines end, in words."""
    ends = [
        f"{word} {number(value)}"
        for word, value in (("forward", _last(one.forward)), ("backward", _last(one.backward[::-1])))
        if value is not None
    ]
    return f"At initialisation, gain over all {len(one.forward)} units: {', '.join(ends) or 'not measured'}."


def gains_drawing(one: Beginning, *, key: str, title: str) -> str:
    """Both lines over the units, on one logarithmic axis around 1: forward solid, backward dashed."""
    known = [abs(math.log10(value)) for value in (*one.forward, *one.backward) if usable(value)]
    decades = min(max(1, math.ceil(max(known, default=1.0) - 1e-9)), 12)

    def y(value: float) -> float:
        level = math.log10(min(max(value, _LEAST), _MOST)) / decades
        return _TOP + (1 - max(-1.0, min(1.0, level))) * (_HIGH - _TOP - _BOTTOM) / 2

    count = max(1, len(one.forward) - 1)

    def x(at: int) -> float:
        return _LEFT + at / count * (_WIDTH - _LEFT - _RIGHT)

    ticks = "".join(
        f'<text x="{_LEFT - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{value:g}</text>'
        f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>'
        for value in (10.0**-decades, 1.0, 10.0**decades)
    )
    lines = "".join(
        _polyline([(x(at), y(value)) for at, value in enumerate(line) if usable(value)], word)
        for word, line in (("forward", one.forward), ("backward", one.backward))
    )
    return (
        f'<svg class="gains" role="img" aria-labelledby="{key}-name {key}-text" viewBox="0 0 {_WIDTH} {_HIGH}">'
        f'<title id="{key}-name">{escape(title)}</title><desc id="{key}-text">{escape(sentence(one))}</desc>'
        f'<text x="{_LEFT}" y="11">gain at initialisation, log scale</text>{ticks}{lines}'
        f'<text x="{_LEFT}" y="{_HIGH - 5}">unit 1</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HIGH - 5}" text-anchor="end">unit {len(one.forward)}</text></svg>'
    )


def _polyline(points: Sequence[tuple[float, float]], word: str) -> str:
    if len(points) == 1:
        ((left, top),) = points
        points = [(left, top), (left + 3, top)]
    if not points:
        return ""
    path = "L".join(f"{left:.1f} {top:.1f}" for left, top in points)
    return f'<path class="{word}" d="M{path}"/>'


def _last(line: Line) -> float | None:
    return line[-1] if line and usable(line[-1]) else None
