"""How rules read a profile: the trunk, runs of neighbours, products over depth."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import UnitRow

NORMS = frozenset({"BN", "LN", "GN", "IN", "RMSNorm", "norm"})
"""Words of operations that normalise."""
WEIGHTS = ("linear", "conv", "attention", "product")
"""How the words of operations begin that mix a signal's entries."""
ACTIVATIONS = frozenset({"ReLU", "GELU", "SiLU", "LeakyReLU", "ELU", "PReLU", "hardswish", "tanh", "sigmoid", "mish"})


def trunk(profile: "Profile") -> list["UnitRow"]:
    """The units that lie in no other's branch."""
    return [unit for unit in profile.units if unit.parent is None]


def inside_stages(profile: "Profile") -> list["UnitRow"]:
    """Trunk units that keep the shape: those of which equations (3) to (8) speak."""
    return [unit for unit in trunk(profile) if not unit.changes_shape]


def known(value: float | None) -> TypeGuard[float]:
    """Whether a number was measured and is finite."""
    return value is not None and math.isfinite(value)


def product(values: Iterable[float | None]) -> float:
    """Of the known ones."""
    return math.prod(value for value in values if known(value))


def chains(profile: "Profile") -> Iterator[list["UnitRow"]]:
    """The trunk's units by paths: each led to by the one before it."""
    chain = list["UnitRow"]()
    for unit in trunk(profile):
        if chain and unit.previous != chain[-1].name:
            yield chain
            chain = []
        chain.append(unit)
    if chain:
        yield chain


def meant_and_odd(profile: "Profile", holds: Callable[["UnitRow"], bool]) -> tuple[list["UnitRow"], list["UnitRow"]]:
    """The trunk's units of which it holds: where it is the path's own way, and where most of the path has it not.

    The first is a design, good or bad at its depth; the second is an oversight more often than not.
    """
    meant, odd = list["UnitRow"](), list["UnitRow"]()
    for chain in chains(profile):
        found = [unit for unit in chain if holds(unit)]
        (odd if unlike(found, chain) else meant).extend(found)
    return meant, odd


def unlike(found: Sequence["UnitRow"], chain: Sequence["UnitRow"]) -> bool:
    """Whether some units of a path are unlike most of it, and do not come back at an even pace all along it.

    The last unit of every layer of a Conformer has a norm behind its sum: one of four, and meant.
    """
    places = [at for at, unit in enumerate(chain) if any(unit is one for one in found)]
    if 2 * len(places) > len(chain):
        return False
    paces = {later - sooner for sooner, later in pairwise(places)}
    if len(paces) != 1:
        return True
    (pace,) = paces
    return not (places[0] < pace and places[-1] + pace >= len(chain) - 1)


def decades_per_unit(values: Sequence[float]) -> tuple[float, float]:
    """The slope of log10(values) over their index, and the share of its variance that a straight line explains."""
    logs = [math.log10(value) for value in values]
    count, mean = len(logs), sum(logs) / len(logs)
    centre = (count - 1) / 2
    across = sum((x - centre) ** 2 for x in range(count))
    slope = sum((x - centre) * (y - mean) for x, y in enumerate(logs)) / across if across else 0.0
    total = sum((y - mean) ** 2 for y in logs)
    left = sum((y - mean - slope * (x - centre)) ** 2 for x, y in enumerate(logs))
    return slope, 1.0 - left / total if total > 0 else 0.0


def count(units: Sequence[object], noun: str = "unit") -> str:
    """`1 unit`, `18 units`."""
    return f"{len(units)} {noun}{'' if len(units) == 1 else 's'}"
