"""What a network is, in numbers and words: h, F, f, shapes, parameters and multiply-adds of every unit."""

from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Network
from cleanpath.nn.beyond import SqueezeExcitation
from cleanpath.nn.resnet import ResNet, build
from cleanpath.nn.summary_values import Summary, UnitSummary
from cleanpath.nn.unit import ExclusivelyGatedUnit, PlainUnit, ResidualUnit
from cleanpath.nn.words import describe, gated


def summarise(network: Network, size: int) -> Summary:
    """The summary of a network on images of `size` pixels, counted on the meta device: no memory, no weights.

    Multiply-adds are those of convolutions and linear layers. The longest path takes F in every unit, without what
    gates it; of a unit that has no F by this name, all layers count.
    """
    if size < 1:
        raise SettingError(f"images of {size} pixels do not exist; the side must be >= 1")
    with torch.device("meta"):
        built = build(network).eval()
        shapes, macs = _measure(built, torch.empty(1, network.in_channels, size, size))
    units = tuple(_unit(name, unit, shapes, macs) for name, unit in built.units().items())
    on_branches = sum(_weighted(getattr(unit, "branch", unit)) for unit in built.units().values())
    return Summary(
        parameters=_parameters(built),
        macs=sum(macs.values()),
        depth=_weighted(built.stem) + on_branches + _weighted(built.head),
        input=(network.in_channels, size, size),
        units=units,
    )


def _unit(name: str, unit: nn.Module, shapes: dict[str, tuple[Any, Any]], macs: dict[str, int]) -> UnitSummary:
    before, f = "identity", "in F"
    if isinstance(unit, PlainUnit):
        h, branch = "none", describe(unit.branch)
    elif isinstance(unit, ResidualUnit):
        h, branch = describe(unit.shortcut), describe(unit.branch)
        if isinstance(unit, ExclusivelyGatedUnit):
            h = gated(h, unit.gate)
            branch = f"g·({branch})"
    else:
        h, branch = "in F", describe(unit)
    if isinstance(unit, PlainUnit | ResidualUnit):
        before, f = describe(unit.before), describe(unit.after)
    return UnitSummary(
        name=name,
        before=before,
        h=h,
        branch=branch,
        f=f,
        input=shapes[name][0],
        output=shapes[name][1],
        parameters=_parameters(unit),
        macs=sum(count for module, count in macs.items() if module.startswith(f"{name}.")),
    )


def _measure(network: ResNet, images: Tensor) -> tuple[dict[str, tuple[Any, Any]], dict[str, int]]:
    """Input and output shapes of the units, and multiply-adds of every weighted layer, from one forward pass."""
    shapes: dict[str, tuple[Any, Any]] = {}
    macs: dict[str, int] = {}
    units = network.units()

    def watch(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name in units:
                shapes[name] = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])
            if isinstance(module, nn.Conv2d | nn.Linear):
                macs[name] = module.weight.numel() * output[0, 0].numel()

        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        watch(name, module)
    try:
        network(images)
    except Exception as error:  # noqa: BLE001 (a user's own unit may fail in any way)
        raise SettingError(f"images of {images.shape[-1]} pixels do not pass the network: {error}") from None
    return shapes, macs


def _weighted(module: nn.Module) -> int:
    if isinstance(module, SqueezeExcitation):
        return 0
    return isinstance(module, nn.Conv2d | nn.Linear) + sum(map(_weighted, module.children()))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
