"""Names of networks and what they stand for, without torch.

    [cifar-|imagenet-](plain|resnet|preresnet)DEPTH[-1layer|-2layer|-bottleneck]

Bare 18, 34, 50, 101, 152 and 200 are the ImageNet networks; 164 and 1001 are bottleneck and every other 6n+2 is
two-layer, on small images; anything else says so.
"""

import re
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.experiment import Foreign, Network, Shortcut

# Placement and shortcut of each family.
FAMILIES = {
    "plain": ("original", "none"),
    "resnet": ("original", "identity"),
    "preresnet": ("full_preactivation", "identity"),
}
TAGS = {"1layer": "one_layer", "2layer": "two_layer", "bottleneck": "bottleneck"}
# Weight layers of a branch, and the factor by which its last one is wider.
LAYERS = {"one_layer": 1, "two_layer": 2, "bottleneck": 3}
EXPANSION = {"one_layer": 1, "two_layer": 1, "bottleneck": 4}
# Units per stage: the first paper's Table 1; 200 from the paper's footnote 3.
IMAGENET = {
    18: ("two_layer", (2, 2, 2, 2)),
    34: ("two_layer", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
_CIFAR_DEPTHS = (8, 14, 20, 26, 32, 38, 44, 56, 110, 164, 218, 1001, 1202)
_BOTTLENECK_DEPTHS = (164, 1001)
_NAME = re.compile(r"(?:(cifar|imagenet)-)?(plain|resnet|preresnet)(\d{1,5})(?:-(1layer|2layer|bottleneck))?")


@dataclass(frozen=True)
class WeightLayer:
    """One convolution of a branch."""

    channels: int
    kernel: int
    stride: int = 1


@dataclass(frozen=True)
class UnitShape:
    """Widths and layers of one unit."""

    in_channels: int
    out_channels: int
    stride: int
    layers: tuple[WeightLayer, ...]

    @property
    def changes_width(self) -> bool:
        """Whether its shortcut cannot be an identity."""
        return self.stride != 1 or self.in_channels != self.out_channels


def names(pattern: str = "*") -> tuple[str, ...]:
    """The catalog's names that match a pattern with * and ?."""
    rows = [f"{family}{depth}" for family in FAMILIES for depth in (*_CIFAR_DEPTHS, *IMAGENET)]
    rows += [f"cifar-{family}110-1layer" for family in FAMILIES]
    return tuple(name for name in rows if fnmatchcase(name, pattern))


def network(name: str, **settings: Any) -> Network:
    """The network of that name; settings replace fields of `Network`.

    Raises `UnknownNameError` for a name that is none, `SettingError` for a depth that the layers cannot make.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UnknownNameError("network", name, names(), see="cleanpath list networks")
    layout, family, depth, tag = match[1], match[2], int(match[3]), match[4]
    placement, shortcut = FAMILIES[family]
    if layout is None:
        layout = "imagenet" if depth in IMAGENET and tag is None else "cifar"
    if layout == "imagenet":
        row = _imagenet(depth, None if tag is None else TAGS[tag], placement)
    else:
        branch = TAGS[tag] if tag else "bottleneck" if depth in _BOTTLENECK_DEPTHS else "two_layer"
        row = Network(depth=depth, branch=branch, placement=placement, widening="B" if branch == "bottleneck" else "A")
    unknown = sorted(set(settings) - {field.name for field in fields(Network)})
    if unknown:
        raise UnknownNameError("setting of a network", unknown[0], (field.name for field in fields(Network)))
    found = replace(row, **{"shortcut": Shortcut(kind=shortcut), **settings})
    if layout == "imagenet" and "widening_norm" not in settings:
        # The first paper's ImageNet models have a BN behind every convolution, pre-activated projections have none.
        found = replace(found, widening_norm=found.placement != "full_preactivation")
    stages(found)
    return found


def stages(of: Network) -> tuple[tuple[UnitShape, ...], ...]:
    """The units of every stage. Raises `SettingError` for a depth that the layers cannot make, with the nearest."""
    counts, strides = units_per_stage(of), (1, 2, 2, 2)
    channels, shapes = of.width, []
    for number, count in enumerate(counts):
        stage = []
        for index in range(count):
            shape = _unit_shape(of, channels, of.width * 2**number, strides[number] if index == 0 else 1)
            stage.append(shape)
            channels = shape.out_channels
        shapes.append(tuple(stage))
    return tuple(shapes)


def units_per_stage(of: Network) -> tuple[int, ...]:
    """How many units each stage has: a table for ImageNet, (depth − 2) / (3 · layers) on small images."""
    if of.layout == "imagenet":
        branch, counts = IMAGENET.get(of.depth, ("", ()))
        if branch != of.branch:
            known = ", ".join(str(depth) for depth, (name, _) in IMAGENET.items() if name == of.branch) or "none"
            raise SettingError(f"no ImageNet network of depth {of.depth} with {of.branch} units; there are {known}")
        return counts
    step = 3 * LAYERS[of.branch]
    count, rest = divmod(of.depth - 2, step)
    if rest or count < 1:
        lower = max(1, count) * step + 2
        nearest = f"{lower}" if count < 1 else f"{lower} and {lower + step}"
        raise SettingError(f"depth {of.depth} is not {step}n+2, which {of.branch} units make; nearest {nearest}")
    return (count,) * 3


def usual_size(of: Network) -> int:
    """The side of the images that a network is for, in pixels: 32, or 224 on ImageNet."""
    return 224 if of.layout == "imagenet" else 32


def name_of(of: Network | Foreign) -> str:
    """A short name for a network: its catalog name where one fits, with what differs from it."""
    if isinstance(of, Foreign):
        return of.target
    rows = ((family, row) for family, row in FAMILIES.items() if row == (of.placement, of.shortcut.kind))
    family, (placement, shortcut) = next(rows, ("resnet", FAMILIES["resnet"]))
    default = "bottleneck" if of.depth in _BOTTLENECK_DEPTHS else "two_layer"
    short = f"{family}{of.depth}"
    if of.layout == "cifar" and (of.depth in IMAGENET or of.branch != default):
        tag = next(tag for tag, branch in TAGS.items() if branch == of.branch)
        short = f"cifar-{short}-{tag}"
    if of.placement != placement:
        short += f"-{of.placement}"
    if of.shortcut.kind != shortcut:
        short += f"-{of.shortcut.kind.rpartition(':')[2]}"
    others = ((of.normalisation, "batch"), (of.activation, "relu"), (f"inner{of.inner:.3g}", "inner1"))
    return "-".join([short, *(value for value, usual in others if value != usual)])


def _imagenet(depth: int, branch: str | None, placement: str) -> Network:
    if depth not in IMAGENET:
        nearest = ", ".join(map(str, sorted(IMAGENET, key=lambda known: abs(known - depth))[:2]))
        raise SettingError(f"no ImageNet network of depth {depth}; nearest {nearest}")
    return Network(
        depth=depth,
        branch=branch or IMAGENET[depth][0],
        placement=placement,
        layout="imagenet",
        widening="B",
        width=64,
        num_classes=1000,
    )


def _unit_shape(of: Network, channels: int, inner: int, stride: int) -> UnitShape:
    outer, inner = inner * EXPANSION[of.branch], max(1, round(inner * of.inner))
    layers: tuple[WeightLayer, ...]
    if of.branch == "bottleneck":
        first, middle = (stride, 1) if of.stride_on == "first" else (1, stride)
        layers = (WeightLayer(inner, 1, first), WeightLayer(inner, 3, middle), WeightLayer(outer, 1))
    elif of.branch == "two_layer":
        layers = (WeightLayer(inner, 3, stride), WeightLayer(outer, 3))
    else:
        layers = (WeightLayer(outer, 3, stride),)
    return UnitShape(channels, outer, stride, layers)
