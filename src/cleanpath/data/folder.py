"""A folder of photographs: PATH/train/CLASS/… with PATH/val or PATH/test beside it, or PATH/CLASS/… split in two."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from cleanpath.data.decode import BrokenImageError, decoded
from cleanpath.data.images import Images, Split
from cleanpath.data.memory import InMemory
from cleanpath.data.photographs import BORDER, MEAN, STD, USUAL, OnDisk
from cleanpath.data.preparation import Preparation
from cleanpath.errors import DataError, SettingError
from cleanpath.experiment import Data

SMALL = 64
"""Images of at most this side are kept in memory and augmented as CIFAR's are."""
HELD_OUT_SHARE = 0.2
_LOOKED_AT = 100
_NAMED = 5
WORKERS = min(8, os.cpu_count() or 1)

Entry = tuple[Path, str]
"""A file and its class."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of both splits, the classes, and what is no image."""

    train: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    classes: tuple[str, ...]
    broken: tuple[tuple[Path, str], ...]
    """Files with the reason."""


def folder(data: Data) -> Images:
    """Images of any size and mode, by their folders; class names are the folders' names, in order.

    Small ones are kept in memory and cropped out of padded pixels, as CIFAR; others are read when needed and cut by
    scale and aspect ratio. Without `val` or `test` a fifth is held out, chosen by the names of the files.

    Raises `DataError` for a folder without classes or images, and for files that are no images unless they are to be
    skipped.
    """
    return _folder(Path(data.name.partition(":")[2]).expanduser(), data.held_out, data.augment, data.side, data.broken)


@lru_cache(maxsize=2)
def _folder(path: Path, held_out: str, how: str, side: int | None, broken: str | None) -> Images:
    found = listing(path, held_out)
    if found.broken and broken != "skip":
        raise DataError(f"{path} has {_told(found.broken)}; mend or remove them, or leave them out: data.broken=skip")
    side = side or _usual_side(found)
    if side <= SMALL and how not in {"usual", "none"}:
        raise SettingError(f"data.augment={how} is for more than {SMALL} pixels, and {path} has {side}; use usual")
    way = {"usual": "cut", "none": None}.get(how, how)
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    border = 0.0 if side <= SMALL else BORDER
    preparation = Preparation(side=side, channels=3, mean=mean, std=std, border=border)
    return Images(
        train=_split(found.train, found.classes, preparation, way),
        held_out=_split(found.held_out, found.classes, preparation, None),
        classes=found.classes,
        preparation=preparation,
    )


def listing(path: Path, held_out: str = "test") -> Listing:
    """What a folder holds; every file is read once."""
    train, test = entries(path, held_out).values()
    classes = tuple(sorted({name for _, name in train}))
    if strange := sorted({name for _, name in test} - set(classes)):
        raise DataError(f"{path}: the class {strange[0]} has held-out images and none to train on; add some")
    with ThreadPoolExecutor(WORKERS) as pool:
        reasons = list(pool.map(_broken, [file for file, _ in (*train, *test)]))
    bad = {file: reason for (file, _), reason in zip((*train, *test), reasons, strict=True) if reason}
    good_train, good_test = (tuple(e for e in entries if e[0] not in bad) for entries in (train, test))
    if len(classes) < 2 or not good_train or not good_test:
        raise DataError(
            f"{path} has {len(classes)} classes, {len(good_train)} images to train on and {len(good_test)} held out"
            f"{f', {_told(tuple(bad.items()))}' if bad else ''}; at least two folders with images are needed"
        )
    if empty := sorted(set(classes) - {name for _, name in good_train}):
        raise DataError(f"{path}: the class {empty[0]} has no image that can be read; remove its folder or add some")
    return Listing(train=good_train, held_out=good_test, classes=classes, broken=tuple(bad.items()))


def entries(path: Path, held_out: str) -> dict[str, list[Entry]]:
    """The files of both splits, whatever they hold. Raises `DataError` if there are none."""
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give folder:PATH, with PATH/train/CLASS/… or PATH/CLASS/…")
    whole, beside = _parts(path)
    if beside is not None and held_out == "test":
        return {"train": _entries(whole), "held_out": _entries(beside)}
    every = _entries(whole)
    apart = {entry for entry in every if _fraction(entry, path) < HELD_OUT_SHARE}
    return {"train": [e for e in every if e not in apart], "held_out": [e for e in every if e in apart]}


def beside_classes(path: Path) -> tuple[list[str], list[str]]:
    """The folders of classes, also those without files, and the files that lie beside them."""
    inside = [entry for part in _parts(path) if part is not None for entry in part.iterdir()]
    inside = sorted(entry for entry in inside if not entry.name.startswith("."))
    folders = sorted({entry.name for entry in inside if entry.is_dir()})
    return folders, [f"{entry.parent.name}/{entry.name}" for entry in inside if not entry.is_dir()]


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The folder to train on, and the one beside it that is held out."""
    whole = path / "train" if (path / "train").is_dir() else path
    beside = next((path / name for name in ("val", "test") if (path / name).is_dir()), None)
    return whole, beside if whole != path else None


def _entries(path: Path) -> list[Entry]:
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return [
        (file, each.name)
        for each in classes
        for file in sorted(each.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    ]


def _fraction(entry: Entry, root: Path) -> float:
    """A number in [0, 1) of the file's place below the root: it stays when other files come and go."""
    name = entry[0].relative_to(root).as_posix()
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]) / 2**56


def _broken(file: Path) -> str:
    try:
        decoded(file, 1)
    except BrokenImageError as error:
        return str(error)
    return ""


def _told(broken: tuple[tuple[Path, str], ...]) -> str:
    named = ", ".join(f"{file.parent.name}/{file.name} ({reason})" for file, reason in broken[:_NAMED])
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f"{len(broken)} file{'s' if len(broken) > 1 else ''} that cannot be read as images: {named}{more}"


def _usual_side(found: Listing) -> int:
    """The side of small images, if they are small; else 224."""
    step = max(1, len(found.train) // _LOOKED_AT)
    sides = [max(decoded(file).size) for file, _ in found.train[::step]]
    side, _ = Counter(sides).most_common(1)[0]
    return side if max(sides) <= SMALL else USUAL


def _split(entries: tuple[Entry, ...], classes: tuple[str, ...], preparation: Preparation, way: str | None) -> Split:
    places = {name: at for at, name in enumerate(classes)}
    labels = torch.tensor([places[name] for _, name in entries])
    paths = tuple(str(file) for file, _ in entries)
    if preparation.side > SMALL:
        return OnDisk(paths=paths, labels=labels, preparation=preparation, way=way)
    with ThreadPoolExecutor(WORKERS) as pool:
        pixels = list(pool.map(lambda file: preparation.pixels(preparation.square(decoded(file))), paths))
    padding = preparation.side // 8 if way else 0
    return InMemory(pixels=torch.stack(pixels), labels=labels, preparation=preparation, padding=padding)
