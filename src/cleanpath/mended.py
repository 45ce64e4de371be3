"""One fix, as the verb asks for it: from the words of the command line to a folder and a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cleanpath
from cleanpath import targets
from cleanpath.audited import Asked, Audited
from cleanpath.auditing import text
from cleanpath.auditing.profile import Profile
from cleanpath.errors import UserError
from cleanpath.repair.fixed import Fixed
from cleanpath.repair.mending import fix
from cleanpath.repair.saving import check_folder, save_folder
from cleanpath.report import terminal


@dataclass(frozen=True)
class Mended:
    """What was mended, and both audits as reports take them."""

    fixed: Fixed
    here: Audited
    there: Audited
    out: Path | None
    needs: tuple[str, ...] = ()
    """Packages without which the folder cannot be loaded."""

    def data(self) -> dict[str, Any]:
        """The document of the fix."""
        told = {"target": self.here.name, "out": None if self.out is None else str(self.out), "needs": [*self.needs]}
        schema = self.fixed.to_data()
        return {"schema": schema.pop("schema"), "version": schema.pop("version"), **told, **schema}


def mended(target: str, asked: Asked, codes: Sequence[str] | None, *, unsafe: bool, out: Path | None) -> Mended:
    """Mend a target, and save it if there is a folder to save it to. Raises `UserError` for what a user can mend."""
    if target.endswith(".json"):
        raise UserError(f"{target} is a saved profile, which holds no network to fix: give the network itself")
    if out is not None:
        check_folder(out)
    found = targets.resolve(target, inputs=asked.inputs, weights=asked.weights, seed=asked.seed, changes=asked.changes)
    if asked.mode is not None:
        found.module.train(asked.mode == "training")
    batch = found.keywords or found.arguments
    fixed = fix(found.module, batch, codes, unsafe=unsafe, seed=asked.seed)
    needs: tuple[str, ...] = ()
    if out is not None and fixed.changes:
        title = f"{found.name}, mended: {', '.join(dict.fromkeys(change.code for change in fixed.changes))}."
        needs = save_folder(fixed, out, batch, title=title, version=cleanpath.__version__)
    return Mended(
        fixed,
        _side(found.name, fixed.before, f"{found.note}; seed {asked.seed}", asked),
        _side(f"{found.name}, mended", fixed.after, "the same weights and inputs", asked),
        out if fixed.changes else None,
        needs,
    )


def _side(name: str, profile: Profile, note: str, asked: Asked) -> Audited:
    return Audited(name, profile, note, profile.judged(asked.ignore))


def show(found: Mended, *, every: bool = False) -> None:
    """The report, then both audits side by side."""
    for line in found.fixed.lines():
        print(line)
    names = (found.here.name, found.there.name)
    print()
    terminal.print_text(text.renderable_pair(found.fixed.before, found.fixed.after, names, every=every))
    if found.out is not None:
        needs = f"; to load it needs torch, safetensors and {', '.join(found.needs)}" if found.needs else ""
        print(f"saved: {found.out}/model.py:network{needs}")
