"""One epoch of preresnet20 on CIFAR-10, by one process and by two that share it.

    CLEANPATH_DATA=DIR python -m benchmarks.two_processes    writes results/two-processes.json

DIR holds CIFAR-10 (`cifar-10-batches-bin`). Both sides in alternation, at the same global batch of 128 with BN over 64
images: one process with two threads, one with one, two with one each. Recorded: images per second, errors, losses.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER
from cleanpath.assemble import environment
from cleanpath.records import Run

RESULTS = FOLDER / "two-processes.json"
WORDS = ("train", "preresnet20", "--data", "cifar10", "--set", "training.epochs=1", "--set", "training.bn_group=64")
WORDS += ("--set", "training.batch_size=128")
SIDES = {"1 process, 2 threads": (1, 2), "1 process, 1 thread": (1, 1), "2 processes, 1 thread each": (2, 1)}
FIRST = 100


def main() -> None:
    """Train all sides, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--images", default="JPEG copies of CIFAR-10", help="what the images are, for the record")
    asked = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(asked.turns):
        for side in list(SIDES)[:: 1 if turn % 2 else -1]:
            found[side].append(_run(*SIDES[side]))
            print(side, found[side][-1]["error"], round(found[side][-1]["images per second"]), file=sys.stderr)
    rows = {}
    for side, runs in found.items():
        speeds = [run.pop("images per second") for run in runs]
        rows[side] = {**runs[0], "images per second": statistics.median(speeds), "of each turn": speeds}
    alone, shared = (rows[side]["losses"] for side in ("1 process, 1 thread", "2 processes, 1 thread each"))
    apart = [abs(a - b) for a, b in zip(alone, shared, strict=True)]
    data = {
        "command": " ".join(["cleanpath", *WORDS]),
        "images": asked.images,
        "sides": {side: {k: v for k, v in row.items() if k != "losses"} for side, row in rows.items()},
        "loss apart, iteration 1": apart[0],
        f"loss apart, most in {FIRST} iterations": max(apart[:FIRST]),
        "loss apart, median": statistics.median(apart),
        "environment": environment(1),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(data, indent=1))


def _run(processes: int, threads: int) -> dict[str, Any]:
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        words = ["cleanpath", *WORDS, "--threads", str(threads), "--out", str(folder)]
        command = [sys.executable, "-m", *(torchrun if processes > 1 else []), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines, result = [*Run(folder).metrics()], Run(folder).result or {}
    losses = [line for line in lines if "loss" in line]
    seconds = losses[-1]["seconds"] - losses[0]["seconds"]
    return {
        "error": result["error"],
        "train_loss": result["train_loss"],
        "losses": [line["loss"] for line in losses],
        "images per second": 128 * (len(losses) - 1) / seconds,
    }


if __name__ == "__main__":
    main()
