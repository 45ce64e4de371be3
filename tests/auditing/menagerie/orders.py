"""Kinds of f, the order of BN and ReLU, and what stands on the trunk without being f."""

# mypy: disable-error-code="no-any-return"
# torch types the call of a module as Any; an annotation in every forward would hide the equations.

from collections.abc import Callable

from torch import Tensor, nn

from .case import After, Case, names
from .parts import WIDTH, Net, Unit, conv, image, images, mlp, norm_mlp, post_branch, pre_branch, vector, vectors

POST = ("branch.0", "branch.1", "branch.3", "branch.4")
PRE = ("branch.0", "branch.2", "branch.3", "branch.5")


class InPlaceHead(nn.Module):
    """Written y = x + conv relu_(x); computed y = relu(x) + conv relu(x), as relu_ overwrites x before the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(inplace=True), conv(4, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        return x + out


class Rescaled(nn.Module):
    """y = (x + F(x)) / √2."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)) * 0.5**0.5


class Outer(nn.Module):
    """u = W1 x; v = u + G(u); y = x + W2 v: a unit in the branch of a unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(WIDTH, WIDTH), Unit(mlp()), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.inner(self.first(x)))


def final_normalised() -> nn.Module:
    """Three full pre-activation units, then BN-ReLU, pool, linear."""
    head = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return Net(conv(3, 4), tuple(Unit(pre_branch(4, 4)) for _ in range(3)), head)


def relu_only() -> nn.Module:
    """y = x + BN conv relu BN conv relu x, three times."""
    return images(*(Unit(nn.Sequential(nn.ReLU(), post_branch(4, 4))) for _ in range(3)))


def in_place_after() -> nn.Module:
    """The original unit, its last ReLU in place: y = relu_(x + F(x))."""
    return images(*(Unit(post_branch(4, 4), after=nn.ReLU(inplace=True)) for _ in range(3)))


def _equal(
    name: str,
    build: Callable[[], nn.Module],
    after: After,
    branch: tuple[str, ...] = POST,
    *,
    count: int = 2,
    inputs: Callable[[], tuple[object, ...]] = image,
    note: str = "",
) -> Case:
    return Case(
        name=name,
        build=build,
        inputs=inputs,
        units=count,
        h=("identity",) * count,
        f=(after,) * count,
        branch=names(count, *branch),
        note=note,
    )


CASES = (
    _equal("original", lambda: images(*(Unit(post_branch(4, 4), after=nn.ReLU()) for _ in range(2))), "relu"),
    _equal("original_in_place", in_place_after, "relu", count=3),
    _equal(
        "bn_after_addition",
        lambda: images(
            *(Unit(post_branch(4, 4)[:-1], after=nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())) for _ in range(2))
        ),
        ("normalisation", "relu"),
        ("branch.0", "branch.1", "branch.3"),
    ),
    _equal(
        "relu_before_addition",
        lambda: images(*(Unit(nn.Sequential(*post_branch(4, 4), nn.ReLU())) for _ in range(2))),
        "nothing",
    ),
    _equal("relu_only_preactivation", relu_only, "nothing", tuple(f"branch.1.{i}" for i in (0, 1, 3, 4)), count=3),
    _equal(
        "full_preactivation",
        final_normalised,
        "nothing",
        PRE,
        count=3,
        note="BN-ReLU after the last sum only: head, not f.",
    ),
    _equal(
        "post_normalised_mlp",
        lambda: vectors(*(Unit(mlp(), after=nn.LayerNorm(WIDTH)) for _ in range(3))),
        "normalisation",
        ("branch.0", "branch.2"),
        count=3,
        inputs=vector,
    ),
    _equal(
        "pre_normalised_mlp",
        lambda: Net(nn.Linear(6, WIDTH), tuple(Unit(norm_mlp()) for _ in range(3)), nn.LayerNorm(WIDTH)),
        "nothing",
        ("branch.0", "branch.1", "branch.3"),
        count=3,
        inputs=vector,
        note="The last LayerNorm is the head.",
    ),
    _equal(
        "rescaled_sum",
        lambda: vectors(Rescaled(), Rescaled(), Rescaled()),
        "scaling",
        ("branch.0", "branch.2"),
        count=3,
        inputs=vector,
        note="h is the identity; the factor stands after the sum, so it is f.",
    ),
    Case(
        name="in_place_relu_heads_branch",
        build=lambda: images(InPlaceHead(), InPlaceHead(), InPlaceHead()),
        inputs=image,
        units=3,
        h=("other",) * 3,
        f=("nothing",) * 3,
        branch=names(3, "branch.1", "branch.2", "branch.4"),
        or_h=("identity",) * 3,
        or_f=("relu", "relu", "nothing"),
        note="The written shortcut x carries relu(x), since relu_ belongs to the branch's module. Read off the graph "
        "alone it is an identity after a ReLU on the trunk: the same function, hence the second reading.",
    ),
    Case(
        name="nested",
        build=lambda: vectors(Outer(), Outer()),
        inputs=vector,
        units=4,
        h=("identity",) * 4,
        f=("nothing",) * 4,
        parents=(1, None, 3, None),
        branch=tuple(
            layers
            for i in range(2)
            for layers in (
                (f"units.{i}.inner.branch.0", f"units.{i}.inner.branch.2"),
                (f"units.{i}.first", f"units.{i}.last"),
            )
        ),
        note="The linear layer after the inner sum belongs to the outer branch.",
    ),
)
