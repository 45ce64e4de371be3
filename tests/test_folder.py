"""Folders of photographs: every mode and size, and what is no image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cleanpath.data.decode import BrokenImageError, decoded
from cleanpath.data.folder import listing
from cleanpath.data.images import Images
from cleanpath.data.photographs import MEAN, STD
from cleanpath.data.sources import load
from cleanpath.errors import DataError
from cleanpath.experiment import Data
from tests.helpers import here, pixels_of


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def fill(folder: Path, classes: int = 2, count: int = 6, side: int = 12) -> None:
    for kind in range(classes):
        (folder / f"kind {kind}").mkdir(parents=True)
        for at in range(count):
            noise(side, side, 100 * kind + at).save(folder / f"kind {kind}" / f"{at}.png")


def images(folder: Path, **settings: object) -> Images:
    return load(Data(name=f"folder:{folder}", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    shade = Image.linear_gradient("L").resize((20, 10))
    suffix = {"CMYK": "tiff", "YCbCr": "tiff", "I;16": "png", "I": "tiff", "F": "tiff"}.get(mode, "png")
    if mode.startswith("I"):
        picture = Image.fromarray(np.asarray(shade).astype(np.uint16) * 257)
        picture = picture if mode == "I;16" else picture.convert("I")
    else:
        picture = shade.convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    found = decoded(tmp_path / f"a.{suffix}")
    assert (found.mode, found.size) == ("RGB", (20, 10))
    if mode not in {"1", "P"}:
        assert np.abs(np.asarray(found).astype(int) - np.asarray(shade)[:, :, None]).max() <= 4


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "black")
    picture.paste("white", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    found = np.asarray(decoded(tmp_path / "a.png"))
    assert found.shape == (8, 4, 3)
    assert found[:4].min() == 255
    assert found[4:].max() == 0


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert np.asarray(decoded(tmp_path / "a.png")).min() == 255


def bomb(path: Path) -> None:
    """A header of a PNG of 60,000 × 60,000 pixels."""
    Image.new("1", (8, 8)).save(path, format="PNG")
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4) * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    path.write_bytes(data)


def half(path: Path) -> None:
    noise(64, 64).save(path, format="JPEG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("words"), "not an image"),
        (half, "truncated"),
        (bomb, "a bomb"),
    ],
)
def test_what_is_no_image_is_said_in_a_word(tmp_path: Path, write: object, reason: str) -> None:
    write(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(BrokenImageError, match=reason):
        decoded(tmp_path / "a")


def test_broken_files_are_named_and_refused_or_skipped_by_choice(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val", count=2)
    (tmp_path / "train" / "kind 0" / "notes.txt").write_text("not a picture")
    (tmp_path / "val" / "kind 1" / "9.png").write_bytes(b"")
    (tmp_path / "train" / "kind 0" / ".DS_Store").write_bytes(b"hidden files are nobody's")
    with pytest.raises(
        DataError, match=r"2 files that cannot be read as images: kind 0/notes\.txt \(not an image\), kind 1"
    ):
        images(tmp_path)
    found = images(tmp_path, broken="skip")
    assert (len(found.train.labels), len(found.held_out.labels)) == (12, 4)


def test_small_images_are_kept_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test", count=1)
    found = images(tmp_path)
    assert (found.classes, found.side, found.channels) == (("kind 0", "kind 1"), 12, 3)
    raw = np.asarray(Image.open(tmp_path / "train" / "kind 1" / "0.png")).transpose(2, 0, 1) / 255
    expected = (raw - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert np.abs(pixels_of(found.train)[6].numpy() - expected).max() < 1e-5
    assert found.train.labels.tolist() == [0] * 6 + [1] * 6


def test_large_images_are_read_when_needed_and_cut_by_their_own_numbers(tmp_path: Path) -> None:
    for kind in range(2):
        (tmp_path / "train" / f"k{kind}").mkdir(parents=True)
        (tmp_path / "val" / f"k{kind}").mkdir(parents=True)
        for at in range(3):
            noise(90 + 10 * at, 120, at).save(tmp_path / "train" / f"k{kind}" / f"{at}.jpg")
        noise(80, 70, 9).save(tmp_path / "val" / f"k{kind}" / "0.jpg")
    found = images(tmp_path, side=72)
    chosen, first, second = torch.arange(6), torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    drawn = found.train.drawn(chosen, first, 0)
    assert drawn.shape == (6, 3, 72, 72)
    assert torch.equal(found.train.drawn(chosen[2:4], first[2:4], 0), drawn[2:4])
    assert not torch.equal(found.train.drawn(chosen, second, 0), drawn)
    assert torch.equal(found.train.plain(chosen), found.train.plain(chosen))
    assert drawn.isfinite().all()


def test_one_folder_is_split_by_the_names_of_its_files(tmp_path: Path) -> None:
    fill(tmp_path, count=40)
    before = listing(tmp_path)
    assert 5 <= len(before.held_out) <= 30
    assert not {file for file, _ in before.train} & {file for file, _ in before.held_out}
    noise(12, 12, 999).save(tmp_path / "kind 0" / "one more.png")
    after = listing(tmp_path)
    assert {file for file, _ in before.held_out} <= {file for file, _ in after.held_out}
    assert {file for file, _ in before.train} <= {file for file, _ in after.train}


def with_an_empty_class(folder: Path) -> None:
    fill(folder)
    for file in (folder / "kind 1").iterdir():
        file.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda _: None, "is no folder"),
        (lambda folder: folder.mkdir(), "has 0 classes"),
        (lambda folder: fill(folder, classes=1), "has 1 classes"),
        (with_an_empty_class, "kind 1"),
    ],
)
def test_folders_that_are_no_data_set_are_refused(tmp_path: Path, make: object, answer: str) -> None:
    make(tmp_path / "photos")  # type: ignore[operator]
    with pytest.raises(DataError, match=answer):
        images(tmp_path / "photos", broken="skip")


def test_a_class_that_is_only_held_out_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "val", classes=3, count=1)
    with pytest.raises(DataError, match="the class kind 2 has held-out images and none to train on"):
        images(tmp_path)


def test_a_folder_trains_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", classes=3, count=30)
    outcome = here(
        *("train", "preresnet8", "--data", "folder:photos", "--set", "network.width=4", "--threads", "1"),
        *("--set", "training.iterations=4", "--set", "training.batch_size=8", "--out", "run", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json()["experiment"]["network"]["num_classes"] == 3
