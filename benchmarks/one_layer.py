"""One layer there and back, norm, ReLU and convolution in channels_last: our kernels beside torch's.

    python -m benchmarks.one_layer    rewrites results/one-layer.json

The layers of the paper's networks on one thread; then, on all cores, layers around the size at which ours end
(`fast/joined.py`), whose bounds are lifted for it. In alternation, the least of all tries of each direction.
"""

import argparse
import time
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.figures import keep
from cleanpath.grid.local import cores
from cleanpath.training.fused import Fused

Layer = tuple[int, int, int, int, int]
"""Images, channels of input and output, side of the map and of the window."""
USUAL: tuple[Layer, ...] = (
    *((128, 16, 16, 8, 3), (128, 32, 32, 4, 3), (128, 64, 64, 2, 3)),
    *((32, 16, 16, 32, 3), (32, 32, 32, 16, 3), (32, 64, 64, 8, 3)),
    *((32, 64, 16, 32, 1), (32, 16, 64, 32, 1)),
)
LARGE: tuple[Layer, ...] = (
    *((64, 128, 128, 16, 3), (64, 256, 256, 8, 3), (64, 512, 512, 4, 3)),
    *((64, 512, 128, 8, 1), (16, 64, 64, 56, 3), (16, 256, 64, 56, 1)),
)
TRIES = 50
_NO_BOUNDS = {"_MOST_WEIGHTS": 1 << 40, "_MOST_IMAGE": 1 << 40, "_MOST_PAIRS": 1 << 40}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=TRIES)
    tries = parser.parse_args().tries
    parts = {"usual": (USUAL, 1), "large": (LARGE, cores())}
    found = {name: [measured(layer, threads, tries) for layer in layers] for name, (layers, threads) in parts.items()}
    if tries >= TRIES:
        keep("one-layer", cores(), {**found, "tries": tries})


def measured(layer: Layer, threads: int, tries: int) -> dict[str, Any]:
    """Milliseconds of each direction on both sides."""
    images, inputs, outputs, side, window = layer
    torch.set_num_threads(threads)
    row = nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, window, padding=window // 2, bias=False)
    ).to(memory_format=torch.channels_last)
    x = torch.randn(images, inputs, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    with patch.multiple("cleanpath.fast.joined", **_NO_BOUNDS):
        sides = {"torch": nullcontext, "ours": Fused(row)}
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(tries + 1):
            for name, way in sides.items():
                with way():
                    took[name].append(_there_and_back(row, x, ours=name == "ours"))
    least = {name: [1000 * min(times) for times in zip(*found[1:], strict=True)] for name, found in took.items()}
    found = {"images": images, "channels": [inputs, outputs], "side": side, "window": window, "threads": threads}
    print(found, least, flush=True)
    return {**found, **least}


def _there_and_back(row: nn.Module, x: Tensor, *, ours: bool) -> tuple[float, float]:
    began = time.perf_counter()
    y = row(x)
    there = time.perf_counter()
    assert ("Joined" in y.grad_fn.name()) == ours, "other kernels than meant"
    gradient = torch.ones_like(y)
    begun = time.perf_counter()
    y.backward(gradient)
    back = time.perf_counter()
    for each in (x, *row.parameters()):
        each.grad = None
    return there - began, back - begun


if __name__ == "__main__":
    main()
