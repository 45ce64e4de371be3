"""What each fix of `cleanpath.fix` does to training: the same network, seed, batches and rate, as it is and mended.

    nice -n 5 python -m benchmarks.fixes run        # adds the rows that are missing to results/fixes.jsonl
    python -m benchmarks.fixes                      # prints what the pages in docs/fixes/ show

The digits of scikit-learn, one thread; where it says so, 5,000 images of CIFAR-10 (`CLEANPATH_DATA`). Seeds are the
outer loop, so that whatever is there covers every fix; the longest come last. A run whose loss is not finite ends with
an error of 90%.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from benchmarks.recorded import FOLDER
from cleanpath.changed import changed
from cleanpath.data.sources import load
from cleanpath.experiment import Data
from cleanpath.nn import resnet
from cleanpath.paper.exact import interval, p_below

RESULTS = FOLDER / "fixes.jsonl"
HELD_OUT, IMAGES, TESTED = 500, 5000, 1000
SGD, ADAM = "SGD", "Adam"


class Unit(nn.Module):
    """A pre-activation unit with one planted defect."""

    def __init__(self, width: int, defect: str) -> None:
        super().__init__()
        self.defect = defect
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first = nn.ReLU(inplace=defect == "in place")
        if defect == "no norm":
            nn.init.kaiming_normal_(self.conv1.weight)
            nn.init.kaiming_normal_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.defect == "in place":
            return x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(self.first(x))))))
        if self.defect == "no norm":
            y = x + self.conv2(torch.relu(self.conv1(torch.relu(x))))
        else:
            h = torch.tanh(x) if self.defect == "tanh" else x
            y = h + self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))
        return y / math.sqrt(2) if self.defect == "scaled sum" else y


class Small(nn.Module):
    """Units of one width on 8×8 images."""

    def __init__(self, units: int, defect: str, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.units = nn.Sequential(*(Unit(width, defect) for _ in range(units)))
        self.norm = nn.Identity() if defect in {"no final norm", "no norm"} else nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.units(self.stem(images))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Encoder(nn.Module):
    """BERT's kind: the norm after each addition; a digit is a sequence of its eight rows."""

    def __init__(self, layers: int, width: int = 32) -> None:
        super().__init__()
        self.embedding, self.place = nn.Linear(8, width), nn.Parameter(torch.randn(8, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layers(self.norm(self.embedding(images.flatten(1).unflatten(1, (8, 8))) + self.place))
        scores: Tensor = self.head(x.mean(1))
        return scores


def _paper(name: str, *settings: str, channels: int = 1) -> Callable[[], nn.Module]:
    """A network of the catalog on digits, or on images of three channels."""
    changes = [f"network.in_channels={channels}", *(f"network.{one}" for one in settings)]
    return lambda: resnet.build(changed(name, changes))


_GATES = ("shortcut.kind=shortcut_only_gating", "shortcut.bias=0")


@dataclass(frozen=True)
class Trial:
    """A fix, and the network that needs it."""

    code: str
    network: str
    build: Callable[[], nn.Module]
    optimizer: str = SGD
    rate: float = 0.1
    iterations: int = 120
    batch: int = 32
    data: str = "digits"
    seeds: int = 6


TRIALS = (
    Trial("CP201", "ResNet-38, ReLU after addition", _paper("resnet38")),
    Trial("CP202", "encoder of 12 layers, LN after addition", lambda: Encoder(12), ADAM, 1e-3),
    Trial("CP102", "ResNet-38, λ = 0.5", _paper("resnet38", "shortcut.kind=scaling", "shortcut.scale=0.5")),
    Trial("CP103", "ResNet-38, dropout 0.5 on h", _paper("resnet38", "shortcut.kind=dropout", "shortcut.rate=0.5")),
    Trial("CP104", "ResNet-38, gates on h, b = 0", _paper("resnet38", *_GATES)),
    Trial("CP106", "ResNet-38, 1×1 on h", _paper("resnet38", "shortcut.kind=conv_1x1")),
    Trial("CP301", "ResNet-38, ReLU before addition", _paper("resnet38", "placement=relu_before_addition")),
    Trial("CP202", "ResNet-38, BN after addition", _paper("resnet38", "placement=bn_after_addition")),
    Trial("CP203", "18 units, sum / √2", lambda: Small(18, "scaled sum")),
    Trial("CP204", "18 units, ReLU in place first", lambda: Small(18, "in place")),
    Trial("CP501", "18 units, no final norm", lambda: Small(18, "no final norm")),
    Trial("CP402", "36 units without norm, He's start", lambda: Small(36, "no norm"), SGD, 0.02),
    Trial("CP101", "18 units, tanh on h", lambda: Small(18, "tanh")),
    Trial("CP201", "ResNet-20, ReLU after addition", _paper("resnet20")),
    Trial("CP201", "ResNet-74, ReLU after addition", _paper("resnet74")),
    Trial("CP202", "ResNet-74, BN after addition", _paper("resnet74", "placement=bn_after_addition")),
    Trial("CP102", "ResNet-20, λ = 0.5", _paper("resnet20", "shortcut.kind=scaling", "shortcut.scale=0.5")),
    Trial("CP103", "ResNet-20, dropout 0.5 on h", _paper("resnet20", "shortcut.kind=dropout", "shortcut.rate=0.5")),
    Trial("CP104", "ResNet-20, gates on h, b = 0", _paper("resnet20", *_GATES)),
    Trial("CP106", "ResNet-20, 1×1 on h", _paper("resnet20", "shortcut.kind=conv_1x1")),
    Trial("CP301", "ResNet-74, ReLU before addition", _paper("resnet74", "placement=relu_before_addition")),
    Trial("CP203", "6 units, sum / √2", lambda: Small(6, "scaled sum")),
    Trial("CP101", "6 units, tanh on h", lambda: Small(6, "tanh")),
    Trial("CP501", "6 units, no final norm", lambda: Small(6, "no final norm")),
    Trial("CP201", "ResNet-110, ReLU after addition", _paper("resnet110"), iterations=150),
    Trial("CP201", "ResNet-110, ReLU after addition", _paper("resnet110"), iterations=150, batch=100),
    Trial(
        "CP201",
        "ResNet-38, ReLU after addition",
        _paper("resnet38", channels=3),
        iterations=200,
        batch=64,
        data="cifar10",
        seeds=3,
    ),
    Trial(
        "CP102",
        "ResNet-38, λ = 0.5",
        _paper("resnet38", "shortcut.kind=scaling", "shortcut.scale=0.5", channels=3),
        iterations=200,
        batch=64,
        data="cifar10",
        seeds=3,
    ),
    Trial(
        "CP202",
        "ResNet-38, BN after addition",
        _paper("resnet38", "placement=bn_after_addition", channels=3),
        iterations=200,
        batch=64,
        data="cifar10",
        seeds=3,
    ),
)


def images_of(data: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a data set: images and labels to train on, and those held out."""
    return digits() if data == "digits" else cifar()


@cache
def cifar() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A part of CIFAR-10, as it is made ready for a test."""
    found = load(Data(name="cifar10"))
    parts = ((found.train, torch.arange(IMAGES)), (found.held_out, torch.arange(TESTED)))
    (x, y), (held_out, truth) = ((split.plain(chosen), split.labels[chosen]) for split, chosen in parts)
    return x, y, held_out, truth


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and the last ones held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16 - 0.3
    y = torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:]


def trained(model: nn.Module, trial: Trial, seed: int) -> tuple[float, float]:
    """Test error in percent and the last training loss; a loss that is not finite ends it."""
    images, labels, held_out, truth = images_of(trial.data)
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    if trial.optimizer == ADAM:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), trial.rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), trial.rate, momentum=0.9, weight_decay=1e-4)
    model.train()
    value = math.inf
    for _ in range(trial.iterations):
        batch = torch.randint(len(labels), (trial.batch,), generator=order)
        loss = functional.cross_entropy(model(images[batch]), labels[batch])
        value = float(loss.detach())
        if not math.isfinite(value):
            return 90.0, math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        wrong = (model(held_out).argmax(1) != truth).float().mean()
    return 100 * float(wrong), value


