"""A thousand layers within 6 GB: networks trained for some iterations under a limit that is set from outside.

    CLEANPATH_DATA=DIR python -m benchmarks.thousand_layers    appends lines to results/thousand-layers.jsonl

DIR holds CIFAR-10 (`cifar-10-batches-bin`). Each network is one `cleanpath train … --set training.memory=recompute` at
a batch of 128, in a control group of 6 GB where one can be made (as root on Linux), else under a limit on its data; a
process that needs more is killed. Recorded: the peak that the system saw, seconds per step, and every loss.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.recorded import FOLDER
from cleanpath.records import Run

RESULTS = FOLDER / "thousand-layers.jsonl"
LIMIT = 6_000_000_000
NETWORKS = ("resnet1001", "preresnet1001", "resnet1202")
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def main() -> None:
    """Train each, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", default="CIFAR-10", help="what the images are, for the record")
    asked = parser.parse_args()
    for network in asked.networks:
        with tempfile.TemporaryDirectory() as name:
            line = _trained(network, Path(name) / "run", asked.iterations, asked.threads)
        line |= {"images": asked.images, "date": time.strftime("%Y-%m-%d")}
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line))


def _trained(network: str, folder: Path, iterations: int, threads: int) -> dict[str, Any]:
    words = ["train", network, "--data", "cifar10", "--threads", str(threads), "--out", str(folder)]
    for setting in ("memory=recompute", "batch_size=128", "lr=0.1", "warmup=400", "lr_drops="):
        words += ["--set", f"training.{setting}"]
    # The run is longer than what is measured: it is stopped by a signal, without the test of all images. Up to 2,000
    # iterations have a line each in its metrics.
    words += ["--set", "training.iterations=2000"]
    group, enter, said = _limited()
    process = subprocess.Popen([sys.executable, "-m", "cleanpath", *words], preexec_fn=enter)  # noqa: PLW1509
    while process.poll() is None and _measured(folder) < iterations:
        time.sleep(0.2)
    process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    lines = [line for line in Run(folder).metrics() if "loss" in line]
    took = [later["seconds"] - sooner["seconds"] for sooner, later in pairwise(lines)]
    found = {
        "network": network,
        "command": " ".join(["cleanpath", *words]).replace(str(folder), "RUN"),
        "limit": LIMIT,
        "limited by": said,
        "peak": usage.ru_maxrss * 1024,
        "exit": os.waitstatus_to_exitcode(status),
        "iterations": len(lines),
        "seconds per step": statistics.median(took) if took else None,
        "losses": [line["loss"] for line in lines],
        "gradient norms": [line["gradient_norm"] for line in lines],
        "environment": Run(folder).environment,
    }
    if group is not None:
        group.rmdir()
    return found


def _measured(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _limited() -> tuple[Path | None, Callable[[], None], str]:
    """A control group of the limit, how a child enters it, and what the limit is."""
    for root, file in ((_V1, "memory.limit_in_bytes"), (_V2, "memory.max")):
        group = root / f"cleanpath-{os.getpid()}"
        try:
            group.mkdir()
            (group / file).write_text(str(LIMIT), encoding="ascii")
        except OSError:
            continue
        return group, partial(_enter, group), "a control group"
    return None, partial(resource.setrlimit, resource.RLIMIT_DATA, (LIMIT, LIMIT)), "RLIMIT_DATA"


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


if __name__ == "__main__":
    main()
