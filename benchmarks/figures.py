"""A figure of speed or memory: both sides in alternation, the median of the ratios of neighbours, and their spread."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.measuring import seconds
from cleanpath.machine import processor


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How many times ours is as good as the other side, or a number that stands alone."""

    what: str
    value: float
    low: float
    high: float
    n: int
    unit: str = "times"
    at_least: float | None = None
    """What was aimed at for the claim: a ratio is to be at least this, a share or a time at most."""
    more: str = ""
    """What each side took, and how it was measured."""

    @property
    def reached(self) -> bool | None:
        """Whether the claim holds; None where nothing is claimed."""
        if self.at_least is None:
            return None
        return self.value >= self.at_least if self.unit == "times" else self.value <= self.at_least

    def line(self) -> str:
        """On a line."""
        claim = "" if self.at_least is None else f", wanted {self.at_least:g}: {'yes' if self.reached else 'NO'}"
        spread = f" ({self.low:.3g} to {self.high:.3g}, n = {self.n})"
        return f"{self.what}: {self.value:.3g} {self.unit}{spread}{claim}{f'; {self.more}' if self.more else ''}"


def alternated(sides: Mapping[str, Callable[[], object]], rounds: int, *, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each side, round by round: the first `warm` are not counted, every other one goes the other way."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm):
        names = list(sides) if number % 2 else list(reversed(sides))
        for name in names:
            found = seconds(sides[name])
            if number >= warm:
                took[name].append(found)
    return took


def ratio(what: str, ours: Sequence[float], other: Sequence[float], at_least: float | None = None) -> Figure:
    """How many times as fast: the other's seconds over ours, neighbour by neighbour."""
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    return number(
        what, ratios, at_least, more=f"{_time(statistics.median(ours))} against {_time(statistics.median(other))}"
    )


def number(
    what: str, found: Sequence[float], at_least: float | None = None, *, unit: str = "times", more: str = ""
) -> Figure:
    """The median of some numbers."""
    return Figure(
        what=what,
        value=statistics.median(found),
        low=min(found),
        high=max(found),
        n=len(found),
        unit=unit,
        at_least=at_least,
        more=more,
    )


def tell(measure: Callable[[], Sequence[Figure]], about: str | None) -> None:
    """The main function of a script: print the figures in lines, or with `--json` as data."""
    import torch

    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    found = measure()
    where = {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    if as_json:
        print(
            json.dumps(
                {"machine": where, "figures": [{**asdict(one), "reached": one.reached} for one in found]},
                ensure_ascii=False,
            )
        )
        return
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    for one in found:
        print(one.line())


def _cores() -> int:
    from cleanpath.grid.local import cores

    return cores()


def _time(taken: float) -> str:
    return f"{taken:.2f} s" if taken >= 1 else f"{1000 * taken:.3g} ms"
