"""The findings of an audit as its page shows them: units as links, explanations once per rule. Never imports torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from markupsafe import Markup

from cleanpath.auditing.finding import SEVERITIES, Finding, Judgement
from cleanpath.auditing.text import number
from cleanpath.auditing.values import UnitRow
from cleanpath.report.anchors import Anchors
from cleanpath.report.prose import prose

SHAPES = MappingProxyType({"error": "✕", "warning": "▲", "note": "○"})
RUNS = 12  # of neighbouring units that a finding names
Pages = Mapping[str, tuple[str, Mapping[str, str]]]
"""A rule's title and the texts of its page by heading, by its code."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbours: first and last with their places."""

    first: str
    first_at: str
    last: str = ""
    last_at: str = ""
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A rule's page, folded."""

    anchor: str
    title: str
    sections: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One finding with everything that the page says about it."""

    finding: Finding
    anchor: str
    measured: str
    runs: tuple[Run, ...]
    more: int
    """Units that are not named."""
    explained: Explained | None = None
    explained_at: str = ""
    """Where the rule is explained already."""


class Findings:
    """The findings of a page; a rule is explained where it is met first."""

    def __init__(self, anchors: Anchors, pages: Pages) -> None:
        self._anchors, self._pages = anchors, pages
        self._explained: dict[str, str] = {}

    def of(self, judgement: Judgement, units: Sequence[UnitRow], prefix: str) -> list[Shown]:
        """Every finding, worst first as the judgement has them."""
        order = {unit.name: at for at, unit in enumerate(units)}
        return [self._shown(finding, order, prefix) for finding in judgement.findings]

    def title(self, code: str) -> str:
        """A rule in words; empty if it has no page here."""
        return self._pages[code][0] if code in self._pages else ""

    def _shown(self, finding: Finding, order: Mapping[str, int], prefix: str) -> Shown:
        every = list(self._runs(finding.units, order, prefix))
        known = self._explained.get(finding.code, "")
        return Shown(
            finding=finding,
            anchor=self._anchors.finding(prefix, finding),
            measured=number(finding.measured) if finding.measured is not None else "",
            runs=tuple(every[:RUNS]),
            more=sum(run.count for run in every[RUNS:]),
            explained=None if known else self._page(finding.code),
            explained_at=known,
        )

    def _runs(self, names: Sequence[str], order: Mapping[str, int], prefix: str) -> Iterator[Run]:
        start = 0
        for at in range(1, len(names) + 1):
            if at < len(names) and order.get(names[at], -1) == order.get(names[at - 1], -3) + 1:
                continue
            first, last = names[start], names[at - 1]
            place, end = (self._anchors.unit(prefix, name) or "" for name in (first, last))
            if at - start == 1:
                yield Run(first=first, first_at=place)
            else:
                yield Run(first=first, first_at=place, last=last, last_at=end, count=at - start)
            start = at

    def _page(self, code: str) -> Explained | None:
        if code not in self._pages:
            return None
        title, sections = self._pages[code]
        anchor = self._explained[code] = self._anchors.new(f"rule-{code}")
        told = tuple((heading, prose(text)) for heading, text in sections.items())
        return Explained(anchor=anchor, title=title, sections=told)


def by_severity(shown: Sequence[Shown]) -> list[tuple[str, list[Shown]]]:
    """Errors, warnings, notes: those that there are."""
    groups = ((word, [one for one in shown if one.finding.severity == word]) for word in SEVERITIES)
    return [(word, found) for word, found in groups if found]
