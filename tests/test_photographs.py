"""ImageNet's folders, and photographs as the paper's Table 5 cuts, colours and tests them: against slow oracles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cleanpath import assemble, trained
from cleanpath.data import augment
from cleanpath.data.images import Images
from cleanpath.data.photographs import MEAN, STD, WAYS, OnDisk
from cleanpath.data.sources import load
from cleanpath.data.stream import batches
from cleanpath.errors import DataError
from cleanpath.experiment import Data, Experiment, Training
from cleanpath.nn import catalog
from tests.helpers import assert_user_error, here

SIDE = 72


def smooth(width: int, height: int, seed: int) -> Image.Image:
    """Slow waves, which resizing by any good method leaves as they are."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    phase, slope = generator.uniform(0, 6, 3), generator.uniform(1, 6, (3, 2))
    waves = [127 + 90 * np.sin(p + a * x + b * y) for p, (a, b) in zip(phase, slope, strict=True)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ImageNet: 6 classes, with images of many sizes."""
    root = tmp_path_factory.mktemp("imagenet")
    for part, count in (("train", 6), ("val", 3)):
        for number in range(6):
            folder = root / part / f"n0{number}"
            folder.mkdir(parents=True)
            for at in range(count):
                size = (120 + 37 * at, 100 + 50 * (at % 3))
                smooth(*size, 100 * number + at).save(folder / f"{at}.JPEG", quality=98)
    return root


def photographs(place: Path, **settings: object) -> Images:
    return load(Data(name=f"imagenet:{place}", side=SIDE, **settings))  # type: ignore[arg-type]


def shown(normalised: torch.Tensor) -> np.ndarray:
    """(H, W, C) from 0 to 255."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (255 * (normalised * std + mean)).permute(1, 2, 0).numpy()


def test_layout_classes_and_splits(place: Path) -> None:
    images = photographs(place)
    assert images.classes == tuple(f"n0{number}" for number in range(6))
    assert (len(images.train.labels), len(images.held_out.labels)) == (36, 18)
    assert images.side == SIDE
    assert torch.equal(images.train.labels, torch.arange(6).repeat_interleave(6))
    apart = photographs(place, held_out="validation")
    assert (len(apart.train.labels), len(apart.held_out.labels)) == (35, 1)
    both = (apart.train, apart.held_out)
    files = [path for split in both if isinstance(split, OnDisk) for path in split.paths]
    assert len(set(files)) == 36


def test_listing_opens_no_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("a file was opened"))
    assert len(photographs(place, augment="none").train.labels) == 36


def test_a_scaled_part_is_a_resize_and_then_a_crop(place: Path) -> None:
    """First paper, Section 3.4, written in two steps: shorter side to s, then a crop; s even in [256, 480]·side/224."""
    images = photographs(place, augment="scale")
    assert isinstance(images.train, OnDisk)
    indices, epochs = torch.arange(36), torch.full((36,), 2)
    numbers = augment.draws(5, epochs, indices, 7)
    for index in range(0, 36, 5):
        row = numbers[index]
        image = Image.open(images.train.paths[index]).convert("RGB")
        shorter = SIDE * (256 + (480 - 256) * row[0]) / 224
        scale = shorter / min(image.size)
        large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = round(row[1] * (large.width - SIDE)), round(row[2] * (large.height - SIDE))
        expected = np.asarray(large.crop((left, top, left + SIDE, top + SIDE)), dtype=float)
        expected = expected[:, ::-1] if row[3] < 0.5 else expected
        part = WAYS["scale"].part(image, SIDE, row)
        assert np.abs(np.asarray(part, dtype=float) - expected).mean() < 2.5


@pytest.mark.parametrize("way", ["scale", "scale_aspect", "cut"])
def test_an_image_depends_on_seed_epoch_and_index_alone(place: Path, way: str) -> None:
    name = "usual" if way == "scale" else way
    images = load(Data(name=f"folder:{place}", side=SIDE)) if way == "cut" else photographs(place, augment=name)
    indices, epochs = torch.tensor([3, 17, 8]), torch.tensor([0, 0, 4])
    together = images.train.drawn(indices, epochs, 1)
    for at in range(3):
        assert torch.equal(images.train.drawn(indices[at : at + 1], epochs[at : at + 1], 1)[0], together[at])
    assert not torch.equal(images.train.drawn(indices, epochs + 1, 1), together)
    assert not torch.equal(images.train.drawn(indices, epochs, 2), together)


