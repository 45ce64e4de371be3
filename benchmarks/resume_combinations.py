"""Every combination of optimizer, schedule, what else a recipe may have, and loaders: killed, resumed, compared.

    python -m benchmarks.resume_combinations    appends a line to results/resume-combinations.jsonl

Each combination trains once undisturbed and once under SIGKILL at random instants of wall-clock time, so that kills
also hit tests and the writing of checkpoints, until it has ended; metrics but for the clock, weights and result must
be the same bits. A run is a process of its own, forked from a server that has torch loaded.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER
from cleanpath import settings
from cleanpath.assemble import environment
from cleanpath.experiment import Experiment, Training
from cleanpath.nn import catalog
from cleanpath.records import Run

RESULTS = FOLDER / "resume-combinations.jsonl"
OPTIMIZERS: Sequence[tuple[str, ...]] = (
    ("training.nesterov=true",),
    ("training.optimizer=caffe_sgd",),
    ("training.optimizer=adamw", "training.lr=0.002"),
)
SCHEDULES: Sequence[tuple[str, ...]] = (
    ("training.warmup=5",),
    ("training.schedule=cosine", "training.warmup=5", "training.warmup_shape=linear"),
)
EXTRAS: Sequence[tuple[str, ...]] = (
    (),
    ("training.average=0.9",),
    ("training.accumulation=4", "training.bn_group=4"),
    ("training.mixup=0.3", "training.label_smoothing=0.1", "training.class_weights=balanced"),
    ("network.shortcut.kind=dropout", "network.shortcut.rate=0.2"),
    ("training.bn_images=200", "training.average=0.8"),
    ("training.accumulation=2", "training.average=0.95", "network.shortcut.kind=dropout", "network.shortcut.rate=0.1"),
    ("network.placement=original", "network.branch=bottleneck", "network.depth=11", "training.decay_on=weights"),
)
LOADERS = (0, 2)
ITERATIONS, KILLS = 150, 3
SECONDS_BETWEEN = 0.1


def main() -> None:
    """Train, kill, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    choose = random.Random(parser.parse_args().seed)  # noqa: S311
    combinations = list(itertools.product(OPTIMIZERS, SCHEDULES, EXTRAS, LOADERS))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cleanpath.assemble"])
    killed, wrong = 0, list[str]()
    with tempfile.TemporaryDirectory() as place:
        for number, (*changes, loaders) in enumerate(combinations):
            words = [word for change in changes for word in change]
            whole, hunted = Path(place) / "whole", Path(place) / "hunted"
            began = time.monotonic()
            _wait(_start(context, whole, words, loaders))
            length = time.monotonic() - began
            for _ in range(KILLS):
                process = _start(context, hunted, words, loaders)
                process.join(choose.uniform(0.1, 1.0) * length)
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
                    killed += 1
            _wait(_start(context, hunted, words, loaders))
            if _told(whole) != _told(hunted):
                wrong.append(" ".join([*words, f"loaders={loaders}"]))
            shutil.rmtree(whole)
            shutil.rmtree(hunted)
            print(f"{number + 1}/{len(combinations)}, {killed} kills, {len(wrong)} wrong", file=sys.stderr)
    line: dict[str, Any] = {"combinations": len(combinations), "kills": killed, "wrong": wrong}
    line |= {"iterations": ITERATIONS, "environment": environment(1), "date": time.strftime("%Y-%m-%d")}
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    print(json.dumps(line))
    sys.exit(bool(wrong))


def _start(context: Any, folder: Path, words: Sequence[str], loaders: int) -> Any:
    process = context.Process(target=_train, args=(folder, words, loaders))
    process.start()
    return process


def _wait(process: Any) -> None:
    process.join()
    if process.exitcode:
        sys.exit(f"a run ended with {process.exitcode}")


def _train(folder: Path, words: Sequence[str], loaders: int) -> None:
    from cleanpath import assemble

    network = catalog.network("preresnet8", in_channels=1, width=4)
    training = Training(iterations=ITERATIONS, batch_size=32, lr=0.05)
    experiment = settings.override(Experiment(network=network, training=training), words)
    assemble.run(experiment, folder, threads=1, loaders=loaders, seconds_between=SECONDS_BETWEEN)


def _told(folder: Path) -> tuple[Any, ...]:
    run = Run(folder)
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]
    result = {k: v for k, v in (run.result or {}).items() if k not in {"seconds", "peak_memory"}}
    return metrics, result, run.weights.read_bytes()


if __name__ == "__main__":
    main()
