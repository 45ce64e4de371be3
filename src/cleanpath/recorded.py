"""Which reproductions the runs of a folder are of: a file for each beside them, so that their pages can be made again.

reproduction-DIGEST.json   what was asked, and the command that asked it
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from cleanpath.errors import RunError, UserError
from cleanpath.pages import Page
from cleanpath.paper.scales import SCALES
from cleanpath.paper.seeding import seeds_asked
from cleanpath.paper.tables import ALL, RECIPES
from cleanpath.reproduction import Reproduction, reproduction
from cleanpath.writing import write

_SCHEMA, _VERSION = "cleanpath.reproduction", 1
_LONGEST_NAME, _LONGEST_WAY = 60, 40
_NAMED = 3
"""Reproductions that a message names."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of a reproduction, and by which command."""

    what: tuple[str, ...]
    scale: str
    seeds: str
    """As after `--seeds`."""
    all_columns: bool
    changes: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    command: str = ""

    @property
    def digest(self) -> str:
        """Names it: of everything but the command."""
        return hashlib.sha256(json.dumps(asdict(replace(self, command=""))).encode()).hexdigest()[:8]

    @property
    def way(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """What one page must share: of two ways, a row would have two numbers."""
        return self.scale, self.changes, self.own

    @property
    def way_in_short(self) -> str:
        """The way as a part of a file's name."""
        if not self.changes and not self.own:
            return self.scale
        digest = hashlib.sha256(json.dumps(self.way).encode()).hexdigest()[:4]
        set_here = [re.sub(r"^[^=]*\.", "", change) for change in self.changes]
        words = re.sub(r"[^\w.]+", "-", "-".join((self.scale, *set_here, *(Path(path).stem for path in self.own))))
        return f"{words[:_LONGEST_WAY].strip('-')}-{digest}"

    @property
    def in_short(self) -> str:
        """The whole as a part of a file's name."""
        name = "-".join((*self.what, self.way_in_short))
        return name if len(name) <= _LONGEST_NAME else f"{len(self.what)}-tables-{self.digest}"

    def reproduction(self, root: Path) -> Reproduction:
        """The reproduction, its runs below `root`."""
        return reproduction(
            self.what,
            scale=self.scale,
            seeds=self.seeds,
            all_columns=self.all_columns,
            changes=self.changes,
            root=root,
            own_units=[Path(path) for path in self.own],
        )


def asked_of(job: Reproduction, command: str) -> Asked:
    """What was asked of a reproduction."""
    names = tuple(recipe.name for recipe in job.recipes)
    return Asked(
        what=(ALL,) if names == tuple(RECIPES) else names,
        scale=job.scale.name,
        seeds=job.seeds.option.removeprefix("--seeds "),
        all_columns=job.all_columns,
        changes=job.changes,
        own=tuple(map(str, job.own)),
        command=command,
    )


def record(job: Reproduction, command: str) -> None:
    """Note a reproduction beside its runs, if it has any. Raises `RunError` if that cannot be written."""
    if not job.cells():
        return
    asked = asked_of(job, command)
    path = job.root / f"reproduction-{asked.digest}.json"
    text = json.dumps({"schema": _SCHEMA, "version": _VERSION, **asdict(asked)}, indent=1, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    try:
        job.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{job.root} cannot be written: {error.strerror}; choose another folder with --runs") from None
    write(path, text.encode())


def recorded(root: Path) -> tuple[Asked, ...]:
    """The reproductions of a folder of runs, as recorded.

    Raises `UserError` if it is no such folder.
    """
    if (root / "experiment.json").is_file():
        raise UserError(f"{root} is one run; name the folder that holds the runs, {root.parent}")
    found = [_read(path) for path in sorted(root.glob("reproduction-*.json"))]
    if not found:
        raise UserError(
            f"nothing was reproduced in {root}; name the folder that `cleanpath reproduce` wrote its runs to (--runs, "
            "runs by default), or a table"
        )
    return tuple(sorted(found, key=lambda one: (list(SCALES).index(one.scale), one.way, _places(one.what))))


def check_runs(job: Reproduction, *, named: bool = False) -> None:
    """Raise `UserError` if an empty page was hardly meant.

    There is no run of what was asked, but of other reproductions in that folder; or the folder was `named`, and is not
    there. The page would replace that of the runs that were meant.
    """
    cells = job.cells()
    if not cells or any(cell.folder.is_dir() for cell in cells):
        return
    try:
        there = recorded(job.root)
    except UserError:
        there = ()
    if asked_of(job, "").digest in {one.digest for one in there}:
        return  # its runs have not begun yet
    commands = [one.command for one in there if one.command][:_NAMED]
    if not commands and (job.root.is_dir() or not named):
        return
    known = f"; what was reproduced there: {'; '.join(commands)}" if commands else ""
    others = "".join(f"; {line}" for line in job.other_versions())
    raise UserError(
        f"none of the {len(cells)} runs that were asked for is in {job.root}{others}{known}; ask for those "
        "(scale, --set, --with and --runs as they were), or make these: cleanpath reproduce with the same words"
    )


def pages_of(root: Path, first: Path, command: str) -> tuple[tuple[Page, ...], tuple[Page, ...]]:
    """The pages of a folder of runs: one for all that was asked in one way, and one for each that was asked.

    The page for all stands at `first`; where runs were made in several ways, there is one for each way, and its name
    says which. What was asked alone in its way has only that page, with the command that made its runs.
    """
    whole, single = [], []
    ways = [list(group) for _, group in groupby(recorded(root), key=lambda one: one.way)]
    for asked in ways:
        together = _together(asked)
        place = first if len(ways) == 1 else _beside(first, asked[0].way_in_short)
        whole.append(Page(job=together.reproduction(root), path=place, command=together.command or command))
        if len(asked) > 1:
            single += [
                Page(job=one.reproduction(root), path=_beside(first, one.in_short), command=one.command or command)
                for one in asked
            ]
    return tuple(whole), tuple(single)


def _together(asked: Sequence[Asked]) -> Asked:
    """All that was asked in one way, in the order of the tables; the most seeds of each kind."""
    if len(asked) == 1:
        return asked[0]
    names = {name for one in asked for name in one.what}
    what = (ALL,) if ALL in names or names == set(RECIPES) else tuple(sorted(names, key=lambda one: _places([one])))
    scale = SCALES[asked[0].scale]
    every = [seeds_asked(one.seeds, scale) for one in asked]
    claimed = [seeds.of_claims for seeds in every if seeds.of_claims is not None]
    most = max(seeds.every for seeds in every)
    seeds = f"claims={max(claimed)}" if claimed and most <= scale.seeds else str(max((most, *claimed)))
    return replace(asked[0], what=what, seeds=seeds, all_columns=any(one.all_columns for one in asked), command="")


def _places(names: Iterable[str]) -> list[int]:
    return [(ALL, *RECIPES).index(name) for name in names]


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


def _read(path: Path) -> Asked:
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        schema = data.pop("schema"), data.pop("version")
        lists = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
        asked = Asked(**{**data, **lists})
        known = schema == (_SCHEMA, _VERSION) and asked.scale in SCALES and set(asked.what) <= {ALL, *RECIPES}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and give the command of its runs again") from None
    if not known:
        raise UserError(f"{path} is of another cleanpath; give the command of its runs again")
    return asked