def test_processes_ahead_make_the_same_batches(place: Path) -> None:
    images = photographs(place, augment="scale_aspect")
    here_, there = (
        [x for x, _ in batches(images.train, 8, seed=0, start=1, end=3, loaders=loaders)] for loaders in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(here_, there, strict=True))


def test_lighting_moves_colours_along_the_principal_axes_with_the_stated_spread() -> None:
    """Krizhevsky et al. 2012: each axis' share is normal with a deviation of 0.1 times its eigenvalue."""
    grey = torch.full((3, 2, 2), 0.5)
    numbers = augment.draws(0, torch.zeros(4000, dtype=torch.int64), torch.arange(4000), 7)
    moved = torch.stack([WAYS["scale"].colour(grey, row)[:, 0, 0] - 0.5 for row in numbers]).double().numpy()
    covariance = np.cov(moved.T)
    values, vectors = np.linalg.eigh(covariance)
    assert np.sqrt(values[::-1]) == pytest.approx([0.02175, 0.00188, 0.00045], rel=0.05)
    assert abs(vectors[:, 2] @ [-0.5675, -0.5808, -0.5836]) == pytest.approx(1, abs=0.01)


def test_jitter_blends_in_the_drawn_order() -> None:
    """Brightness, contrast, saturation: 1 + uniform(−0.4, 0.4) each, as the authors' ImageNet code blends."""
    image = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    numbers = np.array([0, 0, 0, 0, 0, 0.1, 0.9, 0.3, 0.99, 0.5, 0.5, 0.5])  # the last order; no lighting
    found = WAYS["scale_aspect"].colour(image, numbers).numpy()
    brightness, contrast, saturation = (0.6 + 0.8 * u for u in (0.1, 0.9, 0.3))
    weights = np.array([0.299, 0.587, 0.114])
    expected = image.numpy()
    grey = np.tensordot(weights, expected, 1)
    expected = saturation * expected + (1 - saturation) * grey
    expected = contrast * expected + (1 - contrast) * np.tensordot(weights, expected, 1).mean()
    expected = brightness * expected
    assert found == pytest.approx(expected, abs=1e-5)


def test_parts_are_of_8_to_100_percent_and_ratios_of_3_4_to_4_3() -> None:
    image = Image.fromarray(np.indices((400, 400)).sum(0).astype(np.uint8))
    numbers = augment.draws(1, torch.zeros(300, dtype=torch.int64), torch.arange(300), 12)
    boxes: list[tuple[float, float, float, float]] = []

    class Spy(Image.Image):
        pass

    def resize(size: object, method: object, box: tuple[float, float, float, float]) -> Image.Image:  # noqa: ARG001
        boxes.append(box)
        return image

    spied = image.copy()
    spied.resize = resize  # type: ignore[method-assign, assignment]
    for row in numbers:
        WAYS["scale_aspect"].part(spied, SIDE, row)
    sizes = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    areas, ratios = sizes.prod(axis=1) / 400**2, sizes[:, 0] / sizes[:, 1]
    assert areas.min() >= 0.079
    assert areas.min() < 0.12
    assert areas.max() > 0.8
    assert (ratios.min(), ratios.max()) == pytest.approx((3 / 4, 4 / 3), rel=0.02)
    assert all(left >= 0 and top >= 0 and right <= 400.001 and bottom <= 400.001 for left, top, right, bottom in boxes)


def test_the_middle_is_seven_eighths_of_the_shorter_side(place: Path) -> None:
    images = photographs(place)
    assert isinstance(images.held_out, OnDisk)
    image = Image.open(images.held_out.paths[1]).convert("RGB")  # 157×150
    edge = 150 * 7 / 8
    box = ((157 - edge) / 2, (150 - edge) / 2, (157 + edge) / 2, (150 + edge) / 2)
    expected = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box), dtype=float)
    assert np.abs(shown(images.held_out.plain(torch.tensor([1]))[0]) - expected).mean() < 2


