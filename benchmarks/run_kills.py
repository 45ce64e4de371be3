"""Kills of a training run at random instants: SIGKILL, SIGTERM, SIGINT or SIGUSR1, then the same command again.

    python -m benchmarks.run_kills --kills 100    appends a line to results/run-kills.jsonl

The run is short and saved twice a second, so that kills also hit the writing of checkpoints. It is killed until it has
ended, and begun anew until so many kills are done; each ended run is compared with one that was left alone: metrics
(but for the clock), weights and result, bit for bit.
"""

import argparse
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.recorded import FOLDER
from cleanpath.records import Run

RESULTS = FOLDER / "run-kills.jsonl"
WORDS = ("train", "preresnet8", "--threads", "1", "--save-every", "0.5", "--set", "training.iterations=6000")
MORE = ("--set", "network.width=4", "--set", "training.average=0.99", "--set", "network.shortcut.kind=dropout")
LAST = ("--set", "network.shortcut.rate=0.1")
LONGEST = 14.0
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def main() -> None:
    """Kill, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    # What a shell starts in the background is deaf to Ctrl-C, and so would be what we start; a terminal's is not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    choose = random.Random(asked.seed)  # noqa: S311
    killed, ended, wrong = Counter[str](), 0, list[str]()
    with tempfile.TemporaryDirectory() as place:
        whole, hunted = Path(place) / "whole", Path(place) / "hunted"
        _command(whole).wait()
        while sum(killed.values()) < asked.kills:
            process = _command(hunted)
            number = choose.choice(SIGNALS)
            try:
                process.wait(choose.uniform(1.0, LONGEST))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                killed[number.name] += 1
                _, said = process.communicate()
                expected = -number if number == signal.SIGKILL else 128 + number
                if process.returncode not in {expected, -number}:
                    wrong.append(f"{number.name}: exit {process.returncode}: {said[-200:]}")
            if Run(hunted).result is not None:
                ended += 1
                if _told(hunted) != _told(whole):
                    wrong.append(f"after {sum(killed.values())} kills the run differs")
                shutil.rmtree(hunted)
    line: dict[str, Any] = {"kills": dict(killed), "runs ended": ended, "wrong": wrong, "seed": asked.seed}
    line |= {"command": " ".join(["cleanpath", *WORDS, *MORE, *LAST]), "torch": torch.__version__}
    line |= {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line))
    sys.exit(bool(wrong))


def _command(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "cleanpath", *WORDS, *MORE, *LAST, "--out", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")


def _told(folder: Path) -> tuple[Any, ...]:
    run = Run(folder)
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]
    result = {k: v for k, v in (run.result or {}).items() if k not in {"seconds", "peak_memory"}}
    return metrics, result, run.weights.read_bytes()


if __name__ == "__main__":
    main()
