"""CIFAR-10 and CIFAR-100 from the official archives, binary or Python: 60,000 images of 32×32 pixels.

Archives and digests: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import io
import os
import pickle
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cleanpath.data.images import Images
from cleanpath.data.memory import InMemory
from cleanpath.data.preparation import Preparation
from cleanpath.errors import DataError, RunError
from cleanpath.experiment import Data
from cleanpath.locking import acquire

_PAGE = "https://www.cs.toronto.edu/~kriz/"
_SPLIT_SEED = 20160316
VALIDATION_IMAGES = 5000
"""The first paper chose its schedule on a split of 45,000 and 5,000."""
_PIXELS = 3 * 32 * 32
_PIECE = 1 << 20
_SECONDS, _LOOK = 30.0, 0.2


@dataclass(frozen=True, kw_only=True)
class _Archive:
    """One official archive: its file, MD5 (as the page lists it), and the folder that it unpacks to."""

    file: str
    md5: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What the two data sets differ in."""

    name: str
    binary: _Archive
    python: _Archive
    train: tuple[str, ...]
    test: str
    meta: tuple[str, str]
    """The files that name the classes, in the binary and in the Python version."""
    label_bytes: int
    """Per record of the binary version; the last of them is the class."""
    keys: tuple[str, str]
    """Of labels and of names, in the Python version."""


_CIFAR10 = _Kind(
    name="cifar10",
    binary=_Archive(
        file="cifar-10-binary.tar.gz", md5="c32a1d4ab5d03f1284b67883e8d87530", folder="cifar-10-batches-bin"
    ),
    python=_Archive(
        file="cifar-10-python.tar.gz", md5="c58f30108f718f92721af3b95e74349a", folder="cifar-10-batches-py"
    ),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta=("batches.meta.txt", "batches.meta"),
    label_bytes=1,
    keys=("labels", "label_names"),
)
_CIFAR100 = _Kind(
    name="cifar100",
    binary=_Archive(file="cifar-100-binary.tar.gz", md5="03b5dce01913d631647c71ecec9e9cb8", folder="cifar-100-binary"),
    python=_Archive(file="cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85", folder="cifar-100-python"),
    train=("train",),
    test="test",
    meta=("fine_label_names.txt", "meta"),
    label_bytes=2,
    keys=("fine_labels", "fine_label_names"),
)
Records = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def cifar10(data: Data) -> Images:
    """50,000 training and 10,000 test images in 10 classes; or 45,000 and 5,000 of the training images.

    The training images' per-pixel mean is subtracted; training images are cropped out of 4 padded pixels on each side
    and mirrored at random (first paper, Section 4.2).

    Raises `DataError` with the file that is missing and where it belongs.
    """
    return _cifar(_CIFAR10, data.held_out, data.augment, str(root()))


def cifar100(data: Data) -> Images:
    """The same in 100 classes."""
    return _cifar(_CIFAR100, data.held_out, data.augment, str(root()))


def root() -> Path:
    """Where data sets are looked for: the folder in the variable CLEANPATH_DATA, else `data`."""
    return Path(os.environ.get("CLEANPATH_DATA", "data"))


@lru_cache(maxsize=2)
def _cifar(kind: _Kind, held_out: str, augment: str, where: str) -> Images:
    train, test, names = _read(kind, Path(where))
    if held_out == "validation":
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(train[1]))
        kept, apart = order[VALIDATION_IMAGES:], order[:VALIDATION_IMAGES]
        train, test = (train[0][kept], train[1][kept]), (train[0][apart], train[1][apart])
    mean = torch.from_numpy(train[0].mean(axis=0, dtype=np.float64).astype(np.float32) / 255)
    preparation = Preparation(side=32, channels=3, mean=mean, std=torch.ones_like(mean))
    (seen, labels), (apart_pixels, apart_labels) = (
        (torch.from_numpy(a), torch.from_numpy(b)) for a, b in (train, test)
    )
    return Images(
        train=InMemory(pixels=seen, labels=labels, preparation=preparation, padding=4 if augment == "usual" else 0),
        held_out=InMemory(pixels=apart_pixels, labels=apart_labels, preparation=preparation),
        classes=names,
        preparation=preparation,
    )


def _read(kind: _Kind, where: Path) -> tuple[Records, Records, tuple[str, ...]]:
    """From a folder that was unpacked, else from an archive, else from one that is fetched now."""
    for archive, binary in ((kind.binary, True), (kind.python, False)):
        if (where / archive.folder).is_dir():
            return _records(kind, _in_folder(where / archive.folder), binary=binary, source=where / archive.folder)
    for archive, binary in ((kind.binary, True), (kind.python, False)):
        if (where / archive.file).is_file():
            return _records(
                kind, _in_archive(where / archive.file, archive), binary=binary, source=where / archive.file
            )
    fetched = fetch(_PAGE + kind.binary.file, where / kind.binary.file, kind.binary.md5)
    return _records(kind, _in_archive(fetched, kind.binary), binary=True, source=fetched)


