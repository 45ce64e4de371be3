"""The series over depth that an audit's page draws: signal, gradient, direct path, gains, shares, and what they say.

Only units that lie in no other unit's branch have a place on the axis. Never imports torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cleanpath.auditing.profile import Profile
from cleanpath.auditing.text import number, usable
from cleanpath.auditing.values import UnitRow

Values = tuple[float | None, ...]
_LEVEL = 1.05  # a change by less is none


@dataclass(frozen=True)
class Depth:
    """A profile along its trunk."""

    profile: Profile

    @cached_property
    def units(self) -> tuple[UnitRow, ...]:
        """The units that lie in no other's branch."""
        return tuple(unit for unit in self.profile.units if unit.parent is None)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Their places among all units."""
        return tuple(at for at, unit in enumerate(self.profile.units) if unit.parent is None)

    @cached_property
    def gains(self) -> tuple[Values, ...]:
        """Path gains between them."""
        rows = self.profile.path_gains()
        return tuple(tuple(rows[at][last] for last in self.places) for at in self.places)

    @cached_property
    def direct(self) -> Values:
        """What the direct path carries from the last unit's output to each unit's input."""
        return tuple(row[-1] for row in self.gains)

    @cached_property
    def whole(self) -> Values:
        """The gradient at each unit's input over that at the last unit's output."""
        if not self.units:
            return ()
        last = self.units[-1].measurements
        if not usable(last.gradient_rms) or not usable(last.backward_gain):
            return (None,) * len(self.units)
        end = last.gradient_rms / last.backward_gain
        return tuple(None if value is None else value / end for value in self.of("gradient_rms"))

    @cached_property
    def boundaries(self) -> tuple[tuple[int, int], ...]:
        """Where another stage begins: the unit's place on the axis, and the stage."""
        stages = [unit.stage for unit in self.units]
        return tuple((at, stage) for at, stage in enumerate(stages) if at and stage != stages[at - 1])

    @property
    def between(self) -> int:
        """How many units have operations between the unit before and their fork, of which no path gain is part."""
        return sum(bool(unit.before.operations) for unit in self.units[1:])

    def of(self, key: str) -> Values:
        """One measurement of every unit."""
        return tuple(getattr(unit.measurements, key) for unit in self.units)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What one panel shows."""

    key: str
    name: str
    """Over the axis."""
    series: tuple[tuple[str, Callable[[Depth], Values]], ...]
    """Word and values of each line; the first is the thick one."""
    statement: Callable[[Depth], str]
    caption: str
    meet: int | None = None
    """The unit at which the healthy network's line is scaled to meet this one's, where only the course counts."""
    ratio: bool = False
    """Whether 1 is the value of an identity: it gets a line, and units are dots."""


def _measured(key: str) -> Callable[[Depth], Values]:
    return lambda depth: depth.of(key)


def _signal(depth: Depth) -> str:
    ends = _ends(depth.of("output_rms"))
    if ends is None:
        return "The signal was not measured"
    return f"The signal {_change(*ends)} from the first unit to the last"


def _gradient(depth: Depth) -> str:
    ends = _ends(depth.of("gradient_rms"))
    if ends is None:
        return "The gradient was not measured"
    return f"The gradient {_change(*reversed(ends))} from the last unit back to the first"


def _direct(depth: Depth) -> str:
    direct, whole = (line[0] if line else None for line in (depth.direct, depth.whole))
    if direct is None:
        return "The first unit is not reached from the last along one trunk of known gains"
    beside = f"; the whole gradient there is {factor(whole)} that of the last" if usable(whole) else ""
    part = "all" if 1 / _LEVEL < direct < _LEVEL else number(direct)
    return f"Without branches, {part} of the last gradient would reach the first unit{beside}"


def _share(depth: Depth) -> str:
    values = [value for value in depth.of("branch_share") if value is not None and math.isfinite(value)]
    if not values:
        return "The branches were not measured"
    dead = sum(value == 0 for value in values)
    said = f"; {dead} of {len(values)} are zero" if dead else ""
    return f"Branches are {number(min(values))} to {number(max(values))} times their shortcuts{said}"


def _gain(word: str, key: str) -> Callable[[Depth], str]:
    def statement(depth: Depth) -> str:
        known = [(value, unit) for value, unit in zip(depth.of(key), depth.units, strict=True) if usable(value)]
        if not known:
            return f"No unit's {word} gain was measured"
        if all(abs(math.log(value)) < math.log(_LEVEL) for value, _ in known):
            return f"Every {word} gain is 1 within 5%"
        worst, unit = max(known, key=lambda pair: abs(math.log(pair[0])))
        off = sum(abs(math.log(value)) >= math.log(_LEVEL) for value, _ in known)
        count = f"{off} of {len(known)} {word} gains are"
        return f"{count} more than 5% off 1; the furthest is {number(worst)}, in {unit.name}"

    return statement


QUANTITIES = (
    Quantity(
        key="signal",
        name="rms of the unit's output",
        series=(("signal", _measured("output_rms")),),
        statement=_signal,
        caption="One step to the right is one unit deeper. A slope is growth or decay by a factor per unit.",
        meet=0,
    ),
    Quantity(
        key="gradient",
        name="rms of the loss's gradient",
        series=(("gradient", _measured("gradient_rms")),),
        statement=_gradient,
        caption="At the input of each unit; read from the right, where the loss is. Weights move as far as it reaches.",
        meet=-1,
    ),
    Quantity(
        key="direct",
        name="gradient over that after the last unit",
        series=(("whole", lambda depth: depth.whole), ("direct", lambda depth: depth.direct)),
        statement=_direct,
        caption="Thick: the whole gradient. Thin: what is left of it when every branch is cut, the product of the "
        "direct gains from a unit to the last, equation (8). On a clean path the thin line stands at 1.",
    ),
    Quantity(
        key="direct_gain",
        name="direct gain",
        series=(("direct", _measured("direct_gain")),),
        statement=_gain("direct", "direct_gain"),
        caption="The backward gain of h and f alone, the branch cut. Off the line at 1 the path is not clean.",
        ratio=True,
    ),
    Quantity(
        key="forward_gain",
        name="forward gain",
        series=(("forward", _measured("forward_gain")),),
        statement=_gain("forward", "forward_gain"),
        caption="rms of each unit's output over that of its input. The line at 1 is an identity.",
        ratio=True,
    ),
    Quantity(
        key="backward_gain",
        name="backward gain",
        series=(("backward", _measured("backward_gain")),),
        statement=_gain("backward", "backward_gain"),
        caption="rms of the gradient at each unit's input over that at its output. The line at 1 is an identity.",
        ratio=True,
    ),
    Quantity(
        key="share",
        name="rms(F) over rms(h)",
        series=(("share", _measured("branch_share")),),
        statement=_share,
        caption="How loud each branch is beside its shortcut. A hollow mark on the edge is a branch that is zero.",
    ),
)


def beyond_units(depth: Depth) -> tuple[str, ...]:
    """What the direct path leaves out, as a sentence where there is any."""
    if not depth.between:
        return ()
    return (f"What stands before the fork of {depth.between} units lies on no unit's path and is not part of it.",)


def decades(values: Values) -> float | None:
    """How many powers of ten lie between the smallest and the largest."""
    known = [value for value in values if usable(value)]
    return math.log10(max(known)) - math.log10(min(known)) if known else None


def factor(value: float) -> str:
    """A ratio in words."""
    return "as large as" if 1 / _LEVEL < value < _LEVEL else f"{number(value)} times"


def thinned(count: int, most: int) -> list[int]:
    """Places spread evenly, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def envelope(values: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most that many points: of every few neighbours the smallest and the largest, in order."""
    if len(values) <= most:
        return list(values)
    size = math.ceil(2 * len(values) / most)
    kept = list[tuple[int, float]]()
    for start in range(0, len(values), size):
        group = values[start : start + size]
        ends = {min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _ends(values: Values) -> tuple[float, float] | None:
    known = [value for value in values if usable(value)]
    return (known[0], known[-1]) if known else None


def _change(first: float, last: float) -> str:
    ratio = math.exp(min(700.0, abs(math.log(last) - math.log(first))))
    if ratio < _LEVEL:
        return "stays as it is"
    return f"grows {number(ratio)} times" if last > first else f"falls to 1/{number(ratio)}"
