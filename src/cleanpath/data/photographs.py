"""Images too large for memory: read when they are needed, cut and coloured at random as the paper's Table 5 says.

`cut` draws 8 to 100% of the area at a ratio of 3/4 to 4/3. `scale` and `scale_aspect` are the two ways of Table 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cleanpath.data import augment
from cleanpath.data.decode import BrokenImageError, decoded
from cleanpath.data.preparation import Preparation
from cleanpath.errors import DataError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as torchvision's weights expect them."""
USUAL = 224
BORDER = 1 / 8
"""Of the shorter side, cut off for a test: 224 of 256."""
_SHORTER = (256 / USUAL, 480 / USUAL)
_LEAST_AREA, _LEAST_RATIO = 0.08, 3 / 4
_EIGENVALUES = torch.tensor((0.2175, 0.0188, 0.0045))
_EIGENVECTORS = torch.tensor(((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)))
"""Of the colours of ImageNet's pixels from 0 to 1, a row per channel; as the authors' ImageNet code has them."""
_LIGHTING = 0.1
_JITTER = 0.4
_GREY = torch.tensor((0.299, 0.587, 0.114))[:, None, None]
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """How an image is trained on: random numbers that it takes, the resolution that it needs, its part, its colours."""

    numbers: int
    needed: Callable[[int, Numbers], int]
    """Least pixels of the shorter side, so that nothing is enlarged that the file has in full."""
    part: Callable[[Image.Image, int, Numbers], Image.Image]
    colour: Callable[[Tensor, Numbers], Tensor]


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """A split whose images are read when they are needed; `way` None: trained on as they are tested."""

    paths: tuple[str, ...]
    """Text: a million of `Path` would take half a gigabyte."""
    labels: Tensor
    preparation: Preparation
    way: str | None
    skip: bool = False
    """Whether a file that cannot be read is replaced by the next one of its class."""

    def plain(self, indices: Tensor) -> Tensor:
        """The square in the middle."""
        prepare, side = self.preparation, self.preparation.side
        return prepare.normalised(
            torch.stack([prepare.pixels(prepare.square(self.image(i, 2 * side))) for i in indices.tolist()])
        )

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        """A part of each, mirrored or not, its colours changed if the way says so."""
        if self.way is None:
            return self.plain(indices)
        way, side = WAYS[self.way], self.preparation.side
        numbers = augment.draws(seed, epochs, indices, way.numbers)
        found = []
        for index, row in zip(indices.tolist(), numbers, strict=True):
            part = way.part(self.image(index, way.needed(side, row)), side, row)
            found.append(way.colour(self.preparation.pixels(part).float().div_(255), row))
        return self.preparation.normalised(torch.stack(found))

    def on(self, device: torch.device) -> "OnDisk":  # noqa: ARG002 (files are decoded by the processor)
        """Itself: nothing is kept in memory."""
        return self

    def ten(self, indices: Tensor) -> Tensor:
        """(N, 10, C, H, W): the corners and the middle of the image less its border, and all of them mirrored.

        The shorter side is brought to side / (1 − border), 256 for 224 (first paper, Section 3.4, "standard 10-crop").
        """
        side, pixels = self.preparation.side, self.preparation.pixels
        whole = round(side / (1 - self.preparation.border))
        found = []
        for index in indices.tolist():
            image = self.image(index, whole)
            scale = whole / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
            right, bottom = image.width - side, image.height - side
            corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
            found += [pixels(image.crop((x, y, x + side, y + side))) for x, y in corners]
        views = torch.stack(found).reshape(len(indices), 5, -1, side, side)
        views = torch.cat([views, views.flip(-1)], dim=1)
        return self.preparation.normalised(views.flatten(0, 1)).reshape(views.shape)

    def image(self, index: int, side: int) -> Image.Image:
        """One image, at least that large if its file is. Raises `DataError` if its file cannot be read."""
        path = Path(self.paths[index])
        try:
            return decoded(path, side)
        except BrokenImageError as error:
            if not self.skip:
                how = "mend or remove it, or go on without: data.broken=skip"
                raise DataError(f"{path} cannot be read as an image ({error}); {how}") from None
        same = torch.nonzero(self.labels == self.labels[index]).flatten().tolist()
        at = same.index(index)
        for other in (*same[at + 1 :], *same[:at]):
            try:
                return decoded(Path(self.paths[other]), side)
            except BrokenImageError:
                continue
        raise DataError(f"{path.parent} has no image that can be read; remove the class")


