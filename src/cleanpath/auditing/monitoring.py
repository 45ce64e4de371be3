"""`monitor`: profiles from inside a training loop, whatever loop it is, without a forward pass of its own.

    with monitor(model, every=100) as watched:
        ...                                        # forward, backward, step: your loop, as it is
    print(watched.latest)                          # a Profile of your own batch, with your own gradient
    watched.history("backward_gain")["layer1.0"]   # [(0, 1.02), (100, 0.98), …]

Every hundredth forward pass in training mode runs under the audit's recorder. The first one shows the units; later ones
are measured while they run and keep no tensors. The direct path and the defects are taken at once, the gradients when
the loop's own backward pass comes. Training is bit for bit as without it.
"""

import json
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from cleanpath.auditing.examine import Structure, refusal_of, structure_of, unread, untaken
from cleanpath.auditing.passes import Pass, tensors_of
from cleanpath.auditing.patient import Parts
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.record import Operation
from cleanpath.auditing.underway import Pending, Recording
from cleanpath.auditing.values import Measurements, NotSeen
from cleanpath.errors import SettingError, UnknownNameError, UserError
from cleanpath.garbage import uncollected

UNSTEADY = 2
"""After so many passes that went another way than the one before, every recorded pass shows its own units."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def monitor(model: nn.Module, *, every: int = 100, out: Path | str | None = None) -> "Monitor":
    """Record a profile of every so many forward passes in training mode, inside a `with` statement.

    `model` is the module that the loop calls, or what a data-parallel or compiling wrapper around it is. Steps are
    counted in forward passes from 0. With `out`, each profile is also written as one line of JSON as it comes; with
    several processes give it in one of them. Sizes of gradients are those of the loop's own loss, a scaling of it
    included; gains are ratios and do not depend on it.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"monitor needs a torch.nn.Module, this is a {type(model).__name__}")
    if isinstance(every, bool) or not isinstance(every, int):
        raise SettingError(f"every={every!r}: a whole number of forward passes is needed")
    if every < 1:
        raise SettingError(f"every={every}: at least one is needed")
    return Monitor(model, every, None if out is None else Path(out))


