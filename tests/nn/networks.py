"""Small networks for the tests: every shortcut setting, tiny widths, parameters that are nowhere trivial."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import catalog
from cleanpath.nn.resnet import ResNet, build
from cleanpath.nn.unit import ResidualUnit

PLACEMENTS = (
    "original",
    "bn_after_addition",
    "relu_before_addition",
    "relu_only_preactivation",
    "full_preactivation",
)
# f is an identity in these; in the first two the stream is cut by a ReLU.
CLEAN = PLACEMENTS[2:]
BRANCHES = ("one_layer", "two_layer", "bottleneck")
LAYERS = {"one_layer": 1, "two_layer": 2, "bottleneck": 3}
# Every kind with every setting that changes each unit; a test fails if a kind is missing.
SHORTCUTS = {
    "identity": Shortcut(),
    "none": Shortcut(kind="none"),
    "scaling 0, 1": Shortcut(kind="scaling", scale=0.0),
    "scaling 0.5, 1": Shortcut(kind="scaling", scale=0.5),
    "scaling 0.5, 0.5": Shortcut(kind="scaling", scale=0.5, branch_scale=0.5),
    "branch_scaling": Shortcut(kind="branch_scaling", branch_scale=0.3),
    "exclusive_gating": Shortcut(kind="exclusive_gating", bias=-1.0),
    "exclusive_gating, norm": Shortcut(kind="exclusive_gating", bias=-1.0, norm=True),
    "shortcut_only_gating": Shortcut(kind="shortcut_only_gating", bias=-1.0),
    "shortcut_only_gating, norm": Shortcut(kind="shortcut_only_gating", bias=-1.0, norm=True),
    "conv_1x1": Shortcut(kind="conv_1x1"),
    "conv_1x1, norm": Shortcut(kind="conv_1x1", norm=True),
    "dropout": Shortcut(kind="dropout", rate=0.5),
    "dropout, inverted": Shortcut(kind="dropout", rate=0.5, inverted=True),
}
# Settings that leave some units as they are with an identity.
UNGATED_WIDENINGS = {
    f"{kind}, open widening": Shortcut(kind=kind, bias=-1.0, gate_widening=False)
    for kind in ("exclusive_gating", "shortcut_only_gating")
}
ALL_SHORTCUTS = SHORTCUTS | UNGATED_WIDENINGS


def depth_of(branch: str, units: int = 2) -> int:
    """The depth of a network for small images with so many units in each of its three stages."""
    return 3 * units * LAYERS[branch] + 2


def tiny(branch: str = "two_layer", *, units: int = 2, **settings: Any) -> Network:
    """A network for small images, four channels wide unless told."""
    row = Network(depth=depth_of(branch, units), branch=branch, placement="original", width=4)
    return replace(row, **settings)


# Every kind beyond the paper, in the form of its reference where it has one, and with pre-activation.
BEYOND = {
    "skip_init": tiny(shortcut=Shortcut(kind="skip_init"), normalisation="none"),
    "skip_init, start": tiny(shortcut=Shortcut(kind="skip_init", start=0.3), placement="full_preactivation"),
    "layer_scale": tiny(shortcut=Shortcut(kind="layer_scale", start=0.1), placement="full_preactivation"),
    "weighted_residual": tiny(shortcut=Shortcut(kind="weighted_residual"), placement="relu_before_addition"),
    "stochastic_depth": tiny(shortcut=Shortcut(kind="stochastic_depth", rate=0.5)),
    "stochastic_depth, inverted": tiny(
        shortcut=Shortcut(kind="stochastic_depth", rate=0.5, inverted=True), placement="full_preactivation"
    ),
    "squeeze_excitation": tiny(shortcut=Shortcut(kind="squeeze_excitation")),
    "squeeze_excitation, wide": tiny(
        "bottleneck", shortcut=Shortcut(kind="squeeze_excitation", reduction=2), placement="full_preactivation"
    ),
    "highway": tiny(shortcut=Shortcut(kind="highway", bias=-1.0), placement="relu_before_addition", widening="B"),
    "highway, preactivation": tiny(
        "bottleneck", shortcut=Shortcut(kind="highway", bias=-1.0), placement="full_preactivation", widening="B"
    ),
    "fixup": tiny(shortcut=Shortcut(kind="fixup"), normalisation="none"),
    "fixup, bottleneck": tiny("bottleneck", shortcut=Shortcut(kind="fixup"), normalisation="none", widening="B"),
    "fixup, preactivation": tiny(shortcut=Shortcut(kind="fixup"), normalisation="none", placement="full_preactivation"),
    "deepnorm": tiny(shortcut=Shortcut(kind="deepnorm"), placement="post_norm", normalisation="layer"),
    "deepnorm, batch": tiny(shortcut=Shortcut(kind="deepnorm"), placement="bn_after_addition", widening="B"),
    "hyper_connections": tiny(shortcut=Shortcut(kind="hyper_connections", streams=3), placement="full_preactivation"),
    "hyper_connections, original": tiny(
        "bottleneck",
        shortcut=Shortcut(kind="hyper_connections", streams=2),
        placement="bn_after_addition",
        widening="B",
    ),
    "manifold_hyper_connections": tiny(
        shortcut=Shortcut(kind="manifold_hyper_connections", streams=3), placement="full_preactivation"
    ),
    "manifold_hyper_connections, original": tiny(
        shortcut=Shortcut(kind="manifold_hyper_connections", streams=2), widening="B", widening_norm=True
    ),
}
# Settings of any kind that stand in for a part: norms, activations, option D, inner widths.
SUBSTITUTES: dict[str, dict[str, Any]] = {
    "group": {"normalisation": "group"},
    "layer": {"normalisation": "layer", "placement": "full_preactivation"},
    "none": {"normalisation": "none"},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu", "placement": "full_preactivation"},
    "post_norm": {"placement": "post_norm"},
    "D": {"widening": "D", "widening_norm": True},
    "inner": {"inner": 0.5, "placement": "full_preactivation"},
}


def built(network: Network, *, dtype: torch.dtype = torch.float64) -> ResNet:
    """The network with every parameter and buffer drawn anew, so that no γ is 1 and no β is 0; in training mode."""
    torch.manual_seed(0)
    module = build(network).to(dtype)
    for part in module.modules():
        if isinstance(part, nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module


def images(network: Network, *, size: int = 8, batch: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random images of the network's channels; always the same ones."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, network.in_channels, size, size, dtype=dtype, generator=generator)


@cache
def on_meta(name: str) -> ResNet:
    """The catalog's network of that name, without memory for its weights; never change it."""
    with torch.device("meta"):
        return build(catalog.network(name))


