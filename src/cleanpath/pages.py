"""The page of a reproduction as a file: its values, and what is drawn beside them, put together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cleanpath.auditing.values import UnitRow
from cleanpath.errors import RunError, SettingError
from cleanpath.grid import local
from cleanpath.paper.figures import DRAWINGS, Panel
from cleanpath.paper.parts import Recipe
from cleanpath.report.beginnings import beginnings
from cleanpath.report.collect import facts
from cleanpath.report.drawing import Drawn
from cleanpath.report.page import page
from cleanpath.report.standing import Standing
from cleanpath.reproduction import Outcome, Reproduction
from cleanpath.writing import write

_DRAWN_DEPTH = 14  # two units per stage, of which the second keeps the width


@dataclass(frozen=True, kw_only=True)
class Page:
    """The page of a reproduction at its place; `command` is what made it, or the runs."""

    job: Reproduction
    path: Path
    command: str

    def write(self, found: Outcome, standing: Standing | None = None) -> None:
        """Write the page of what was found, whole or not at all; with a `standing`, that of runs that go on.

        Raises `RunError` if it cannot be written there.
        """
        check_page(self.path)
        text = page(
            found.tables,
            facts(found.tables),
            self.command,
            verdicts=found.verdicts,
            beginnings=beginnings(self.job.root, found.tables),
            drawings=self._drawings,
            standing=standing,
            own=[path.name for path in self.job.own if any(recipe.varies_unit for recipe in self.job.recipes)],
            awaited=self._made if standing is not None and not standing.idle and not standing.over else (),
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--page {self.path} cannot be written: {error.strerror}; name another file") from None
        write(self.path, text.encode())

    @cached_property
    def _made(self) -> frozenset[tuple[str, str]]:
        """The columns that the reproduction runs, by table."""
        return frozenset(
            (recipe.name, column) for recipe in self.job.recipes for _, column, _ in self.job.experiments(recipe)
        )

    @cached_property
    def _drawings(self) -> dict[str, tuple[Drawn, ...]]:
        return drawings_of(self.job.recipes)


def check_page(path: Path) -> None:
    """Raise `SettingError` if there is a folder where a page is to be."""
    if path.is_dir():
        raise SettingError(f"--page {path} is a folder; name a file")


def drawings_of(recipes: Sequence[Recipe]) -> dict[str, tuple[Drawn, ...]]:
    """The units that the asked figures show, by figure; a network of six units has the same as one of 54."""
    panels = {recipe.name: DRAWINGS[recipe.name] for recipe in recipes if recipe.name in DRAWINGS}
    every = [
        (replace(panel.network, depth=_DRAWN_DEPTH), panel.asymmetric) for drawn in panels.values() for panel in drawn
    ]
    units = iter(local.typical_units(every) if every else [])
    return {name: tuple(_drawn(panel, *next(units)) for panel in drawn) for name, drawn in panels.items()}


def _drawn(panel: Panel, unit: UnitRow, above: int) -> Drawn:
    return Drawn(letter=panel.letter, caption=panel.caption, unit=unit, above=above)
