"""What an audit measured, as plain values: units, network, and what could not be seen. Never imports torch.

profile = Profile.load(path)
profile.verdict                              # one sentence
profile.units[3].measurements.forward_gain
profile.path_gain(0, 53)                     # equation (8): the product of the direct gains on the way
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from cleanpath.auditing.text import as_text
from cleanpath.errors import UserError

SCHEMA = "cleanpath.profile"
VERSION = 1
NON_FINITE = MappingProxyType({"nan": math.nan, "inf": math.inf, "-inf": -math.inf})


@dataclass(frozen=True, kw_only=True)
class ShortcutRow:
    """h: `identity`, `identity_pad`, `identity_slice`, `scaling`, `projection`, `gate`, `dropout` or `other`."""

    kind: str
    """One of the words above."""
    scale: float | None = None
    """λ of a scaling, where it is one known number (the mean of a learned vector)."""
    description: str = ""
    """The operations between fork and sum."""
    layers: tuple[str, ...] = ()
    """Qualified names of the modules that hold parameters on the shortcut."""


@dataclass(frozen=True, kw_only=True)
class BranchRow:
    """F: its weight layers in the order of use."""

    layers: tuple[str, ...] = ()
    """Qualified names of the modules that hold its parameters."""
    parameters: int = 0
    """How many, units nested in it included."""


@dataclass(frozen=True, kw_only=True)
class AfterRow:
    """f: `nothing`, or what follows the sum, its operations joined by `+`."""

    kind: str = "nothing"
    """The word."""
    layers: tuple[str, ...] = ()
    """Qualified names of the modules that hold parameters after the sum."""


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The numbers of one unit; None where there is nothing to measure."""

    forward_gain: float | None = None
    """rms(x_{l+1}) / rms(x_l)."""
    input_rms: float | None = None
    """rms(x_l)."""
    output_rms: float | None = None
    """rms(x_{l+1})."""
    branch_share: float | None = None
    """rms(F) / rms(h)."""
    cosine: float | None = None
    """Of F and h, as vectors."""
    backward_gain: float | None = None
    """rms(∂E/∂x_l) / rms(∂E/∂x_{l+1})."""
    gradient_rms: float | None = None
    """rms(∂E/∂x_l)."""
    direct_gain: float | None = None
    """The backward gain with every branch cut: h' and f' alone."""
    shortcut_defect: float | None = None
    """‖Jᵀv − v‖ / ‖v‖ of h for a random v; 0 for an identity, |1 − λ| for a scaling."""
    after_defect: float | None = None
    """The same for f."""
    negative_share: float | None = None
    """Share of the entries of y = h + F below zero: what a ReLU after the sum would cut off."""
    dead_relu_share: float | None = None
    """Share of the channels of the branch's and f's ReLUs that are zero for the whole batch."""
    saturated_gate_share: float | None = None
    """Share of the gates' entries below 0.01 or above 0.99."""


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """One residual unit."""

    name: str
    """Unique: what its weight layers have in common, with `#2` where another unit has the name."""
    h: ShortcutRow
    """The shortcut."""
    branch: BranchRow
    """F."""
    f: AfterRow
    """What follows the sum."""
    parent: str | None = None
    """Name of the unit in whose branch this one lies."""
    order: str | None = None
    """`pre`: a norm or activation precedes the weights; `post`: it follows the sum; None: neither."""
    stage: int = 1
    """Units on one path whose sums are of one size; counted from 1."""
    previous: str | None = None
    """The unit whose output leads to this one's fork."""
    fork: str = ""
    """The operation and module that computed x_l."""
    sum: str = ""
    """The operation and module that computed y."""
    shape: tuple[int, ...] = ()
    """Of the sum."""
    changes_shape: bool = False
    """Whether the sum has another shape than the fork."""
    parameters: int = 0
    """Of shortcut, branch and f."""
    parameter_share: float = 0.0
    """Of the network's parameters."""
    measurements: Measurements = Measurements()
    """Means over batches and draws; the table above."""
    spread: Measurements = Measurements()
    """Standard deviation over batches and draws."""

    @property
    def clean(self) -> bool:
        """Whether both h and f are identities, so that equation (4) holds."""
        return self.h.kind == "identity" and self.f.kind == "nothing"


