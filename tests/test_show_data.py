"""`show DATA`: what a data set holds, with every trouble planted once, and the picture of its images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from cleanpath.data import inspection
from cleanpath.data.sources import load
from cleanpath.experiment import Data
from tests.helpers import assert_user_error, here

COUNTS = {"train": 6, "test": 3}


def noise(seed: int, side: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three classes, nothing wrong."""
    for number, name in enumerate(("cat", "dog", "owl")):
        for part, count in COUNTS.items():
            (tmp_path / part / name).mkdir(parents=True)
            for at in range(count):
                noise(1000 * number + 100 * (part == "test") + at).save(tmp_path / part / name / f"{at}.png")
    return tmp_path


def told(place: Path, *words: str) -> dict[str, Any]:
    outcome = here("show", f"folder:{place}", "--json", *words)
    assert outcome.code == 0, outcome.err
    return outcome.json()  # type: ignore[no-any-return]


def troubles(place: Path) -> dict[str, tuple[int, list[str]]]:
    return {one["what"]: (one["count"], one["examples"]) for one in told(place)["troubles"]}


def test_a_healthy_folder(place: Path) -> None:
    found = told(place)
    assert found["splits"] == {"train": 18, "held_out": 9}
    assert found["classes"] == [{"name": name, "train": 6, "held_out": 3} for name in ("cat", "dog", "owl")]
    assert found["sizes"] == {"smallest": [20, 20], "median": [20, 20], "largest": [20, 20]}
    assert found["kinds"] == {"PNG RGB": 27}
    assert found["troubles"] == []
    assert "nothing wrong was found" in here("show", f"folder:{place}").out
    assert (found["preparation"]["side"], found["preparation"]["augmentation"][:11]) == (20, "2 pixels of")


def test_colours_are_those_of_all_training_pixels(place: Path) -> None:
    found = told(place)
    pixels = np.concatenate([np.asarray(Image.open(p)).reshape(-1, 3) for p in place.glob("train/*/*.png")]) / 255
    assert found["mean"] == pytest.approx(pixels.mean(axis=0).tolist())
    assert found["std"] == pytest.approx(pixels.std(axis=0).tolist())


def test_digits_are_those_of_scikit_learn() -> None:
    found = here("show", "digits", "--json").json()
    _, labels = load_digits(return_X_y=True)
    assert sum(row["train"] + row["held_out"] for row in found["classes"]) == len(labels)
    assert [row["train"] + row["held_out"] for row in found["classes"]] == np.bincount(labels).tolist()
    images = load(Data()).train
    raw = images.pixels.numpy()  # type: ignore[attr-defined]
    assert found["mean"] == pytest.approx([float(raw.mean())])
    assert found["std"] == pytest.approx([float(raw.std())], rel=1e-6)
    assert found["preparation"]["mean"] == "per pixel"


def leak(place: Path) -> None:
    """The same pixels, in another format."""
    Image.open(place / "train" / "cat" / "2.png").save(place / "test" / "cat" / "again.bmp")


def tear(place: Path) -> None:
    (place / "train" / "dog" / "same.png").write_bytes((place / "train" / "owl" / "1.png").read_bytes())


def copy(place: Path) -> None:
    (place / "train" / "dog" / "same.png").write_bytes((place / "train" / "dog" / "1.png").read_bytes())


def break_one(place: Path) -> None:
    (place / "train" / "cat" / "bad.jpg").write_bytes(b"no image")


def empty(place: Path) -> None:
    (place / "train" / "ant").mkdir()


def only_tested(place: Path) -> None:
    (place / "test" / "ant").mkdir()
    noise(9).save(place / "test" / "ant" / "a.png")


def never_tested(place: Path) -> None:
    (place / "train" / "ant").mkdir()
    noise(9).save(place / "train" / "ant" / "a.png")


