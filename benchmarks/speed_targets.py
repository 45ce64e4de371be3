"""What is claimed of speed and memory beside what was recorded, as Markdown. Never imports torch.

python -m benchmarks.speed_targets
"""

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.recorded import Row, lines, numbered, on, read, table
from benchmarks.sweep_summary import RESULTS, load
from benchmarks.targets import TARGETS, Target
from benchmarks.training_figures import figures

HEAD = ("what", "wanted", "aim", "measured (least to most)", "n", "on", "`python -m benchmarks.`", "")
_GPU_PLAIN = "plain, eager, fp32"


@dataclass(frozen=True)
class Measured:
    """A figure with its spread, what it is of, and the script that measures it."""

    value: float
    low: float
    high: float
    n: int
    where: str
    script: str
    more: str = ""
    each: str = "rounds"
    """What the spread is of."""

    def row(self, target: Target, places: list[str]) -> Row:
        """In the table."""
        spread = f" ({self.low:.3g} to {self.high:.3g})" if self.low < self.high else ""
        met = "met, and the aim" if target.aim_met(self.value) else "met" if target.met(self.value) else "**MISSED**"
        if target.met(self.low) != target.met(self.high):
            met += f", but not in all {self.each}"
        at = f"[{places.index(self.where) + 1}]"
        return f"{self.value:.3g} {target.unit}{spread}{self.more}", self.n, at, f"`{self.script}`", met


def main() -> None:
    """Print the table."""
    found = measured()
    places, told = numbered(found[key].where for key in TARGETS if key in found)
    rows = list[Row]()
    for key, target in TARGETS.items():
        head = target.what, f"{target.wanted:g}", "–" if target.aim is None else f"{target.aim:g}"
        rows.append((*head, *(found[key].row(target, places) if key in found else ("**not measured**", *"––––"))))
    missed = sum(not target.met(found[key].value) for key, target in TARGETS.items() if key in found)
    unknown = sum(key not in found for key in TARGETS)
    counts = f"{len(TARGETS) - missed - unknown} of {len(TARGETS)} met, {missed} missed, {unknown} not measured"
    print(f"{told}.\n\n{table(HEAD, rows, numbers=(1, 2, 4))}\n{counts}.")


def measured() -> dict[str, Measured]:
    """By target, from all records; what a script of `make bench` recorded itself counts before the bench's own file."""
    return {**_of_bench(), **_of_training(), **_of_sweep(), **_of_gpu()}


def _of_bench() -> dict[str, Measured]:
    """Of several figures for one target the worst one counts."""
    found: dict[str, Measured] = {}
    for script, one in read("bench").items():
        for row in one["figures"]:
            key = row["target"]
            if key is None or (key in found and not _worse(TARGETS[key], row["value"], found[key].value)):
                continue
            each = "networks" if script == "audit_cost" else "rounds"
            found[key] = Measured(row["value"], row["low"], row["high"], row["n"], on(one), script, each=each)
    return found


def _worse(target: Target, one: float, other: float) -> bool:
    return one < other if target.unit == "times" else one > other


def _of_training() -> dict[str, Measured]:
    newest = {one["network"]: one for one in lines("training-speed")}
    return {
        each.target: Measured(each.value, each.low, each.high, each.n, on(one), "training_speed")
        for one in newest.values()
        for each in figures(one)
        if each.target is not None
    }


def _of_sweep() -> dict[str, Measured]:
    swept = load(RESULTS)
    ratios = [row["ratio"] for row in swept.rows if row.get("ratio")]
    if not ratios:
        return {}
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"audit": Measured(middle, low, high, len(ratios), swept.machine, "audit_sweep", ", quartiles", "networks")}


def _of_gpu() -> dict[str, Measured]:
    """The fastest way of each network, and the share of the bandwidth that the fastest with counted bytes takes."""
    newest = {one["network"]: one for one in lines("gpu-training") if "copy" in one}
    found: dict[str, Measured] = {}
    for name, one in newest.items():
        key = f"gpu-{name.removeprefix('preresnet')}"
        if key in TARGETS:
            ours = [row for row in one["rows"] if "plain" not in row["way"]]
            best = max(ours, key=_times)
            # The bytes are those of operations that are not fused, on numbers of four bytes.
            counted = max((row for row in ours if "32" in row["way"] and "compiled" not in row["way"]), key=_times)
            share = f"{100 * counted['share of the bandwidth']:.0f}% of the bandwidth"
            hours = f"{best['hours of 64,000 iterations']:.2f} h for 64,000 iterations"
            more = f"; {best['way'].removeprefix('cleanpath, ')}: {hours}; {counted['way'].split(', ')[1]}: {share}"
            plain = best["images_per_second"] / _times(best)
            low, high = (each / plain for each in sorted(best["spread"]))
            told = f", quartiles of the steps of one process{more}"
            found[key] = Measured(_times(best), low, high, 1, on(one), "gpu_training", told, "steps")
    return found


def _times(row: dict[str, Any]) -> float:
    return float(row["times the plain one"])


if __name__ == "__main__":
    main()
