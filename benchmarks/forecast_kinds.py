"""The cells of the forecast's campaign: rows of Tables 1 and 2 in balanced order, and what differs in kind."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

import cleanpath
from benchmarks import forecast_later
from cleanpath import networks
from cleanpath.data.sources import load
from cleanpath.nn import catalog
from cleanpath.paper.rows import TABLE_1, TABLE_2

ROWS = {part.key: part.choice for part in (*TABLE_1.rows, *TABLE_2.rows)}
DEPTHS, RATES = (20, 38, 56, 110), (0.01, 0.03, 0.1, 0.3)
SEEDS = 3
SOME = ("original", "full_preactivation", "constant_half_1", "shortcut_only_gating_0", "bn_after_addition", "conv_1x1")
OTHERS_PER_BLOCK = 5  # odd with the rows: two processes that share the list both get every row


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network on one data set at one rate, from one seed."""

    kind: str
    """`tables`, or in what it differs from them."""
    row: str
    """Of Tables 1 and 2, or the network's name."""
    depth: int
    rate: float
    seed: int
    data: str = "digits"
    optimizer: str = "sgd"
    width: int = 16
    branch: str = "two_layer"
    normalisation: str = "batch"
    warmup: int = 0
    """Iterations at a tenth of the rate."""

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return self.key_of(self.to_data())

    @staticmethod
    def key_of(row: dict[str, Any]) -> str:
        """The same of a recorded line."""
        return " ".join(str(row[name]) for name in Cell.__dataclass_fields__)

    def to_data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """Inputs and their labels, all to train on."""

    images: Tensor
    labels: Tensor
    classes: int


def cells() -> Iterator[Cell]:
    """All, so that every beginning of the list is balanced."""
    others = iter([cell for seed in range(SEEDS) for cell in _others(seed)])
    for seed in range(SEEDS):
        for block in _blocks(seed):
            yield from block
            yield from islice(others, OTHERS_PER_BLOCK)
    yield from others


def later_cells() -> Iterator[Cell]:
    """Those that came after the terms of the rule had been chosen (`forecast_later`)."""
    earlier = {cell.key for cell in cells()}
    yield from (cell for fields in forecast_later.later() if (cell := Cell(**fields)).key not in earlier)


def _blocks(seed: int) -> Iterator[list[Cell]]:
    """As many blocks as pairs of depth and rate; in each a row has another pair than in the others."""
    pairs = list(product(DEPTHS, RATES))
    order = np.random.default_rng(seed).permutation(len(pairs))
    names = [*ROWS]
    for block in range(len(pairs)):
        chosen = [pairs[order[(block + at) % len(pairs)]] for at in range(len(names))]
        yield [
            Cell(kind="tables", row=name, depth=depth, rate=rate, seed=seed)
            for name, (depth, rate) in zip(names, chosen, strict=True)
        ]


def _others(seed: int) -> Iterator[Cell]:
    """What differs in kind, shuffled."""
    found = [*_of_ours(seed), *_of_others(seed)]
    order = np.random.default_rng(100 + seed).permutation(len(found))
    yield from (found[at] for at in order)


def _of_ours(seed: int) -> Iterator[Cell]:
    given: dict[str, Any] = {"seed": seed}
    for row, width, rate in product(SOME, (8, 24), (0.03, 0.1)):
        yield Cell(kind="width", row=row, depth=26, rate=rate, width=width, **given)
    for row, depth, rate in product(SOME, (29, 47), (0.03, 0.1)):
        yield Cell(kind="bottleneck", row=row, depth=depth, rate=rate, branch="bottleneck", **given)
    for row, depth, norm in product(("original", "full_preactivation"), (20, 56), ("layer", "group", "none")):
        for rate in (0.03, 0.1):
            yield Cell(kind="normalisation", row=row, depth=depth, rate=rate, normalisation=norm, **given)
    for row, depth, rate in product(SOME, (20, 32), (0.03, 0.1)):
        yield Cell(kind="data", row=row, depth=depth, rate=rate, data="cifar", **given)
    for row, depth, rate in product(SOME, (20, 56), (0.001, 0.01)):
        yield Cell(kind="optimizer", row=row, depth=depth, rate=rate, optimizer="adamw", **given)
    for row, depth, rate in product((*SOME, "relu_before_addition", "dropout"), (38, 56), (0.1, 0.3)):
        yield Cell(kind="warm-up", row=row, depth=depth, rate=rate, warmup=50, **given)


