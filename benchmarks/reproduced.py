"""What a reproduction came to, for the repository: its records without weights, and the drawings of its figures.

    cleanpath reproduce all --scale quick --seeds claims
    python -m benchmarks.reproduced runs --scale quick --seeds claims
    python docs/generate.py

Writes results/SCALE.json, which is what `cleanpath reproduce … --json` prints, docs/results/SCALE-FIGURE-N.svg, the
panels of several curves, and docs/results/FIGURE-X.svg, the units that a figure draws. Runs that there are not are
missing.
"""

import argparse
import json
from pathlib import Path

from benchmarks.drawings import standalone
from cleanpath.pages import drawings_of
from cleanpath.report.drawing import unit_drawing
from cleanpath.report.overlays import overlays
from cleanpath.reproduction import reproduction

DRAWINGS = Path("docs/results")


def recorded(scale: str) -> Path:
    """Where the records of a scale stand."""
    return Path(f"results/{scale}.json")


def panel_file(scale: str, table: str, number: int) -> str:
    """The drawing of a panel, counted from 1."""
    return f"{scale}-{table}-{number}.svg"


def unit_file(figure: str, letter: str) -> str:
    """The drawing of a unit."""
    return f"{figure}-{letter}.svg"


def main() -> None:
    """Read the runs, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--seeds", default=None)
    asked = parser.parse_args()
    job = reproduction(["all"], scale=asked.scale, seeds=asked.seeds, all_columns=True, changes=[], root=asked.runs)
    found = job.outcome()
    text = json.dumps(found.to_data(), ensure_ascii=False, separators=(",", ":"))
    # A row of a table in a line, so that a change can be read.
    recorded(asked.scale).write_text(text.replace('{"row":', '\n{"row":') + "\n", encoding="utf-8")
    DRAWINGS.mkdir(exist_ok=True)
    drawings = {
        panel_file(asked.scale, table.name, number): panel.svg
        for table in found.tables
        for number, panel in enumerate(overlays(table), start=1)
    }
    for old in set(DRAWINGS.glob(f"{asked.scale}-*.svg")) - {DRAWINGS / name for name in drawings}:
        old.unlink()
    for figure, panels in drawings_of(job.recipes).items():
        for panel in panels:
            drawn = unit_drawing(panel.unit, key="unit", title=panel.caption, above=panel.above)
            drawings[unit_file(figure, panel.letter)] = drawn
    for name, drawing in drawings.items():
        (DRAWINGS / name).write_text(standalone(drawing), encoding="utf-8")
    print(f"{recorded(asked.scale)} and {len(drawings)} drawings in {DRAWINGS}")


if __name__ == "__main__":
    main()
