"""What an audit costs: its time and its peak memory over those of one training step on the same batch.

    python -m benchmarks.audit_cost                           rewrites results/audit-cost.json
    python -m benchmarks.audit_cost timm:resnet18 hf:bert     some, and writes nothing

One thread, step and audit in turn. A step is forward and backward from the squares of the outputs. Memory is the peak
of resident memory beyond the network, each in a process of its own. `make bench` has fewer rounds and no memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.figures import Figure, keep, number, show
from benchmarks.measuring import peak, seconds, training_step
from cleanpath import audit
from cleanpath.targets import Target, resolve

TARGETS = (
    "timm:resnet18",
    "timm:resnet50",
    "timm:mobilenetv3_small_100",
    "timm:efficientnet_b0",
    "timm:regnety_002",
    "timm:convnext_atto",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "hf:bert",
    "hf:gpt2",
    "hf:llama",
    "hf:t5",
    "hf:vit",
    "hf:wav2vec2",
    "preresnet56",
    "preresnet110",
)
WAYS: dict[str, Callable[[nn.Module, Any], object]] = {"step": training_step, "audit": audit}
ROUNDS, FEW = 5, 3


def main() -> None:
    """Measure each network; print, and write or give the figure of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what other libraries have to say
    if asked.peak:
        print(json.dumps(peak_of(resolve(asked.targets[0]), asked.peak)))
        return
    rows = list[dict[str, Any]]()
    for name in asked.targets:
        row = {"network": name, **cost(resolve(name), FEW if asked.json else ROUNDS)}
        if not asked.json:
            row["memory"] = {way: _peak_elsewhere(name, way) for way in WAYS}
            print(json.dumps(row), flush=True)
        rows.append(row)
    if not asked.json and asked.targets == TARGETS:
        keep("audit-cost", 1, {"rows": rows})
    show([figure(rows)], as_json=asked.json)


def cost(target: Target, rounds: int) -> dict[str, list[float]]:
    """Seconds of steps and audits in turn; one of each warms up."""
    taken = [{way: _seconds(target, way) for way in WAYS} for _ in range(rounds + 1)][1:]
    return {way: [one[way] for one in taken] for way in WAYS}


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Each network's median ratio, over all."""
    ratios = [statistics.median(a / b for a, b in zip(row["audit"], row["step"], strict=True)) for row in rows]
    return number(f"an audit of {len(rows)} networks, beside a training step of each", ratios, "audit-few")


def peak_of(target: Target, way: str) -> int:
    """Bytes; meant for a new process."""
    small = resolve("resnet8")
    training_step(small.module, small.arguments)
    WAYS[way](small.module, small.arguments)  # imports and caches
    return peak(target.module, lambda: WAYS[way](target.module, _batch(target)))


def _peak_elsewhere(name: str, way: str) -> int:
    command = [sys.executable, "-m", "benchmarks.audit_cost", name, "--peak", way]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout))


def _seconds(target: Target, way: str) -> float:
    return seconds(lambda: WAYS[way](target.module, _batch(target)))


def _batch(target: Target) -> Any:
    return target.keywords or target.arguments


if __name__ == "__main__":
    main()
