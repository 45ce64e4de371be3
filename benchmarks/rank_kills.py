"""Kills of the processes of a shared run at random instants: a rank, the other, or torchrun itself; then again.

    python -m benchmarks.rank_kills --kills 50    appends a line to results/rank-kills.jsonl

Two processes train; torchrun starts a killed try anew by itself, and where torchrun was killed the same command is
given again. Recorded: how long the survivors of each kill lived, whether they said why they end, and whether every run
that ended is, bit for bit, the one that was left alone: metrics (but for the clock), weights and result.
"""

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.recorded import FOLDER
from cleanpath.assemble import environment
from cleanpath.records import Run

RESULTS = FOLDER / "rank-kills.jsonl"
WORDS = ("train", "preresnet8", "--threads", "1", "--save-every", "0.5", "--set", "training.iterations=3000")
MORE = ("--set", "network.width=8", "--set", "training.bn_group=32", "--set", "training.batch_size=64")
LAST = ("--set", "network.shortcut.kind=dropout", "--set", "network.shortcut.rate=0.1")
VICTIMS = ("rank 0", "rank 1", "torchrun")
FIRST, LONGEST = 0.5, 14.0
"""Seconds from one kill to the next; half of them are the start of the processes."""
SOON, NEVER = 5.0, 120.0
"""Seconds: survivors of a killed rank that live longer are counted as wrong; after the second nobody waits."""
SAID = ("is gone", "go on with: ")
"""What survivors say: of a rank or of torchrun; or, where it is torchrun that asks them to stop, how to go on."""


def main() -> None:
    """Kill, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=60.0, help="after which what was done is recorded")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    choose = random.Random(asked.seed)  # noqa: S311
    deadline = time.monotonic() + 60 * asked.minutes
    lived, silent, ended, wrong = defaultdict[str, list[float]](list), dict.fromkeys(VICTIMS, 0), 0, list[str]()
    with tempfile.TemporaryDirectory() as place:
        whole, hunted = Path(place) / "whole", Path(place) / "hunted"
        told = Path(place) / "stderr"
        _command(whole, told).wait()
        while sum(map(len, lived.values())) < asked.kills and time.monotonic() < deadline:
            process = _command(hunted, told)
            while process.poll() is None and sum(map(len, lived.values())) < asked.kills:
                time.sleep(choose.uniform(FIRST, LONGEST))
                workers = _workers(process)
                if len(workers) < 2:
                    continue
                victim, before = choose.choice(VICTIMS), told.stat().st_size
                took = _kill(victim, process, workers)
                lived[victim].append(took)
                said = told.read_bytes()[before:].decode()
                sentences = [line for line in said.splitlines() if any(words in line for words in SAID)]
                silent[victim] += not sentences
                print(victim, round(took, 2), sentences[:1], file=sys.stderr, flush=True)
                if took > (SOON if victim != "torchrun" else NEVER):
                    wrong.append(f"survivors of {victim} lived {took:.1f} s")
            process.wait()
            if Run(hunted).result is None and sum(map(len, lived.values())) >= asked.kills:
                _command(hunted, told).wait()  # the last one is left alone to its end
            if Run(hunted).result is not None:
                ended += 1
                if _told(hunted) != _told(whole):
                    wrong.append(f"after {sum(map(len, lived.values()))} kills the run differs")
                shutil.rmtree(hunted)
        if not ended:
            wrong.append("no run ended")
    line: dict[str, Any] = {
        "kills": {name: len(each) for name, each in lived.items()},
        "survivors lived, median": {name: round(statistics.median(each), 2) for name, each in lived.items()},
        "survivors lived, most": {name: round(max(each), 2) for name, each in lived.items()},
        "without a sentence": silent,
        "runs ended": ended,
        "wrong": wrong,
        "seed": asked.seed,
        "command": " ".join(["torchrun --nproc-per-node=2 -m cleanpath", *WORDS, *MORE, *LAST]),
        "environment": environment(1, 2),
        "date": time.strftime("%Y-%m-%d"),
    }
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line))
    sys.exit(bool(wrong))


def _command(folder: Path, told: Path) -> subprocess.Popen[bytes]:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=100"]
    words = [sys.executable, "-m", *torchrun, "-m", "cleanpath", *WORDS, *MORE, *LAST, "--out", str(folder)]
    with told.open("ab") as out:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=out)


def _workers(process: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    found = {}
    try:
        for child in psutil.Process(process.pid).children():
            found[f"rank {child.environ()['RANK']}"] = child
    except (psutil.Error, KeyError):
        return {}
    return found


def _kill(victim: str, process: subprocess.Popen[bytes], workers: dict[str, psutil.Process]) -> float:
    """Seconds that what was left lived on."""
    one = workers.pop(victim, None)
    if one is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    else:
        one.kill()
    began = time.monotonic()
    while any(lives(each) for each in workers.values()) and time.monotonic() - began < NEVER:
        time.sleep(0.01)
    return time.monotonic() - began


def lives(process: psutil.Process) -> bool:
    """Whether it still does something; one that ended and waits to be noticed does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _told(folder: Path) -> tuple[Any, ...]:
    run = Run(folder)
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]
    result = {k: v for k, v in (run.result or {}).items() if k not in {"seconds", "peak_memory"}}
    return metrics, result, run.weights.read_bytes()


if __name__ == "__main__":
    main()