def _flipped(image: Image.Image, number: float) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number < 0.5 else image


def _of_area(image: Image.Image, side: int, numbers: Numbers) -> Image.Image:
    """`numbers`: area, ratio, column, row, flip. A rectangle that does not fit is made to, at its own ratio.

    Szegedy et al. 2015. Deviations: the authors' code draws anew up to ten times; ratios are even in their logarithm.
    """
    area = image.width * image.height * (_LEAST_AREA + (1 - _LEAST_AREA) * numbers[0])
    ratio = _LEAST_RATIO ** (1 - 2 * numbers[1])
    width, height = (area * ratio) ** 0.5, (area / ratio) ** 0.5
    fit = min(1.0, image.width / width, image.height / height)
    width, height = max(1.0, width * fit), max(1.0, height * fit)
    left, top = numbers[2] * (image.width - width), numbers[3] * (image.height - height)
    found = image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return _flipped(found, numbers[4])


def _needed_of_area(side: int, numbers: Numbers) -> int:
    return int(side / (_LEAST_RATIO * (_LEAST_AREA + (1 - _LEAST_AREA) * numbers[0])) ** 0.5)


def _shorter(side: int, numbers: Numbers) -> float:
    """The shorter side, even in [256, 480] for parts of 224 (first paper, Section 3.4)."""
    least, most = (side * share for share in _SHORTER)
    return float(least + (most - least) * numbers[0])


def _of_scale(image: Image.Image, side: int, numbers: Numbers) -> Image.Image:
    """`numbers`: scale, column, row, flip, three of the colours. A square anywhere in the image at that scale."""
    edge = side * min(image.size) / _shorter(side, numbers)
    left, top = numbers[1] * (image.width - edge), numbers[2] * (image.height - edge)
    found = image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + edge, top + edge))
    return _flipped(found, numbers[3])


def _lit(pixels: Tensor, numbers: Numbers) -> Tensor:
    """Along the colours' principal axes, by normal numbers of 0.1 (Krizhevsky et al. 2012)."""
    if len(pixels) != 3:
        return pixels
    normal = NormalDist()
    drawn = [_LIGHTING * normal.inv_cdf(min(max(float(u), 1e-12), 1 - 1e-12)) for u in numbers]
    return pixels + (_EIGENVECTORS @ (_EIGENVALUES * torch.tensor(drawn)))[:, None, None]


def _jittered(pixels: Tensor, numbers: Numbers) -> Tensor:
    """Brightness, contrast and saturation by factors of 0.6 to 1.4, in an order of their own, then the lighting.

    As the authors' ImageNet code: a blend with black, with the mean of the grey image, with the grey image.
    """
    if len(pixels) != 3:
        return pixels
    for which in _ORDERS[int(numbers[3] * len(_ORDERS))]:
        factor = float(1 - _JITTER + 2 * _JITTER * numbers[which])
        grey = (pixels * _GREY).sum(dim=0, keepdim=True)
        other = (torch.zeros(()), grey.mean(), grey)[which]
        pixels = factor * pixels + (1 - factor) * other
    return _lit(pixels, numbers[4:7])


WAYS = {
    "cut": Way(5, _needed_of_area, _of_area, lambda pixels, _: pixels),
    "scale": Way(
        7,
        lambda side, numbers: round(_shorter(side, numbers)),
        _of_scale,
        lambda pixels, numbers: _lit(pixels, numbers[4:7]),
    ),
    "scale_aspect": Way(12, _needed_of_area, _of_area, lambda pixels, numbers: _jittered(pixels, numbers[5:12])),
}
