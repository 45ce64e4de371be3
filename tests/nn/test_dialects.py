"""Our ImageNet networks beside torchvision's and timm's: with one set of weights, one function."""

import pytest
import torch
from torch import nn

import cleanpath
from cleanpath.errors import UserError
from cleanpath.nn.dialects import Dialect, ours, theirs
from cleanpath.targets import resolve


def stirred(network: nn.Module) -> nn.Module:
    """In eval mode, with BN that does something."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network.eval()


def pair(depth: int, dialect: Dialect) -> tuple[nn.Module, nn.Module]:
    """Ours with weights of its own, and theirs as it comes."""
    torch.manual_seed(depth)
    name, options = ("resnet", {"widening_norm": True}) if dialect == "torchvision" else ("preresnet", {})
    mine = cleanpath.build(f"{name}{depth}", widening="B", stride_on="middle", num_classes=1000, **options)
    other = resolve(f"torchvision:resnet{depth}" if dialect == "torchvision" else f"timm:resnetv2_{depth}").module
    return stirred(mine), other.eval()


PAIRS = [
    *(pytest.param(depth, "torchvision", id=f"{depth}-torchvision") for depth in (18, 34, 50)),
    pytest.param(50, "timm", id="50-timm"),
    *(
        pytest.param(depth, dialect, id=f"{depth}-{dialect}", marks=pytest.mark.slow)
        for depth in (101, 152)
        for dialect in ("torchvision", "timm")
    ),
]


@pytest.mark.parametrize(("depth", "dialect"), PAIRS)
def test_weights_of_ours_in_theirs_give_the_same_outputs_and_come_back(depth: int, dialect: Dialect) -> None:
    mine, other = pair(depth, dialect)
    other.load_state_dict(theirs(mine.state_dict(), dialect))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = mine(x), other(x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    back = ours(other.state_dict(), dialect)
    assert {name: value.shape for name, value in back.items()} == {n: v.shape for n, v in mine.state_dict().items()}
    assert all(torch.equal(value, mine.state_dict()[name]) for name, value in back.items())


@pytest.mark.parametrize("dialect", ["torchvision", "timm"])
def test_weights_of_theirs_in_ours_give_the_same_outputs(dialect: Dialect) -> None:
    mine, other = pair(50, dialect)
    stirred(other)
    mine.load_state_dict(ours(other.state_dict(), dialect))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = other(x), mine(x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_negative_scale_before_the_pooling_is_refused() -> None:
    state = cleanpath.build("preresnet50", widening="B", stride_on="middle").state_dict()
    state["stem.activation.norm.weight"][3] = -0.5
    with pytest.raises(UserError, match="1 scales of the stem's BN are negative"):
        theirs(state, "timm")


def test_another_network_is_refused_by_the_name_that_has_no_place() -> None:
    with pytest.raises(UserError, match=r"torchvision has no place for stages\.stage1\.unit1\.branch"):
        theirs({"stages.stage1.unit1.branch.gate.weight": torch.zeros(1)}, "torchvision")


def test_two_layer_networks_of_timm_are_refused_since_their_first_shortcut_is_another() -> None:
    state = cleanpath.build("preresnet18", widening="B").state_dict()
    with pytest.raises(UserError, match="carry the raw signal on the first shortcut"):
        theirs(state, "timm")
