"""Every combination of precision, compilation, memory, BN's statistics and processes: one step beside the plain one.

    python -m benchmarks.combinations    writes results/combinations.json

Each is one step of training from the same weights on the same images. It is compared with the plain step of the same BN
(one process, fp32, one batch, not compiled, not fused, not clipped, everything kept): the loss before the step, and the
step of all weights together, as ‖step − plain step‖ / ‖plain step‖; and with the plain one of the same precision. What
clipping makes of the plain step is computed: −lr (s g + decay w), s = min(1, clip / ‖g‖).
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.recorded import FOLDER
from cleanpath import networks, settings
from cleanpath.assemble import environment, threads_of_torch
from cleanpath.data.sources import load
from cleanpath.experiment import Experiment, Training
from cleanpath.launched import joined
from cleanpath.nn import catalog
from cleanpath.training.loop import train
from cleanpath.training.progress import Callback
from cleanpath.training.ranks import ALONE, Ranks

RESULTS = FOLDER / "combinations.json"
PRECISIONS, COMPILED, MEMORIES = ("fp32", "bf16"), ("false", "true"), ("plain", "recompute")
CLIP, LR, DECAY = 0.5, 0.05, 0.0001
WAYS: Mapping[str, tuple[str, ...]] = {
    "BN over groups of 8": ("training.bn_group=8",),
    "BN over the batch": (),
    "2 micro-batches, fused, clipped": (
        *("training.accumulation=2", "training.bn_group=8"),
        *("training.fused=true", f"training.clip={CLIP}"),
    ),
}
PLAIN = {way: ("training.bn_group=8",) if "training.bn_group=8" in changes else () for way, changes in WAYS.items()}
"""What each is compared with: two micro-batches of two groups each are a batch of four groups."""
ALLOWED = {"fp32": (1e-5, 1e-3), "bf16": (0.01, 0.5)}
"""Of the loss in nats, and of the step. bf16 has 8 bits of precision, and a gradient is a delicate thing at the start:
noise of 0.001 on the images moves the fp32 step of this network by about a quarter."""
ALLOWED_BESIDE = {"fp32": 1e-3, "bf16": 0.3}
"""Of the step, beside the same precision: a compiled BN, and one over processes, does not round to bf16 midway."""


@dataclass(frozen=True)
class Row:
    """A combination."""

    precision: str
    compile: str
    memory: str
    way: str

    @property
    def changes(self) -> tuple[str, ...]:
        """As settings."""
        own = (f"training.{name}={getattr(self, name)}" for name in ("precision", "compile", "memory"))
        return (*own, *WAYS[self.way])


_TRAINING = Training(
    iterations=1, batch_size=32, lr=LR, lr_drops=(), weight_decay=DECAY, momentum=0.9, decay_on="all", warmup=0
)
ROWS = tuple(itertools.starmap(Row, itertools.product(PRECISIONS, COMPILED, MEMORIES, WAYS)))


def step(changes: Sequence[str], ranks: Ranks = ALONE) -> tuple[float, Tensor, Tensor]:
    """The loss of one step, what it added to all weights, and what they were."""
    network = catalog.network("preresnet20", in_channels=1, width=8)
    experiment = Experiment(network=network, training=_TRAINING)
    experiment = settings.override(experiment, changes)
    with threads_of_torch(1):
        torch.manual_seed(0)
        built = networks.build(experiment.network, seed=0)
        before = _weights(built)
        loss = _Loss()
        train(built, load(experiment.data), experiment.training, seed=0, callbacks=[loss], ranks=ranks)
    return loss.value, _weights(built) - before, before


def expected(precision: str, way: str) -> tuple[float, Tensor]:
    """Loss and step of the plain row, clipped by hand where the way clips."""
    loss, moved, weights = step([f"training.precision={precision}", *PLAIN[way]])
    if f"training.clip={CLIP}" in WAYS[way]:
        gradient = -moved / LR - DECAY * weights
        scale = min(1.0, CLIP / float(gradient.norm()))
        moved = -LR * (scale * gradient + DECAY * weights)
    return loss, moved


def compared(rows: Sequence[Row], ranks: Ranks = ALONE) -> Iterator[dict[str, Any]]:
    """Each row's distances."""
    plain: dict[tuple[str, str], tuple[float, Tensor]] = {}
    for row in rows:
        for precision in PRECISIONS:
            if (precision, row.way) not in plain:
                plain[precision, row.way] = expected(precision, row.way)
        began = time.perf_counter()
        loss, moved, _ = step(row.changes, ranks)
        took = time.perf_counter() - began
        loss_of_plain, reference = plain["fp32", row.way]
        beside = plain[row.precision, row.way][1]
        found = {
            "loss": abs(loss - loss_of_plain),
            "step": float((moved - reference).norm() / reference.norm()),
            "step beside the same precision": float((moved - beside).norm() / beside.norm()),
        }
        yield {**vars(row), "processes": ranks.count, **found, "seconds": took}


def within(found: Mapping[str, Any]) -> bool:
    """Whether a row's distances are what is allowed."""
    precision = found["precision"]
    limits = (*ALLOWED[precision], ALLOWED_BESIDE[precision])
    keys = ("loss", "step", "step beside the same precision")
    return all(found[key] <= most for key, most in zip(keys, limits, strict=True))


class _Loss(Callback):
    value = float("nan")

    def measured(self, line: Mapping[str, float | int]) -> None:
        if "loss" in line:
            self.value = float(line["loss"])


def _weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def on(processes: int, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows' comparisons, with so many processes."""
    if processes == 1:
        return list(compared(rows))
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "found.json"
        words = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", __spec__.name]
        chosen = [str(ROWS.index(row)) for row in rows]
        subprocess.run([sys.executable, "-m", *words, "--child", str(out), *chosen], check=True)
        found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Compare all, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", type=Path, help="one of several processes: writes what it finds to this file")
    parser.add_argument("rows", nargs="*", type=int)
    asked = parser.parse_args()
    if asked.child is not None:
        with joined(600) as ranks:
            found = list(compared([ROWS[number] for number in asked.rows], ranks))
            if ranks.leads:
                asked.child.write_text(json.dumps(found), encoding="utf-8")
        return
    rows = [row for processes in (1, 2) for row in on(processes, ROWS)]
    data = {"rows": rows, "environment": environment(1), "date": time.strftime("%Y-%m-%d")}
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    wrong = [row for row in rows if not within(row)]
    print(json.dumps(wrong, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
