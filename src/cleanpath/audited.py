"""One audit, as the verb asks for it: from the words of the command line to a profile."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import cleanpath
from cleanpath import targets
from cleanpath.auditing.examine import audit
from cleanpath.auditing.finding import Judgement
from cleanpath.auditing.judging import every_rule, judge
from cleanpath.auditing.profile import Profile, plain
from cleanpath.errors import UserError
from cleanpath.reference import reference_for
from cleanpath.report.audit_page import AuditPage, Side, render
from cleanpath.writing import write

_OURS = b'<meta name="generator" content="cleanpath">'
"""In the head of our pages; such a file may be written anew."""


@dataclass(frozen=True)
class Asked:
    """How targets are built and measured."""

    inputs: Sequence[str] = ()
    weights: Path | None = None
    mode: str | None = None
    """`training` or `eval`; None leaves every module as its maker has it."""
    draws: int = 1
    seed: int = 0
    ignore: tuple[str, ...] = ()
    """`CODE=reason`, `CODE:UNIT=reason`."""
    changes: tuple[str, ...] = ()
    """`network.…=value`, of a network of the catalog."""

    def of_the_other(self) -> Self:
        """For the other side of a comparison: weights and changed settings are the first one's."""
        return replace(self, weights=None, changes=())


@dataclass(frozen=True)
class Audited:
    """A profile, what it is of, and how that came about."""

    name: str
    profile: Profile
    note: str
    judgement: Judgement

    @property
    def side(self) -> Side:
        """As reports take it."""
        return Side(name=self.name, profile=self.profile, judgement=self.judgement, note=self.note)

    def data(self) -> dict[str, Any]:
        """The document of the profile, with the findings that are ignored apart."""
        return self.profile.to_data(self.judgement)


def audited(target: str, asked: Asked) -> Audited:
    """The profile of a target; one that was saved (a .json file) is read.

    Raises `UserError` for what a user can mend.
    """
    if target.endswith(".json"):
        if asked.changes:
            raise UserError(f"--set is for networks of the catalog, and {target} is a saved profile; leave it out")
        saved = Profile.load(target)
        return Audited(target, saved, "as it was saved", saved.judged(asked.ignore))
    found = targets.resolve(target, inputs=asked.inputs, weights=asked.weights, seed=asked.seed, changes=asked.changes)
    if asked.mode is not None:
        found.module.train(asked.mode == "training")
    profile = audit(found.module, found.keywords or found.arguments, draws=asked.draws, seed=asked.seed)
    if found.note.startswith("random weights"):
        profile = replace(profile, network=replace(profile.network, fresh=True))
    return Audited(found.name, profile, f"{found.note}; seed {asked.seed}", profile.judged(asked.ignore))


def comparison(here: Audited, there: Audited) -> dict[str, Any]:
    """The schema of `cleanpath audit TARGET --against TARGET --json`."""
    differences = [asdict(each) for each in here.profile.compare(there.profile)]
    return {
        "schema": "cleanpath.profile_comparison",
        "version": 1,
        "here": {"target": here.name, **here.data()},
        "there": {"target": there.name, **there.data()},
        "differences": plain(differences),
    }


def check(asked: Asked, *, out: Path | None, page: Path | None) -> None:
    """Refuse, before anything long, a file that exists or cannot be made, and an --ignore that says nothing."""
    judge(Profile(verdict=""), asked.ignore)
    for option, path in (("--out", out), ("--html", page)):
        if path is None:
            continue
        if path.exists() and option == "--out":
            raise UserError(f"{option} {path} exists; nothing is overwritten: give another name, or remove it")
        if path.is_file() and _OURS not in path.read_bytes()[:2000]:
            raise UserError(f"{option} {path} exists and is no page of cleanpath; give another name, or remove it")
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder; give the name of a file")
        if not path.parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {path.parent}; make it first")


def write_page(path: Path, here: Audited, there: Audited | None, *, command: str) -> None:
    """The audit as one HTML page, beside a healthy network of the same depth; a reader never sees half of it."""
    facts = {"cleanpath": cleanpath.__version__, "torch": metadata.version("torch")}
    page = AuditPage(
        here=here.side,
        there=None if there is None else there.side,
        reference=reference_for(here.profile),
        pages={one.code: (one.title, one.sections) for one in every_rule()},
        command=command,
        facts=facts,
    )
    write(path, render(page).encode())
