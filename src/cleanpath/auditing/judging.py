"""`judge`: all rules over one profile. Never imports torch.

judgement = judge(profile, ignore=["CP303=zero start is meant", "CP305:layer2.0=the paper's stride"])
judgement.findings[0].sentence
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cleanpath.auditing.finding import SEVERITIES, Finding, Ignored, Judgement, worst_first
from cleanpath.auditing.rules import after, branch, network, shortcut, signal
from cleanpath.auditing.rules.fixes import fix_of
from cleanpath.auditing.rules.registry import RULES, Found, NotApplicableError, Rule
from cleanpath.errors import SettingError, UnknownNameError

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile

FILES = (shortcut, after, branch, signal, network)
"""Their import fills the table of rules."""


@dataclass(frozen=True)
class _Request:
    """One --ignore: CODE, a unit or none, and the reason."""

    code: str
    unit: str
    reason: str


def judge(profile: "Profile", ignore: Sequence[str] = ()) -> Judgement:
    """What all rules say about a profile; `ignore` holds `CODE=reason` and `CODE:UNIT=reason`.

    Raises `UnknownNameError` for a code that there is not, `SettingError` for one without a reason.
    """
    requests = [_requested(text) for text in ignore]
    found, passed, not_applicable = list[Finding](), list[str](), dict[str, str]()
    for one in every_rule():
        if not profile.units and profile.network.first_non_finite is None:
            not_applicable[one.code] = "no residual units were found"
            continue
        try:
            said = [_finding(one, each) for each in one.check(profile)]
        except NotApplicableError as reason:
            not_applicable[one.code] = str(reason)
            continue
        found.extend(said)
        if not said:
            passed.append(one.code)
    kept, ignored = list[Finding](), list[Ignored]()
    for finding in found:
        left, set_aside = _split(finding, requests)
        kept.extend(left)
        ignored.extend(set_aside)
    return Judgement(
        findings=worst_first(kept), ignored=tuple(ignored), passed=tuple(passed), not_applicable=not_applicable
    )


def every_rule() -> tuple[Rule, ...]:
    """In the order of their codes."""
    return tuple(RULES[code] for code in sorted(RULES))


def page_of(code: str) -> Rule:
    """A rule with its page, by its code or its name.

    Raises `UnknownNameError` with the nearest ones.
    """
    wanted = code.strip()
    for one in every_rule():
        if wanted.upper() == one.code or wanted == one.name:
            return one
    raise UnknownNameError("rule", code, [*RULES, *(one.name for one in every_rule())], see="cleanpath list rules")


def page_text(one: Rule) -> str:
    """The page as Markdown."""
    parts = "\n\n".join(f"**{heading}.** {text}" for heading, text in one.sections.items())
    return f"{one.title}\n\n{parts}\n"


def check_severity(severity: str) -> None:
    """Refuse what is none, before anything long."""
    if severity not in SEVERITIES:
        raise SettingError(f"no severity '{severity}'; choose one of {', '.join(SEVERITIES)}")


def _finding(one: Rule, found: Found) -> Finding:
    return Finding(
        code=one.code,
        name=one.name,
        severity=found.severity,
        units=tuple(unit.name for unit in found.units),
        sentence=found.sentence,
        quantity=found.quantity,
        measured=found.measured,
        expected=found.expected,
        remedy=found.remedy,
        reference=one.reference,
        fix=fix_of(one.code).safety,
    )


def _requested(text: str) -> _Request:
    place, equals, reason = text.partition("=")
    code, _, unit = place.strip().partition(":")
    if not equals or not reason.strip():
        raise SettingError(f"ignore '{text}' gives no reason; write {place or 'CP305'}=\"why\"")
    return _Request(page_of(code).code, unit, reason.strip())


def _split(finding: Finding, requests: Iterable[_Request]) -> tuple[list[Finding], list[Ignored]]:
    """A finding without the units that are ignored, and those apart."""
    set_aside = list[Ignored]()
    for request in requests:
        if request.code != finding.code:
            continue
        hit = tuple(_below(finding.units, request.unit)) if request.unit else finding.units
        if not request.unit or (hit and len(hit) == len(finding.units)):
            return [], [*set_aside, Ignored(finding=finding, reason=request.reason)]
        if hit:
            set_aside.append(Ignored(finding=replace(finding, units=hit), reason=request.reason))
            finding = replace(finding, units=tuple(name for name in finding.units if name not in hit))
    return [finding], set_aside


def _below(units: Iterable[str], module: str) -> Iterator[str]:
    """The units that are a module or lie in it."""
    yield from (name for name in units if name == module or name.startswith((f"{module}.", f"{module}#")))
