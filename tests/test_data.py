"""The digits, their split, and the order in which a run sees them."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from cleanpath.data.images import Images, batch, order
from cleanpath.data.sources import load
from cleanpath.errors import UnknownNameError
from cleanpath.experiment import Data
from tests.helpers import examples, pixels_of


def pixels(images: torch.Tensor, mean: torch.Tensor) -> set[bytes]:
    """Every image as the bytes of its pixels from 0 to 16."""
    return {image.tobytes() for image in np.rint(((images + mean) * 16).numpy()).astype(np.uint8)}


def original(held_out: str) -> tuple[Images, set[bytes], set[bytes]]:
    """The images, and the two splits as sets of raw images."""
    whole = torch.from_numpy(load_digits(return_X_y=True)[0].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    raw = {(image * 16).numpy().astype(np.uint8).tobytes() for image in whole}
    images = load(Data(held_out=held_out))
    # The mean that was subtracted, from a pixel that is 0 in some image of every position: the least value is −mean.
    mean = -torch.cat([pixels_of(images.train), pixels_of(images.held_out)]).amin(dim=0)
    train, held = pixels(pixels_of(images.train), mean), pixels(pixels_of(images.held_out), mean)
    assert train | held <= raw
    return images, train, held


@pytest.mark.parametrize(("held_out", "train", "held"), [("test", 1297, 500), ("validation", 1047, 250)])
def test_split_has_the_stated_sizes(held_out: str, train: int, held: int) -> None:
    images = load(Data(held_out=held_out))
    assert (pixels_of(images.train).shape, images.train.labels.shape) == ((train, 1, 8, 8), (train,))
    assert (pixels_of(images.held_out).shape, images.held_out.labels.shape) == ((held, 1, 8, 8), (held,))
    assert images.classes == tuple("0123456789")
    assert images.channels == 1
    assert (pixels_of(images.train).dtype, images.train.labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_no_image_is_in_both_splits(held_out: str) -> None:
    _, train, held = original(held_out)
    assert not train & held


def test_validation_images_are_training_images_and_never_test_images() -> None:
    _, train, held = original("validation")
    _, all_train, test = original("test")
    assert train | held == all_train
    assert not (train | held) & test


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_mean_of_the_training_images_is_subtracted_from_both_splits(held_out: str) -> None:
    images, *_ = original(held_out)
    assert pixels_of(images.train).mean(dim=0).abs().max() < 1e-5
    assert pixels_of(images.held_out).mean(dim=0).abs().max() > 1e-3
    assert float(pixels_of(images.train).max() - pixels_of(images.train).min()) <= 2.0


def test_split_never_changes() -> None:
    labels = load(Data()).held_out.labels.numpy().astype(np.uint8).tobytes()
    assert hashlib.sha256(labels).hexdigest()[:16] == "4b8b4899e45fce29"


def test_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="no data set 'digit'; did you mean digits"):
        load(Data(name="digit"))
    assert load(Data()) is load(Data(name="digits"))


@examples
@given(count=st.integers(2, 60), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000))
def test_epoch_visits_every_image_once(count: int, seed: int, epoch: int) -> None:
    assert sorted(order(count, seed=seed, epoch=epoch)) == list(range(count))


@examples
@given(data=st.data(), count=st.integers(2, 40), seed=st.integers(0, 1000))
def test_batches_are_the_epochs_end_to_end(data: st.DataObject, count: int, seed: int) -> None:
    size = data.draw(st.integers(2, count))
    epochs = 3
    expected = np.concatenate([np.random.default_rng([seed, epoch]).permutation(count) for epoch in range(epochs)])
    batches = [batch(count, size, seed=seed, iteration=i)[0].numpy() for i in range(1, epochs * count // size + 1)]
    assert all(len(indices) == size for indices in batches)
    assert np.array_equal(np.concatenate(batches), expected[: len(batches) * size])


def test_batch_does_not_depend_on_the_batches_before_it() -> None:
    late = batch(10, 4, seed=1, iteration=7)
    for iteration in (3, 9, 1):
        batch(10, 4, seed=2, iteration=iteration)
    order.cache_clear()
    torch.manual_seed(99)
    np.random.default_rng(99)
    assert all(map(torch.equal, batch(10, 4, seed=1, iteration=7), late))


def test_order_differs_by_seed_and_by_epoch() -> None:
    orders = [tuple(order(1297, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_order_leaves_the_random_generators_alone() -> None:
    before = torch.get_rng_state()
    order.cache_clear()
    batch(1297, 64, seed=0, iteration=1)
    assert torch.equal(torch.get_rng_state(), before)
