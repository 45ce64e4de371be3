"""Pieces shared by the cases: a network of stem, units and head, three widths of input, a few branches."""

import torch
from torch import Tensor, nn

WIDTH = 8


def normal(*shape: int) -> Tensor:
    """Gaussian numbers of a fixed seed, without touching the global generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def image() -> tuple[object, ...]:
    """(2, 3, 8, 8)."""
    return (normal(2, 3, 8, 8),)


def vector() -> tuple[object, ...]:
    """(4, 6)."""
    return (normal(4, 6),)


def sequence() -> tuple[object, ...]:
    """(2, 5, 6): batch, time, features."""
    return (normal(2, 5, 6),)


def token_ids() -> Tensor:
    """(2, 5) integers below 11."""
    return torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """x -> stem -> units, one after the other -> head."""

    def __init__(self, stem: nn.Module, units: tuple[nn.Module, ...], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.units, self.head = stem, nn.Sequential(*units), head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.units(self.stem(x)))
        return out


def images(*units: nn.Module, width: int = 4, out: int = 4) -> Net:
    """Units on (N, width, H, W); a linear head on `out` pooled channels."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, 3))
    return Net(nn.Conv2d(3, width, 3, padding=1), units, head)


def vectors(*units: nn.Module) -> Net:
    """Units on (..., 8), between two linear layers; serves vectors and sequences."""
    return Net(nn.Linear(6, WIDTH), units, nn.Linear(WIDTH, 3))


def mlp(width: int = WIDTH) -> nn.Sequential:
    """Linear, ReLU, Linear: weights in `0` and `2`."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def norm_mlp(width: int = WIDTH) -> nn.Sequential:
    """LayerNorm, Linear, GELU, Linear: weights in `0`, `1` and `3`."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def conv(inside: int, out: int, *, stride: int = 1) -> nn.Conv2d:
    """3x3, padded, without bias."""
    return nn.Conv2d(inside, out, 3, stride=stride, padding=1, bias=False)


def post_branch(inside: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """conv, BN, ReLU, conv, BN: weights in `0`, `1`, `3` and `4`."""
    return nn.Sequential(
        conv(inside, out, stride=stride), nn.BatchNorm2d(out), nn.ReLU(), conv(out, out), nn.BatchNorm2d(out)
    )


def pre_branch(inside: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """BN, ReLU, conv, BN, ReLU, conv: weights in `0`, `2`, `3` and `5`."""
    return nn.Sequential(
        nn.BatchNorm2d(inside),
        nn.ReLU(),
        conv(inside, out, stride=stride),
        nn.BatchNorm2d(out),
        nn.ReLU(),
        conv(out, out),
    )


class Unit(nn.Module):
    """y = shortcut(x) + branch(x), then after(y); h and f are identities unless given."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.shortcut(x) + self.branch(x))
        return out


class Attention(nn.Module):
    """softmax(q k' / sqrt(8)) v, then a linear layer; keys and values from `context`, else from x."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        scores = self.q(x) @ self.k(source).transpose(-2, -1) / WIDTH**0.5
        if mask is not None:
            scores = scores + mask
        mixed: Tensor = self.out(scores.softmax(-1) @ self.v(source))
        return mixed
