"""What a case of the menagerie is: a tiny network and the truth about it, written by hand.

Nothing in this package was obtained from the audit: every count and kind was read off the model's equations.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Inputs = tuple[object, ...] | dict[str, object]
After = str | tuple[str, ...]

KINDS = frozenset(
    {"identity", "identity_pad", "identity_slice", "scaling", "projection", "gate", "dropout", "other"},
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network and its true residual units, in the order in which their sums are computed.

    A nested unit therefore stands before its parent. Every tuple that is not empty has one entry per unit.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    """Positional arguments (a tuple) or keyword arguments (a dict)."""
    units: int
    h: tuple[str, ...]
    """Kind of each shortcut, one of KINDS."""
    f: tuple[After, ...]
    """What follows each addition: "nothing", one word, or the words of several operations in order."""
    scale: tuple[float | None, ...] = ()
    """λ where h is a scaling (None elsewhere); empty: no h is."""
    parents: tuple[int | None, ...] = ()
    """Index of the unit whose branch holds this unit; empty: none is nested."""
    branch: tuple[tuple[str, ...], ...] = ()
    """Modules that own weights and must be named in the branch (others may be, too); empty: no claim."""
    shortcut: tuple[tuple[str, ...], ...] = ()
    """The same for modules on the shortcut."""
    not_seen: tuple[str, ...] = ()
    """Words that must each occur in `not_seen`, whatever their case."""
    or_not_seen: bool = False
    """If true, fewer units (or an h or f left open) are right as well, if every word of `not_seen` is reported."""
    or_h: tuple[str, ...] = ()
    """A second reading of h that describes the same function; right as well. Empty: there is none."""
    or_f: tuple[After, ...] = ()
    """The same for f; it goes with `or_h` where both are given."""
    says: tuple[str, ...] = ()
    """Words that must each occur in the verdict or in `not_seen`: why there is nothing to report."""
    note: str = ""
    """Why the truth is what it is, where the definition leaves something to judge."""

    def __post_init__(self) -> None:
        for field in ("h", "f"):
            self._require(len(getattr(self, field)) == self.units, f"{field} has not one entry per unit")
        for field in ("scale", "parents", "branch", "shortcut", "or_h", "or_f"):
            self._require(len(getattr(self, field)) in (0, self.units), f"{field} has not one entry per unit")
        self._require(KINDS.issuperset(self.h + self.or_h), "h holds an unknown kind")
        scaled = tuple(kind == "scaling" for kind in self.h)
        stated = tuple(value is not None for value in self.scale) or (False,) * self.units
        self._require(scaled == stated, "λ must be given exactly where h is a scaling")
        for child, parent in enumerate(self.parents):
            self._require(parent is None or child < parent < self.units, "a parent's sum comes after its child's")

    def _require(self, holds: bool, complaint: str) -> None:  # noqa: FBT001
        if not holds:
            raise ValueError(f"case {self.name}: {complaint}")


def call(model: nn.Module, inputs: Inputs) -> object:
    """One forward pass."""
    output: object = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return output


def names(units: int, *parts: str) -> tuple[tuple[str, ...], ...]:
    """`units.i.part` for every unit i: the layers of networks made of equal units."""
    return tuple(tuple(f"units.{i}.{part}" for part in parts) for i in range(units))