def test_ten_crops_are_corners_and_middle_and_their_mirrors(place: Path) -> None:
    images = photographs(place)
    assert isinstance(images.held_out, OnDisk)
    crops = images.held_out.ten(torch.tensor([1, 2]))
    assert crops.shape == (2, 10, 3, SIDE, SIDE)
    assert torch.equal(crops[:, 5:], crops[:, :5].flip(-1))
    middle = images.held_out.plain(torch.tensor([1, 2]))
    assert (crops[:, 4] - middle).abs().mean() < 0.05
    image = Image.open(images.held_out.paths[1]).convert("RGB")
    scale = round(SIDE * 8 / 7) / 150
    large = image.resize((round(157 * scale), round(150 * scale)), Image.Resampling.BILINEAR)
    corner = np.asarray(large, dtype=float)[-SIDE:, -SIDE:]
    assert np.abs(shown(crops[0, 3]) - corner).mean() < 2


@pytest.fixture(scope="module")
def run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet network of 18 layers that has seen a few batches."""
    network = catalog.network("preresnet18", width=4, num_classes=6)
    data = Data(name=f"imagenet:{place}", side=SIDE)
    training = Training(iterations=8, batch_size=12, lr=0.05)
    experiment = Experiment(network=network, data=data, training=training)
    return assemble.run(experiment, tmp_path_factory.mktemp("runs") / "run", threads=1).folder


def test_views_of_a_run(run: Path, place: Path) -> None:
    found = trained.trained(run)
    split = photographs(place).held_out
    assert isinstance(split, OnDisk)
    ten = trained.evaluation(found, view="ten")
    wrong, top5 = 0, 0
    with torch.no_grad():
        for at, label in enumerate(split.labels.tolist()):
            views = split.ten(torch.tensor([at]))[0]
            shares = torch.stack([found.network(view[None])[0].softmax(0) for view in views]).mean(0)
            wrong += int(shares.argmax()) != label
            top5 += label not in shares.argsort(descending=True)[:5].tolist()
    assert (ten["error"], ten["top5_error"]) == pytest.approx((100 * wrong / 18, 100 * top5 / 18))
    large = trained.evaluation(found, view="large")
    assert large["pixels"] == round(SIDE * 320 / 224)
    assert trained.evaluation(found)["pixels"] == SIDE
    words = here("evaluate", str(run), "--view", "large").out
    assert f"seen as large at {large['pixels']} pixels" in words


def test_a_view_of_small_images_is_refused(tmp_path: Path) -> None:
    from tests.helpers import tiny

    folder = assemble.run(tiny(), tmp_path / "run", threads=1).folder
    assert_user_error(here("evaluate", str(folder), "--view", "ten"), "for photographs", "use middle")


def test_a_file_that_is_no_image_is_named_or_replaced_by_its_neighbour(place: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(place, broken)
    (broken / "train" / "n02" / "5.JPEG").write_bytes(b"no image")
    index = torch.tensor([2 * 6 + 5])
    with pytest.raises(DataError, match=r"n02.5\.JPEG cannot be read as an image \(not an image\); mend or remove"):
        photographs(broken).train.drawn(index, torch.tensor([0]), 0)
    skipping, whole = (photographs(where, broken="skip", augment="none") for where in (broken, place))
    assert torch.equal(skipping.train.plain(index), whole.train.plain(torch.tensor([2 * 6])))
    (broken / "train" / "n03").rename(tmp_path / "gone")
    (broken / "train" / "n03").mkdir()
    (broken / "train" / "n03" / "a.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"n03 has no image that can be read; remove the class"):
        photographs(broken, broken="skip", held_out="validation").train.plain(torch.tensor([17]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (("val",), ("has no val and is no ImageNet", "PATH/val/n01440764")),
        (("train", "val"), ("has no train and no val",)),
        (("train/n03",), ("has val/n03 and no train/n03",)),
    ],
)
def test_what_is_no_imagenet_is_said(
    place: Path, tmp_path: Path, spoil: tuple[str, ...], words: tuple[str, ...]
) -> None:
    import shutil

    shutil.copytree(place, tmp_path / "spoilt")
    for name in spoil:
        shutil.rmtree(tmp_path / "spoilt" / name)
    assert_user_error(here("train", "resnet18", "--data", f"imagenet:{tmp_path}/spoilt"), *words)


@pytest.mark.parametrize(
    ("data", "change", "words"),
    [
        ("digits", "data.augment=scale", "is for photographs, not digits"),
        ("cifar10", "data.side=64", "is for folder:PATH and imagenet:PATH"),
        ("folder:x", "data.augment=blur", "choose one of usual, none, scale, scale_aspect"),
    ],
)
def test_augmentations_that_do_not_go_with_the_data(data: str, change: str, words: str) -> None:
    assert_user_error(here("train", "resnet18", "--data", data, "--set", change), words)