def run(trial: Trial, seed: int) -> dict[str, object]:
    """One pair."""
    begun = time.perf_counter()
    torch.manual_seed(seed)
    model = trial.build().train()
    batch = images_of(trial.data)[0][:8]
    fixed = cleanpath.fix(model, batch, [trial.code], unsafe=True)
    made = [change for change in fixed.changes if change.code == trial.code]
    before, after = trained(model, trial, seed), trained(fixed.model, trial, seed)
    return {
        "code": trial.code,
        "network": trial.network,
        "seed": seed,
        "changed": len(made),
        "error_before": before[0],
        "error_after": after[0],
        "loss_before": before[1] if math.isfinite(before[1]) else None,
        "loss_after": after[1] if math.isfinite(after[1]) else None,
        "rate": trial.rate,
        "iterations": trial.iterations,
        "batch": trial.batch,
        "data": trial.data,
        "seconds": round(time.perf_counter() - begun, 1),
        "torch": torch.__version__,
    }


def rows() -> list[dict[str, object]]:
    """What was recorded."""
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def table() -> str:
    """The fixes and their effects as Markdown."""
    lines = [
        "| fix | network | pairs | units | test error before, % | mended, % | difference, 95% | p |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    recorded = rows()
    for trial in TRIALS:
        own = [row for row in recorded if _key(row) == (trial.code, trial.network, trial.batch, trial.data)]
        if not own:
            continue
        before = [float(str(row["error_before"])) for row in own]
        after = [float(str(row["error_after"])) for row in own]
        differences = [b - a for a, b in zip(before, after, strict=True)]
        low, high = interval(differences)
        told = f"{low:+.1f} to {high:+.1f}" if math.isfinite(low + high) else f"too few pairs; {_range(differences)}"
        network = f"{trial.network}{_told(trial)}"
        lines.append(
            f"| {trial.code} | {network} | {len(own)} | {own[0]['changed']} | {median(before):.1f} | "
            f"{median(after):.1f} | {told} | {p_below(differences):.3g} |"
        )
    return "\n".join(lines)


def _told(trial: Trial) -> str:
    """What of a trial is not as in the others."""
    data = "" if trial.data == "digits" else ", CIFAR-10"
    return f"{data}, batch {trial.batch}" if trial.batch != Trial.batch else data


def _key(row: dict[str, object]) -> tuple[object, ...]:
    return row["code"], row["network"], row["batch"], row.get("data", "digits")


def _range(values: list[float]) -> str:
    return f"seen {min(values):+.1f} to {max(values):+.1f}"


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["run", "table"], default="table")
    parser.add_argument("--only", default="", help="a code")
    asked = parser.parse_args()
    if asked.what == "table":
        print(table())
        return
    torch.set_num_threads(1)
    long = [trial for trial in TRIALS if trial.iterations > 120]
    short = [trial for trial in TRIALS if trial not in long]
    most = max(trial.seeds for trial in TRIALS)
    pairs = [*product(range(most), short), *product(range(most), long)]
    for seed, trial in pairs:
        done = {(*_key(row), row["seed"]) for row in rows()}
        key = trial.code, trial.network, trial.batch, trial.data, seed
        if key in done or seed >= trial.seeds or asked.only not in trial.code:
            continue
        row = run(trial, seed)
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(trial.code, trial.network, seed, row["error_before"], row["error_after"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
