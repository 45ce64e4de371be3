"""What a fix gives back: the network, what was changed and what was not, the audits before and after."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cleanpath.auditing.profile import Profile, plain

SCHEMA, VERSION = "cleanpath.fix", 1


@dataclass(frozen=True, kw_only=True)
class Change:
    """One fix in one unit."""

    code: str
    """Of the finding."""
    unit: str
    """The unit that was changed; empty for the optimizer's groups."""
    found_in: str
    """The unit with the finding: for what stands after a sum (CP201, CP202) the one before."""
    what: str
    """One sentence, with the names of modules and parameters."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One fix that was not made in one unit, or at all."""

    code: str
    """Of the finding."""
    unit: str
    """In which it was found; empty if it concerns the finding."""
    reason: str
    """Why, one sentence."""
    edit: str = ""
    """Where the network cannot be read: the source line to edit, and how."""


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """How far the outputs for the batch moved, with the same random numbers: 0 for the same bits."""

    mode: str
    """`training` or `evaluation`."""
    relative: float | None
    """rms of the difference over rms of the outputs before; None if the pass failed or gave no numbers."""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """The result of `cleanpath.fix`."""

    model: nn.Module
    """A network of its own; the one that was given is not touched."""
    changes: tuple[Change, ...] = ()
    """Unit by unit, in the order in which they were made."""
    refused: tuple[Refusal, ...] = ()
    """What was not done, with the reason."""
    before: Profile
    """The audit of the network that was given."""
    after: Profile
    """The audit of the one that is returned; the optimizer, if one was given, holds its parameters by their names."""
    differences: tuple[OutputDifference, ...] = ()
    """Of the outputs, in both modes."""
    read: str = ""
    """What was rewritten: the whole, a module's name, or nothing."""
    added: tuple[str, ...] = ()
    """Names in the state dict that the original has not."""
    unread: tuple[str, ...] = ()
    """Modules whose parameters are kept, so that checkpoints load, but that no output depends on any more."""
    no_decay: tuple[str, ...] = ()
    """Parameters to be freed from weight decay."""
    called_as_they_are: dict[str, str] = field(default_factory=dict)
    """Modules inside the rewritten part whose forward was not read, with the reason."""

    out_of_place: tuple[str, ...] = ()
    """Modules that worked in place and make new tensors now, which takes memory."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: all parameters with this weight decay but for those of `no_decay`."""
        named = dict(self.model.named_parameters())
        free = [named[name] for name in self.no_decay]
        kept = [parameter for name, parameter in named.items() if name not in self.no_decay]
        return [{"params": kept, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]

    def still_found(self) -> dict[str, int]:
        """In how many units for which something was changed the audit finds the same code again."""
        found = {(finding.code, unit) for finding in self.after.findings for unit in finding.units}
        return dict(Counter(code for code, _ in {(one.code, one.found_in) for one in self.changes} & found))

    def to_data(self) -> dict[str, Any]:
        """Plain dictionaries and lists: the schema of `cleanpath audit TARGET --fix --json`."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "changes": [asdict(each) for each in self.changes],
            "refused": [asdict(each) for each in self.refused],
            "differences": [plain(each) for each in self.differences],
            "read": self.read,
            "added": list(self.added),
            "unread": list(self.unread),
            "no_decay": list(self.no_decay),
            "out_of_place": list(self.out_of_place),
            "called_as_they_are": dict(self.called_as_they_are),
            "before": self.before.to_data(),
            "after": self.after.to_data(),
        }

    def lines(self) -> Iterator[str]:
        """The report in words."""
        counts = Counter(each.code for each in self.changes)
        left = Counter(each.code for each in self.refused)
        done = ", ".join(f"{code} in {n} unit{'s' if n > 1 else ''}" for code, n in counts.items())
        yield f"mended: {done}" if done else "nothing was mended"
        yield from (f"  {each.code} {each.unit or '(network)'}: {each.what}" for each in self.changes)
        if still := self.still_found():
            told = ", ".join(f"{code} in {n} unit{'s' if n > 1 else ''}" for code, n in still.items())
            yield f"changed, but still found: {told}"
        if left:
            yield f"left as it was: {', '.join(f'{code} {n} times' if n > 1 else code for code, n in left.items())}"
        alike = dict[tuple[str, str], list[Refusal]]()
        for each in self.refused:
            alike.setdefault((each.code, each.reason), []).append(each)
        for (code, reason), them in alike.items():
            yield f"  {code} {_told([each.unit for each in them])}: {reason}"
            edits = dict.fromkeys(each.edit for each in them)
            yield from (f"      {line}" for edit in edits for line in edit.splitlines())
        yield from (f"outputs in {one.mode} mode: {_moved(one.relative)}" for one in self.differences)
        if self.added:
            yield f"new in the state dict: {', '.join(self.added)}"
        if self.unread:
            yield f"kept, but no longer read: {', '.join(self.unread)}"
        if self.out_of_place:
            yield f"computed out of place from now on: {', '.join(self.out_of_place)}, which takes memory"
        if self.no_decay:
            yield f"to be freed from weight decay: {', '.join(self.no_decay)}"
        yield f"findings before: {self.before.judged().count()}; after: {self.after.judged().count()}"
        if self.before.network.mode == "eval":
            yield "looked at in evaluation mode, in which dropout does nothing: give the model after model.train()"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def carried_over(optimizer: Optimizer, old: nn.Module, new: nn.Module, no_decay: Sequence[str]) -> Optimizer:
    """The same groups over the parameters of another network, by name: new ones in the first, `no_decay` without decay.

    It is for audits; what it remembers is that of the old one.
    """
    names = {id(parameter): name for name, parameter in old.named_parameters()}
    named = dict(new.named_parameters())
    free, groups = {id(named[name]) for name in no_decay}, list[dict[str, Any]]()
    added = [one for name, one in named.items() if name not in {*names.values()}]
    for group in optimizer.param_groups:
        held = [named.get(names.get(id(one), ""), one) for one in group["params"]] + added
        freed = [one for one in held if id(one) in free]
        groups += [{**group, "params": [one for one in held if id(one) not in free]}]
        groups += [{**group, "params": freed, "weight_decay": 0.0}]
        added = []
    made = copy.copy(optimizer)
    made.param_groups = groups
    return made


_NAMED = 3
"""Units that are called by name where many are refused for one reason."""


def _told(units: list[str]) -> str:
    names = list(dict.fromkeys(unit or "(network)" for unit in units))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED + 1 else ""
    return ", ".join(names[:_NAMED] if more else names) + more


def _moved(relative: float | None) -> str:
    if relative is None:
        return "not compared"
    return "the same bits" if relative == 0.0 else f"they moved by {relative:.3g} of their rms"
