"""channels_last against torch's default layout: one training step of ResNet-110 on 8×8 images, in alternation.

python benchmarks/layout.py
"""

import statistics
import time

import torch
from machine import machine
from torch.nn import functional

import cleanpath

ROUNDS, BATCH = 15, 64


def main() -> None:
    """Print the median time of a step in each layout and the median of the ratios of neighbours."""
    torch.set_num_threads(1)
    layouts = {"default": torch.contiguous_format, "channels_last": torch.channels_last}
    networks = {
        name: cleanpath.build("resnet110", in_channels=1).to(memory_format=layout) for name, layout in layouts.items()
    }
    images, labels = torch.randn(BATCH, 1, 8, 8), torch.randint(10, (BATCH,))
    times: dict[str, list[float]] = {name: [] for name in layouts}
    for number in range(ROUNDS + 2):
        for name, network in networks.items():
            began = time.perf_counter()
            functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            network.zero_grad()
            if number >= 2:
                times[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(times["default"], times["channels_last"], strict=True)]
    print(machine())
    for name, taken in times.items():
        print(f"{name}: median {1000 * statistics.median(taken):.0f} ms a step")
    low, high = min(ratios), max(ratios)
    print(
        f"default / channels_last: median ratio {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}, n = {ROUNDS})"
    )


if __name__ == "__main__":
    main()
