"""What a forecast makes of models, losses, loaders and optimizers that are not as usual."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

import cleanpath
from cleanpath.errors import UserError
from cleanpath.forecasting.foresee import measured
from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.memory import memory_of
from cleanpath.forecasting.probing import steps, usual_loss
from cleanpath.forecasting.values import CANNOT_SAY
from tests.test_forecast import given, rule_of

Batches = list[tuple[Any, Tensor]]


@pytest.fixture
def batches() -> Batches:
    torch.manual_seed(0)
    return [(torch.randn(32, 6), torch.randint(4, (32,))) for _ in range(3)]


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


class Network(nn.Module):
    """Two layers, the second of which is registered first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head, self.body = nn.Linear(16, 4), nn.Linear(6, 16)

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.tanh(self.body(x)))


class Named(Network):
    """Its output has a loss in front, its head is called by keyword, its inputs begin with a mask."""

    def forward(self, mask: Tensor, x: Tensor) -> Any:  # type: ignore[override]
        logits = self.head(input=torch.tanh(self.body(x * mask)))
        return {"loss": logits.mean(), "logits": logits}


class Writing(Network):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.mul_(2.0))


class Paired(Network):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def test_the_features_are_those_of_the_layer_that_is_called_last(batches: Batches) -> None:
    model, swapped = Network(), Network()
    swapped._modules = dict(reversed(model._modules.items()))
    inputs = batches[0][0]
    memory, alike = memory_of(model, inputs, seed=0)
    assert (memory, alike) == memory_of(swapped, inputs, seed=0)
    assert memory is not None
    assert memory < 1.0  # it is not that of the inputs, which go into the layer registered last


def test_memory_does_not_hang_on_masks_losses_and_keywords(batches: Batches) -> None:
    inputs = batches[0][0]
    named = {"mask": torch.ones(32, 6), "x": inputs}
    assert memory_of(Named(), named, seed=0) == memory_of(Network(), inputs, seed=0)


def test_convolutions_of_one_dimension_are_layers() -> None:
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert memory_of(model, torch.randn(16, 3, 9), seed=0)[0] is not None


def test_batches_are_as_before_if_the_model_writes_into_them(batches: Batches) -> None:
    before = [x.clone() for x, _ in batches]
    cleanpath.forecast(model := Writing(), batches, optimizer=sgd(model))
    assert all(torch.equal(x, old) for (x, _), old in zip(batches, before, strict=True))


def test_a_loaders_own_generator_goes_on_as_before() -> None:
    data = TensorDataset(torch.randn(64, 6), torch.randint(4, (64,)))
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(data, batch_size=16, shuffle=True, generator=generator)
    before = generator.get_state()
    cleanpath.forecast(model := Network(), loader, optimizer=sgd(model))
    assert torch.equal(generator.get_state(), before)


def test_hooks_on_the_steps_of_all_optimizers_are_not_called(batches: Batches) -> None:
    called = []
    handle = register_optimizer_step_post_hook(lambda *_: called.append(1))
    try:
        model = Network()
        optimizer = sgd(model)
        cleanpath.forecast(model, batches, optimizer=optimizer)
        assert called == []
        optimizer.step()
        assert called == [1]
    finally:
        handle.remove()


def test_the_steps_begin_where_training_would(batches: Batches) -> None:
    def normed() -> nn.Module:
        model = Network()
        torch.nn.utils.parametrizations.spectral_norm(model.body)
        return model

    found = measured(model := normed(), batches, optimizer=sgd(model)).steps
    plainly = steps(model := normed(), sgd(model), [*batches, *batches, *batches, batches[0]], usual_loss, seed=0)
    assert found.losses == plainly.losses


def test_complex_weights_count_with_both_parts() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((6, 4), 1j))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).abs()

    model = Complex()
    found = steps(model, sgd(model), [(torch.randn(8, 6).to(torch.cfloat), torch.zeros(8).long())], usual_loss, seed=0)
    assert 0 < found.moved < 1


def test_a_loss_that_raises_is_told(batches: Batches) -> None:
    with pytest.raises(UserError, match=r"the loss raised .*loss=lambda"):
        cleanpath.forecast(paired := Paired(), batches, optimizer=sgd(paired))
    beyond = [(x, y + 4) for x, y in batches]
    with pytest.raises(UserError, match="out of bounds"):
        cleanpath.forecast(model := Network(), beyond, optimizer=sgd(model))


def test_an_error_inside_a_step_is_not_taken_for_a_missing_closure(batches: Batches) -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # noqa: ARG002
            raise TypeError("three is no string")

    model = Network()
    with pytest.raises(UserError, match="a step of Broken raised TypeError: three is no string"):
        cleanpath.forecast(model, batches, optimizer=Broken(model.parameters(), lr=0.1))


def test_no_rate_and_no_depth_are_named_where_it_is_well_already() -> None:
    # Parallel features, so that it is not said to train, whose probability of failing is small.
    found = judged(given(alike=0.99), rule_of(forgotten=0.5, moved=4.0, unlearnt=0.1))
    assert found.outcome == CANNOT_SAY
    assert {change.what for change in found.changes} & {"rate", "depth"} == set()


def test_why_a_term_is_missing_is_told_of_it_alone() -> None:
    (reason,) = judged(given(gradient_norm=None)).reasons
    assert "'vanished'" in reason
    assert "images" not in reason
    (reason,) = judged(given(memory=None)).reasons
    assert "at least 8 images" in reason
