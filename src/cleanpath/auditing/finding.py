"""A rule's verdict on a profile, as plain values. Never imports torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SEVERITIES = ("error", "warning", "note")
"""Worst first. error: it will not train well at this depth; warning: it costs; note: worth knowing, no defect."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule found in one network."""

    code: str
    """`CP101`; `cleanpath explain CP101` prints its page."""
    name: str
    """The rule's name, what was found: `scaled-shortcut`."""
    severity: str
    """`error`, `warning` or `note`."""
    units: tuple[str, ...] = ()
    """Names of the units concerned, in order; empty if it concerns the network."""
    sentence: str
    """What was found and what follows from it, one sentence."""
    quantity: str
    """What was measured."""
    measured: float | None = None
    """The number; None where a structure was found, not a number."""
    expected: str = ""
    """What it should be, in words: `1`, `at least 0.1`."""
    remedy: str
    """What to do, one sentence."""
    reference: str
    """An equation, a table, or a later paper."""
    fix: str = "none"
    """What `cleanpath.fix` can do: `safe` (the function stays the same), `unsafe` (it changes) or `none`."""

    @property
    def anchor(self) -> str:
        """Its place in a page: the code and the first unit."""
        return f"{self.code}-{self.units[0]}" if self.units else self.code


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A finding that the user has chosen not to hear about."""

    finding: Finding
    reason: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What all rules said about one profile."""

    findings: tuple[Finding, ...] = ()
    """Worst first, then by code."""
    ignored: tuple[Ignored, ...] = ()
    """Suppressed ones, with the user's reasons."""
    passed: tuple[str, ...] = ()
    """Codes of the rules that looked and found nothing."""
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    """Codes of the rules that could not look, each with the reason."""

    def at_least(self, severity: str) -> tuple[Finding, ...]:
        """The findings of this severity or worse."""
        worst = SEVERITIES[: SEVERITIES.index(severity) + 1]
        return tuple(one for one in self.findings if one.severity in worst)

    def count(self) -> str:
        """`2 errors, 1 warning`, or `no findings`."""
        met = ((severity, sum(one.severity == severity for one in self.findings)) for severity in SEVERITIES)
        return ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for word, n in met if n) or "no findings"


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order in which they are shown."""
    return tuple(sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), one.code)))
