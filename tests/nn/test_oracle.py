"""Every network against the slow oracle: logits, gradients and running statistics, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cleanpath.experiment import Network
from cleanpath.nn import catalog
from cleanpath.nn.resnet import ResNet
from tests.nn.networks import ALL_SHORTCUTS, BRANCHES, PLACEMENTS, assert_close, built, gradients, images, tiny
from tests.nn.oracle import Oracle


def loss_of(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


def state_of(network: ResNet) -> dict[str, Tensor]:
    """Copies of all parameters and buffers; the parameters want gradients."""
    learnt = dict(network.named_parameters())
    return {name: t.detach().clone().requires_grad_(name in learnt) for name, t in network.state_dict().items()}


def assert_same_as_oracle(
    of: Network, *, training: bool, size: int = 8, atol: float = 1e-12, rtol: float = 0.0
) -> None:
    network = built(of).train(training)
    x = images(of, size=size)
    state = state_of(network)
    torch.manual_seed(3)
    expected = Oracle(of, state, training=training)(x)
    torch.manual_seed(3)
    logits = network(x)
    assert logits.shape == (len(x), of.num_classes)
    assert_close(logits, expected, atol=atol, rtol=rtol)
    names = [name for name, _ in network.named_parameters()]
    theirs = torch.autograd.grad(loss_of(expected), [state[name] for name in names])
    for ours, other in zip(gradients(network, loss_of(logits)), theirs, strict=True):
        assert_close(ours, other, atol=atol, rtol=rtol)
    for name, buffer in network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert_close(buffer, state[name].detach(), atol=atol, rtol=rtol)


@pytest.mark.parametrize("shortcut", ALL_SHORTCUTS)
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_network_in_training_equals_the_oracle(placement: str, branch: str, shortcut: str) -> None:
    widening = "B" if branch == "bottleneck" else "A"
    of = tiny(branch, placement=placement, shortcut=ALL_SHORTCUTS[shortcut], widening=widening)
    assert_same_as_oracle(of, training=True)


@pytest.mark.parametrize("shortcut", ALL_SHORTCUTS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_network_in_evaluation_equals_the_oracle(placement: str, shortcut: str) -> None:
    of = tiny(placement=placement, shortcut=ALL_SHORTCUTS[shortcut], units=1)
    assert_same_as_oracle(of, training=False)


@pytest.mark.parametrize(
    "setting",
    [
        {"widening": "B"},
        {"widening": "B", "widening_norm": True},
        {"widening_input": "raw"},
        {"widening_input": "raw", "widening": "B", "stride_on": "middle"},
        {"padding": "both"},
        {"in_channels": 1, "num_classes": 3},
    ],
    ids=lambda setting: " ".join(map(str, setting.values())),
)
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_named_settings_equal_the_oracle(placement: str, branch: str, setting: dict[str, Any]) -> None:
    assert_same_as_oracle(tiny(branch, placement=placement, **setting), training=True)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_imagenet_network_equals_the_oracle(placement: str, depth: int) -> None:
    branch = "two_layer" if depth == 18 else "bottleneck"
    of = Network(depth=depth, branch=branch, placement=placement, layout="imagenet", widening="B", width=2)
    assert_same_as_oracle(of, training=False, size=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet110", "preresnet110", "preresnet164", "cifar-resnet110-1layer", "plain56"])
def test_deep_network_of_the_catalog_equals_the_oracle(name: str) -> None:
    assert_same_as_oracle(catalog.network(name), training=False, rtol=1e-7)


def test_oracle_notices_another_function() -> None:
    """The negative control: raw and shared pre-activation have the same shapes and other values."""
    of = tiny(placement="full_preactivation")
    state = state_of(built(of))
    renamed = {name.replace("before.norm", "branch.norm1"): value for name, value in state.items()}
    raw = Oracle(tiny(placement="full_preactivation", widening_input="raw"), {**state, **renamed}, training=False)
    x = images(of)
    assert not torch.allclose(raw(x), Oracle(of, state, training=False)(x))