def flatten(place: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(place / "train" / "owl" / "red.png")


def stray(place: Path) -> None:
    (place / "train" / "list.csv").write_text("a,b")


def crowd(place: Path) -> None:
    for at in range(60):
        noise(5000 + at).save(place / "train" / "owl" / f"more{at}.png")


PLANTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "images with the same content in train and held out": (leak, "again.bmp"),
    "images with the same content in different classes": (tear, "same.png"),
    "images that are there more than once": (copy, "same.png"),
    "files that are no images": (break_one, "cat/bad.jpg (not an image)"),
    "classes without images": (empty, "ant"),
    "classes that are only held out": (only_tested, "ant"),
    "classes that are never tested": (never_tested, "ant"),
    "images of one flat colour": (flatten, "owl/red.png"),
    "files beside the folders of classes": (stray, "train/list.csv"),
    "uneven classes": (crowd, "has 6 images, the largest class 66"),
}


@pytest.mark.parametrize("what", PLANTS)
def test_every_trouble_is_found_where_it_was_planted_and_no_other(place: Path, what: str) -> None:
    plant, named = PLANTS[what]
    plant(place)
    found = troubles(place)
    assert set(found) == {what}
    count, examples = found[what]
    assert count == 1
    assert named in examples[0]
    text = here("show", f"folder:{place}").out
    assert what in text
    assert named in text


def test_different_images_of_the_same_bytes_are_not_confused(place: Path) -> None:
    """3×8 and 8×3 pixels with the same bytes."""
    flat = np.random.default_rng(0).integers(0, 256, 72, np.uint8)
    Image.fromarray(flat.reshape(3, 8, 3)).save(place / "train" / "cat" / "wide.png")
    Image.fromarray(flat.reshape(8, 3, 3)).save(place / "train" / "cat" / "high.png")
    assert troubles(place) == {}


def test_what_training_refuses_is_said_and_shown_all_the_same(place: Path) -> None:
    break_one(place)
    assert "training refuses it: " in here("show", f"folder:{place}").out
    assert "data.broken=skip" in told(place)["preparation"]
    assert told(place, "--set", "data.broken=skip")["preparation"]["side"] == 20


def test_a_large_folder_is_looked_at_in_part(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MOST_FILES", 5)
    found = told(place)
    assert found["looked_at"] == {"train": 5, "held_out": 5}
    assert found["splits"] == {"train": 18, "held_out": 9}
    assert "looked at 5 of 18 (train)" in here("show", f"folder:{place}").out
    assert told(place, "--all")["looked_at"] is None


def test_the_picture_has_the_pixels_at_their_places(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    assert here("show", f"folder:{place}", "--picture", str(target)).code == 0
    sheet = np.asarray(Image.open(target).convert("RGB"))
    images = load(Data(name=f"folder:{place}"))
    prepared = images.preparation
    for epoch, x in ((None, 12), (0, 12 + 80 + 6), (3, 12 + 4 * 86)):
        index = torch.tensor([0])
        drawn = images.train.plain(index) if epoch is None else images.train.drawn(index, torch.tensor([epoch]), 0)
        pixels = (255 * (drawn[0] * prepared.std + prepared.mean)).round().clamp(0, 255).permute(1, 2, 0).numpy()
        expected = pixels.astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        top = 22 + 6 + 22
        assert (sheet[top : top + 80, x : x + 80] == expected).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("folder:nowhere",), "nowhere is no folder"),
        (("imagenet:nowhere",), "has no train and no val"),
        (("digits", "--picture", "a.gif"), "a.gif is no .png"),
        (("digits", "--set", "training.lr=1"), "a data set has the settings data.*"),
        (("preresnet20", "--picture", "a.png"), "preresnet20 is none"),
    ],
)
def test_wrong_input_is_refused(words: tuple[str, ...], said: str) -> None:
    assert_user_error(here("show", *words), said)


def test_a_folder_without_images_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert_user_error(here("show", f"folder:{tmp_path}"), "has no files in folders of classes")


def test_json_is_complete(place: Path) -> None:
    leak(place)
    found = told(place)
    assert (found["schema"], found["version"]) == ("cleanpath.data", 1)
    assert json.loads(json.dumps(found)) == found
