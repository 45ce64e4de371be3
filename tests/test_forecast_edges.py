"""What a forecast makes of models, losses, loaders and optimizers that are not as usual."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

import cleanpath
from cleanpath.errors import UserError
from cleanpath.forecasting.foresee import measured
from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.memory import memory_of
from cleanpath.forecasting.probing import steps, usual_loss
from cleanpath.forecasting.values import FAILS, STARTS_SLOWLY
from tests.test_forecast import given, rule_of, stepped

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


def test_a_loader_that_draws_from_torch_leaves_it_as_before() -> None:
    loader = DataLoader(TensorDataset(torch.randn(64, 6), torch.randint(4, (64,))), batch_size=16, shuffle=True)
    model = Network().eval()  # which seeds torch
    before = torch.get_rng_state()
    found = cleanpath.forecast(model, loader, optimizer=sgd(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert found.measured is not None
    assert len(found.measured.steps.losses) == 10


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
    # It starts slowly, and its probability of failing is small.
    slowly = replace(rule_of(forgotten=0.5, moved=4.0, unlearnt=0.1), slow_from=0.0)
    found = judged(given(), slowly)
    assert found.outcome == STARTS_SLOWLY
    assert {change.what for change in found.changes} & {"rate", "depth"} == set()


def test_why_a_term_is_missing_is_told_of_it_alone() -> None:
    (reason,) = judged(given(steps=stepped(apart=()))).reasons
    assert "'merged'" in reason
    assert "a row for each" in reason
    (reason,) = judged(given(memory=None)).reasons
    assert "at least 8 images" in reason


def regression(scale: float = 1.0, shift: float = 0.0) -> Batches:
    torch.manual_seed(2)
    weights = torch.randn(6, 1)
    return [(x, shift + scale * torch.tanh(x @ weights)) for x in torch.randn(10, 32, 6)]


class Regressor(Network):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(16, 1)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda y: y.float(), r"targets are numbers .*mse_loss"),
        (lambda y: y.float()[:, None], r"no probabilities.*mse_loss"),
        (lambda y: torch.full_like(y, 2), r"all targets of these batches are 2, .*shuffles"),
    ],
)
def test_targets_of_which_a_cross_entropy_makes_nothing_are_told(batches: Batches, of: Any, message: str) -> None:
    model = Network()
    with pytest.raises(UserError, match=message):
        cleanpath.forecast(model, [(x, of(y)) for x, y in batches], optimizer=sgd(model))


def test_one_column_of_outputs_needs_a_loss(batches: Batches) -> None:
    model = Regressor()
    with pytest.raises(UserError, match=r"the output has one column.*binary_cross_entropy_with_logits"):
        cleanpath.forecast(model, [(x, y % 2) for x, y in batches], optimizer=sgd(model))


def doubts(batches: Batches, **asked: Any) -> str:
    model = Network()
    return " ".join(cleanpath.forecast(model, batches, optimizer=sgd(model), **asked).doubts)


def test_targets_that_are_odd_are_doubted(batches: Batches) -> None:
    assert "targets" not in doubts(batches)
    ordered = [(x, torch.full_like(y, at)) for at, (x, y) in enumerate(batches)]
    assert "targets of one kind only" in doubts(ordered)
    whole = [(x, one_hot(y, 4).float()) for x, y in batches]
    assert "targets" not in doubts(whole)
    assert "targets are soft" in doubts([(x, 0.9 * y + 0.025) for x, y in whole])
    # Another loss may not look at them.
    same = [(x, torch.zeros(32)) for x, _ in batches]
    assert "all targets of these batches are 0" in doubts(same, loss=lambda output, _: output.square().mean())


def test_a_regression_is_forecast_with_its_loss_and_doubted() -> None:
    model = Regressor()
    found = cleanpath.forecast(model, regression(), optimizer=sgd(model), loss=mse_loss)
    assert found.outcome != FAILS
    assert any("this loss is another" in doubt for doubt in found.doubts)
    assert found.measured is not None
    assert found.measured.guess is not None
    # Its guess is the mean of the targets, wherever they lie and in whatever unit.
    target = regression(scale=7.0, shift=1000.0)[0][1]
    far = measured(model, regression(scale=7.0, shift=1000.0), optimizer=sgd(model), loss=mse_loss)
    assert far.guess == pytest.approx(float(target.var(unbiased=False)), rel=1e-3)


class Cubed(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x**3


def test_where_it_stops_is_named_and_what_can_be_done(batches: Batches) -> None:
    model = Network()
    with torch.no_grad():
        model.body.weight[0, 0] = torch.nan
    found = cleanpath.forecast(model, batches, optimizer=sgd(model))
    assert found.reasons[0].endswith("at the start, where a run stops; not finite first: the parameter body.weight")
    assert "rate" not in {change.what for change in found.changes}
    model = Network()
    found = cleanpath.forecast(model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=1e38))
    assert "after 1 step, where a run stops; not finite first: the loss, of outputs that are finite" in found.reasons[0]
    assert found.changes[0].what == "rate"
    assert "a rate below 1e+38" in found.changes[0].sentence
    # Exploding as it goes: its own operation.
    cubed = nn.Sequential(nn.Linear(6, 6), Cubed(), Cubed(), Cubed(), Cubed(), nn.Linear(6, 4))
    found = cleanpath.forecast(cubed, batches, optimizer=torch.optim.SGD(cubed.parameters(), lr=1e6))
    assert re.search(r"where a run stops; not finite first: pow in [1-4]$", found.reasons[0])


def test_what_is_wrong_with_a_batch_is_said_of_the_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer, images = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(16, 1, 8, 8)

    def told(target: Tensor, **words: Any) -> str:
        with pytest.raises(UserError) as found:
            cleanpath.forecast(model, [(images, target)], optimizer=optimizer, **words)
        return str(found.value)

    assert "labels go from 5 to 20, and the model has 10 outputs" in told(torch.arange(5, 21))
    left_out = torch.where(torch.arange(16) < 4, -100, torch.arange(16) % 10)
    assert "give loss=lambda" in told(left_out, loss=lambda output, target: output @ target)  # labels are right
    assert "a batch has 3 targets, and the output 16 rows" in told(torch.arange(3))
    assert "loss is a str; give a function" in told(torch.arange(16) % 10, loss="mse")
    with pytest.raises(UserError, match="put pairs into a list"):
        cleanpath.forecast(model, (images, torch.arange(16) % 10), optimizer=optimizer)  # type: ignore[arg-type]


def test_a_rate_of_zero_is_no_rate_to_ask_about() -> None:
    """As a schedule with a warm-up leaves it before its first step."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(UserError, match="rate is 0"):
        cleanpath.forecast(model, [(torch.randn(16, 1, 8, 8), torch.arange(16) % 10)], optimizer=optimizer)
