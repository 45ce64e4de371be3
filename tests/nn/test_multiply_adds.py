"""Multiply-adds from shapes alone, against those counted on the networks themselves and the known ones."""

from dataclasses import replace

import pytest

from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import catalog
from cleanpath.nn.multiply_adds import layers, multiply_adds
from cleanpath.nn.summary import summarise
from cleanpath.paper.scales import SCALES
from cleanpath.paper.tables import RECIPES, experiments

MOST_UNITS = 40


def table_networks() -> dict[str, tuple[Network, int]]:
    """Every network of a table that is quickly built, with the side of its images."""
    found: dict[Network, tuple[str, int]] = {}
    for scale in SCALES.values():
        for recipe in RECIPES.values():
            for (row, column, _), one in experiments(recipe, scale, seeds=[0]).items():
                assert isinstance(one.network, Network)
                if sum(catalog.units_per_stage(one.network)) <= MOST_UNITS:
                    side = {"digits": 8, "cifar10": 32, "cifar100": 32}.get(one.data.name, 224)
                    found.setdefault(one.network, (f"{scale.name}/{recipe.name}/{row}/{column}", side))
    return {name: (network, side) for network, (name, side) in found.items()}


NETWORKS = table_networks()


@pytest.mark.parametrize(("network", "side"), NETWORKS.values(), ids=NETWORKS)
def test_count_from_shapes_is_that_of_the_network_itself(network: Network, side: int) -> None:
    counted = summarise(network, side)
    assert multiply_adds(network, side) == counted.macs
    assert layers(network) == counted.depth


@pytest.mark.parametrize(
    ("name", "side", "millions"),
    [
        *(("resnet20", 32, 40.6), ("resnet56", 32, 125.5), ("resnet110", 32, 252.9)),
        *(("resnet164", 32, 244.5), ("resnet1001", 32, 1487.8), ("resnet1202", 32, 2829)),
        ("resnet18", 224, 1814),
    ],
)
def test_count_is_the_known_one(name: str, side: int, millions: float) -> None:
    assert multiply_adds(catalog.network(name), side) / 1e6 == pytest.approx(millions, rel=2e-3)


@pytest.mark.parametrize("side", [7, 8, 9, 33])
@pytest.mark.parametrize("gate_widening", [True, False])
def test_gates_are_counted_where_they_stand_on_maps_of_any_size(side: int, *, gate_widening: bool) -> None:
    shortcut = Shortcut(kind="exclusive_gating", bias=0.0, gate_widening=gate_widening)
    network = Network(depth=14, branch="two_layer", placement="original", shortcut=shortcut)
    assert multiply_adds(network, side) == summarise(network, side).macs
    plain = replace(network, shortcut=Shortcut(kind="none"), widening="B")
    assert multiply_adds(plain, side) == summarise(plain, side).macs
