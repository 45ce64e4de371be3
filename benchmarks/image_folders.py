"""How many photographs of a folder a second are ready to train on, beside torchvision's own folder and transforms.

    python -m benchmarks.image_folders

JPEGs of 500×375 pixels, as ImageNet's are at the median, and of 4000×3000; both sides cut by area and aspect ratio to
224×224, mirror and normalise, in one process with one thread.
"""

import tempfile
from pathlib import Path

import torch
from torchvision import datasets, transforms

from benchmarks.figures import Figure, alternated, ratio, tell
from benchmarks.photo_preparation import photograph
from cleanpath.data.folder import folder
from cleanpath.data.photographs import MEAN, STD, USUAL
from cleanpath.experiment import Data

ROUNDS = 5
SIZES = ((500, 375, 64, "folders"), (4000, 3000, 6, None))
"""Width, height, how many files, and the key of what is claimed."""


def measure() -> list[Figure]:
    """A figure for each size."""
    torch.set_num_threads(1)
    return [_of(*size) for size in SIZES]


def _of(width: int, height: int, count: int, target: str | None) -> Figure:
    usual = transforms.Compose(
        [
            transforms.RandomResizedCrop(USUAL),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    with tempfile.TemporaryDirectory() as name:
        for split in ("train", "val"):
            for label in ("one", "other"):
                (Path(name) / split / label).mkdir(parents=True)
        for at in range(count):
            photograph(Path(name) / "train" / ("one", "other")[at % 2] / f"{at}.jpg", at, width, height)
        for label in ("one", "other"):
            photograph(Path(name) / "val" / label / "0.jpg", 0, width, height)
        theirs = datasets.ImageFolder(str(Path(name) / "train"), usual)
        ours = folder(Data(name=f"folder:{name}")).train
        indices = torch.arange(count)

        def drawn() -> object:
            return ours.drawn(indices, torch.zeros_like(indices), 0)

        def loaded() -> object:
            return torch.stack([theirs[at][0] for at in range(count)])

        took = alternated({"ours": drawn, "theirs": loaded}, ROUNDS)
    return ratio(
        f"a folder of photographs of {width}×{height}, beside torchvision's", took["ours"], took["theirs"], target
    )


if __name__ == "__main__":
    tell(measure, __doc__)
