"""A real run that is killed again and again and goes on: SIGKILL at random instants, then the same command.

    CLEANPATH_DATA=DIR python -m benchmarks.killed_run preresnet20 --epochs 20 --kills 5

DIR holds CIFAR-10 (`cifar-10-batches-bin`). Appends a line to results/cifar10.jsonl: the errors, when it was killed,
and from which iteration it went on.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.recorded import FOLDER
from cleanpath.records import Run

RESULTS = FOLDER / "cifar10.jsonl"
FIRST, LAST = 20.0, 240.0
"""Seconds of a try until it is killed."""


def main() -> None:
    """Train, kill, go on, until the run has ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the run")
    parser.add_argument("--out", type=Path, default=Path("runs/killed"))
    parser.add_argument("--images", default="CIFAR-10", help="what the images are, for the record")
    asked = parser.parse_args()
    settings = ("--set", f"training.epochs={asked.epochs}", "--set", "training.warmup=400")
    words = [
        sys.executable,
        "-m",
        "cleanpath",
        "train",
        asked.network,
        "--data",
        "cifar10",
        "--threads",
        "1",
        *settings,
    ]
    words += ["--seed", str(asked.seed), "--out", str(asked.out)]
    instants, tries = random.Random(asked.seed), list[dict[str, float | int]]()  # noqa: S311
    said = ""
    while True:
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, encoding="utf-8")
        if len(tries) < asked.kills:
            after = instants.uniform(FIRST, LAST)
            time.sleep(after)
            os.kill(process.pid, signal.SIGKILL)
        _, said = process.communicate()
        found = re.search(r"going on after iteration (\d+)", said)
        tries.append({"began after": int(found[1]) if found else 0})
        if process.returncode != -signal.SIGKILL:
            break
        tries[-1]["killed after seconds"] = round(after, 1)
    run = Run(asked.out)
    if run.result is None:
        sys.exit(f"the run ended with {process.returncode}: {said[-500:]}")
    line = {"network": asked.network, "images": asked.images, "epochs": asked.epochs, "seed": asked.seed}
    line |= {"tries": tries, "command": " ".join(["cleanpath", *words[3:]]), "environment": run.environment}
    line |= {"result": run.result}
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(json.dumps(line["result"]))


if __name__ == "__main__":
    main()
