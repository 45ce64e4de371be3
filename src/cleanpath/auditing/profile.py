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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from cleanpath.auditing.finding import Finding, Judgement
from cleanpath.auditing.judging import judge
from cleanpath.auditing.text import as_text
from cleanpath.auditing.values import (
    AfterRow,
    BeforeRow,
    BranchRow,
    Measurements,
    NetworkRow,
    NotSeen,
    OptimizerRow,
    ShortcutRow,
    UnitRow,
)
from cleanpath.errors import UserError

SCHEMA = "cleanpath.profile"
VERSION = 1
NON_FINITE = MappingProxyType({"nan": math.nan, "inf": math.inf, "-inf": -math.inf})


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The result of an audit."""

    verdict: str
    """One sentence: is the path clean, and where is it first broken?"""
    units: tuple[UnitRow, ...] = ()
    """In the order in which the signal meets them."""
    network: NetworkRow = field(default_factory=NetworkRow)
    """What concerns the whole."""
    not_seen: tuple[NotSeen, ...] = ()
    """What the audit could not look into."""

    def judged(self, ignore: Sequence[str] = ()) -> Judgement:
        """What the rules say; `ignore` holds `CODE=reason` and `CODE:UNIT=reason`."""
        return judge(self, ignore)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The rules' findings, worst first."""
        return self.judged().findings

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

    def to_data(self, judgement: Judgement | None = None) -> dict[str, Any]:
        """Plain dictionaries and lists; numbers that are not finite become the words nan, inf, -inf."""
        judgement = judgement or self.judged()
        network = {**plain(self.network), "path_gains": plain(self.path_gains())}
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "verdict": self.verdict,
            "units": [plain(unit) for unit in self.units],
            "network": network,
            "not_seen": [plain(entry) for entry in self.not_seen],
            "findings": plain(judgement.findings),
            "ignored": plain(judgement.ignored),
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
                network=_network(data["network"]),
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


def _network(data: Mapping[str, Any]) -> NetworkRow:
    found = _listed(_known(NetworkRow, data))
    found["gradient_profile"] = tuple(map(_number, found["gradient_profile"]))
    if found.get("optimizer") is not None:
        found["optimizer"] = OptimizerRow(**_listed(_known(OptimizerRow, found["optimizer"])))
    return NetworkRow(**found)


def _unit(data: Mapping[str, Any]) -> UnitRow:
    rows = {"h": ShortcutRow, "branch": BranchRow, "f": AfterRow, "before": BeforeRow}
    rows |= {"measurements": Measurements, "spread": Measurements}
    parts = {key: kind(**_listed(_known(kind, data[key]))) for key, kind in rows.items()}
    return UnitRow(**{**_listed(_known(UnitRow, data)), **parts})


def _listed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
