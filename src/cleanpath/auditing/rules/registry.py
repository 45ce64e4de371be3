"""What a rule is: a function from a profile to what it found, whose docstring is the page that explains it.

@rule("CP102", "scaled-shortcut", reference="equations (6) to (8); Table 1, constant scaling")
def scaled_shortcut(profile: Profile) -> Iterator[Found]:
    \"\"\"A shortcut multiplies the signal.

    Measured: … Why: … Evidence: … Remedy: … False alarms: …
    \"\"\"
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING

from cleanpath.auditing.rules.fixes import page_on

if TYPE_CHECKING:
    from cleanpath.auditing.profile import Profile
    from cleanpath.auditing.values import UnitRow

HEADINGS = ("Measured", "Why", "Evidence", "Remedy", "False alarms")
"""What every page has, in this order; its fix, how to suppress it and the reference follow."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a rule says of one defect; code, name and reference are the rule's own."""

    severity: str
    units: Sequence["UnitRow"] = ()
    sentence: str
    quantity: str
    measured: float | None = None
    expected: str = ""
    remedy: str


class NotApplicableError(Exception):
    """Raised by a rule that cannot look: what it needs is not there."""


Check = Callable[["Profile"], Iterable[Found]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule and its page."""

    code: str
    name: str
    title: str
    sections: Mapping[str, str]
    reference: str
    check: Check


RULES: dict[str, Rule] = {}
"""By code; filled when the modules of this package are imported."""


def rule(code: str, name: str, *, reference: str) -> Callable[[Check], Check]:
    """Register a rule; its page is checked here, so that a heading that is missing stops the import."""

    def register(check: Check) -> Check:
        title, sections = _read(code, check.__doc__ or "")
        suppress = (
            f'On the command line: --ignore {code}="why", or --ignore {code}:UNIT="why" for one unit; in Python: '
            f'ignore=["{code}=why"]. What is ignored stays listed, with the reason.'
        )
        sections |= {"Fix": page_on(code), "How to suppress": suppress, "Reference": reference}
        assert code not in RULES, f"{code} is taken"
        RULES[code] = Rule(code=code, name=name, title=title, sections=sections, reference=reference, check=check)
        return check

    return register


def _read(code: str, page: str) -> tuple[str, dict[str, str]]:
    title, *_ = cleandoc(page).split("\n", 1)
    parts = re.split(rf"^({'|'.join(HEADINGS)}): ", cleandoc(page), flags=re.MULTILINE)
    sections = {heading: " ".join(text.split()) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert tuple(sections) == HEADINGS, f"the page of {code} has {tuple(sections)}, not {HEADINGS}"
    return title, sections
