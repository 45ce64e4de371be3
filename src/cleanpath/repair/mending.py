"""`fix`: a working network in which what the audit found is mended.

    fixed = fix(model, images, unsafe=True)
    fixed = fix(model, images, ["CP201"], unsafe=True)
    print(fixed)
    fixed.model

Changes of the graph come first, each on the units found anew, then those of the weights at the start.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.optim import Optimizer

from cleanpath.auditing.examine import Structure, audit, structure_of
from cleanpath.auditing.finding import Finding
from cleanpath.auditing.judging import page_of
from cleanpath.auditing.passes import Observer
from cleanpath.auditing.patient import Parts, Patient
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.rules.fixes import FIXES, fix_of
from cleanpath.devices import exact, of
from cleanpath.errors import SettingError, UserError
from cleanpath.kernels import sound
from cleanpath.repair.captured import Captured, Watch, capture, locate
from cleanpath.repair.comparing import outputs_of
from cleanpath.repair.edits import Lines, edit_of
from cleanpath.repair.fixed import Change, Fixed, OutputDifference, Refusal
from cleanpath.repair.guards import kept_generators
from cleanpath.repair.places import Place, RefusedError, places
from cleanpath.repair.rewrites import AT_THE_NEXT, REWRITES
from cleanpath.repair.starts import OPEN, STARTS, Start, gate_biases
from cleanpath.repair.tracing import UnreadableError, is_kept

GATES = "CP104"
GROUPS = ("CP601", "CP602")


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
            job.refuse(code, "", f"it changes the function ({len(finding.units) or 1} units): allow it by unsafe")
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
                "network needs training; allow it by unsafe=True, on the command line --unsafe"
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

    def refuse(self, code: str, unit: str, reason: str, edit: str = "") -> None:
        """Note what is not done."""
        self.refused.append(Refusal(code=code, unit=unit, reason=reason, edit=edit))

    def rewrite(self, codes: Sequence[str]) -> None:
        """All changes of the graph, code by code, each on the units as they then are."""
        if not codes:
            return
        if any(True for module in self.model.modules() if isinstance(module, torch.jit.ScriptModule)):
            reason = "a scripted module cannot be rewritten; fix the network before it is scripted"
        else:
            reason = self._capture()
        if self.captured is None:
            for code in codes:
                for finding in _of(self.before, code):
                    for unit in finding.units:
                        self.refuse(code, unit, reason, self._edit(code, unit))
            return
        if self._rewritten(codes):
            twin = self.captured.twin
            if twin is not None and not self._mend_twin(twin, codes):
                return
            self.mended = self.captured.model()

    def _rewritten(self, codes: Sequence[str]) -> bool:
        """Change the graph, code by code; whether anything was."""
        changed = False
        for code in codes:
            profile = self.before if not changed else self._watched_audit()
            changed |= self._rewrite(code, profile)
        return changed

    def _mend_twin(self, twin: Captured, codes: Sequence[str]) -> bool:
        """The same in the other mode, whose graph is another; all is undone where it cannot be done alike."""
        other = _Job(self.model, self.batch, self.seed, self.before, captured=twin)
        other.before = other._watched_audit()
        other._rewritten([code for code in codes if _of(other.before, code)])
        done = [{(one.code, one.unit) for one in job.changes} for job in (self, other)]
        here, there = done[0] - done[1], done[1] - done[0]
        if odd := [*other._asked_too(here), *self._asked_too(there)]:
            code, unit = min(odd)
            self.refuse(code, unit, "its forward differs between the modes, and cannot be changed alike in both")
            self.changes.clear()
            self.captured = None
            return False
        self.changes += [one for one in other.changes if (one.code, one.unit) in there]
        return True

    def _asked_too(self, changed: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Changes of the other mode that this one would have needed too."""
        found = {(finding.code, unit) for finding in self.before.findings for unit in finding.units}
        names = {unit.name for unit in self.before.units}
        for code, unit in changed:
            if (code, unit) in found or (code in AT_THE_NEXT and unit in names):
                yield code, unit

    def _capture(self) -> str:
        """Read the network; why it cannot be read, or nothing."""
        homes = [unit.sum.partition(" in ")[2] for unit in self.before.units]
        try:
            captured = capture(self.model, self.batch, ["" if h == "(root)" else h for h in homes], self.seed)
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
            try:
                self.changes.append(Change(code=code, unit=profile.units[place.index].name, what=REWRITES[code](place)))
            except RefusedError as error:
                inside = " called as it is" in str(error)
                self.refuse(code, name, str(error), self._edit(code, name) if inside else "")
        modules = dict(self.captured.skeleton.named_modules())
        self.captured.graph.eliminate_dead_code(
            lambda node: is_kept(node) and (node in unused or not _can_go(node, modules.get(str(node.target))))
        )
        return len(self.changes) > before

    def _edit(self, code: str, unit: str) -> str:
        home = next((row.sum.partition(" in ")[2] for row in self.before.units if row.name == unit), None)
        if home is None:
            return ""
        modules = dict(self.model.named_modules())
        return edit_of(code, modules.get("" if home == "(root)" else home), self._lines.get(unit))

    @cached_property
    def _lines(self) -> dict[str, tuple[str, int]]:
        """Where the sum of each unit stands in the source, as one more pass shows."""
        lines = Lines()
        try:
            structure = structure_in(self.model, self.batch, self.seed, lines)
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
            structure = structure_in(self.mended, self.batch, self.seed)
            parameters, scaled = dict(self.mended.named_parameters()), set[str]()
            starts = [Start(structure, one, parameters, scaled) for one in at]
            if code == GATES:
                self._open(starts)
                continue
            for one in starts:
                try:
                    self.changes.append(Change(code=code, unit=one.name, what=STARTS[code](one)))
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
        signs = dict.fromkeys(biases, -1)
        for _ in range(2):
            with torch.no_grad():
                for index, names in biases.items():
                    for name in names:
                        parameters[name].fill_(signs[index] * OPEN)
            gains = [unit.measurements.shortcut_gain for unit in audit(self.mended, self.batch, seed=self.seed).units]
            signs = {index: sign if (gains[index] or 0.0) > 0.5 else -sign for index, sign in signs.items()}
        for one in starts:
            if one.index in biases:
                names = biases[one.index]
                value = float(parameters[names[0]].detach().flatten()[0])
                what = f"{' and '.join(names)} set to {value:g}: the gate starts open"
                self.changes.append(Change(code=GATES, unit=one.name, what=what))
                self.no_decay += names

    def group(self, codes: Sequence[str]) -> None:
        """Free what the optimizer should not decay."""
        row = self.before.network.optimizer
        for code in codes:
            names = (row.decayed_gates if code == "CP601" else row.decayed_scales) if row else ()
            what = f"{len(names)} parameters go into a group without weight decay: {', '.join(names)}"
            self.changes.append(Change(code=code, unit="", what=what))
            self.no_decay += names

    def result(self, optimizer: Optimizer | None) -> Fixed:
        """What `fix` returns."""
        del optimizer  # holds the parameters of the network that was given
        mended = self.mended if self.mended is not None else copy.deepcopy(self.model)
        after = audit(mended, self.batch, seed=self.seed)
        old, new = self.model.state_dict().keys(), mended.state_dict().keys()
        rewritten = self.captured is not None and any(change.code in REWRITES for change in self.changes)
        lost = [name for name in after.network.unreached if name not in self.before.network.unreached]
        return Fixed(
            model=mended,
            changes=tuple(self.changes),
            refused=tuple(self.refused),
            before=self.before,
            after=after,
            differences=tuple(_differences(self.model, mended, self.batch, self.seed)),
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


def structure_in(model: nn.Module, batch: object, seed: int, noting: Lines | None = None) -> Structure:
    """What one observed pass shows of a network's units."""
    parts = Parts.of(model)
    with Patient(parts) as patient, sound(model), exact(of(model)), noting or nullcontext():
        seen = Observer(patient).run(batch, seed)
        return structure_of(parts, seen, patient.was_trainable())


def _differences(here: nn.Module, there: nn.Module, batch: object, seed: int) -> Iterator[OutputDifference]:
    for training in (True, False):
        mode = "training" if training else "evaluation"
        try:
            old = outputs_of(copy.deepcopy(here).train(training), batch, seed)
            new = outputs_of(copy.deepcopy(there).train(training), batch, seed)
        except Exception:  # noqa: BLE001 (a batch of one in training mode: the original cannot be run either)
            yield OutputDifference(mode=mode, relative=None)
            continue
        yield OutputDifference(mode=mode, relative=_relative(old, new))


def _relative(old: Sequence[Tensor], new: Sequence[Tensor]) -> float | None:
    pairs = [(a.double(), b.double()) for a, b in zip(old, new, strict=False) if a.is_floating_point()]
    if not pairs or len(old) != len(new) or any(a.shape != b.shape for a, b in pairs):
        return None
    if all(torch.equal(a, b) for a, b in pairs):
        return 0.0
    moved = math.fsum(float((a - b).square().sum()) for a, b in pairs)
    size = math.fsum(float(a.square().sum()) for a, _ in pairs)
    return math.sqrt(moved / size) if size else math.inf
