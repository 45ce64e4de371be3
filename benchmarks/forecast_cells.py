"""What is measured of a network before its training, beside what became of the training: the cells of the forecast.

    python -m benchmarks.forecast_cells                     run what results/forecast-cells.jsonl lacks, a line per cell
    python -m benchmarks.forecast_cells --until 08:20       and begin no cell after that time (UTC)
    python -m benchmarks.forecast_cells --share 0/2         every second cell, beside a process with --share 1/2
    python -m benchmarks.forecast_cells --cifar FOLDER      with the cells on CIFAR-10 (its batches in binary form)
    python -m benchmarks.forecast_cells --later             those of the second campaign (`forecast_later`) only
    python -m benchmarks.forecast_cells --again             add to recorded cells what was not measured when they ran

A cell is a network, its data, its rate and a seed, trained for 200 iterations of 64 images on one thread, without
schedule. Beginnings of the list are balanced: each block of cells has every row of Tables 1 and 2, and every pair of
depth and rate, once; after each come a few that differ in kind (`forecast_kinds`). About three hours of one core.
"""

import argparse
import copy
import fcntl
import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.forecast_kinds import Cell, Task, build, cells, later_cells, task
from benchmarks.forecast_measures import at_the_start, distance
from benchmarks.recorded import FOLDER
from cleanpath import devices
from cleanpath.assemble import environment
from cleanpath.data.images import batch
from cleanpath.experiment import Training
from cleanpath.forecasting.likeness import of_outputs
from cleanpath.training import fused
from cleanpath.training.optimizers import optimizer_of
from cleanpath.training.passes import Passes

RESULTS = FOLDER / "forecast-cells.jsonl"
STEPS, BATCH, PROBED = 200, 64, 10
SHOWN = ("apart", "agreement")
"""What the outputs of the first steps show (`forecasting/likeness.py`)."""
_ROUNDING = 0.01


def run(cell: Cell, cifar: Path | None) -> dict[str, Any]:
    """One line: measurements at the start, and the training with what its first steps show."""
    torch.manual_seed(cell.seed)
    given = task(cell.data, cifar)
    network = build(cell, given)
    training = _training(cell)
    first = [_batch(given, cell.seed, iteration) for iteration in (1, 2)]
    began = time.monotonic()
    random_state = torch.get_rng_state()
    measured = at_the_start(copy.deepcopy(network), first)
    seconds = {"start": time.monotonic() - began}
    torch.set_rng_state(random_state)
    began = time.monotonic()
    became = _trained(network, given, training, cell)
    seconds["training"] = time.monotonic() - began
    return {
        **cell.to_data(),
        "classes": given.classes,
        "measured": measured,
        **became,
        "seconds": {key: round(value, 2) for key, value in seconds.items()},
        "environment": environment(torch.get_num_threads()),
    }