def residual_units(network: ResNet) -> dict[str, ResidualUnit]:
    """The units with a shortcut, by name, in forward order."""
    return {name: unit for name, unit in network.units().items() if isinstance(unit, ResidualUnit)}


def stage_units(network: ResNet, stage: str = "stage1") -> list[ResidualUnit]:
    """The units of a stage but its first, which may change the width or share its first activation."""
    of_stage = network.get_submodule(f"stages.{stage}")
    return [unit for unit in list(of_stage.children())[1:] if isinstance(unit, ResidualUnit)]


def silence(unit: nn.Module) -> None:
    """Make F zero: every weight, γ and β of the branch."""
    branch = unit.get_submodule("branch")
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.zero_()


class Detached(nn.Module):
    """The module as a constant: its output without its gradient."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return out.detach()


def run_units(units: list[ResidualUnit], x: Tensor) -> Tensor:
    """The units one after another."""
    for unit in units:
        x = unit(x)
    return x


@contextmanager
def outputs_of(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """The outputs of the modules, in the order of their calls, while the block runs."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_hook(_appending(seen)) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def signal(unit: ResidualUnit, *, batch: int = 3, seed: int = 5) -> Tensor:
    """A random input of a unit: half its entries are negative."""
    channels = next(m for m in unit.modules() if isinstance(m, nn.Conv2d)).in_channels
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, 4, 4, dtype=torch.float64, generator=generator)


def clean_stage(
    units: int, *, branch: str = "two_layer", stage: str = "stage1", **settings: object
) -> list[ResidualUnit]:
    """The units 2, 3, … of a stage with identity f, so many."""
    network = built(tiny(branch, units=units + 1, width=2, **{"placement": "full_preactivation", **settings}))
    return stage_units(network, stage)


def silent_110(shortcut: Shortcut) -> ResNet:
    network = built(tiny(units=18, width=1, shortcut=shortcut))
    for unit in residual_units(network).values():
        silence(unit)
    return network.eval()


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Give the target the source's convolutions, BNs and linear layers: the first to the first, and so on."""
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear):
        theirs, ours = ([m for m in module.modules() if isinstance(m, kind)] for module in (source, target))
        for one, other in zip(theirs, ours, strict=True):
            other.load_state_dict(one.state_dict())


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    """The gradient of the loss with respect to every parameter."""
    return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=False))


def assert_close(actual: Tensor, expected: Tensor, *, atol: float = 1e-12, rtol: float = 0.0) -> None:
    """Equal to a fixed absolute error, whatever the size."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def assert_bitwise(actual: Tensor, expected: Tensor) -> None:
    """Equal in every bit, the sign of zero included; for float64."""
    assert actual.dtype == expected.dtype == torch.float64
    assert torch.equal(actual.view(torch.int64), expected.view(torch.int64))


def _appending(seen: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG001
        seen.append(output)

    return hook
