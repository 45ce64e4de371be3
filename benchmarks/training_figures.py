"""What a record of `training_speed` says of what is claimed. Never imports torch."""

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import Figure, number
from benchmarks.targets import TARGETS

PLAIN, FUSED, RECOMPUTED = "eager NCHW", "fused", "fused, recompute"


def figures(record: Mapping[str, Any]) -> list[Figure]:
    """Of one network; of one on which nothing is claimed, none."""
    name = record["network"]
    depth = name.removeprefix("preresnet")
    if f"train-{depth}" not in TARGETS:
        return []
    rows = {row["way"]: row for row in record["rows"]}

    def times(way: str, other: str) -> list[float]:
        return [a / b for a, b in zip(rows[way]["seconds"], rows[other]["seconds"], strict=True)]

    def shares(way: str) -> list[float]:
        return [a / b for a, b in zip(rows[way]["memories"], rows[PLAIN]["memories"], strict=True)]

    again = f"{name}, units computed again"
    return [
        number(f"training of {name}, beside the plain network", times(PLAIN, FUSED), f"train-{depth}"),
        number(f"{name}, memory above the import", shares(FUSED), f"memory-{depth}"),
        number(f"{again}, memory above the import", shares(RECOMPUTED), f"recompute-{depth}"),
        number(f"{again}, beside the plain network", times(RECOMPUTED, PLAIN), f"recompute-time-{depth}"),
        number(f"{again}, beside our own step without", times(RECOMPUTED, FUSED), f"recompute-step-{depth}"),
    ]
