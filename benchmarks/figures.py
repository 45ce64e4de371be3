"""A figure of speed or memory: both sides in alternation, the median of the ratios of neighbours, and their spread."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER
from benchmarks.targets import TARGETS
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
    target: str | None = None
    """What is claimed of it: a key of `TARGETS`."""
    more: str = ""
    """What each side took, and how it was measured."""

    def line(self) -> str:
        """On a line."""
        claim = ""
        if self.target is not None:
            target = TARGETS[self.target]
            claim = f", wanted {target.wanted:g}: {'yes' if target.met(self.value) else 'NO'}"
        spread = f" ({self.low:.3g} to {self.high:.3g}, n = {self.n})"
        return f"{self.what}: {self.value:.3g} {self.unit}{spread}{claim}{f'; {self.more}' if self.more else ''}"


def alternated(sides: Mapping[str, Callable[[], object]], rounds: int, *, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each side, round by round: the first `warm` are not counted, every other one goes the other way."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + warm):
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            began = time.perf_counter()
            sides[name]()
            if number >= warm:
                took[name].append(time.perf_counter() - began)
    return took


def ratio(what: str, ours: Sequence[float], other: Sequence[float], target: str | None = None) -> Figure:
    """How many times as fast: the other's seconds over ours, neighbour by neighbour."""
    ratios = [b / a for a, b in zip(ours, other, strict=True)]
    return number(
        what, ratios, target, more=f"{_time(statistics.median(ours))} against {_time(statistics.median(other))}"
    )


def number(
    what: str, found: Sequence[float], target: str | None = None, *, unit: str | None = None, more: str = ""
) -> Figure:
    """The median of some numbers, in the target's unit if none is given."""
    return Figure(
        what=what,
        value=statistics.median(found),
        low=min(found),
        high=max(found),
        n=len(found),
        unit=unit or ("times" if target is None else TARGETS[target].unit),
        target=target,
        more=more,
    )


def tell(measure: Callable[[], Sequence[Figure]], about: str | None) -> None:
    """The main function of a script: print the figures in lines, or with `--json` as data."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    show(measure(), as_json=as_json)


def show(figures: Sequence[Figure], *, as_json: bool) -> None:
    """Print figures in lines, below the command and the machine, or as data."""
    if as_json:
        print(json.dumps({"machine": surroundings(), "figures": [asdict(one) for one in figures]}, ensure_ascii=False))
        return
    print("python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:])
    print(", ".join(f"{key} {value}" for key, value in surroundings().items()))
    for one in figures:
        print(one.line())


def keep(name: str, threads: int, found: Mapping[str, Any]) -> None:
    """Write what was found to results/NAME.json, with the machine and the day."""
    where = {"machine": {**surroundings(), "threads": threads}, "date": time.strftime("%Y-%m-%d")}
    text = json.dumps({**found, **where}, indent=1, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def surroundings() -> dict[str, Any]:
    """What a figure was measured on."""
    import torch

    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _cores() -> int:
    from cleanpath.grid.local import cores

    return cores()


def _time(taken: float) -> str:
    return f"{taken:.2f} s" if taken >= 1 else f"{1000 * taken:.3g} ms"
