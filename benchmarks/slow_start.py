"""The first hundred steps of the original and the pre-activation network, from shallow to 1001 layers.

    python -m benchmarks.slow_start            run what results/slow-start.jsonl lacks, one line per run
    python -m benchmarks.slow_start table      print it

Bottleneck networks on the digits at the rate of the paper's warm-up (0.01) and at a tenth of it, on one thread. A line
holds the mean loss of every ten steps and what `cleanpath.monitor` measured on the way. docs/tutorials/slow-start.md
shows it. About 25 minutes.
"""

import json
import math
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cleanpath
from benchmarks.recorded import FOLDER
from cleanpath.assemble import environment
from cleanpath.auditing.profile import plain
from cleanpath.data.images import batch
from cleanpath.data.sources import load
from cleanpath.nn.unit import ResidualUnit

RESULTS = FOLDER / "slow-start.jsonl"
STEPS, EVERY, BATCH = 100, 33, 64
SHALLOW = ("resnet29-bottleneck", "preresnet29-bottleneck", "resnet164", "preresnet164")
DEEP = ("resnet1001", "preresnet1001")
# What the original network gets of the other: f without its ReLU, or a loss that starts at a guess.
VARIANTS = ("ReLU in the branch", "head at zero")
RUNS = [
    *((name, seed, 0.01) for seed in (0, 1, 2) for name in SHALLOW),
    *((name, seed, 0.01) for seed in (0, 1) for name in DEEP),
    *((name, 0, 0.001) for name in (*SHALLOW, *DEEP)),
    *((f"{name}, {variant}", 0, 0.01) for name in ("resnet164", "resnet1001") for variant in VARIANTS),
]


def run(name: str, seed: int, rate: float) -> dict[str, Any]:
    """The first steps of one network."""
    torch.manual_seed(seed)
    images = load(cleanpath.Data())
    model = _built(*name.split(", "))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    began, losses = time.monotonic(), list[float]()
    with cleanpath.monitor(model, every=EVERY) as monitor:
        for iteration in range(1, STEPS + 1):
            chosen, _ = batch(len(images.train.labels), BATCH, seed=seed, iteration=iteration)
            loss = cross_entropy(model(images.train.plain(chosen)), images.train.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    tens = [losses[at : at + 10] for at in range(0, STEPS, 10)]
    return {
        "network": name,
        "seed": seed,
        "rate": rate,
        "units": sum(isinstance(each, ResidualUnit) for each in model.modules()),
        "batch": BATCH,
        "losses": [sum(ten) / len(ten) for ten in tens],
        "measured": {str(step): _measured(profile) for step, profile in monitor.profiles.items()},
        "seconds": round(time.monotonic() - began, 1),
        "environment": environment(torch.get_num_threads()),
    }


def _built(name: str, variant: str = "") -> nn.Module:
    """A network, or a variant of it: Table 2's ReLU-only pre-activation, or all scores 0 at the start."""
    if variant == "ReLU in the branch":
        return cleanpath.build(name, in_channels=1, placement="relu_only_preactivation")
    model = cleanpath.build(name, in_channels=1)
    if variant == "head at zero":
        for parameter in [
            p for module in model.head.modules() if isinstance(module, nn.Linear) for p in module.parameters()
        ]:
            nn.init.zeros_(parameter)
    return model


def _measured(profile: cleanpath.Profile) -> dict[str, float | None]:
    """What the direct path keeps and ReLU cuts off, over the units that keep their shape; the gradient at both ends."""
    units = [unit.measurements for unit in profile.units if not unit.changes_shape]
    return {
        "direct": math.prod(unit.direct_gain or math.nan for unit in units),
        "negative_share": sum(unit.negative_share or 0.0 for unit in units) / len(units),
        "first_gradient": profile.units[0].measurements.gradient_rms,
        "last_gradient": profile.units[-1].measurements.gradient_rms,
        "last_signal": profile.units[-1].measurements.output_rms,
    }


def table(lines: list[str]) -> str:
    """Mean loss of ten steps, and what the direct path keeps at three of them; what is not finite is a dash."""
    head = ("network", "rate", "seed", "loss 1–10", "11–20", "41–50", "91–100", "direct 0", "33", "99")
    rows = [head]
    found = sorted(map(json.loads, lines), key=lambda row: (-row["rate"], row["units"], "," in row["network"]))
    for row in found:
        losses = [_said(row["losses"][at]) for at in (0, 1, 4, 9)]
        direct = [_said(row["measured"][str(step)]["direct"]) for step in (0, 33, 99)]
        rows.append((row["network"], f"{row['rate']:g}", str(row["seed"]), *losses, *direct))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    return f"{row[0]:<{widths[0]}}" + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))


def _said(value: float | str) -> str:
    return "–" if isinstance(value, str) else f"{value:.2g}" if value < 1000 else f"{value:.0e}"


def main() -> None:
    """Run what is missing, or print what there is."""
    torch.set_num_threads(1)
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    if sys.argv[1:] == ["table"]:
        print(table(lines))
        return
    done = {(row["network"], row["seed"], row["rate"]) for row in map(json.loads, lines)}
    for name, seed, rate in RUNS:
        if (name, seed, rate) not in done:
            row = json.dumps(plain(run(name, seed, rate)), allow_nan=False)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(row + "\n")
            print(f"{name} seed {seed} rate {rate}", file=sys.stderr)


if __name__ == "__main__":
    main()
