"""`fix`: a working network in which what the audit found is mended.

    fixed = fix(model, images, unsafe=True)
    fixed = fix(model, images, ["CP201"], unsafe=True)
    print(fixed)
    fixed.model

Changes of the graph come first, each on the units found anew, then those of the weights at the start.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn
from torch.fx import Node
from torch.optim import Optimizer

from cleanpath.auditing.examine import audit
from cleanpath.auditing.finding import Finding
from cleanpath.auditing.judging import page_of
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.rules.fixes import FIXES, fix_of
from cleanpath.errors import SettingError, UserError
from cleanpath.repair.captured import Captured, Watch, capture, home_of, locate, observed
from cleanpath.repair.comparing import differences
from cleanpath.repair.edits import Lines, edit_of
from cleanpath.repair.fixed import Change, Fixed, Refusal, carried_over
from cleanpath.repair.guards import kept_generators
from cleanpath.repair.places import Place, RefusedError, places
from cleanpath.repair.rewrites import AT_THE_NEXT, REWRITES
from cleanpath.repair.starts import OPEN, STARTS, Start, gate_biases
from cleanpath.repair.tracing import UnreadableError, is_kept

GATES = "CP104"
GROUPS = ("CP601", "CP602")
ALLOW = "allow it by unsafe=True, on the command line --unsafe"
UNEVEN = "its forward differs between the modes, and cannot be changed alike in both"


@kept_generators()
def fix(
    model: nn.Module,
    batch: object,
    codes: Sequence[str] | None = None,
    *,
    unsafe: bool = False,
    optimizer: Optimizer | None = None,
    seed: int = 0,
) -> Fixed:
    """Mend what the audit finds, or only these codes, in a copy: x_{l+1} = x_l + F(f(x_l)), equation (9), and others.

    Fixes that change the function keep the weights but need training: they are made only if `unsafe`. The batch is as
    for `audit`. Raises `UserError` for a code that has no fix, `SettingError` for an unsafe one that is not allowed.
    """
    wanted = _wanted(codes, unsafe=unsafe)
    _check_fixable(model)
    before = audit(model, batch, optimizer=optimizer, seed=seed)
    job = _Job(model, batch, seed, before)
    found = {finding.code: finding for finding in before.findings}
    for code in codes or ():
        named = page_of(code).code
        if named not in found:
            blind = fix_of(named).of_optimizer and optimizer is None
            asked = f"no optimizer was given; in Python: {fix_of(named).option(named)}"
            job.refuse(named, "", asked if blind else "this was not found in the network")
    for code, finding in found.items():
        if code in wanted and not unsafe and fix_of(code).safety == "unsafe":
            job.refuse(code, "", f"it changes the function ({len(finding.units) or 1} units): {ALLOW}")
        elif codes is None and fix_of(code).by_name:
            job.refuse(code, "", "its fix is made only where it is named: trials have not shown that it helps training")
        elif codes is None and fix_of(code).safety == "none":
            job.refuse(code, "", f"there is no fix: {fix_of(code).does}")
    allowed = [code for code in wanted if code in found and (unsafe or fix_of(code).safety == "safe")]
    job.rewrite([code for code in REWRITES if code in allowed])
    job.start([code for code in (*STARTS, GATES) if code in allowed])
    job.group([code for code in GROUPS if code in allowed])
    return job.result(optimizer)


def _check_fixable(model: nn.Module) -> None:
    """Refuse what cannot be compared before and after, or is no Python any more."""
    if type(model).__name__ == "OptimizedModule":
        raise UserError(
            "this network is compiled; fix the one that it was made from (model._orig_mod), then compile it"
        )
    if isinstance(model, nn.Module) and any(parameter.is_meta for parameter in model.parameters()):
        raise UserError("the network is on the meta device, where nothing can be compared; give it weights first")
    try:
        copy.deepcopy(model)
    except RuntimeError as error:
        raise UserError(
            f"the network cannot be copied ({str(error).split('.')[0]}); with the old torch.nn.utils.weight_norm, use "
            "torch.nn.utils.parametrizations.weight_norm instead"
        ) from error


def _wanted(codes: Sequence[str] | None, *, unsafe: bool) -> list[str]:
    if isinstance(codes, str):
        raise SettingError(f"codes={codes!r} is one word; give a list: [{codes!r}]")
    if codes is None:
        return [code for code, one in FIXES.items() if one.safety != "none" and not one.by_name]
    named = [page_of(code).code for code in codes]
    for code in named:
        if fix_of(code).safety == "none":
            raise UserError(f"{code} has no fix: {fix_of(code).does}; see `cleanpath explain {code}`")
        if fix_of(code).safety == "unsafe" and not unsafe:
            raise SettingError(
                f"the fix of {code} keeps the weights but changes the function ({fix_of(code).does}), so that the "
                f"network needs training; {ALLOW}"
            )
    return named


@dataclass
class _Job:
    """One network on its way."""

    model: nn.Module
    batch: object
    seed: int
    before: Profile
    changes: list[Change] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    mended: nn.Module | None = None
    captured: Captured | None = None
    no_decay: list[str] = field(default_factory=list)
    uneven: dict[tuple[str, str], str] = field(default_factory=dict)
    """What only one of the modes can be given, by code and the unit with the finding; why."""

    def refuse(self, code: str, unit: str, reason: str, edit: str = "") -> None:
        """Note what is not done."""
        self.refused.append(Refusal(code=code, unit=unit, reason=reason, edit=edit))

    def _changed(self, code: str, unit: str, what: str) -> None:
        """Note what is done in the unit with the finding."""
        self.changes.append(Change(code=code, unit=unit, found_in=unit, what=what))

    def rewrite(self, codes: Sequence[str]) -> None:
        """All changes of the graph, code by code, each on the units as they then are."""
        if not codes:
            return
        if any(True for module in self.model.modules() if isinstance(module, torch.jit.ScriptModule)):
            self._refuse_all(codes, "a scripted module cannot be rewritten; fix the network before it is scripted")
            return
        refused = list(self.refused)
        while True:
            if reason := self._capture():
                self._refuse_all(codes, reason)
                return
            odd = self._change(codes)
            if not odd:
                return
            # What was changed in one mode only must not be: all is done anew without it.
            self.uneven |= odd
            self.changes, self.refused, self.mended = [], list(refused), None

    def _refuse_all(self, codes: Sequence[str], reason: str) -> None:
        for code in codes:
            for finding in _of(self.before, code):
                for unit in finding.units:
                    self.refuse(code, unit, reason, self._edit(code, unit))

    def _change(self, codes: Sequence[str]) -> dict[tuple[str, str], str]:
        """Change the graph, or both if the modes have one each; what was done in one only, by code and unit found."""
        assert self.captured is not None
        twin = self.captured.twin
        changed = self._rewritten(codes)
        if changed and twin is not None and (odd := self._mend_twin(twin, codes)):
            return odd
        if changed:
            self.mended = self.captured.model()
        return {}

    def _rewritten(self, codes: Sequence[str]) -> bool:
        """Change the graph, code by code; whether anything was."""
        changed = False
        for code in codes:
            profile = self.before if not changed else self._watched_audit()
            changed |= self._rewrite(code, profile)
        return changed

    def _mend_twin(self, twin: Captured, codes: Sequence[str]) -> dict[tuple[str, str], str]:
        """The same in the other mode, whose graph is another; what only one of the two has, with the reason."""
        other = _Job(self.model, self.batch, self.seed, self.before, captured=twin, uneven=self.uneven)
        other.before = other._watched_audit()
        other._rewritten([code for code in codes if _of(other.before, code)])
        odd = {**other._asked_too(self), **self._asked_too(other)}
        if not odd:
            done = {(one.code, one.unit) for one in self.changes}
            self.changes += [one for one in other.changes if (one.code, one.unit) not in done]
            self.refused += [one for one in other.refused if one not in self.refused]
        return odd

    def _asked_too(self, other: "_Job") -> dict[tuple[str, str], str]:
        """Changes of the other mode that this one would have needed too, and why it has them not."""
        found = {(finding.code, unit) for finding in self.before.findings for unit in finding.units}
        names = {unit.name for unit in self.before.units}
        done = {(one.code, one.unit) for one in self.changes}
        reasons = {(one.code, one.unit): one.reason for one in self.refused}
        odd = dict[tuple[str, str], str]()
        for one in other.changes:
            there, key = (one.code, one.unit), (one.code, one.found_in)
            asked = there in found or (one.code in AT_THE_NEXT and one.unit in names)
            if there not in done and asked:
                odd[key] = f"{UNEVEN}: {reasons[key]}" if key in reasons else UNEVEN
        return odd

    def _capture(self) -> str:
        """Read the network; why it cannot be read, or nothing."""
        try:
            captured = capture(self.model, self.batch, [home_of(unit) for unit in self.before.units], self.seed)
        except UnreadableError as error:
            return f"its forward cannot be read: {error}"
        self.captured = captured
        shown = [(u.h.kind, u.f.kind, u.shape) for u in self._watched_audit().units]
        if shown != [(u.h.kind, u.f.kind, u.shape) for u in self.before.units]:
            self.captured = None
            return "its graph shows other units than the network"
        return ""

    def _watched_audit(self) -> Profile:
        assert self.captured is not None
        with self.captured.watched(Watch()) as model:
            return audit(model, self.batch, seed=self.seed)

    def _rewrite(self, code: str, profile: Profile) -> bool:
        assert self.captured is not None
        before = len(self.changes)
        index = {unit.name: at for at, unit in enumerate(profile.units)}
        at = [index[name] for finding in _of(profile, code) for name in finding.units]
        if not at:
            self.refuse(code, "", "it is gone with what was mended before")
            return False
        located = locate(self.captured, self.batch, self.seed)
        unused = {node for node in self.captured.graph.nodes if not node.users}
        every = places(located)
        for found, place in _targets(code, every, sorted(at), lambda unit, why: self.refuse(code, unit, why)):
            name = profile.units[found].name
            if (code, name) in self.uneven:
                self.refuse(code, name, self.uneven[code, name])
                continue
            try:
                unit = profile.units[place.index].name
                self.changes.append(Change(code=code, unit=unit, found_in=name, what=REWRITES[code](place)))
            except RefusedError as error:
                inside = " called as it is" in str(error)
                self.refuse(code, name, str(error), self._edit(code, name) if inside else "")
        modules = dict(self.captured.skeleton.named_modules())
        self.captured.graph.eliminate_dead_code(
            lambda node: is_kept(node) and (node in unused or not _can_go(node, modules.get(str(node.target))))
        )
        return len(self.changes) > before

    def _edit(self, code: str, unit: str) -> str:
        home = next((home_of(row) for row in self.before.units if row.name == unit), None)
        modules = dict(self.model.named_modules())
        return "" if home is None else edit_of(code, modules.get(home), self._lines.get(unit))

    @cached_property
    def _lines(self) -> dict[str, tuple[str, int]]:
        """Where the sum of each unit stands in the source, as one more pass shows."""
        lines = Lines()
        try:
            _, structure = observed(self.model, self.batch, self.seed, lines)
        except Exception:  # noqa: BLE001 (some operations do not work under torch's modes: the class tells it then)
            return {}
        named = zip(structure.words.names, structure.traced.units, strict=True)
        found = {name: lines.of(*structure.graph.edges[unit.sum]) for name, unit in named}
        return {name: place for name, place in found.items() if place is not None}

    def start(self, codes: Sequence[str]) -> None:
        """All changes of weights, on the network as the graph's changes left it."""
        for code in codes:
            if self.mended is None:
                self.mended = copy.deepcopy(self.model)
            profile = audit(self.mended, self.batch, seed=self.seed)
            index = {unit.name: at for at, unit in enumerate(profile.units)}
            at = sorted({index[name] for finding in _of(profile, code) for name in finding.units})
            if not at:
                self.refuse(code, "", "it is gone with what was mended before")
                continue
            _, structure = observed(self.mended, self.batch, self.seed)
            parameters, scaled = dict(self.mended.named_parameters()), set[str]()
            starts = [Start(structure, one, parameters, scaled) for one in at]
            if code == GATES:
                self._open(starts)
                continue
            for one in starts:
                try:
                    self._changed(code, one.name, STARTS[code](one))
                except RefusedError as error:
                    self.refuse(code, one.name, str(error))

    def _open(self, starts: Sequence[Start]) -> None:
        """Set the biases of gates to −6; where a gate is closed by that, to 6."""
        assert self.mended is not None
        biases = dict[int, list[str]]()
        for one in starts:
            try:
                biases[one.index] = gate_biases(one)
            except RefusedError as error:
                self.refuse(GATES, one.name, str(error))
        parameters = dict(self.mended.named_parameters())
        kept = {name: parameters[name].detach().clone() for names in biases.values() for name in names}
        values = dict.fromkeys(biases, -OPEN)
        closed = self._closed(biases, values)
        values |= dict.fromkeys(closed, OPEN)
        if closed:
            closed = self._closed(biases, values)
        with torch.no_grad():
            for name in (name for index in closed for name in biases[index]):
                parameters[name].copy_(kept[name])
        for one in starts:
            told = " and ".join(biases.get(one.index, ()))
            if one.index in closed:
                self.refuse(GATES, one.name, f"its gate stays closed with {told} at -{OPEN:g} and at {OPEN:g}")
            elif told:
                self._changed(GATES, one.name, f"{told} set to {values[one.index]:g}: the gate starts open")
                self.no_decay += biases[one.index]

    def _closed(self, biases: Mapping[int, Sequence[str]], values: Mapping[int, float]) -> list[int]:
        """Which of these units have a closed gate with their biases set so."""
        assert self.mended is not None
        parameters = dict(self.mended.named_parameters())
        with torch.no_grad():
            for index, names in biases.items():
                for name in names:
                    parameters[name].fill_(values[index])
        units = audit(self.mended, self.batch, seed=self.seed).units
        return [index for index in biases if (units[index].measurements.shortcut_gain or 0.0) <= 0.5]

    def group(self, codes: Sequence[str]) -> None:
        """Free what the optimizer should not decay."""
        row = self.before.network.optimizer
        for code in codes:
            names = (row.decayed_gates if code == "CP601" else row.decayed_scales) if row else ()
            what = f"{len(names)} parameters go into a group without weight decay: {', '.join(names)}"
            self._changed(code, "", what)
            self.no_decay += names

    def result(self, optimizer: Optimizer | None) -> Fixed:
        """What `fix` returns."""
        mended = self.mended if self.mended is not None else copy.deepcopy(self.model)
        over = None if optimizer is None else carried_over(optimizer, self.model, mended, self.no_decay)
        after = audit(mended, self.batch, optimizer=over, seed=self.seed)
        old, new = self.model.state_dict().keys(), mended.state_dict().keys()
        rewritten = self.captured is not None and any(change.code in REWRITES for change in self.changes)
        lost = [name for name in after.network.unreached if name not in self.before.network.unreached]
        return Fixed(
            model=mended,
            changes=tuple(self.changes),
            refused=tuple(self.refused),
            before=self.before,
            after=after,
            differences=tuple(differences(self.model, mended, self.batch, self.seed)),
            read=(self.captured.path or "the whole") if rewritten and self.captured else "nothing",
            added=tuple(name for name in new if name not in old),
            unread=tuple(lost),
            no_decay=tuple(dict.fromkeys(self.no_decay)),
            out_of_place=self.captured.turned_in_whole() if rewritten and self.captured else (),
            called_as_they_are=dict(self.captured.trace.leaves) if rewritten and self.captured else {},
        )


def _can_go(node: Node, module: nn.Module | None) -> bool:
    """Whether it need not be called once nobody reads it: a random mask, or a layer of torch's that keeps nothing."""
    if node.op == "call_module":
        return type(module).__module__.startswith("torch.nn.modules") and not module.state_dict()  # type: ignore[union-attr]
    return bool(node.meta.get("draws")) and not node.meta.get("writes")


def _of(profile: Profile, code: str) -> list[Finding]:
    return [finding for finding in profile.findings if finding.code == code]


def _targets(
    code: str, every: Sequence[Place], at: Sequence[int], refuse: Callable[[str, str], None]
) -> Iterator[tuple[int, Place]]:
    """The units of a finding, each with those to change for it: itself, or for f the ones that follow."""
    for index in at:
        if code not in AT_THE_NEXT:
            yield index, every[index]
            continue
        following = [place for place in every if place.around.previous == index]
        if not following:
            refuse(every[index].name, "no unit follows: its f stays before the head")
        yield from ((index, place) for place in following)
