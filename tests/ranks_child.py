"""One of the processes that tests/test_ranks.py has torchrun start: trains every case and keeps what came of it.

    torchrun --nproc-per-node 2 -m tests.ranks_child FOLDER

In double precision, so that what differs between one process and several is the order of sums alone.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cleanpath import networks
from cleanpath.data.images import Images, Split
from cleanpath.data.sources import load
from cleanpath.errors import NonFiniteError
from cleanpath.launched import joined
from cleanpath.training.loop import train
from cleanpath.training.progress import Callback
from cleanpath.training.ranks import Ranks
from tests.helpers import tiny

ITERATIONS = 12
GROUPS = "training.bn_group=8"
CASES: Mapping[str, tuple[str, ...]] = {
    "groups of BN": (GROUPS,),
    "BN over the batch": (),
    "shares that differ": ("training.batch_size=40", GROUPS),
    "shares of images that differ": ("training.batch_size=31",),
    "micro-batches": ("training.batch_size=64", "training.accumulation=2", GROUPS),
    "micro-batches, BN over each": ("training.accumulation=2",),
    "computed again": ("network.depth=50", "network.width=4", "training.memory=recompute", GROUPS),
    "computed again, BN over the batch": ("network.depth=50", "network.width=4", "training.memory=recompute"),
    "what a recipe may have": (
        *("training.mixup=0.4", "training.label_smoothing=0.1", "training.class_weights=balanced"),
        *("training.average=0.9", "training.bn_images=64", GROUPS),
    ),
    "clipped": ("training.optimizer=adamw", "training.lr=0.002", "training.clip=0.5", "training.accumulation=2"),
}


@dataclass(frozen=True)
class Doubled:
    """A split in double precision; an image, if one is named, is not a number."""

    split: Split
    broken: int | None = None

    @property
    def labels(self) -> Tensor:
        return self.split.labels

    def plain(self, indices: Tensor) -> Tensor:
        return self.split.plain(indices).double()

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        found = self.split.drawn(indices, epochs, seed).double()
        found[indices == self.broken] = torch.nan
        return found

    def on(self, device: torch.device) -> "Doubled":
        assert device.type == "cpu"
        return self


class Lines(Callback):
    """Keeps the lines of the metrics."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, ...]] = []

    def measured(self, line: Mapping[str, float | int]) -> None:
        self.kept.append(tuple(float(value) for key, value in sorted(line.items()) if key != "seconds"))


def trained(changes: tuple[str, ...], ranks: Ranks) -> dict[str, Tensor]:
    """Weights, buffers and every measurement of a short run."""
    experiment, network, images = _parts(changes)
    lines = Lines()
    result = train(network, images, experiment.training, seed=0, callbacks=[lines], ranks=ranks)
    result.pop("seconds")
    found = {name: value.contiguous() for name, value in network.state_dict().items()}
    width = max(len(line) for line in lines.kept)
    padded = [[*line, *[0.0] * (width - len(line))] for line in lines.kept]
    found["measured"] = torch.tensor(padded, dtype=torch.float64)
    found["result"] = torch.tensor([float(value) for _, value in sorted(result.items())], dtype=torch.float64)
    return found


def diverged(what: str, ranks: Ranks) -> str:
    """What a run says whose image, weight or gradient is not a number."""
    experiment, network, images = _parts((GROUPS,))
    if what == "image":
        # Of the first batch's images one of the last rank's share.
        images = replace(images, train=Doubled(images.train.split, _last_of_first_batch(images)))  # type: ignore[attr-defined]
    elif what == "gradient":
        network = nn.Sequential(network, _NoWayBack())
    else:
        next(iter(network.parameters())).data.fill_(torch.nan)
    try:
        train(network, images, experiment.training, seed=0, ranks=ranks)
    except NonFiniteError as error:
        return str(error)
    return "went on"


class _NoWayBack(nn.Module):
    """Logits as they are; the gradient of one image is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + 0.0 * x
        if self.training:
            scale = torch.ones_like(y)
            scale[-1] = torch.inf
            y.register_hook(lambda gradient: gradient * scale)  # type: ignore[no-untyped-call]
        return y


def _last_of_first_batch(images: Images) -> int:
    from cleanpath.data.images import batch

    indices, _ = batch(len(images.train.labels), 32, seed=0, iteration=1)
    return int(indices[-1])


def _parts(changes: tuple[str, ...]) -> tuple[Any, nn.Module, Images]:
    experiment = tiny(*changes, iterations=ITERATIONS)
    torch.manual_seed(0)
    network = networks.build(experiment.network, seed=0).double()
    images = load(experiment.data)
    return experiment, network, replace(images, train=Doubled(images.train), held_out=Doubled(images.held_out))


def main() -> None:
    """Every case, kept by every rank."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined(60) as ranks:
        for number, changes in enumerate(CASES.values()):
            save_file(trained(changes, ranks), folder / f"{number}-{ranks.rank}.safetensors")
        said = [diverged(what, ranks) for what in ("image", "gradient", "weight")]
        (folder / f"said-{ranks.rank}.txt").write_text("\n".join(said), encoding="utf-8")


if __name__ == "__main__":
    main()
