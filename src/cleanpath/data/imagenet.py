"""ImageNet as its usual folders have it: PATH/train/CLASS/… and PATH/val/CLASS/…, a class by its WordNet number."""

import os
from functools import lru_cache
from pathlib import Path

import torch

from cleanpath.data.images import Images
from cleanpath.data.photographs import BORDER, MEAN, STD, USUAL, OnDisk
from cleanpath.data.preparation import Preparation
from cleanpath.errors import DataError
from cleanpath.experiment import Data

_LAYOUT = (
    "it has PATH/train/n01440764/…JPEG and PATH/val/n01440764/…JPEG, a folder per class in both; the official "
    "validation images come without folders, which torchvision's ImageNet data set or a list of their classes makes"
)
_HELD_OUT_EVERY = 50


def imagenet(data: Data) -> Images:
    """The training and validation images of ILSVRC, 224×224 pixels (or `data.side`); files are opened when needed.

    Trained on by scale and colour (first paper, Section 3.4), or `data.augment=scale_aspect` (the last row of the
    paper's Table 5). With `held_out=validation` every 50th training image is held out.

    Deviations: mean and standard deviation per channel are subtracted and divided by, as in the authors' code; the
    paper subtracts a mean per pixel.

    Raises `DataError` for a folder that is none of ImageNet.
    """
    where = Path(data.name.partition(":")[2]).expanduser()
    return _imagenet(where, data.held_out, data.augment, data.side or USUAL, data.broken)


@lru_cache(maxsize=2)
def _imagenet(where: Path, held_out: str, how: str, side: int, broken: str | None) -> Images:
    missing = [name for name in ("train", "val") if not (where / name).is_dir()]
    if missing:
        raise DataError(f"{where} has no {' and no '.join(missing)} and is no ImageNet: {_LAYOUT}")
    train, test = ({name: _files(where / part / name) for name in _folders(where / part)} for part in ("train", "val"))
    if len(train) < 2 or set(test) - set(train):
        strange = next(iter(sorted(set(test) - set(train))), "")
        found = f"val/{strange} and no train/{strange}" if strange else f"{len(train)} classes"
        raise DataError(f"{where} has {found} and is no ImageNet: {_LAYOUT}")
    if empty := sorted(name for name, files in train.items() if not files):
        raise DataError(f"{where}/train/{empty[0]} is empty; unpack the class, or remove its folder")
    if not any(test.values()):
        raise DataError(f"{where}/val has no images in folders of classes: {_LAYOUT}")
    classes = tuple(sorted(train))
    pairs = [(path, at) for at, name in enumerate(classes) for path in train[name]]
    apart = [(path, at) for at, name in enumerate(classes) for path in test.get(name, ())]
    if held_out == "validation":
        apart = pairs[::_HELD_OUT_EVERY]
        pairs = [pair for place, pair in enumerate(pairs) if place % _HELD_OUT_EVERY]
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    preparation = Preparation(side=side, channels=3, mean=mean, std=std, border=BORDER)
    way = {"usual": "scale", "none": None}.get(how, how)
    splits = (
        OnDisk(
            paths=tuple(path for path, _ in some),
            labels=torch.tensor([at for _, at in some]),
            preparation=preparation,
            way=chosen,
            skip=broken == "skip",
        )
        for some, chosen in ((pairs, way), (apart, None))
    )
    return Images(train=next(splits), held_out=next(splits), classes=classes, preparation=preparation)


def entries(where: Path) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    """The files of both splits with their classes, unopened. Raises `DataError` as `imagenet` does."""
    images = imagenet(Data(name=f"imagenet:{where}"))
    train, held_out = (
        [(Path(path), images.classes[label]) for path, label in zip(split.paths, split.labels.tolist(), strict=True)]
        for split in (images.train, images.held_out)
        if isinstance(split, OnDisk)
    )
    return train, held_out


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path) -> list[str]:
    return sorted(entry.path for entry in os.scandir(path) if entry.is_file() and not entry.name.startswith("."))
