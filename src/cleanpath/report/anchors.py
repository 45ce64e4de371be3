"""Places in a page: an id for every unit and finding, and links that arrive there whatever a name holds."""

import re
from collections.abc import Iterable
from itertools import count
from urllib.parse import quote

from cleanpath.auditing.finding import Finding
from cleanpath.auditing.values import UnitRow


class Anchors:
    """The ids of one page; none is given twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._units: dict[tuple[str, str], str] = {}

    def units(self, pairs: Iterable[tuple[UnitRow | None, UnitRow | None]]) -> None:
        """Give every unit its place: those of two networks that are a pair share one."""
        for here, there in pairs:
            place = self.new(f"unit-{here.name}" if here else f"there-unit-{there.name if there else ''}")
            for prefix, unit in (("", here), ("there-", there)):
                if unit is not None:
                    self._units[prefix, unit.name] = place

    def unit(self, prefix: str, name: str) -> str | None:
        """The place of a unit; None if the network has none of that name."""
        return self._units.get((prefix, name))

    def finding(self, prefix: str, finding: Finding) -> str:
        """The place of a finding: `CP101-layer3.5`."""
        return self.new(f"{prefix}{finding.anchor}")

    def new(self, wish: str) -> str:
        """An id as wished, without spaces, numbered if it is taken."""
        plain = re.sub(r"\s+", "_", wish)
        every = (plain if n == 1 else f"{plain}~{n}" for n in count(1))
        found = next(each for each in every if each not in self._taken)
        self._taken.add(found)
        return found


def link(anchor: str) -> str:
    """The reference to an id."""
    return f"#{quote(anchor, safe='-._~')}"