class Monitor:
    """What `monitor` returns: profiles by step, complete ones only."""

    def __init__(self, model: nn.Module, every: int, out: Path | None) -> None:
        while isinstance(model, WRAPPERS):
            model = model.module
        self._model, self._every, self._out = model, every, out
        self._file: TextIO | None = None
        self._handles = list[RemovableHandle]()
        self._calls, self._due, self._turns = 0, 0, 0
        self._structure: Structure | None = None
        self._recording: Recording | None = None
        self._pending: Pending | None = None
        self._profiles: dict[int, Profile] = {}

    @property
    def profiles(self) -> dict[int, Profile]:
        """The complete profiles by step."""
        return dict(self._profiles)

    @property
    def latest(self) -> Profile | None:
        """The newest complete profile."""
        return self._profiles[max(self._profiles)] if self._profiles else None

    def history(self, quantity: str) -> dict[str, list[tuple[int, float]]]:
        """A field of `Measurements` over the steps, by the unit's name."""
        known = [each.name for each in fields(Measurements)]
        if quantity not in known:
            raise UnknownNameError("measurement", quantity, known)
        found = dict[str, list[tuple[int, float]]]()
        for step, profile in sorted(self._profiles.items()):
            for unit in profile.units:
                value = getattr(unit.measurements, quantity)
                found.setdefault(unit.name, []).extend([] if value is None else [(step, value)])
        return found

    def __enter__(self) -> Self:
        """Begin to count."""
        if self._handles:
            raise UserError("this monitor runs already; make another one with cleanpath.monitor")
        if self._out is not None:
            self._file = _created(self._out)
        before, after = _Hook(self._before), _Hook(self._after)
        self._handles = [
            self._model.register_forward_pre_hook(before, with_kwargs=True),
            self._model.register_forward_hook(after, with_kwargs=True, always_call=True, prepend=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete what is left, and leave the model without hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._leave()
        self._finish()
        if self._file is not None:
            self._file.close()
        if error is None and not self._calls:
            warnings.warn(
                f"monitor saw no forward pass of {type(self._model).__name__} in training mode; "
                "give it the module that the loop calls",
                stacklevel=2,
            )

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pass begins."""
        if module is not self._model or not _trains(module):
            return
        if self._recording is not None:  # the model calls itself
            self._recording.depth += 1
            return
        step, self._calls = self._calls, self._calls + 1
        if step < self._due:
            return
        self._finish()
        self._due = step - step % self._every + self._every
        self._guarded(step, lambda: self._begin(step, (args, kwargs)))

    def _after(self, module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        """A forward pass ends; after an exception there is no output."""
        recording = self._recording
        if module is not self._model or recording is None:
            return
        if recording.depth:
            recording.depth -= 1
            return
        self._leave()
        if output is None:
            self._due = recording.step + 1
        else:
            self._guarded(recording.step, lambda: self._measure(recording, output))

    def _begin(self, step: int, given: object) -> None:
        with _disable_current_modes():
            parts = Parts.of(_written(self._model))
            refusal = refusal_of(parts, given)
            if refusal is not None:
                self._add(step, unread(parts, refusal))
                return
            plan = self._structure.plan() if self._structure is not None else None
            recording = self._recording = Recording(step, parts, plan, list(tensors_of(given)))
        try:
            recording.enter()
        except Exception:
            self._leave()
            raise

    def _leave(self) -> None:
        """No operation is recorded any more."""
        if self._recording is not None:
            self._recording.stack.close()
            self._recording = None

    def _measure(self, recording: Recording, output: Any) -> None:
        """Everything that can be known before the loop's backward pass comes."""
        if recording.recorder.trouble is not None:
            raise recording.recorder.trouble
        with warnings.catch_warnings(), uncollected(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            stack.enter_context(_disable_current_modes())  # another monitor may record
            for device in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(device, enabled=False))
            seen = recording.seen(output)
            structure, plan = self._structure, recording.plan
            if structure is None or plan is None:
                structure = structure_of(recording.parts, seen, recording.trainable)
                stack.callback(structure.graph.edges.clear)
                plan = structure.plan()
                whole = plan.afterwards(seen.record.written)
                structure.graph.release(edges=False)
                self._structure = structure if self._turns < UNSTEADY else None
            elif _same_way(structure, seen):
                whole = True
                structure.graph.edges[:], structure.graph.shapes[:] = seen.graph.edges, seen.graph.shapes
                stack.callback(structure.graph.edges.clear)
            else:
                self._structure, self._due, self._turns = None, recording.step + 1, self._turns + 1
                return
            self._pending = pending = Pending(recording, structure, plan)
            if not whole:
                reason = "an operation in place had overwritten what they are taken from; later passes have them"
                pending.not_seen.append(NotSeen(what="forward numbers", where="(root)", reason=reason))
            pending.take(seen, lambda: self._finish(pending))

    def _finish(self, one: Pending | None = None) -> None:
        """Complete the profile that waits for its gradients, if it is this one."""
        pending = self._pending
        if pending is not None and one in {None, pending}:
            self._pending = None
            self._guarded(pending.step, lambda: self._add(pending.step, pending.profile()))

    def _add(self, step: int, profile: Profile) -> None:
        if self._file is not None:
            try:
                line = json.dumps({"step": step, "profile": profile.to_data()}, allow_nan=False)
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                entry = untaken("file", f"writing to {self._out}", error)
                profile = replace(profile, not_seen=(*profile.not_seen, entry))
        self._profiles[step] = profile

    def _guarded(self, step: int, act: Callable[[], None]) -> None:
        """Nothing that goes wrong in here may stop the training; the profile tells it."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 (a model may hold anything)
            if self._pending is not None:
                self._pending.release()
                self._pending = None
            entry = untaken("measurements", "recording", error)
            self._add(step, unread(Parts.of(_written(self._model)), entry))


class _Hook:
    """A hook of this process: copies of the model and files that hold it have one that does nothing."""

    def __init__(self, act: Callable[..., None] | None = None) -> None:
        self._act = None if act is None else torch.compiler.disable(act)  # type: ignore[no-untyped-call]

    def __call__(self, *given: Any) -> None:
        if self._act is not None:
            self._act(*given)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[()]]:
        return _Hook, ()


def _created(path: Path) -> TextIO:
    """A new file to write lines to."""
    try:
        return path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UserError(f"{path} exists already and is not overwritten; name another file for the profiles") from error
    except OSError as error:
        raise UserError(f"cannot write profiles to {path}: {error.strerror}; name another file") from error


def _written(model: nn.Module) -> nn.Module:
    """The module as its author wrote it, without what compiles it or spreads it over devices."""
    while True:
        inner = model.module if isinstance(model, WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _trains(module: nn.Module) -> bool:
    """Whether a forward pass of the module is a step of training, and not the repetition of one for a checkpoint."""
    in_backward = torch._C._current_graph_task_id() != -1  # noqa: SLF001
    return _written(module).training and torch.is_grad_enabled() and not in_backward


def _same_way(structure: Structure, seen: Pass) -> bool:
    """Whether a pass ran the operations that the structure was read from, each at its place."""
    here, there = structure.graph, seen.graph
    if here.kinds != there.kinds or here.parents != there.parents:
        return False
    return all(_place(one) == _place(other) for one, other in zip(here.operations, there.operations, strict=True))


def _place(operation: Operation | None) -> tuple[int, str] | None:
    return None if operation is None else (operation.ordinal, operation.name)
