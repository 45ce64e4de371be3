"""An audit on a terminal: the verdict first, then the units with their gains, then what was not seen."""

import math
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from cleanpath.auditing.profile import Profile, UnitRow

_WIDTH = 160
_BAR = 8  # characters for a factor of 10 either way


def print_profile(profile: Profile, name: str, note: str, *, every: bool) -> None:
    """The verdict, the units (neighbours that are alike in one line unless `every`), and what was not seen."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, _WIDTH))
    console.print(f"[bold]{escape(name)}[/]: {escape(profile.verdict)}")
    if profile.units:
        grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index, head in enumerate(("unit", "h", "F", "f", "forward", "backward", "direct", "F/h", "backward, log")):
            grid.add_column(head, justify="right" if 4 <= index <= 7 else "left", overflow="fold")
        for alike in groups(profile.units, every=every):
            grid.add_row(*map(escape, _line(alike)))
        console.print(grid)
    for entry in profile.not_seen:
        times = f" ({entry.count} times)" if entry.count > 1 else ""
        console.print(f"not seen: {escape(f'{entry.what} in {entry.where}: {entry.reason}{times}')}", soft_wrap=True)
    if not profile.not_seen:
        console.print("not seen: nothing")
    mode = f"{profile.network.mode} mode, gains are ratios of rms values, medians over the units of a line"
    console.print(f"{mode}; {escape(note)}" if note else mode, soft_wrap=True)


def groups(units: Sequence[UnitRow], *, every: bool) -> list[list[UnitRow]]:
    """Neighbours with the same h, number of weight layers, f, stage and parent, together."""

    def kind(unit: UnitRow) -> tuple[object, ...]:
        return (
            unit.stage,
            unit.h.kind,
            unit.h.scale,
            unit.h.description,
            len(unit.branch.layers),
            unit.f.kind,
            unit.parent,
        )

    return [[unit] for unit in units] if every else [list(alike) for _, alike in groupby(units, kind)]


def _line(alike: Sequence[UnitRow]) -> tuple[str, ...]:
    first = alike[0]
    name = first.name if len(alike) == 1 else f"{first.name} … {alike[-1].name} ×{len(alike)}"
    scale = "" if first.h.scale is None else f" ×{first.h.scale:.3g}"
    numbers = [
        _median([getattr(unit.measurements, key) for unit in alike])
        for key in ("forward_gain", "backward_gain", "direct_gain", "branch_share")
    ]
    told = ["–" if value is None else f"{value:.3g}" for value in numbers]
    count = len(first.branch.layers)
    layers = f"{count} weight layer{'s' if count != 1 else ''}"
    return (name, f"{first.h.kind}{scale}", layers, first.f.kind, *told, bar(numbers[1]))


def bar(gain: float | None) -> str:
    """A gain as a bar on a log axis: to the right of │ where it grows, to the left where it shrinks."""
    if gain is None or not math.isfinite(gain) or gain <= 0:
        return ""
    length = min(_BAR, round(abs(math.log10(gain)) * _BAR))
    return f"{'':>{_BAR}}│{'█' * length}" if gain >= 1 else f"{'█' * length:>{_BAR}}│"


def _median(values: Sequence[float | None]) -> float | None:
    found = sorted(value for value in values if value is not None)
    return found[len(found) // 2] if found else None