@dataclass(frozen=True, kw_only=True)
class NetworkRow:
    """What concerns the whole network."""

    parameters: int = 0
    """Of all modules."""
    mode: str = "eval"
    """`training`, `eval`, or `mixed`."""
    draws: int = 0
    """Batches times draws that the means and spreads are taken over."""
    loss: float | None = None
    """The given loss, or the random projection of the outputs."""
    gradient_norm: float | None = None
    """Of all parameters together."""
    gradient_profile: tuple[float | None, ...] = ()
    """rms(∂E/∂x_l) of every unit, in order."""
    first_non_finite: str | None = None
    """The first operation whose output is not finite though its inputs are."""
    sums: int = 0
    """Sums of two operands that the input reaches; those that are no units are counted by reason below."""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """Reasons and counts."""
    concatenations: int = 0
    """Concatenations of signals, as in densely connected networks."""


@dataclass(frozen=True, kw_only=True)
class NotSeen:
    """Something the audit could not look into, or is unsure of."""

    what: str
    """The kind of thing."""
    where: str
    """The module, by its qualified name."""
    reason: str
    """Why."""
    count: int = 1
    """How often."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The result of an audit."""

    verdict: str
    """One sentence: is the path clean, and where is it first broken?"""
    units: tuple[UnitRow, ...] = ()
    """In the order in which the signal meets them."""
    network: NetworkRow = NetworkRow()
    """What concerns the whole."""
    not_seen: tuple[NotSeen, ...] = ()
    """What the audit could not look into."""

    def path_gain(self, first: int, last: int) -> float | None:
        """Direct gain from the output of unit `last` to the input of unit `first`: the product over the units between.

        None if one does not lead to the other along the trunk, or a gain on the way is unknown.
        """
        index = {unit.name: position for position, unit in enumerate(self.units)}
        gain, current = 1.0, last
        while True:
            direct = self.units[current].measurements.direct_gain
            if direct is None:
                return None
            gain *= direct
            if current == first:
                return gain
            previous = self.units[current].previous
            if previous is None or index[previous] < first:
                return None
            current = index[previous]

    def path_gains(self) -> tuple[tuple[float | None, ...], ...]:
        """The matrix of all path gains; row l, column L; None below the diagonal."""
        count = len(self.units)
        rows: list[list[float | None]] = [[None] * count for _ in range(count)]
        index = {unit.name: position for position, unit in enumerate(self.units)}
        for last in range(count):
            gain, current = 1.0, last
            while (direct := self.units[current].measurements.direct_gain) is not None:
                gain *= direct
                rows[current][last] = gain
                previous = self.units[current].previous
                if previous is None or index[previous] >= current:
                    break
                current = index[previous]
        return tuple(tuple(row) for row in rows)

    def to_data(self) -> dict[str, Any]:
        """Plain dictionaries and lists; numbers that are not finite become the words nan, inf, -inf."""
        network = {**plain(self.network), "path_gains": plain(self.path_gains())}
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "verdict": self.verdict,
            "units": [plain(unit) for unit in self.units],
            "network": network,
            "not_seen": [plain(entry) for entry in self.not_seen],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_data`."""
        if data.get("schema") != SCHEMA:
            raise UserError(f"this is no profile: schema is {data.get('schema')!r}, expected {SCHEMA!r}")
        if data.get("version") != VERSION:
            raise UserError(
                f"the profile has version {data.get('version')!r}, this cleanpath reads {VERSION}; audit again"
            )
        try:
            return cls(
                verdict=data["verdict"],
                units=tuple(_unit(row) for row in data["units"]),
                network=NetworkRow(**{**_known(NetworkRow, data["network"]), **_tuples(data["network"])}),
                not_seen=tuple(NotSeen(**_known(NotSeen, row)) for row in data["not_seen"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"the profile is damaged: {error}; audit again") from error

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.to_data(), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"this is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise UserError(f"a profile is a JSON object, this is a {type(data).__name__}")
        return cls.from_data(data)

    def save(self, path: Path | str) -> None:
        """Write the JSON document; a reader never sees half of it."""
        path = Path(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.to_json() + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a saved profile."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read a profile from {path}: {error}") from error
        return cls.from_json(text)

    def pairs(self, other: "Profile") -> list[tuple[UnitRow | None, UnitRow | None]]:
        """Units of both that stand for each other: by name if they share one, else by position."""
        mine, theirs = ({unit.name: unit for unit in profile.units} for profile in (self, other))
        if mine.keys() & theirs.keys():
            return [(mine.get(name), theirs.get(name)) for name in dict.fromkeys([*mine, *theirs])]
        return list(zip_longest(self.units, other.units))

    def compare(self, other: "Profile") -> tuple["Difference", ...]:
        """What differs, unit by unit as they pair, measurements as numbers; equal values are left out."""
        return tuple(_differences(self, other))

    def __str__(self) -> str:
        """The verdict, the units with their gains, and what was not seen."""
        return as_text(self)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value that two profiles do not share; None stands for absent."""

    unit: str
    quantity: str
    here: object
    there: object


def _differences(here: Profile, there: Profile) -> Iterator[Difference]:
    for mine, theirs in here.pairs(there):
        if mine is None or theirs is None:
            for unit, is_here in ((mine, True), (theirs, None)):
                if unit is not None:
                    yield Difference(unit=unit.name, quantity="unit", here=is_here, there=None if is_here else True)
            continue
        pairs = [(key, value, _flat(theirs)[key]) for key, value in _flat(mine).items()]
        yield from (Difference(unit=mine.name, quantity=k, here=a, there=b) for k, a, b in pairs if not _equal(a, b))
    for quantity in ("mode", "parameters", "loss", "gradient_norm", "first_non_finite"):
        a, b = getattr(here.network, quantity), getattr(there.network, quantity)
        if not _equal(a, b):
            yield Difference(unit="(network)", quantity=quantity, here=a, there=b)


def _equal(here: object, there: object) -> bool:
    """Equal, or both no number at all."""
    both = isinstance(here, float) and isinstance(there, float)
    return here == there or (both and here != here and there != there)  # noqa: PLR0124 (true of nan alone)


def _flat(unit: UnitRow) -> dict[str, object]:
    values: dict[str, object] = {"h": unit.h.kind, "h.scale": unit.h.scale, "f": unit.f.kind, "order": unit.order}
    values |= {"branch.parameters": unit.branch.parameters, "shape": unit.shape, "parent": unit.parent}
    return values | asdict(unit.measurements)


def plain(value: Any) -> Any:
    """Rows as dictionaries and lists that JSON can say."""
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row, without derived ones; the words for numbers that are not finite become numbers."""
    names = {each.name for each in fields(kind)}
    return {key: _number(value) for key, value in data.items() if key in names}


def _number(value: Any) -> Any:
    return NON_FINITE[value] if isinstance(value, str) and value in NON_FINITE else value


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"gradient_profile": tuple(_number(value) for value in data["gradient_profile"])}


def _unit(data: Mapping[str, Any]) -> UnitRow:
    rows = {"h": ShortcutRow, "branch": BranchRow, "f": AfterRow, "measurements": Measurements, "spread": Measurements}
    parts = {key: kind(**_listed(_known(kind, data[key]))) for key, kind in rows.items()}
    return UnitRow(**{**_listed(_known(UnitRow, data)), **parts})


def _listed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
