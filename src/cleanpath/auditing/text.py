"""A profile as text: the verdict, the units with their gains as small bars, what was not seen. Never imports torch."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import median
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from cleanpath.auditing.rules.fixes import fix_of
from cleanpath.auditing.verdict import free_h

if TYPE_CHECKING:
    from cleanpath.auditing.finding import Judgement
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import UnitRow

_WIDTH = 160
_ANY_WIDTH = 1000
_ARM = 4  # characters of a bar either way, each a factor of √2
_LONGEST_PERIOD = 8
_DEPTH = 60
_LEVELS = "▁▂▃▄▅▆▇"  # of an odd number, so that what is level stands in the middle
_LEAST_DECADES = 1.0

T = TypeVar("T")


def as_text(profile: "Profile") -> str:
    """What `print(profile)` shows."""
    console = Console(file=io.StringIO(), width=_WIDTH, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(renderable(profile))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def renderable(
    profile: "Profile",
    name: str = "",
    note: str = "",
    *,
    every: bool = False,
    judgement: "Judgement | None" = None,
) -> Group:
    """For a console: neighbours that are alike stand in one line unless `every`."""
    judgement = judgement or profile.judged()
    lines: list[str | _Rows] = [
        f"[bold]{escape(name)}[/]: {escape(profile.verdict)}" if name else escape(profile.verdict),
        *_findings(judgement),
    ]
    if profile.units:
        lines += ["", _units(profile.units, every=every), *map(escape, _over_depth(profile)), ""]
    lines += [f"not seen: {escape(each)}" for each in not_seen(profile)] or [f"not seen: {_nothing_but(profile)}"]
    mode = f"{profile.network.mode} mode, {profile.network.parameters:,} parameters"
    return Group(*lines, f"[dim]{escape('; '.join(part for part in (mode, note) if part))}[/]")


def _findings(judgement: "Judgement") -> Iterator[str]:
    """A line on how many there are, then each: what, the number beside the expected one, the remedy, its page."""
    yield escape(judgement.count())
    for one in judgement.findings:
        style = {"error": "bold red", "warning": "yellow"}.get(one.severity, "dim")
        yield f"\n[bold]{one.code}[/] [{style}]{one.severity}[/]  {escape(one.sentence)}"
        if one.units:
            yield escape(f"      units: {places(one.units, 3)}")
        if one.measured is not None:
            yield escape(f"      measured: {one.quantity}: {number(one.measured)}, expected: {one.expected}")
        yield escape(f"      remedy: {one.remedy}")
        yield escape(f"      fix: {fix_of(one.code).option(one.code) or 'none'}: {fix_of(one.code).does}")
        yield escape(f"      more: cleanpath explain {one.code}  ({one.reference})")
    for entry in judgement.ignored:
        yield escape(f"ignored: {entry.finding.code} in {places(entry.finding.units)}: {entry.reason}")


def places(units: Sequence[str], shown: int = 1) -> str:
    """The units concerned: the first ones by name, the others counted."""
    if not units:
        return "the network"
    more = f" and {len(units) - shown} more" if len(units) > shown else ""
    return f"{', '.join(units[:shown])}{more}"


def renderable_pair(here: "Profile", there: "Profile", names: tuple[str, str], *, every: bool) -> Group:
    """Two profiles side by side for a console: both verdicts, then the units as they pair, here → there."""
    lines: list[str | _Rows] = []
    for name, profile, word in zip(names, (here, there), ("here: ", "there:"), strict=True):
        lines.append(f"{word} [bold]{escape(name)}[/]: {escape(profile.verdict)}")
        lines += [
            f"       [bold]{one.code}[/] {one.severity}  {escape(one.sentence)}" for one in profile.judged().findings
        ]
    pairs = here.pairs(there)
    table = _Rows(("unit", "", "h", "f"), ("forward", "backward", "direct", "F/h"))
    for bracket, alike in repeats(pairs, _kind_of_pair, every=every):
        mine, theirs = ([unit for pair in alike if (unit := pair[side]) is not None] for side in (0, 1))
        words = [_both(*(each(side[0]) if side else "absent" for side in (mine, theirs))) for each in (shortcut, after)]
        name = (mine or theirs)[0].name
        keys = ("forward_gain", "backward_gain", "direct_gain", "branch_share")
        numbers = [_both(number(gain(mine, key)), number(gain(theirs, key))) for key in keys]
        table.rows.append(((f"{bracket}{name}", times(len(alike)), *words), numbers))
    lines += ["", table, ""]
    for word, profile in (("here", here), ("there", there)):
        lines += [f"not seen {word}: {escape(each)}" for each in not_seen(profile)]
    return Group(*lines, f"[dim]{len(pairs)} units, here → there; one value where both are the same[/]")


def _kind_of_pair(pair: tuple["UnitRow | None", "UnitRow | None"]) -> tuple[object, ...]:
    return tuple(unit and likeness(unit) for unit in pair)


def _both(here: str, there: str) -> str:
    return here if here == there else f"{here} → {there}"


@dataclass
class _Rows:
    """A table with words on the left and numbers on the right; where it is too wide, two lines per row."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: list[tuple[Sequence[str], Sequence[str]]] = field(default_factory=list)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for head in self.words:
            grid.add_column(head)
        for head in self.numbers:
            grid.add_column(head, justify="right")
        for words, numbers in self.rows:
            grid.add_row(*map(escape, (*words, *numbers)))
        wide = Measurement.get(console, options.update(width=_ANY_WIDTH), grid).maximum
        if wide <= options.max_width:
            yield grid
            return
        for (name, times, *words), numbers in self.rows:
            said = [f"{head} {word}" for head, word in zip(self.words[2:], words, strict=True)]
            yield escape(f"{f'{name} {times}'.rstrip()}: {', '.join(said)}")
            told = (f"{head} {' '.join(number.split())}" for head, number in zip(self.numbers, numbers, strict=True))
            yield escape(f"    {'  '.join(told)}")


