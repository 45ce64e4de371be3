"""One audit, as the verb asks for it: from the words of the command line to a profile."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from cleanpath import targets
from cleanpath.auditing.examine import audit
from cleanpath.auditing.profile import Profile, plain
from cleanpath.errors import UserError


@dataclass(frozen=True)
class Asked:
    """How targets are built and measured."""

    inputs: Sequence[str] = ()
    weights: Path | None = None
    mode: str | None = None
    """`training` or `eval`; None leaves every module as its maker has it."""
    draws: int = 1
    seed: int = 0

    def without_weights(self) -> Self:
        """For the other side of a comparison: the weights are the first one's."""
        return replace(self, weights=None)


@dataclass(frozen=True)
class Audited:
    """A profile, what it is of, and how that came about."""

    name: str
    profile: Profile
    note: str


def audited(target: str, asked: Asked) -> Audited:
    """The profile of a target; one that was saved (a .json file) is read.

    Raises `UserError` for what a user can mend.
    """
    if target.endswith(".json"):
        return Audited(target, Profile.load(target), "as it was saved")
    found = targets.resolve(target, inputs=asked.inputs, weights=asked.weights, seed=asked.seed)
    if asked.mode is not None:
        found.module.train(asked.mode == "training")
    profile = audit(found.module, found.keywords or found.arguments, draws=asked.draws, seed=asked.seed)
    return Audited(found.name, profile, f"{found.note}; seed {asked.seed}")


def comparison(here: Audited, there: Audited) -> dict[str, Any]:
    """The schema of `cleanpath audit TARGET --against TARGET --json`."""
    differences = [asdict(each) for each in here.profile.compare(there.profile)]
    return {
        "schema": "cleanpath.profile_comparison",
        "version": 1,
        "here": {"target": here.name, **here.profile.to_data()},
        "there": {"target": there.name, **there.profile.to_data()},
        "differences": plain(differences),
    }


def check_free(path: Path) -> None:
    """Refuse, before anything long, a file that exists or cannot be made."""
    if path.exists():
        raise UserError(f"--out {path} exists; nothing is overwritten: give another name, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}; make it first")
