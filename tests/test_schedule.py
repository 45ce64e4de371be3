"""Length of a run, learning rate of an iteration, and the optimizer's groups."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Network, Shortcut, Training
from cleanpath.nn.resnet import build
from cleanpath.training.optimizers import optimizer_of
from cleanpath.training.schedule import learning_rate, length
from tests.helpers import examples

# The paper's CIFAR recipe (appendix; length and steps from the first paper, Section 4.2).
PAPER = Training(iterations=64_000, batch_size=128, lr=0.1, warmup=400, warmup_factor=0.1, lr_drops=(0.5, 0.75))


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [
        *((1, 0.01), (400, 0.01), (401, 0.1), (32_000, 0.1)),
        *((32_001, 0.01), (48_000, 0.01), (48_001, 0.001), (64_000, 0.001)),
    ],
)
def test_paper_s_recipe_has_the_paper_s_rates(iteration: int, rate: float) -> None:
    assert learning_rate(PAPER, iteration, 64_000) == pytest.approx(rate, rel=1e-12)


def test_rate_changes_three_times_in_the_paper_s_recipe() -> None:
    rates = [learning_rate(PAPER, iteration, 64_000) for iteration in range(1, 64_001)]
    assert [index for index, (one, other) in enumerate(pairwise(rates), start=1) if one != other] == [
        400,
        32_000,
        48_000,
    ]


def test_default_recipe_has_no_warmup() -> None:
    assert learning_rate(Training(iterations=10), 1, 10) == 0.1


def test_rate_is_multiplied_by_the_drop_factor_at_each_drop() -> None:
    training = Training(iterations=8, lr=1.0, lr_drops=(0.25, 0.5, 0.75), lr_drop_factor=0.5)
    assert [learning_rate(training, iteration, 8) for iteration in range(1, 9)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
        0.125,
        0.125,
    ]


@examples
@given(epochs=st.integers(1, 200), images=st.integers(2, 100_000), size=st.integers(2, 1000), warmup=st.integers(0, 5))
def test_epochs_are_images_over_batch_size_iterations(epochs: int, images: int, size: int, warmup: int) -> None:
    training = Training(epochs=epochs, batch_size=size, warmup=warmup)
    if size > images or warmup >= -(-epochs * images // size):
        with pytest.raises(SettingError):
            length(training, images)
    else:
        total = length(training, images)
        assert (total - 1) * size < epochs * images <= total * size


def test_64000_iterations_are_163_84_epochs() -> None:
    assert length(PAPER, 50_000) == 64_000
    assert length(Training(epochs=164, batch_size=128), 50_000) == 64_063


def test_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SettingError, match=r"training\.batch_size is 5000, of 1297 training images; lower it"):
        length(Training(epochs=1, batch_size=5000), 1297)


def test_warmup_that_never_ends_is_refused() -> None:
    with pytest.raises(SettingError, match=r"training\.warmup is 10, and the run has 10 iterations; lower it"):
        length(Training(iterations=10, warmup=10, batch_size=2), 100)
    assert length(Training(iterations=11, warmup=10, batch_size=2), 100) == 11


def gated() -> nn.Module:
    """A network with every kind of parameter: convolutions with and without bias, BN, a linear layer."""
    shortcut = Shortcut(kind="shortcut_only_gating", bias=-6.0)
    return build(Network(depth=8, branch="two_layer", placement="original", width=4, shortcut=shortcut))


def decays(network: nn.Module, training: Training) -> dict[str, float]:
    """The weight decay of every parameter that the optimizer has, by name."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups: list[dict[str, Any]] = optimizer_of(network, training).param_groups
    return {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}


def test_all_parameters_decay_by_default() -> None:
    network = gated()
    found = decays(network, Training(iterations=1, weight_decay=0.25))
    assert found == {name: 0.25 for name, _ in network.named_parameters()}


def test_decay_can_be_on_weights_only() -> None:
    network = gated()
    found = decays(network, Training(iterations=1, weight_decay=0.25, decay_on="weights"))
    expected = {name: 0.25 if parameter.dim() > 1 else 0.0 for name, parameter in network.named_parameters()}
    assert found == expected
    assert set(found.values()) == {0.25, 0.0}


def test_frozen_parameters_are_left_out() -> None:
    network = gated()
    frozen = next(iter(network.parameters())).requires_grad_(False)  # noqa: FBT003
    assert all(
        frozen is not p for group in optimizer_of(network, Training(iterations=1)).param_groups for p in group["params"]
    )


def test_step_is_velocity_times_rate() -> None:
    """Torch's form: v ← m·v + g + wd·w, w ← w − lr·v."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 2.0)
    optimizer = optimizer_of(weight, Training(iterations=1, lr=0.5, momentum=0.5, weight_decay=0.25))
    w, v = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        weight.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        v = 0.5 * v + gradient + 0.25 * w
        w -= 0.5 * v
        assert weight.weight.item() == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_nesterov_is_passed_on(nesterov: bool) -> None:  # noqa: FBT001
    groups = optimizer_of(nn.Linear(1, 1), Training(iterations=1, nesterov=nesterov)).param_groups
    assert [group["nesterov"] for group in groups] == [nesterov] * len(groups)