def _batch(given: Task, seed: int, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, _ = batch(len(given.labels), BATCH, seed=seed, iteration=iteration)
    return given.images[chosen], given.labels[chosen]


def again(row: dict[str, Any], cifar: Path | None) -> dict[str, Any]:
    """A recorded line with what the outputs of the first steps show, for which it is trained again for these."""
    cell = Cell(**{name: row[name] for name in Cell.__dataclass_fields__})
    torch.manual_seed(cell.seed)
    given = task(cell.data, cifar)
    found = _trained(build(cell, given), given, _training(cell), cell, PROBED)
    off = max((abs(a / b - 1) for a, b in zip(found["losses"][:3], row["losses"][:3], strict=False)), default=0.0)
    if off > _ROUNDING:
        print(f"{cell.key}: its losses are not those recorded, by {off:.1%}", flush=True)
    return {**row, **{name: found[name] for name in SHOWN}}


def _training(cell: Cell) -> Training:
    return Training(
        iterations=STEPS, batch_size=BATCH, lr=cell.rate, optimizer=cell.optimizer, momentum=0.9, weight_decay=1e-4
    )


def _trained(
    network: nn.Module, given: Task, training: Training, cell: Cell, iterations: int = STEPS
) -> dict[str, Any]:
    """Losses, norms of the gradient and errors of the batches, in their order; the training error in eval mode."""
    kernels = fused.chosen(fused.FUSED, training, devices.CPU, threads=torch.get_num_threads())
    passes, optimizer = Passes(network, training, kernels=kernels), optimizer_of(network, training)
    start = [p.detach().clone() for p in network.parameters()]
    losses, norms, errors, moved = list[float](), list[float](), list[float](), math.nan
    shown: dict[str, list[float | None]] = {name: [] for name in SHOWN}
    status = "finished"
    network.train()
    for iteration in range(1, iterations + 1):
        rate = cell.rate * (0.1 if iteration <= cell.warmup else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = _batch(given, cell.seed, iteration)
        with passes():
            logits = passes.forward(images, last=True)
            loss = cross_entropy(logits, labels)
            passes.backward(loss)
        norm = float(nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            status = "diverged"
            break
        for name, value in zip(SHOWN, of_outputs(logits, labels) if iteration <= PROBED else (), strict=False):
            shown[name].append(value)
        losses.append(loss.item())
        norms.append(norm)
        errors.append(100 * float((logits.argmax(1) != labels).float().mean()))
        optimizer.step()
        optimizer.zero_grad()
        if iteration == PROBED:
            moved = distance(network, start)
    return {
        "status": status,
        "losses": [_short(one) for one in losses],
        "gradient_norms": [_short(one) for one in norms[:20]],
        "errors": [_short(one) for one in errors],
        "moved": _short(moved),
        **{name: [_short(one) for one in values if one is not None] for name, values in shown.items()},
        "error": _short(sum(errors[-20:]) / 20) if status == "finished" else 100.0,
        "error_half": _short(sum(errors[80:100]) / 20) if len(errors) >= 100 else 100.0,
        "error_eval": _short(_tested(network, given)) if status == "finished" else 100.0,
    }


def _tested(network: nn.Module, given: Task) -> float:
    network.eval()
    with torch.no_grad():
        pieces = zip(given.images.split(256), given.labels.split(256), strict=True)  # type: ignore[no-untyped-call]
        wrong = sum(int((network(images).argmax(1) != labels).sum()) for images, labels in pieces)
    return 100 * wrong / len(given.labels)


def _short(value: float) -> float | str:
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    return _short(value) if isinstance(value, float) else value


def _wanted(share: str, *, later: bool) -> Iterator[Cell]:
    number, count = map(int, share.split("/"))
    yield from (cell for at, cell in enumerate(later_cells() if later else cells()) if at % count == number)


def _all_again(cifar: Path | None) -> None:
    """The lines that lack it, written over when all are done."""
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    found = [row if SHOWN[0] in row else _cleaned(again(row, cifar)) for row in rows]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def _recorded() -> set[str]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {Cell.key_of(json.loads(line)) for line in lines}


def _append(row: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a process with the other share may write at the same time
        file.write(json.dumps(row) + "\n")
        file.flush()


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--until", metavar="HH:MM", help="begin no cell after that time of the day (UTC)")
    parser.add_argument("--share", default="0/1", metavar="N/COUNT", help="which of COUNT processes this is")
    parser.add_argument("--cifar", type=Path, metavar="FOLDER", help="where CIFAR-10's batches lie in binary form")
    parser.add_argument("--kind", action="append", metavar="NAME", help="only cells of that kind; repeatable")
    parser.add_argument("--later", action="store_true", help="the second campaign")
    parser.add_argument("--again", action="store_true", help="measure recorded cells again where that is missing")
    parser.add_argument("--most", type=int, metavar="N", help="run at most so many cells")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.again:
        _all_again(asked.cifar)
        return
    ran, done = 0, _recorded()
    for cell in _wanted(asked.share, later=asked.later):
        if asked.until is not None and datetime.now(UTC).strftime("%H:%M") >= asked.until:
            break
        if asked.most is not None and ran >= asked.most:
            break
        if asked.kind and cell.kind not in asked.kind:
            continue
        if cell.key in done or (cell.data.startswith("cifar") and asked.cifar is None):
            continue
        began = time.monotonic()
        try:
            row = _cleaned(run(cell, asked.cifar))
        except Exception as error:  # noqa: BLE001 (a cell that cannot be run must not end the campaign)
            print(f"{cell.key}: {type(error).__name__}: {error}", flush=True)
            continue
        _append({**row, "later": True} if asked.later else row)
        ran += 1
        print(f"{cell.key}: {row['error_half']} {row['error']} ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