def _of_others(seed: int) -> Iterator[Cell]:
    ways = (("sgd", 0.03), ("sgd", 0.1), ("sgd", 0.3), ("adamw", 0.001), ("adamw", 0.01))
    for norm, depth, (optimizer, rate) in product(("first", "last"), (4, 12), ways):
        yield Cell(
            kind="transformer", row=f"norm_{norm}", depth=depth, rate=rate, optimizer=optimizer, seed=seed, width=32
        )
    for row, depth, (optimizer, rate) in product(("mlp", "mlp_norm", "mlp_residual"), (6, 30), ways[:4]):
        yield Cell(kind="mlp", row=row, depth=depth, rate=rate, optimizer=optimizer, seed=seed, width=64)
    for row, (optimizer, rate) in product(FOREIGN, (ways[0], ways[2], ways[3], ways[4])):
        yield Cell(kind="foreign", row=row, depth=0, rate=rate, optimizer=optimizer, seed=seed, data="digits16")


FOREIGN = (
    "torchvision:resnet18",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:mobilenet_v3_small",
    "timm:resnet10t",
    "timm:regnetx_002",
    "timm:vit_tiny_16",
)


@lru_cache(maxsize=4)
def task(name: str, cifar: Path | None) -> Task:
    """Digits of 8×8 pixels, the same as 16×16 in three channels, or three classes of CIFAR-10 at 16×16, or 8×8."""
    if name in ("cifar", "cifar8"):
        assert cifar is not None
        found = _cifar(cifar)
        return found if name == "cifar" else Task(*forecast_later.cifar8(found.images, found.labels), found.classes)
    train = load(cleanpath.Data()).train
    images = train.plain(torch.arange(len(train.labels)))
    if name == "digits16":
        images = interpolate(images, size=16, mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    return Task(images, train.labels, 10)


def _cifar(folder: Path) -> Task:
    """1,300 images of aeroplanes, horses and ships: what a healthy network learns in 200 iterations."""
    wanted = (0, 7, 8)
    raw = np.fromfile(folder / "cifar-10-batches-bin" / "data_batch_1.bin", dtype=np.uint8).reshape(-1, 3073)
    raw = raw[np.isin(raw[:, 0], wanted)][:1300]
    pixels = torch.from_numpy(raw[:, 1:].astype(np.float32) / 255).reshape(-1, 3, 32, 32)
    images = avg_pool2d(pixels, 2)
    images = (images - images.mean(0)) / images.std()
    return Task(images, torch.from_numpy(np.searchsorted(wanted, raw[:, 0])).long(), len(wanted))


def build(cell: Cell, given: Task) -> nn.Module:
    """The network, drawn from torch's generator."""
    if cell.kind == "transformer":
        return Encoder(cell.depth, cell.width, norm_first=cell.row == "norm_first")
    if cell.kind == "mlp":
        return MLPS[cell.row](cell.depth, cell.width)
    if cell.kind == "foreign":
        return forecast_later.BUILDS[cell.row]() if cell.row in forecast_later.BUILDS else _foreign(cell)
    channels = given.images.shape[1]
    name = f"cifar-resnet{cell.depth}-{'bottleneck' if cell.branch == 'bottleneck' else '2layer'}"
    settings: dict[str, Any] = {"in_channels": channels, "num_classes": given.classes, "width": cell.width}
    settings |= {"normalisation": cell.normalisation, **ROWS[cell.row]}
    return networks.build(catalog.network(name, **settings), seed=cell.seed)


def _foreign(cell: Cell) -> nn.Module:
    import timm

    library, _, name = cell.row.partition(":")
    if library == "timm" and name in SMALL:
        return timm.create_model(SMALL[name][0], num_classes=10, **SMALL[name][1])
    return networks.build(cleanpath.Foreign(target=f"{library}:{name}", in_channels=3, num_classes=10), seed=cell.seed)


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_tiny_16": ("vit_tiny_patch16_224", {"img_size": 16, "patch_size": 4, "embed_dim": 96, "depth": 8}),
}


class Encoder(nn.Module):
    """A digit as eight rows of eight pixels, through layers of attention."""

    def __init__(self, depth: int, width: int, *, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.randn(8, width) * 0.02)
        layers = [
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first)
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (N, 1, 8, 8)."""
        logits: Tensor = self.head(self.norm(self.layers(self.embed(images[:, 0]) + self.place)).mean(1))
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out


def _mlp(depth: int, width: int) -> nn.Module:
    inner = [layer for _ in range(depth - 2) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), *inner, nn.Linear(width, 10))


def _mlp_norm(depth: int, width: int) -> nn.Module:
    inner = [layer for _ in range(depth - 2) for layer in (nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), *inner, nn.Linear(width, 10))


def _mlp_residual(depth: int, width: int) -> nn.Module:
    units = [_Residual(width) for _ in range(depth // 2)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *units, nn.LayerNorm(width), nn.Linear(width, 10))


MLPS: dict[str, Callable[[int, int], nn.Module]] = {
    "mlp": _mlp,
    "mlp_norm": _mlp_norm,
    "mlp_residual": _mlp_residual,
    "mlp_last": forecast_later.mlp_last,
}
