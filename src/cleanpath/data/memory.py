"""Images that fit in memory: a tensor of pixels, normalised and augmented batch by batch."""

from dataclasses import dataclass

from torch import Tensor

from cleanpath.data import augment


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """A split whose pixels are in memory."""

    pixels: Tensor
    """(N, C, H, W) bytes from 0 to 255, or floats that need no scale."""
    labels: Tensor
    mean: Tensor | None = None
    """(C, H, W) or (C, 1, 1), subtracted after the scale to [0, 1]."""
    std: Tensor | None = None
    """The same shape, divided by."""
    padding: int = 0
    """Zeros on each side from which training crops are cut; 0: neither crop nor flip."""

    def plain(self, indices: Tensor) -> Tensor:
        """As they are tested."""
        chosen = self.pixels[indices]
        if not chosen.is_floating_point():
            chosen = chosen.float().div_(255)
        if self.mean is not None:
            chosen = chosen - self.mean
        return chosen if self.std is None else chosen / self.std

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        """As they are trained on."""
        chosen = self.plain(indices)
        if not self.padding:
            return chosen
        return augment.crop_and_flip(chosen, self.padding, augment.draws(seed, epochs, indices, 3))
