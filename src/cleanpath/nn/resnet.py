"""Stem, stages and head: the networks of the paper, from their specification."""

from collections import OrderedDict

from torch import Tensor, nn

from cleanpath.experiment import Network
from cleanpath.nn import beyond, catalog, streams  # noqa: F401 (their kinds are registered)
from cleanpath.nn.branch import Placement, branch, operations, placement_of
from cleanpath.nn.init import initialise
from cleanpath.nn.kinds import Parts, kind_of
from cleanpath.nn.layers import NORM
from cleanpath.nn.shortcut import PaddedIdentity, pooled_projection, projection


class ResNet(nn.Module):
    """Stem, stages of units, head. (N, in_channels, H, W) to (N, num_classes)."""

    def __init__(self, *, stem: nn.Module, stages: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.stages, self.head = stem, stages, head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(images)))
        return logits

    def units(self) -> dict[str, nn.Module]:
        """Every unit under its qualified name, in forward order."""
        return {
            f"stages.{stage}.{name}": unit
            for stage, members in self.stages.named_children()
            for name, unit in members.named_children()
        }


def build(network: Network) -> ResNet:
    """The network of a specification, with its weights at their start.

    Raises `SettingError` or `UnknownNameError` for what cannot be built.
    """
    placement = placement_of(network.placement)
    kind = kind_of(network.shortcut)
    shapes = catalog.stages(network)
    places, count = iter(range(1, sum(map(len, shapes)) + 1)), sum(map(len, shapes))
    stages = OrderedDict[str, nn.Module]()
    for number, stage in enumerate(shapes, start=1):
        units = OrderedDict[str, nn.Module]()
        for index, shape in enumerate(stage, start=1):
            parts = _parts(network, placement, shape, index=next(places), count=count)
            units[f"unit{index}"] = kind.make(parts, network.shortcut)
        stages[f"stage{number}"] = nn.Sequential(units)
    last = shapes[-1][-1].out_channels
    built = ResNet(stem=_stem(network, placement), stages=nn.Sequential(stages), head=_head(network, placement, last))
    initialise(built)
    kind.finish(built, network.shortcut)
    return built


def _parts(network: Network, placement: Placement, shape: catalog.UnitShape, *, index: int, count: int) -> Parts:
    """The parts of one unit.

    The lead of a pre-activated unit stands before the split, in `before`, in the first unit and (unless
    `widening_input` is raw) where the width changes: the paper's appendix and its authors' code. In the ImageNet
    layout the first unit's lead stands in the stem, since the max pool comes between.
    """
    in_stem = index == 1 and network.layout == "imagenet"
    shared = not in_stem and (index == 1 or (shape.changes_width and network.widening_input == "activated"))
    return Parts(
        before=operations(placement.lead if shared else (), shape.in_channels, network),
        shortcut=_widening(network, shape) if shape.changes_width else nn.Identity(),
        branch=branch(shape.layers, placement, network, in_channels=shape.in_channels, lead=not (shared or in_stem)),
        after=operations(placement.after, shape.out_channels, network),
        in_channels=shape.in_channels,
        out_channels=shape.out_channels,
        stride=shape.stride,
        layers=shape.layers,
        index=index,
        count=count,
        network=network,
    )


def _widening(network: Network, shape: catalog.UnitShape) -> nn.Module:
    """The shortcut where the width changes: option A or B of the first paper, or D."""
    if network.widening == "A":
        return PaddedIdentity(shape.in_channels, shape.out_channels, shape.stride, side=network.padding)
    norm = NORM[network.normalisation](shape.out_channels) if network.widening_norm else None
    project = projection if network.widening == "B" else pooled_projection
    return project(shape.in_channels, shape.out_channels, shape.stride, norm=norm)


def _stem(network: Network, placement: Placement) -> nn.Sequential:
    """conv3×3 on small images; conv7×7/2, the first activation and a max pool 3×3/2 on ImageNet."""
    channels = network.width
    if network.layout == "cifar":
        conv = nn.Conv2d(network.in_channels, channels, 3, padding=1, bias=False)
        return nn.Sequential(OrderedDict(conv=conv, activation=operations(placement.stem, channels, network)))
    conv = nn.Conv2d(network.in_channels, channels, 7, stride=2, padding=3, bias=False)
    activation = operations((*placement.stem, *placement.lead), channels, network)
    return nn.Sequential(OrderedDict(conv=conv, activation=activation, pool=nn.MaxPool2d(3, stride=2, padding=1)))


def _head(network: Network, placement: Placement, channels: int) -> nn.Sequential:
    """What follows the last sum (appendix), global average pooling and the classifier."""
    return nn.Sequential(
        OrderedDict(
            activation=operations(placement.tail, channels, network),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(channels, network.num_classes),
        )
    )
