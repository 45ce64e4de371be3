"""How long Table 1 and the first column of Table 2 take at the paper's depth, scale quick: a user's own command.

    python -m benchmarks.table_time

In a process and a folder of its own, once: what is tried and asked before the runs counts, and so do the tables. The
learning rate is that of the deeper choice in docs/quick-scale.md. A run that diverges is short; how many do is said.
"""

import json
import subprocess
import sys
import tempfile
import time

from benchmarks.figures import Figure, number, tell

COMMAND = (
    *("reproduce", "table1", "table2", "--scale", "quick", "--columns", "first", "--seeds", "1", "--json"),
    *("--set", "network.depth=110", "--set", "training.lr=0.02"),
)


def measure() -> list[Figure]:
    """One figure."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        words = [sys.executable, "-m", "cleanpath", *COMMAND, "--runs", folder]
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True, encoding="utf-8")
        minutes = (time.monotonic() - began) / 60
    rows = [row for table in json.loads(done.stdout)["tables"] for row in table["rows"]]
    ends = [seed["status"] for row in rows for seed in row["seeds"] if seed["run"]]
    more = f"{len(ends)} runs, {ends.count('diverged')} of them diverged; `cleanpath {' '.join(COMMAND)}`"
    assert {*ends} <= {"finished", "diverged"}, ends
    return [number("Table 1 and the first column of Table 2 at depth 110", [minutes], "tables", more=more)]


if __name__ == "__main__":
    tell(measure, __doc__)
