"""Which findings have a fix, and whether it keeps the function. Never imports torch.

`safe`: the network computes the same. `unsafe`: weights are kept, but the function changes and needs training.
`none`: there is no fix, with the reason. `docs/fixes/` has a page for each, with what it was measured to do.
"""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Fix:
    """What `cleanpath.fix` does about a finding."""

    safety: str
    """`safe`, `unsafe` or `none`."""
    does: str
    """What is done, or why nothing is."""
    by_name: bool = False
    """Made only where its code is named: trials have not shown that it helps."""
    of_optimizer: bool = False
    """It concerns the optimizer's groups, which no command line is given."""

    def option(self, code: str) -> str:
        """What asks for it, on the command line or in Python; empty where there is none."""
        if self.of_optimizer:
            return f'cleanpath.fix(model, batch, ["{code}"], optimizer=optimizer)'
        return "" if self.safety == "none" else f"--fix {code}{' --unsafe' if self.safety == 'unsafe' else ''}"

    def command(self, code: str) -> str:
        """The same as it is typed in whole."""
        return self.option(code) if self.of_optimizer else f"cleanpath audit TARGET {self.option(code)} --out DIR"


def _unsafe(does: str) -> Fix:
    return Fix("unsafe", does)


def _none(reason: str) -> Fix:
    return Fix("none", reason)


FIXES = MappingProxyType(
    {
        "CP101": _unsafe("takes activation, norm or dropout off the shortcut"),
        "CP102": _unsafe("takes the factor off the shortcut"),
        "CP103": _unsafe("takes the dropout off the shortcut"),
        "CP104": _unsafe("sets the gates' biases to ±6, so that the shortcut passes; free them from weight decay"),
        "CP105": _none("an open gate is a choice; with the optimizer, CP601 frees its bias from weight decay"),
        "CP106": Fix("unsafe", "starts each projection as an identity, only where named", by_name=True),
        "CP201": _unsafe("routes the shortcut around f: it carries the sum itself, the branch still reads f of it"),
        "CP202": _unsafe("routes the shortcut around the norm, which then stands at the head of the next branch"),
        "CP203": _unsafe("moves the factor from the sum to the branch"),
        "CP204": Fix("unsafe", "routes the shortcut around the operation in place, only where named", by_name=True),
        "CP205": _none("what the odd unit was meant to have is the designer's to say"),
        "CP301": _unsafe("takes the ReLU at the end of the branch away"),
        "CP302": _none(
            "which of the branch's layers is at fault is not known; the finding's page tells what to look for"
        ),
        "CP303": _none("it is a choice, not a defect"),
        "CP304": _none("which weights are too large is not known; that smaller last ones help was not shown"),
        "CP305": _none("it is the paper's own; what another place of the stride brings shows on ImageNet only"),
        "CP306": _none("a shut ReLU is the result of weights and rate, not of the structure"),
        "CP401": _none(
            "it is a symptom: what stands on the path has findings of its own, and smaller branches did not cure it"
        ),
        "CP402": Fix("unsafe", "multiplies every branch's last weights by 1/√L, only where named", by_name=True),
        "CP403": _none("the operation that is named must be looked at"),
        "CP404": _none("what makes the outputs large has findings of its own"),
        "CP501": _unsafe("adds a norm like the branches' own, and their activation, after the last unit"),
        "CP502": _none("whether a part is meant to be frozen is the user's to say"),
        "CP503": _none("whether a part is meant to be reached is the user's to say"),
        "CP601": Fix("safe", "puts gate biases into a parameter group without weight decay", of_optimizer=True),
        "CP602": Fix("safe", "puts learned scales into a parameter group without weight decay", of_optimizer=True),
        "CP603": _none("make the optimizer after the model is complete"),
    }
)


def fix_of(code: str) -> Fix:
    """The fix of a finding, by its code."""
    return FIXES[code]


def page_on(code: str) -> str:
    """A sentence for the finding's page."""
    one = fix_of(code)
    if one.safety == "none":
        return f"None: {one.does}."
    kept = "the function stays the same" if one.safety == "safe" else "the function changes, the weights are kept"
    return f"{one.command(code)} {one.does}; {kept} (docs/fixes/{code}.md)."