def _units(units: Sequence["UnitRow"], *, every: bool) -> _Rows:
    table = _Rows(("unit", "", "h", "F", "f"), ("forward", "backward", "direct", "F/h"))
    for bracket, alike in repeats(units, likeness, every=every):
        unit = alike[0]
        gains = (gain(alike, key) for key in ("forward_gain", "backward_gain", "direct_gain"))
        words = (f"{bracket}{unit.name}", times(len(alike)), shortcut(unit), branch(unit), after(unit))
        share = number(gain(alike, "branch_share"))
        table.rows.append((words, (*(f"{number(each)} {bar(each)}" for each in gains), share)))
    return table


def repeats(units: Sequence[T], kind: Callable[[T], object], *, every: bool) -> Iterator[tuple[str, list[T]]]:
    """The lines of a table: units of one kind at the same place of a pattern that repeats, such as attention and MLP.

    Each comes with the bracket that joins the lines of a pattern.
    """
    kinds = [kind(unit) for unit in units]
    at = 0
    while at < len(units):
        period, count = (1, 1) if every else _pattern(kinds[at:])
        for offset in range(period):
            bracket = "" if period == 1 else "┌ " if not offset else "└ " if offset == period - 1 else "│ "
            yield bracket, list(units[at + offset : at + period * count : period])
        at += period * count


def _pattern(kinds: Sequence[object]) -> tuple[int, int]:
    """The period with which the sequence begins and how often it comes: what covers most, the shortest such."""
    best = (1, 1)
    for period in range(1, min(_LONGEST_PERIOD, len(kinds)) + 1):
        count = 1
        while kinds[count * period : (count + 1) * period] == kinds[:period]:
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best


def likeness(unit: "UnitRow") -> tuple[object, ...]:
    """What units have in common that stand in one line."""
    place = (unit.stage, unit.parent is None, unit.shape, unit.changes_shape)
    return (*place, shortcut(unit), tuple(_local(unit)), unit.f.kind, unit.order)


def times(count: int) -> str:
    """How many units a line stands for, where it is not one."""
    return f"×{count}" if count > 1 else ""


def shortcut(unit: "UnitRow") -> str:
    """The word for h, with its λ; that it is learned where it is an identity for now."""
    scale = "" if unit.h.scale is None else f" ×{unit.h.scale:.3g}"
    learned = ", learned" if free_h(unit) else ""
    described = f": {unit.h.description}" if unit.h.kind == "other" and unit.h.description else ""
    return f"{unit.h.kind}{scale}{described}{learned}"


