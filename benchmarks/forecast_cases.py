"""The recorded cells of the forecast: what was measured of a network, and what became of it.

Those of both campaigns (results/forecast-cells.jsonl), and the runs of scale quick (results/quick.json) with what a
forecast measures of them (results/forecast-recorded.jsonl). Of the recorded runs it is not known whether they started
slowly, only whether they failed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.forecast_kinds import ROWS, Cell
from benchmarks.forecast_recorded import ends, variant_of
from cleanpath.auditing.profile import NON_FINITE
from cleanpath.forecasting.values import FAILS, STARTS_SLOWLY, STEPS, TRAINS, Measured, Steps
from cleanpath.nn import catalog

ROOT = Path(__file__).resolve().parent.parent
CELLS, RECORDED = (ROOT / "results" / f"forecast-{name}.jsonl" for name in ("cells", "recorded"))
LIMIT = 20.0
"""Training error in percent over the last 20 batches: above it a run has failed, as the paper has it of test errors."""
DOUBTFUL = (10.0, 45.0)
"""Training errors in percent between which another seed may well end on the other side of the limit."""


@dataclass(frozen=True)
class Case:
    """A network that was measured, and what became of it."""

    kind: str
    """`tables`, `quick`, or in what it differs from them."""
    variant: str
    """Placement and shortcut, or the network's name."""
    network: str
    """All that the cell is but its depth, rate and seed."""
    depth: int
    rate: float
    seed: int
    measured: Measured
    fails: bool
    slow: bool | None
    """Whether it started slowly; None where that is not known."""
    error: float
    """Training error at the end, in percent."""
    decided: bool
    """Whether all its seeds agree; where there is one seed only, whether it ended outside of `DOUBTFUL`."""
    later: bool = False
    """Whether it came after the terms of the rule had been chosen."""

    @property
    def outcome(self) -> str:
        """In words; what is known to have trained, however it started, is said to train."""
        return FAILS if self.fails else STARTS_SLOWLY if self.slow else TRAINS


def cases() -> list[Case]:
    """All that is recorded."""
    seeds = ends_of_seeds()
    recorded = [_of_quick(row, decided=len(set(seeds[_cell(row)])) == 1) for row in _lines(RECORDED)]
    return [*(_of_campaign(row, seeds[seedless(row)]) for row in _lines(CELLS)), *recorded]


def _cell(end: Mapping[str, Any]) -> str:
    return f"{end['table']} {end['row']} {end['column']}"


def seedless(row: Mapping[str, Any]) -> str:
    """What tells a cell of the campaigns from all others but its seed."""
    return Cell.key_of({**row, "seed": "any"})


def ends_of_seeds() -> dict[str, list[bool]]:
    """Which seeds of each recorded cell failed."""
    groups: dict[str, list[bool]] = {}
    for end in ends().values():
        groups.setdefault(_cell(end), []).append(end["error"] is None or end["error"] > LIMIT)
    for row in _lines(CELLS):
        groups.setdefault(seedless(row), []).append(_number(row["error"]) > LIMIT)
    return groups


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _of_campaign(row: Mapping[str, Any], seeds: Sequence[bool]) -> Case:
    """Above the limit at the end a cell has failed; above it in the middle, and not at the end, it started slowly."""
    choice = ROWS.get(row["row"])
    variant = row["row"] if choice is None else variant_of(catalog.network("resnet20", **choice))
    fails = _number(row["error"]) > LIMIT
    return Case(
        kind=row["kind"],
        variant=variant if row["normalisation"] == "batch" else f"{variant} {row['normalisation']}",
        network=_network_of(row),
        depth=row["depth"],
        rate=row["rate"],
        seed=row["seed"],
        measured=measured(row),
        fails=fails,
        slow=not fails and _number(row["error_half"]) > LIMIT,
        error=_number(row["error"]),
        decided=len(set(seeds)) == 1 and (len(seeds) > 1 or not DOUBTFUL[0] < _number(row["error"]) < DOUBTFUL[1]),
        later=row.get("later", False),
    )


def _network_of(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[name]) for name in Cell.__dataclass_fields__ if name not in ("depth", "rate", "seed"))


def _of_quick(row: Mapping[str, Any], *, decided: bool) -> Case:
    found: dict[str, Any] = {name: _plain_number(value) for name, value in row["measured"].items()}
    steps: dict[str, Any] = {name: _plain_number(value) for name, value in found.pop("steps").items()}
    error = 100.0 if row["error"] is None else row["error"]
    return Case(
        kind="quick",
        variant=row["variant"],
        network=f"quick {row['variant']} {found['optimizer']}",
        depth=row["depth"],
        rate=row["rate"],
        seed=row["seed"],
        measured=Measured(**{**found, "steps": Steps(**steps), "findings": ()}),
        fails=error > LIMIT,
        slow=None,
        error=error,
        decided=decided,
    )


def measured(row: Mapping[str, Any]) -> Measured:
    """The line of a cell of the campaign as what the rule is given."""
    found = row["measured"]
    ratio = found["audit"].get("gradient_ratio")
    return Measured(
        rate=row["rate"],
        optimizer=row["optimizer"],
        classes=row["classes"],
        units=found["audit"]["units"],
        gradient_norm=_number(found["gradient_norm"]),
        gradient_ratio=None if ratio is None else 10 ** _number(ratio),
        memory=_number(found["feature_of_input"]) * max(1 - _number(found["stochastic"]) ** 2 / 2, 0.0),
        alike=_number(found["feature_cosine"]),
        steps=Steps(
            losses=tuple(map(_number, row["losses"][:STEPS])),
            gradient_norms=tuple(map(_number, row["gradient_norms"][:STEPS])),
            moved=_number(row["moved"]),
            apart=tuple(map(_number, row["apart"])),
            agreement=tuple(map(_number, row["agreement"])),
        ),
    )


def _plain_number(value: Any) -> Any:
    """As it was before it was written: a tuple, or a number that is not finite."""
    if isinstance(value, list):
        return tuple(map(_plain_number, value))
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def _number(value: float | str) -> float:
    return float(value)
