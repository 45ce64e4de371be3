"""Networks matched in parameters: counted independently, to within what whole channels allow."""

from dataclasses import replace

import pytest

from cleanpath.errors import SettingError
from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import catalog
from cleanpath.nn.matching import matched, parameters_of
from cleanpath.nn.resnet import build
from tests.nn.networks import tiny

HIGHWAY = {"shortcut": Shortcut(kind="highway", bias=-6.0), "placement": "relu_before_addition", "widening": "B"}


def counted(of: Network) -> int:
    return sum(parameter.numel() for parameter in build(of).parameters())


@pytest.mark.parametrize(
    "settings",
    [
        HIGHWAY,
        {"shortcut": Shortcut(kind="exclusive_gating", bias=-6.0)},
        {"shortcut": Shortcut(kind="squeeze_excitation", reduction=2)},
        {"shortcut": Shortcut(kind="conv_1x1")},
        {"shortcut": Shortcut(kind="hyper_connections", streams=4)},
    ],
    ids=lambda settings: settings["shortcut"].kind,
)
@pytest.mark.parametrize("name", ["resnet20", "cifar-resnet29-bottleneck"])
def test_matched_network_has_as_many_parameters(name: str, settings: dict[str, object]) -> None:
    widening = {"widening": "B"} if "bottleneck" in name else {}
    to, of = catalog.network(name, **widening), catalog.network(name, **{**widening, **settings})
    found = matched(of, to)
    assert abs(counted(found) - counted(to)) <= 0.02 * counted(to)
    assert replace(found, inner=1.0) == of
    assert found.inner < 1 or settings["shortcut"].kind == "hyper_connections"  # type: ignore[attr-defined]
    nearer = [replace(of, inner=found.inner + step / 64) for step in (-1, 1)]
    assert all(abs(counted(other) - counted(to)) >= abs(counted(found) - counted(to)) for other in nearer)


@pytest.mark.slow
def test_highway_of_110_layers_matches_the_residual_network() -> None:
    """A gate as deep as F: half the inner width each; 1,730,522 with option B (tests/nn/test_counts.py)."""
    of, to = catalog.network("resnet110", **HIGHWAY), catalog.network("resnet110", widening="B")
    found = matched(of, to)
    assert found.inner == 0.5
    assert parameters_of(to) == 1_730_522
    assert parameters_of(found) == 1_734_554


def test_inner_width_reaches_every_inner_layer_and_no_other() -> None:
    half, whole = (catalog.stages(tiny("bottleneck", inner=inner)) for inner in (0.5, 1.0))
    for one, other in zip(sum(half, ()), sum(whole, ()), strict=True):
        assert [layer.channels * 2 for layer in one.layers[:-1]] == [layer.channels for layer in other.layers[:-1]]
        assert (one.in_channels, one.out_channels, one.stride) == (other.in_channels, other.out_channels, other.stride)
        assert one.layers[-1] == other.layers[-1]


def test_what_cannot_be_matched_is_refused() -> None:
    with pytest.raises(SettingError, match="one_layer units have no inner layer"):
        matched(tiny("one_layer"), tiny())
    with pytest.raises(SettingError, match=r"no inner width has [\d,]+ parameters to within 2\.0%; the nearest have"):
        matched(catalog.network("resnet20"), catalog.network("resnet110"))
    with pytest.raises(SettingError, match=r"to within 0\.0%"):
        matched(catalog.network("resnet20", **HIGHWAY), catalog.network("resnet20", widening="B"), within=0.0)
