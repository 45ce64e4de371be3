"""What the results of the sweep say, as Markdown. Never imports torch.

python -m benchmarks.sweep_summary           counts, cost, and the state before and after
python -m benchmarks.sweep_summary --rows    one row per target
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER

RESULTS = FOLDER / "audit-sweep.jsonl"
LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}
OUTCOMES = ("audited", "unsure", "failed", "not built")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """The rows of a file, in the order of their names, and what they were measured on."""

    rows: list[Row] = field(default_factory=list)
    machine: str = ""


def main() -> None:
    """Print one of the two."""
    results = load(RESULTS)
    print(every(results) if "--rows" in sys.argv[1:] else summary(results))


def load(path: Path) -> Results:
    """The rows of a file; of two for one target the later."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [json.loads(line) for line in lines]
    machine = next((one["machine"] for one in reversed(found) if "machine" in one), "")
    rows = {one["target"]: one for one in found if "target" in one}
    return Results([rows[name] for name in sorted(rows)], machine)


def summary(results: Results) -> str:
    """Counts by library, the cost beside a training step, and the state before and after."""
    parts = (_counts(results.rows), _cost(results), _states(results.rows))
    return "\n\n".join(part for part in parts if part)


def not_exact(rows: Sequence[Row]) -> str:
    """Targets that are not simply audited, each with its reason."""
    lines = [f"- `{row['target']}`: {row['outcome']}: {_why(row)}" for row in rows if row["outcome"] != "audited"]
    return "\n".join(["What is not exact:", "", *lines]) if lines else ""


def every(results: Results) -> str:
    """One row per target: what was found, how sure, and what it cost."""
    head = ("target", "parameters", "units", "identity", "h", "f", "outcome", "audit / step", "why")
    lines = [
        (
            f"`{row['target']}`",
            f"{row['parameters']:,}" if "parameters" in row else "–",
            str(row.get("units", "–")),
            str(row.get("identity", "–")),
            _kinds(row.get("h", {})),
            _kinds(row.get("f", {})),
            row["outcome"],
            _number(row.get("ratio")),
            _why(row),
        )
        for row in results.rows
    ]
    return _table(head, lines, numbers=(1, 2, 3, 7))


def _counts(rows: Sequence[Row]) -> str:
    groups = {name: [row for row in rows if _library(row) == key] for key, name in LIBRARIES.items()}
    lines = [(name, *_tally(group)) for name, group in groups.items() if group]
    return _table(("library", "targets", *OUTCOMES), [*lines, ("all", *_tally(rows))], numbers=range(1, 6))


def _tally(rows: Sequence[Row]) -> tuple[str, ...]:
    met = Counter(row["outcome"] for row in rows)
    return str(len(rows)), *(str(met[outcome]) for outcome in OUTCOMES)


def _cost(results: Results) -> str:
    """Quartiles of both ratios, by library."""
    lines = []
    for key, name in ({**LIBRARIES, "": "all"}).items():
        group = [row for row in results.rows if not key or _library(row) == key]
        for title, field_name in (("time", "ratio"), ("peak memory", "memory_ratio")):
            values = [row[field_name] for row in group if row.get(field_name)]
            if len(values) > 1:
                low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
                numbers = (f"{low:.1f}", f"{middle:.1f}", f"{high:.1f}", f"{max(values):.1f}", str(len(values)))
                lines.append((name, title, *numbers))
    head = ("library", "audit / training step", "lower quartile", "median", "upper quartile", "most", "n")
    return f"{_table(head, lines, numbers=range(2, 7))}\n\nMeasured on {results.machine}." if lines else ""


def _states(rows: Sequence[Row]) -> str:
    compared = [row for row in rows if "state" in row]
    share = f"{sum(map(_undisturbed, compared))} of {len(compared)}"
    lines = [f"State bit for bit as before, also after two audits that were made to fail in the middle: {share}."]
    lines += [f"- `{row['target']}`: {_state(row)}" for row in compared if not _undisturbed(row)]
    return "\n".join(lines) if compared else ""


def _undisturbed(row: Row) -> bool:
    return set(row["state"].values()) == {"same"}


def _state(row: Row) -> str:
    return _cell("; ".join(f"{when}: {what}" for when, what in row["state"].items() if what != "same"))


def _why(row: Row) -> str:
    """The reason for what is not exact or not there."""
    seen = row.get("not_seen", [])
    more = row.get("not_seen_count", 0) - len(seen)
    parts = [row.get("reason", ""), *seen, f"and {more} more" if more > 0 else ""]
    return _cell("; ".join(part for part in parts if part))


def _kinds(counted: Mapping[str, int]) -> str:
    return ", ".join(kind if len(counted) == 1 else f"{kind} {count}" for kind, count in counted.items()) or "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _library(row: Row) -> str:
    return str(row["target"].partition(":")[0])


def _cell(text: str) -> str:
    """Text that neither ends a cell nor becomes markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: Iterable[int]) -> str:
    right = set(numbers)
    rule = ["--:" if place in right else "---" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


if __name__ == "__main__":
    main()
