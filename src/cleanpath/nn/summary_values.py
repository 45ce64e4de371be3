"""What a summary holds; without torch, so that a screen need not load it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class UnitSummary:
    """One unit: its parts in words, its input and output (C, H, W), parameters and multiply-adds per image."""

    name: str
    before: str
    h: str
    branch: str
    f: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A network: parameters, multiply-adds per image, weighted layers on its longest path, and its units."""

    parameters: int
    macs: int
    depth: int
    input: tuple[int, ...]
    units: tuple[UnitSummary, ...]


def to_data(summary: Summary, name: str) -> dict[str, Any]:
    """The summary as plain data: the schema of `cleanpath show NAME --json`."""
    units = [vars(unit) | {"input": list(unit.input), "output": list(unit.output)} for unit in summary.units]
    numbers = {"parameters": summary.parameters, "macs": summary.macs, "depth": summary.depth}
    return {
        "schema": "cleanpath.network",
        "version": 1,
        "name": name,
        **numbers,
        "input": list(summary.input),
        "units": units,
    }
