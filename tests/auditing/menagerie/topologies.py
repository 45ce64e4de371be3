"""How units lie in a network: none at all, shared, long."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .case import Case, names
from .parts import WIDTH, Unit, conv, image, images, norm_mlp, post_branch, vector, vectors


class DenseLayer(nn.Module):
    """y = [x, conv relu BN x]: concatenation."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), conv(inside, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], dim=1)


class Weightless(nn.Module):
    """u = W x; y = u + tanh(u): a sum whose branch holds no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        u: Tensor = self.first(x)
        return u + torch.tanh(u)


class Attended(nn.Module):
    """y = x ⊙ σ(W x): a product of two paths, no sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.first(x))


class LongSkips(nn.Module):
    """d1 = enc x, d2 = down d1, m = mid(down d2); s2 = d2 + up m; s1 = d1 + up(dec s2): an additive U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mid = nn.Sequential(conv(4, 4), nn.ReLU()), nn.Sequential(conv(8, 8), nn.ReLU())
        self.down_1, self.down_2 = (
            nn.Sequential(conv(inside, out, stride=2), nn.ReLU()) for inside, out in ((4, 4), (4, 8))
        )
        self.up_2 = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.dec = nn.Sequential(conv(4, 4), nn.ReLU())
        self.up_1 = nn.Sequential(nn.Upsample(scale_factor=2), conv(4, 4))

    def join(self, skip: Tensor, rising: Tensor) -> Tensor:
        return skip + rising

    def forward(self, x: Tensor) -> Tensor:
        high = self.enc(x)
        low = self.down_1(high)
        low = self.join(low, self.up_2(self.mid(self.down_2(low))))
        return self.join(high, self.up_1(self.dec(low)))


class LongConcatenations(LongSkips):
    """The same U-Net; each skip is [skip, rising] and a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 4, 1)

    def join(self, skip: Tensor, rising: Tensor) -> Tensor:
        return self.mix(torch.cat([skip, rising], dim=1))


class Denoiser(nn.Module):
    """y = x - W2 units(W1 x): the image less the predicted noise; two units inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 4), conv(4, 3)
        self.units = nn.Sequential(*(Unit(post_branch(4, 4)) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.last(self.units(self.first(x)))


def shared_branch() -> nn.Module:
    """Three units around one and the same F."""
    branch = norm_mlp()
    return vectors(*(Unit(branch) for _ in range(3)))


def plain_network() -> nn.Module:
    """conv, BN, ReLU, three times, with a max pool: VGG."""
    return images(
        *(nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)),
        nn.MaxPool2d(2),
        nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()),
    )


def dense_network() -> nn.Module:
    """Three concatenating layers and a transition."""
    transition = nn.Sequential(nn.Conv2d(16, 8, 1), nn.AvgPool2d(2))
    return images(DenseLayer(4), DenseLayer(8), DenseLayer(12), transition, out=8)


def _none(
    name: str,
    build: Callable[[], nn.Module],
    inputs: Callable[[], tuple[object, ...]],
    note: str = "",
    *,
    says: tuple[str, ...] = (),
) -> Case:
    return Case(name=name, build=build, inputs=inputs, units=0, h=(), f=(), says=says, note=note)


CASES = (
    _none("plain_vgg", plain_network, image),
    _none("dense_concatenation", dense_network, image, says=("concat",)),
    _none("unet_with_concatenated_skips", lambda: images(LongConcatenations()), image, says=("concat",)),
    _none(
        "branch_without_weights",
        lambda: vectors(Weightless(), Weightless(), Weightless()),
        vector,
        "The weights stand before the fork, on the trunk; between fork and sum there are none.",
    ),
    _none("product_of_two_paths", lambda: vectors(Attended(), Attended()), vector, "No sum, hence no unit."),
    Case(
        name="unet_with_additive_skips",
        build=lambda: images(LongSkips()),
        inputs=image,
        units=2,
        h=("identity", "identity"),
        f=("nothing", "nothing"),
        parents=(1, None),
        branch=(
            ("units.0.down_2.0", "units.0.mid.0", "units.0.up_2"),
            ("units.0.down_1.0", "units.0.dec.0", "units.0.up_1.1"),
        ),
        note="A long skip is a unit like any other: fork, identity, a deep branch; the inner lies in the outer's F. "
        "The decoder after the inner sum is the outer's F, not the inner's f.",
    ),
    Case(
        name="image_less_noise",
        build=Denoiser,
        inputs=image,
        units=3,
        h=("identity",) * 3,
        f=("nothing",) * 3,
        parents=(2, 2, None),
        branch=(
            *names(2, "branch.0", "branch.1", "branch.3", "branch.4"),
            ("first", "last"),
        ),
        note="The outer fork is the network's input itself.",
    ),
    Case(
        name="shared_branch",
        build=shared_branch,
        inputs=vector,
        units=3,
        h=("identity",) * 3,
        f=("nothing",) * 3,
        branch=(("units.0.branch.0", "units.0.branch.1", "units.0.branch.3"),) * 3,
        note="Three sums are three units; their one branch bears its first name.",
    ),
)
