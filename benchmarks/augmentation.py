"""How many images a second are cropped and mirrored, beside how many the training of ResNet-20 takes.

    python -m benchmarks.augmentation

Images of CIFAR's size, made up. Both on all cores, in alternation: drawing batches of 128, and training steps on one.
"""

import torch
from torch.nn import functional

import cleanpath
from benchmarks.figures import Figure, alternated, ratio, tell
from cleanpath.data.images import batch
from cleanpath.data.memory import InMemory
from cleanpath.data.preparation import Preparation

ROUNDS, BATCH, IMAGES, DRAWN, STEPS = 7, 128, 10_000, 20, 2


def measure() -> list[Figure]:
    """One figure."""
    preparation = Preparation(side=32, channels=3, mean=torch.full((3, 32, 32), 0.5), std=torch.ones(3, 32, 32))
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    split = InMemory(pixels=pixels, labels=torch.arange(IMAGES) % 10, preparation=preparation, padding=4)
    network = cleanpath.build("preresnet20").to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.long)

    def draw() -> None:
        for iteration in range(1, DRAWN + 1):
            split.drawn(*batch(IMAGES, BATCH, seed=0, iteration=iteration), 0)

    def step() -> None:
        for _ in range(STEPS):
            functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    took = alternated({"draw": draw, "step": step}, ROUNDS)
    drawn, stepped = ([seconds / count for seconds in took[name]] for name, count in (("draw", DRAWN), ("step", STEPS)))
    return [
        ratio(
            "CIFAR's augmentation, beside what training ResNet-20 takes (a batch of 128)",
            drawn,
            stepped,
            "augmentation",
        )
    ]


if __name__ == "__main__":
    tell(measure, __doc__)
