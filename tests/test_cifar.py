"""CIFAR in its four forms, made small here: what is read, what is refused, what is fetched."""

import functools
import hashlib
import http.server
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cleanpath.data import cifar
from cleanpath.data.sources import load
from cleanpath.errors import DataError
from cleanpath.experiment import Data
from tests.helpers import pixels_of

COUNT = 20  # images of a file
NAMES = {"cifar10": [f"kind {n}" for n in range(10)], "cifar100": [f"kind {n}" for n in range(100)]}


def content(kind: str) -> dict[str, tuple[Any, Any]]:
    """Pixels and labels of every file, in the order of the official ones."""
    random = np.random.default_rng(len(kind))
    files = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if kind == "cifar10" else ["train", "test"]
    most = len(NAMES[kind])
    return {
        name: (random.integers(0, 256, (COUNT, 3072), np.uint8), random.integers(0, most, COUNT).tolist())
        for name in files
    }


def write_binary(kind: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in content(kind).items():
        columns = [np.array(labels, np.uint8)[:, None]]
        if kind == "cifar100":
            columns.insert(0, np.zeros((COUNT, 1), np.uint8))
        (folder / f"{name}.bin").write_bytes(np.hstack([*columns, pixels]).tobytes())
    meta = "batches.meta.txt" if kind == "cifar10" else "fine_label_names.txt"
    (folder / meta).write_text("\n".join(NAMES[kind]) + "\n\n")


def write_python(kind: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    labels_key, names_key = ("labels", "label_names") if kind == "cifar10" else ("fine_labels", "fine_label_names")
    for name, (pixels, labels) in content(kind).items():
        (folder / name).write_bytes(pickle.dumps({"data": pixels, labels_key: labels}, protocol=2))
    meta = "batches.meta" if kind == "cifar10" else "meta"
    (folder / meta).write_bytes(pickle.dumps({names_key: NAMES[kind]}, protocol=2))


FORMS = {
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar100", "binary"): "cifar-100-binary",
    ("cifar100", "python"): "cifar-100-python",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CLEANPATH_DATA", str(tmp_path))
    cifar._cifar.cache_clear()
    yield tmp_path
    cifar._cifar.cache_clear()


def archived(folder: Path, archive: cifar._Archive) -> Path:
    """The folder as an archive of the official name, whose digest is taken for the published one."""
    target = folder.parent / archive.file
    with tarfile.open(target, "w:gz") as tar:
        tar.add(folder, arcname=archive.folder)
    object.__setattr__(archive, "md5", hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return target


@pytest.fixture
def kinds() -> Iterator[None]:
    """The published digests are as they were afterwards."""
    every = [archive for kind in (cifar._CIFAR10, cifar._CIFAR100) for archive in (kind.binary, kind.python)]
    before = [archive.md5 for archive in every]
    yield
    for archive, md5 in zip(every, before, strict=True):
        object.__setattr__(archive, "md5", md5)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(("kind", "form"), FORMS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_every_form_gives_the_same_images(place: Path, kind: str, form: str, *, packed: bool) -> None:
    folder = place / FORMS[kind, form]
    (write_binary if form == "binary" else write_python)(kind, folder)
    if packed:
        archived(folder, getattr(cifar._CIFAR10 if kind == "cifar10" else cifar._CIFAR100, form))
    images = load(Data(name=kind))
    *train, test = content(kind).values()
    pixels = np.concatenate([each for each, _ in train]).reshape(-1, 3, 32, 32).astype(np.float64) / 255
    mean = pixels.mean(axis=0)
    assert np.abs(pixels_of(images.train).numpy() - (pixels - mean)).max() < 1e-6
    assert np.abs(pixels_of(images.held_out).numpy() - (test[0].reshape(-1, 3, 32, 32) / 255 - mean)).max() < 1e-6
    assert images.train.labels.tolist() == [label for _, labels in train for label in labels]
    assert images.held_out.labels.tolist() == test[1]
    assert (images.classes, images.channels, images.side) == (tuple(NAMES[kind]), 3, 32)


def test_training_images_are_cropped_unless_asked_otherwise(place: Path) -> None:
    write_binary("cifar10", place / "cifar-10-batches-bin")
    chosen, epochs = torch.arange(5), torch.zeros(5, dtype=torch.int64)
    plain, usual = (load(Data(name="cifar10", augment=how)).train for how in ("none", "usual"))
    assert torch.equal(plain.drawn(chosen, epochs, 0), plain.plain(chosen))
    assert not torch.equal(usual.drawn(chosen, epochs, 0), plain.plain(chosen))
    assert torch.equal(usual.plain(chosen), plain.plain(chosen))


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    write_python("cifar10", place / "cifar-10-batches-py")
    (place / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(DataError, match=r"data_batch_3 is damaged \(it asks for .*system"):
        load(Data(name="cifar10"))
    assert not (place / "executed").exists()


@pytest.mark.parametrize(
    ("file", "data", "answer"),
    [
        ("data_batch_2.bin", b"short", "5 bytes are not records of 3073"),
        ("test_batch.bin", b"\x0b" * 3073, "a class above 9"),
        ("data_batch_5.bin", None, "has no data_batch_5.bin"),
        ("batches.meta.txt", None, "has no batches.meta.txt"),
    ],
)
def test_damaged_files_are_named(place: Path, file: str, data: bytes | None, answer: str) -> None:
    folder = place / "cifar-10-batches-bin"
    write_binary("cifar10", folder)
    (folder / file).unlink()
    if data is not None:
        (folder / file).write_bytes(data)
    with pytest.raises(DataError, match=answer.replace("(", r"\(")):
        load(Data(name="cifar10"))


def test_an_archive_of_another_digest_is_refused(place: Path) -> None:
    (place / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"is not the published file \(MD5 .* c32a1d4ab5d03f1284b67883e8d87530"):
        load(Data(name="cifar10"))


def test_without_a_network_it_is_said_which_file_goes_where(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_PAGE", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"put cifar-10-binary\.tar\.gz \(from http.*\) into .*, or set CLEANPATH_DATA"):
        load(Data(name="cifar10"))
    assert not list(place.iterdir())


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves parts of files, as the real server does."""

    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        data = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.end_headers()
        self.wfile.write(data[start:])

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("served")
    Ranged.asked = []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranged, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()


def test_a_download_goes_on_where_it_stopped_and_is_checked(server: tuple[Path, str], place: Path) -> None:
    folder, address = server
    data = os.urandom(5000)
    (folder / "file").write_bytes(data)
    (place / "file.part").write_bytes(data[:1234])
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert cifar.fetch(f"{address}file", place / "file", md5).read_bytes() == data
    assert Ranged.asked == ["bytes=1234-"]
    assert not (place / "file.part").exists()


def test_of_several_processes_one_fetches_and_the_others_wait(server: tuple[Path, str], place: Path) -> None:
    folder, address = server
    data = os.urandom(3 << 20)
    (folder / "file").write_bytes(data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(cifar.fetch, f"{address}file", place / "made" / "file", md5) for _ in range(4)]
    assert [each.result().read_bytes() == data for each in found] == [True] * 4
    assert Ranged.asked == [None]
    assert list((place / "made").iterdir()) == [place / "made" / "file"]


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(place: Path) -> None:
    (place / "file").write_text("in the way", encoding="ascii")
    with pytest.raises(DataError, match=r"cannot be fetched .*or set CLEANPATH_DATA to its folder"):
        cifar.fetch("http://127.0.0.1:1/x.tar.gz", place / "file" / "x.tar.gz", "0" * 32)


def test_a_download_that_is_damaged_is_thrown_away(server: tuple[Path, str], place: Path) -> None:
    folder, address = server
    (folder / "file").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="is not the published file"):
        cifar.fetch(f"{address}file", place / "file", "0" * 32)
    assert not list(place.iterdir())


def test_validation_images_are_a_part_of_the_training_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_binary("cifar10", place / "cifar-10-batches-bin")
    monkeypatch.setattr(cifar, "VALIDATION_IMAGES", 30)
    images = load(Data(name="cifar10", held_out="validation"))
    assert (len(images.train.labels), len(images.held_out.labels)) == (70, 30)
    assert pixels_of(images.train).mean(dim=0).abs().max() < 1e-6


def test_a_pickle_without_a_table_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="a list, not a table"):
        cifar.safe_pickle(pickle.dumps([1]))
    assert isinstance(cifar.safe_pickle(pickle.dumps({"data": np.zeros(3, np.uint8)}))["data"], np.ndarray)