def branch(unit: "UnitRow") -> str:
    """F by the last words of its layers' names; a long one by its ends."""
    words = [_last_word(name) for name in unit.branch.layers if name != unit.name]  # else a scale of the unit itself
    if len(words) > 6 or len(" ".join(words)) > 36:
        return f"{words[0]} … {words[-1]} ({len(words)})"
    return " ".join(words) or f"{unit.branch.parameters:,} parameters"


def _last_word(name: str) -> str:
    """A layer's own name; one that is a number, as in a Sequential, with the name before it."""
    *before, last = name.split(".")
    return f"{before[-1]}.{last}" if last.isdigit() and before else last


def after(unit: "UnitRow") -> str:
    """The word for f; nothing is a dash."""
    return "–" if unit.f.kind == "nothing" else unit.f.kind


def _local(unit: "UnitRow") -> list[str]:
    """The branch's layers by their names inside the unit, which its repetitions share."""
    own = unit.name.partition("#")[0].split(".")
    return [".".join(_behind(own, name.split("."))) for name in unit.branch.layers]


def _behind(prefix: Sequence[str], parts: Sequence[str]) -> Sequence[str]:
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prefix, parts, strict=False)))
    return parts[shared:]


def _over_depth(profile: "Profile") -> Iterator[str]:
    """The gradient and the signal over depth, and what the direct path keeps."""
    rows = [unit for unit in profile.units if unit.parent is None]
    if len(rows) < 3:
        return
    yield ""
    for name, key in (("gradient", "gradient_rms"), ("signal", "output_rms")):
        values = [value for unit in rows if usable(value := getattr(unit.measurements, key))]
        if values:
            decades = math.log10(max(values) / min(values))
            ends = f"rms {values[0]:.2g} at the first unit, {values[-1]:.2g} at the last"
            yield f"{name:>8} over depth  {sparkline(values)}  {ends} (log axis, {decades:.1f} decades)"
    index = {unit.name: position for position, unit in enumerate(profile.units)}
    direct = profile.path_gain(index[rows[0].name], index[rows[-1].name])
    if direct is not None:
        yield f"the direct path, every branch cut, carries {direct:.3g} of the gradient from the last unit to the first"


def sparkline(values: Sequence[float]) -> str:
    """Positive values on a log axis of at least one decade; where there are many, medians of neighbours."""
    size = math.ceil(len(values) / _DEPTH)
    logs = [math.log10(median(values[at : at + size])) for at in range(0, len(values), size)]
    middle, span = (max(logs) + min(logs)) / 2, max(max(logs) - min(logs), _LEAST_DECADES)
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[min(top, max(0, round(((log - middle) / span + 0.5) * top)))] for log in logs)


def bar(value: float | None) -> str:
    """A gain on a log axis: each character is a factor of √2, to the right of │ growing, to the left shrinking."""
    if not usable(value):
        return " " * (2 * _ARM + 1)
    length = min(_ARM, round(2 * abs(math.log2(value))))
    return f"{'':>{_ARM}}│{'█' * length:<{_ARM}}" if value >= 1 else f"{'█' * length:>{_ARM}}│{'':<{_ARM}}"


def not_seen(profile: "Profile") -> list[str]:
    """One sentence per thing that was not seen."""
    return [
        f"{each.what} in {each.where}: {each.reason}{f' ({each.count} times)' if each.count > 1 else ''}"
        for each in profile.not_seen
    ]


def _nothing_but(profile: "Profile") -> str:
    if profile.network.mode != "eval":  # mixed is how it will be trained
        return "nothing"
    return "what only training does, such as dropout and statistics of a batch; call model.train() first to have it"


def gain(units: Sequence["UnitRow"], key: str) -> float | None:
    """The median of a measurement over units; None if none of them has it."""
    found = [value for unit in units if (value := getattr(unit.measurements, key)) is not None]
    return median(found) if found else None


def number(value: float | None) -> str:
    """Three digits; nothing measured is a dash."""
    return "–" if value is None else f"{value:.3g}"


def usable(value: float | None) -> TypeGuard[float]:
    """Whether a value has a logarithm."""
    return value is not None and math.isfinite(value) and value > 0