def _in_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _in_archive(path: Path, archive: _Archive) -> dict[str, bytes]:
    check(path, archive.md5)
    try:
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.isfile()]
            return {PurePosixPath(m.name).name: _content(tar, m) for m in members}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be unpacked: {error}; fetch it again from {_PAGE}cifar.html") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _records(
    kind: _Kind, files: dict[str, bytes], *, binary: bool, source: Path
) -> tuple[Records, Records, tuple[str, ...]]:
    def of(name: str) -> Records:
        file = f"{name}.bin" if binary else name
        if file not in files:
            raise DataError(f"{source} has no {file}; fetch {kind.binary.file} again from {_PAGE}cifar.html")
        try:
            found = _binary(kind, files[file]) if binary else _pickled(kind, files[file])
        except (ValueError, KeyError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
            raise DataError(f"{source}/{file} is damaged ({error}); fetch it again from {_PAGE}cifar.html") from None
        if not 0 <= found[1].min() <= found[1].max() < len(names):
            raise DataError(f"{source}/{file} is damaged (a class above {len(names) - 1}); fetch it again")
        return found

    meta = kind.meta[0 if binary else 1]
    if meta not in files:
        raise DataError(f"{source} has no {meta}; fetch {kind.binary.file} again from {_PAGE}cifar.html")
    names = _binary_names(files[meta]) if binary else tuple(map(str, safe_pickle(files[meta])[kind.keys[1]]))
    parts = [of(name) for name in kind.train]
    train = np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])
    return train, of(kind.test), names


def _binary(kind: _Kind, data: bytes) -> Records:
    length = kind.label_bytes + _PIXELS
    if not data or len(data) % length:
        raise ValueError(f"{len(data)} bytes are not records of {length}")
    records = np.frombuffer(data, np.uint8).reshape(-1, length)
    pixels = records[:, kind.label_bytes :].reshape(-1, 3, 32, 32).copy()
    return pixels, records[:, kind.label_bytes - 1].astype(np.int64)


def _binary_names(data: bytes) -> tuple[str, ...]:
    return tuple(line for line in data.decode().splitlines() if line)


def _pickled(kind: _Kind, data: bytes) -> Records:
    table = safe_pickle(data)
    pixels = np.asarray(table["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    labels = np.asarray(table[kind.keys[0]], dtype=np.int64)
    if len(pixels) != len(labels):
        raise ValueError(f"{len(pixels)} images and {len(labels)} labels")
    return pixels, labels


class _OnlyArrays(pickle.Unpickler):
    """Refuses every name but those that a numpy array is made of: nothing else can be called."""

    _ALLOWED = frozenset(
        {
            *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
            *(("numpy", name) for name in ("ndarray", "dtype")),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def safe_pickle(data: bytes) -> dict[str, Any]:
    """A table of numbers, words and arrays from a pickle of Python 2 or 3; anything else in it is refused."""
    table = _OnlyArrays(io.BytesIO(data), encoding="latin1").load()
    if not isinstance(table, dict):
        raise pickle.UnpicklingError(f"it holds a {type(table).__name__}, not a table")
    return table


def fetch(address: str, target: Path, md5: str) -> Path:
    """Download, going on where an earlier try stopped; the file has its name only once its digest is right.

    Raises `DataError` with what to put where if there is no network, or the folder cannot be written.
    """
    how = f"put {target.name} (from {address}) into {target.parent or Path()}, or set CLEANPATH_DATA to its folder"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            return target if target.is_file() else _fetched(address, target, md5)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{target.name} is not there and cannot be fetched ({reason}); {how}") from None


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait for another process that fetches the same file, as the ranks of one run do, while what it has grows."""
    lock, part = target.with_name(f".{target.name}.lock"), target.with_name(f"{target.name}.part")
    grown, since = -1, time.monotonic()
    while True:
        try:
            acquire(lock)
            break
        except RunError as error:
            size = part.stat().st_size if part.is_file() else 0
            if size > grown:
                grown, since = size, time.monotonic()
            elif time.monotonic() - since > 2 * _SECONDS:
                raise DataError(f"{target.name} is being fetched, and nothing comes: {error}") from None
            time.sleep(_LOOK)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _fetched(address: str, target: Path, md5: str) -> Path:
    part = target.with_name(f"{target.name}.part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 (https, our own constant)
        mode = "ab" if answer.status == 206 else "wb"
        with part.open(mode) as out:
            for piece in _pieces(answer):
                out.write(piece)
    try:
        check(part, md5)
    except DataError:
        part.unlink()
        raise
    part.replace(target)
    return target


def _pieces(answer: Any) -> Iterator[bytes]:
    while piece := answer.read(_PIECE):
        yield piece


def check(path: Path, md5: str) -> None:
    """Compare a file with the digest that its publisher lists. Raises `DataError`."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} is not the published file (MD5 {found}, published {md5}); remove it and fetch it again"
        )
