"""Crops and flips against a slow oracle, and their random numbers: functions of (seed, epoch, index) alone."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cleanpath.data.augment import crop_and_flip, draws
from cleanpath.data.images import batch
from cleanpath.data.memory import InMemory
from cleanpath.data.preparation import Preparation
from tests.helpers import examples


@examples
@given(
    seed=st.integers(0, 2**63 - 1),
    pairs=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**7)), min_size=1, max_size=8),
    count=st.integers(1, 9),
)
def test_numbers_of_an_image_do_not_depend_on_its_batch(seed: int, pairs: list[tuple[int, int]], count: int) -> None:
    epochs, indices = (torch.tensor(each) for each in zip(*pairs, strict=True))
    together = draws(seed, epochs, indices, count)
    assert ((together >= 0) & (together < 1)).all()
    for at in range(len(pairs)):
        assert np.array_equal(draws(seed, epochs[at : at + 1], indices[at : at + 1], count)[0], together[at])
        assert np.array_equal(draws(seed, epochs[at : at + 1], indices[at : at + 1], 9)[0, :count], together[at])


def test_numbers_are_uniform_and_differ_by_seed_epoch_index_and_place() -> None:
    many = draws(3, torch.arange(300).repeat_interleave(100), torch.arange(100).repeat(300), 3)
    assert len(np.unique(many)) == many.size
    assert abs(many.mean() - 0.5) < 0.005
    counts, _ = np.histogram(many, bins=20, range=(0, 1))
    assert counts.std() / counts.mean() < 0.03
    assert abs(np.corrcoef(many[:, 0], many[:, 1])[0, 1]) < 0.02
    other = draws(4, torch.arange(300).repeat_interleave(100), torch.arange(100).repeat(300), 3)
    assert abs(np.corrcoef(many[:, 0], other[:, 0])[0, 1]) < 0.02


@examples
@given(
    numbers=st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3), min_size=1, max_size=6),
    padding=st.integers(1, 5),
)
def test_crop_is_a_window_of_the_padded_image_or_of_its_mirror(
    numbers: list[tuple[float, float, float]], padding: int
) -> None:
    images = torch.randn(len(numbers), 2, 6, 7, generator=torch.Generator().manual_seed(len(numbers)))
    found = crop_and_flip(images, padding, np.array(numbers))
    for image, (row, column, flip), crop in zip(images, numbers, found, strict=True):
        padded = torch.zeros(2, 6 + 2 * padding, 7 + 2 * padding)
        padded[:, padding : padding + 6, padding : padding + 7] = image
        top, left = int(row * (2 * padding + 1)), int(column * (2 * padding + 1))
        window = padded[:, top : top + 6, left : left + 7]
        assert torch.equal(crop, window.flip(2) if flip < 0.5 else window)


def test_a_split_draws_the_same_image_in_whatever_batch_it_comes() -> None:
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    half = Preparation(side=8, channels=3, mean=torch.full((3, 8, 8), 0.5), std=torch.ones(3, 8, 8))
    split = InMemory(pixels=pixels, labels=torch.zeros(40, dtype=torch.int64), preparation=half, padding=2)
    seen = dict[tuple[int, int], torch.Tensor]()
    for size in (3, 7):
        for iteration in range(1, 80 // size):
            indices, epochs = batch(40, size, seed=5, iteration=iteration)
            for index, epoch, image in zip(
                indices.tolist(), epochs.tolist(), split.drawn(indices, epochs, 5), strict=True
            ):
                assert torch.equal(seen.setdefault((index, epoch), image), image)
    both = [index for index in range(40) if {(index, 0), (index, 1)} <= seen.keys()]
    assert len(both) > 30
    assert any(not torch.equal(seen[index, 0], seen[index, 1]) for index in both)
    assert torch.equal(split.plain(torch.tensor([3])), pixels[3:4].float() / 255 - 0.5)
