"""How an image file becomes what a network takes: kept with its weights, so that a picture from outside fits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cleanpath.data.decode import decoded, in_mode


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Side and channels of the images, the part that is taken, and what is subtracted and divided by."""

    side: int
    channels: int
    mean: Tensor
    """(C, H, W) or (C, 1, 1), subtracted after the scale to [0, 1]."""
    std: Tensor
    """The same, divided by."""
    border: float = 0.0
    """The share of the shorter side that is cut off, half of it on each end; the rest is the square in the middle."""

    def normalised(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) bytes, or floats from 0 to 1, as the network takes them."""
        values = pixels - self.mean if pixels.is_floating_point() else pixels.float().div_(255).sub_(self.mean)
        return values if self.plain_scale else values.div_(self.std)

    def on(self, device: torch.device) -> "Preparation":
        """The same for images on a device."""
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))

    @cached_property
    def plain_scale(self) -> bool:
        """Whether nothing is divided by."""
        return bool((self.std == 1).all())

    def square(self, image: Image.Image) -> Image.Image:
        """The square in the middle, at the side."""
        if image.size == (self.side, self.side) and not self.border:
            return image
        edge = min(image.size) * (1 - self.border)
        left, top = (image.width - edge) / 2, (image.height - edge) / 2
        box = (left, top, left + edge, top + edge)
        return image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)

    def pixels(self, image: Image.Image) -> Tensor:
        """(C, H, W) bytes."""
        image = in_mode(image, "L" if self.channels == 1 else "RGB")
        array = np.asarray(image, dtype=np.uint8)
        return torch.from_numpy((array[None] if self.channels == 1 else array.transpose(2, 0, 1)).copy())

    def of_files(self, paths: Sequence[Path]) -> Tensor:
        """Image files as one batch. Raises `BrokenImageError`."""
        return self.normalised(torch.stack([self.pixels(self.square(decoded(p, 2 * self.side))) for p in paths]))

    def tensors(self) -> dict[str, Tensor]:
        """What is no plain number."""
        return {"mean": self.mean.contiguous(), "std": self.std.contiguous()}

    def words(self) -> str:
        """What is, as JSON."""
        return json.dumps({"side": self.side, "channels": self.channels, "border": self.border})

    @classmethod
    def back(cls, tensors: Mapping[str, Tensor], words: str) -> "Preparation":
        """The inverse of both."""
        return cls(mean=tensors["mean"], std=tensors["std"], **json.loads(words))
