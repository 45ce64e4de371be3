"""What a data set holds and what is wrong with it: counts, sizes, colours, broken files, the same content twice."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cleanpath.data import folder, imagenet
from cleanpath.data.decode import BrokenImageError, decoded
from cleanpath.data.images import Split
from cleanpath.data.memory import InMemory
from cleanpath.data.sources import load
from cleanpath.errors import DataError
from cleanpath.experiment import Data

MOST_FILES = 20_000
"""Of a split that are opened unless every one is asked for; evenly spaced in the order of their names."""
UNEVEN = 10.0
"""Times as many images in the largest class as in the smallest, from which on it is told."""
_PIECE = 2000


@dataclass(frozen=True)
class Look:
    """One image: where it is, its class, its content's digest, its means and squares per channel; or why it is none."""

    place: str
    label: str
    broken: str = ""
    digest: bytes = b""
    means: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()
    flat: bool = False
    width: int = 0
    height: int = 0
    kind: str = ""
    """Format and mode of its file."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something wrong, how often, where, and what to do."""

    what: str
    count: int
    examples: tuple[str, ...]
    remedy: str


def inspection(data: Data, *, every: bool, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The schema of `cleanpath show DATA --json`; `progress` gets images looked at and all of them.

    A folder that training would refuse is looked at all the same. Raises `DataError` for what is no data set at all.
    """
    kind = data.name.partition(":")[0]
    if kind == "folder":
        listed = folder.entries(Path(data.name.partition(":")[2]).expanduser(), data.held_out)
        return _of_files(data, listed, every=every, progress=progress)
    if kind == "imagenet":
        where = Path(data.name.partition(":")[2]).expanduser()
        pairs = imagenet.entries(where)
        return _of_files(data, {"train": pairs[0], "held_out": pairs[1]}, every=every, progress=progress)
    images = load(data)
    splits = {"train": images.train, "held_out": images.held_out}
    total, done, looks = sum(len(split.labels) for split in splits.values()), 0, dict[str, list[Look]]()
    for name, split in splits.items():
        looks[name] = []
        for look in _of_memory(split, images.classes):
            looks[name].append(look)
            done += 1
            if done % _PIECE == 0:
                progress(done, total)
    counts = {name: Counter(look.label for look in found) for name, found in looks.items()}
    return _told(data, looks, counts, images.classes, sampled={})


def _of_memory(split: Split, classes: Sequence[str]) -> Iterable[Look]:
    assert isinstance(split, InMemory)
    pixels = split.pixels.numpy()
    scale = 255.0 if pixels.dtype == np.uint8 else 1.0
    for at, label in enumerate(split.labels.tolist()):
        image = pixels[at].astype(np.float64) / scale
        yield Look(
            place=f"image {at}",
            label=classes[label],
            digest=hashlib.blake2b(pixels[at].tobytes(), digest_size=16).digest(),
            means=tuple(image.mean(axis=(1, 2))),
            squares=tuple((image**2).mean(axis=(1, 2))),
            flat=bool((image == image[:, :1, :1]).all()),
            width=image.shape[2],
            height=image.shape[1],
        )


def _of_files(
    data: Data, listed: Mapping[str, Sequence[tuple[Path, str]]], *, every: bool, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    chosen = {
        name: found if every or len(found) <= MOST_FILES else [found[at] for at in _spaced(len(found))]
        for name, found in listed.items()
    }
    total, done, looks = sum(map(len, chosen.values())), 0, dict[str, list[Look]]()
    with ThreadPoolExecutor(folder.WORKERS) as pool:
        for name, found in chosen.items():
            looks[name] = []
            for look in pool.map(_look, found):
                looks[name].append(look)
                done += 1
                if done % (_PIECE // 10) == 0:
                    progress(done, total)
    counts = {name: Counter(label for _, label in found) for name, found in listed.items()}
    sampled = {name: len(found) for name, found in chosen.items() if len(found) < len(listed[name])}
    where = Path(data.name.partition(":")[2]).expanduser()
    folders, stray = folder.beside_classes(where)
    classes = sorted({*folders, *(label for found in listed.values() for _, label in found)})
    if not total:
        raise DataError(f"{where} has no files in folders of classes; give PATH/train/CLASS/… or PATH/CLASS/…")
    return _told(data, looks, counts, classes, sampled, stray)


def _spaced(count: int) -> list[int]:
    return [at * (count - 1) // (MOST_FILES - 1) for at in range(MOST_FILES)]


def _look(entry: tuple[Path, str]) -> Look:
    path, label = entry
    place = f"{path.parent.name}/{path.name}"
    try:
        image = decoded(path)
        with Image.open(path) as file:
            kind = f"{file.format} {file.mode}"
    except BrokenImageError as error:
        return Look(place, label, broken=str(error))
    pixels = np.asarray(image)
    shares = pixels.reshape(-1, pixels.shape[-1]) / 255.0
    content = hashlib.blake2b(pixels.tobytes(), digest_size=16)
    content.update(repr(image.size).encode())
    return Look(
        place,
        label,
        digest=content.digest(),
        means=tuple(shares.mean(axis=0)),
        squares=tuple((shares**2).mean(axis=0)),
        flat=bool((pixels == pixels[:1, :1]).all()),
        width=image.width,
        height=image.height,
        kind=kind,
    )


def _told(
    data: Data,
    looks: Mapping[str, Sequence[Look]],
    counts: Mapping[str, Counter[str]],
    classes: Sequence[str],
    sampled: Mapping[str, int],
    stray: Sequence[str] = (),
) -> dict[str, Any]:
    good = {name: [look for look in found if not look.broken] for name, found in looks.items()}
    seen = [look for found in good.values() for look in found]
    kinds = Counter(look.kind for look in seen if look.kind)
    return {
        "schema": "cleanpath.data",
        "version": 1,
        "name": data.name,
        "splits": {name: sum(found.values()) for name, found in counts.items()},
        "looked_at": dict(sampled) or None,
        "classes": [{"name": label, **{name: found[label] for name, found in counts.items()}} for label in classes],
        "sizes": _sizes(seen),
        "kinds": dict(kinds.most_common()),
        **_colours(good["train"]),
        "preparation": _prepared(data),
        "troubles": [asdict(trouble) for trouble in _troubles(looks, good, counts, classes, stray)],
    }


def _sizes(seen: Sequence[Look]) -> dict[str, Any] | None:
    if not seen:
        return None
    by_area = sorted(((look.width, look.height) for look in seen), key=lambda size: size[0] * size[1])
    return {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}


def _colours(seen: Sequence[Look]) -> dict[str, Any]:
    """Per channel over all training images that were looked at, each with the same say, from 0 to 1."""
    channels = Counter(len(look.means) for look in seen).most_common(1)
    alike = [look for look in seen if len(look.means) == channels[0][0]] if channels else []
    if not alike:
        return {"mean": None, "std": None}
    mean = np.mean([look.means for look in alike], axis=0)
    square = np.mean([look.squares for look in alike], axis=0)
    return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(0, square - mean**2)).tolist()}


def _prepared(data: Data) -> dict[str, Any] | str:
    """How images are made ready for a network, or why training refuses the data."""
    try:
        images = load(data)
    except DataError as error:
        return str(error)
    made = images.preparation
    return {
        "side": made.side,
        "channels": made.channels,
        "border": made.border,
        "mean": "per pixel" if made.mean.shape[-1] > 1 else made.mean.flatten().tolist(),
        "std": None if made.plain_scale else made.std.flatten().tolist(),
        "augmentation": _augmentation(data, images.train),
    }


def _augmentation(data: Data, train: Split) -> str:
    if isinstance(train, InMemory):
        return f"{train.padding} pixels of zeros on each side, a crop, mirrored or not" if train.padding else "none"
    return str(getattr(train, "way", None) or "none") if data.augment != "none" else "none"


def _troubles(
    looks: Mapping[str, Sequence[Look]],
    good: Mapping[str, Sequence[Look]],
    counts: Mapping[str, Counter[str]],
    classes: Sequence[str],
    stray: Sequence[str],
) -> Iterable[Trouble]:
    broken = [f"{look.place} ({look.broken})" for found in looks.values() for look in found if look.broken]
    yield from _if_any("files that are no images", broken, "mend or remove them, or train with data.broken=skip")
    remedy = "nothing is done with them; put them into the folder of their class"
    yield from _if_any("files beside the folders of classes", stray, remedy)
    empty = [label for label in classes if not counts["train"][label] and not counts["held_out"][label]]
    yield from _if_any("classes without images", empty, "remove their folders, or add images")
    unseen = [label for label in classes if counts["held_out"][label] and not counts["train"][label]]
    yield from _if_any("classes that are only held out", unseen, "add images to train on")
    untested = [label for label in classes if counts["train"][label] and not counts["held_out"][label]]
    yield from _if_any("classes that are never tested", untested, "hold some of their images out")
    groups = defaultdict[bytes, list[tuple[str, Look]]](list)
    for name, found in good.items():
        for look in found:
            groups[look.digest].append((name, look))
    several = [group for group in groups.values() if len(group) > 1]
    leaked = [_both(g) for g in several if len({name for name, _ in g}) > 1]
    remedy = "remove them from one of the two: the error is too low with them"
    yield from _if_any("images with the same content in train and held out", leaked, remedy)
    torn = [_both(group) for group in several if len({look.label for _, look in group}) > 1]
    yield from _if_any("images with the same content in different classes", torn, "decide for one class")
    again = [_both(g) for g in several if len({n for n, _ in g}) == 1 and len({k.label for _, k in g}) == 1]
    yield from _if_any("images that are there more than once", again, "remove the copies")
    flat = [look.place for found in good.values() for look in found if look.flat]
    yield from _if_any("images of one flat colour", flat, "look whether they show anything")
    sizes = [count for label in classes if (count := counts["train"][label])]
    if sizes and max(sizes) >= UNEVEN * min(sizes):
        rare = min((label for label in classes if counts["train"][label]), key=lambda label: counts["train"][label])
        told = (f"{rare} has {min(sizes)} images, the largest class {max(sizes)}",)
        yield Trouble(what="uneven classes", count=1, examples=told, remedy="training.class_weights=balanced")


def _both(group: Sequence[tuple[str, Look]]) -> str:
    return " = ".join(f"{name}: {look.label}, {look.place.rpartition('/')[2]}" for name, look in group[:3])


def _if_any(what: str, examples: Sequence[str], remedy: str) -> Iterable[Trouble]:
    if examples:
        yield Trouble(what=what, count=len(examples), examples=tuple(examples), remedy=remedy)


def samples(data: Data, *, classes: int, rows: int, epochs: int) -> tuple[list[tuple[str, list[Any]]], int]:
    """Per class some training images, each as it is tested and as it is trained on in the first epochs; the side.

    Images are (H, W, C) bytes. Raises `DataError` as training does.
    """
    images = load(data)
    prepared, found = images.preparation, list[tuple[str, list[Any]]]()
    for at, label in enumerate(images.classes[:classes]):
        places = torch.nonzero(images.train.labels == at).flatten()[:rows]
        columns = [images.train.plain(places)]
        columns += [images.train.drawn(places, torch.full_like(places, epoch), 0) for epoch in range(epochs)]
        shown = [
            [_bytes(column[row] * prepared.std + prepared.mean) for column in columns] for row in range(len(places))
        ]
        found.append((label, shown))
    return found, prepared.side


def _bytes(image: torch.Tensor) -> Any:
    return (255 * image).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
