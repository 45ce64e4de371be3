"""NaN and infinity, put in at every kind of place: stopped before the step, and named."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from cleanpath import assemble, targets
from cleanpath.data.images import Images, batch
from cleanpath.data.memory import InMemory
from cleanpath.data.sources import load
from cleanpath.errors import NonFiniteError
from cleanpath.experiment import Data, Training
from cleanpath.nn import resnet
from cleanpath.nn.resnet import ResNet
from cleanpath.training import loop
from cleanpath.training.progress import Callback
from tests.helpers import assert_user_error, here, measured, network_of, pixels_of, tiny

BAD = [math.nan, math.inf, -math.inf]


class NanGradient(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient * math.nan


class Backwards(nn.Module):
    """An identity whose backward pass gives NaN."""

    def forward(self, x: Tensor) -> Tensor:
        spoilt: Tensor = NanGradient.apply(x)
        return spoilt


class Constant(nn.Module):
    """Its value, in the shape of its input and tied to its gradient."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x + self.value


def ours(**settings: Any) -> ResNet:
    """A pre-activation network of 3 units."""
    torch.manual_seed(0)
    return resnet.build(replace(network_of(tiny()), **settings))


def foreign() -> nn.Sequential:
    """A network that has no units."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def stopped(network: nn.Module, images: Images | None = None, *, iterations: int = 3) -> NonFiniteError:
    """What training stops with; the parameters must be those from before the step that was not made."""
    made: list[dict[str, Tensor]] = [{n: p.detach().clone() for n, p in network.named_parameters()}]

    class Made(Callback):
        def measured(self, line: Any) -> None:  # noqa: ARG002
            made.append({name: p.detach().clone() for name, p in network.named_parameters()})

    training = Training(iterations=iterations, lr=0.01)
    with pytest.raises(NonFiniteError) as caught:
        loop.train(network, images or load(Data()), training, seed=0, callbacks=[Made()])
    assert caught.value.iteration == len(made), "the iteration that the error names is the one that was not made"
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, made[-1][name]) or not parameter.isfinite().all(), f"{name} was stepped"
    return caught.value


def spoil(module: nn.Module, value: float, *, at_call: int = 1) -> None:
    """Put a value into the module's output from its nth training call on."""
    calls = 0

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        nonlocal calls
        calls += module.training
        if calls < at_call:
            return output
        spoilt = output.clone()
        spoilt.view(-1)[0] = value
        return spoilt

    module.register_forward_hook(hook)


@pytest.mark.parametrize("value", BAD)
def test_images_that_are_not_finite_are_named(value: float) -> None:
    images = load(Data())
    spoilt = pixels_of(images.train).clone()
    spoilt[:, 0, 3, 3] = value
    error = stopped(ours(), replace(images, train=InMemory(pixels=spoilt, labels=images.train.labels)))
    assert (error.quantity, error.where, error.iteration) == ("loss", "the images of the batch", 1)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ours, "stem.conv.weight"),
        (ours, "stages.stage2.unit1.branch.conv1.weight"),
        (ours, "stages.stage3.unit1.branch.norm2.bias"),
        (ours, "head.linear.bias"),
        (foreign, "0.weight"),
        (foreign, "3.bias"),
    ],
)
def test_parameter_that_is_not_finite_is_named(make: Callable[[], nn.Module], name: str, value: float) -> None:
    network = make()
    with torch.no_grad():
        network.get_parameter(name).view(-1)[0] = value
    assert stopped(network).where == f"parameter {name}"


@pytest.mark.parametrize("value", BAD[:2])  # a ReLU takes −∞ to 0
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("stages.stage2.unit1.branch.conv2", "unit stages.stage2.unit1 (branch.conv2)"),
        ("stages.stage2.unit1", "the sum of unit stages.stage2.unit1"),
        ("stages.stage1.unit1.before.norm", "unit stages.stage1.unit1 (before.norm)"),
        ("stem.conv", "module stem.conv"),
    ],
)
def test_output_that_is_not_finite_is_named_by_its_unit(name: str, where: str, value: float) -> None:
    network = ours()
    spoil(network.get_submodule(name), value)
    assert stopped(network).where == where


@pytest.mark.parametrize(("name", "value"), [("0", math.nan), ("1", math.inf), ("3", math.nan)])
def test_output_that_is_not_finite_is_named_by_its_module_in_a_foreign_network(name: str, value: float) -> None:
    network = foreign()
    spoil(network.get_submodule(name), value)
    assert stopped(network).where == f"module {name}"


def test_first_of_several_places_is_named() -> None:
    network = ours()
    for name in ("stages.stage3.unit1.branch.conv1", "stages.stage2.unit1.branch.conv1"):
        spoil(network.get_submodule(name), math.nan)
    assert stopped(network).where == "unit stages.stage2.unit1 (branch.conv1)"


def overflowing() -> ResNet:
    """A network in whose first unit two finite parts have an infinite sum."""
    network = ours()
    unit = network.get_submodule("stages.stage1.unit1")
    unit.shortcut = unit.branch = Constant(3e38)
    return network


def test_sum_of_finite_parts_that_overflows_is_named_by_its_unit() -> None:
    assert "unit stages.stage1.unit1" in stopped(overflowing()).where


def test_sum_of_finite_parts_that_overflows_is_named_as_a_sum() -> None:
    assert stopped(overflowing()).where == "the sum of unit stages.stage1.unit1"


def test_later_iteration_is_stopped_with_the_weights_of_the_one_before() -> None:
    network = ours()
    spoil(network.get_submodule("stages.stage2.unit1.branch.conv1"), math.nan, at_call=3)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    error = stopped(network)
    assert error.iteration == 3
    assert not torch.equal(network.get_parameter("head.linear.weight"), start["head.linear.weight"])
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_loss_of_finite_logits_that_overflows_is_named() -> None:
    network = foreign()
    linear = network[3]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([3e38, *[-3e38] * 9]))
    error = stopped(network)
    assert (error.quantity, error.value, error.where) == ("loss", math.inf, "the loss")


def test_gradient_that_is_not_finite_is_named_by_its_unit() -> None:
    network = ours()
    network.get_submodule("stages.stage2.unit1.branch").relu2 = Backwards()
    error = stopped(network)
    assert error.quantity == "gradient norm"
    assert math.isnan(error.value)
    assert error.where == "the gradient of unit stages.stage2.unit1 (branch.norm2)"


def test_gradient_that_is_not_finite_is_named_by_its_module_in_a_foreign_network() -> None:
    network = foreign().insert(2, Backwards())
    error = stopped(network)
    assert (error.quantity, error.where) == ("gradient norm", "the gradient of module 1")


def test_norm_of_finite_gradients_that_overflows_is_named() -> None:
    images = load(Data())
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        network[1].get_parameter("weight").zero_()
    error = stopped(
        network, replace(images, train=InMemory(pixels=pixels_of(images.train) * 1e30, labels=images.train.labels))
    )
    assert (error.quantity, error.value) == ("gradient norm", math.inf)
    assert error.where == "the sum over all gradients"


def test_search_sees_the_same_dropout_as_the_step_that_failed() -> None:
    """A value that only a certain draw brings about is found again."""

    class Rare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (torch.rand(()) < 0.5).float() if self.training else x

    for state in range(4):
        network = foreign().insert(1, Rare())
        torch.manual_seed(state)
        assert stopped(network, iterations=30).where == "module 1"


def test_search_leaves_no_hooks() -> None:
    network = ours()
    network.get_submodule("stages.stage2.unit1.branch").relu2 = Backwards()
    assert "the gradient" in stopped(network).where
    assert all(not module._forward_hooks and not module._backward_hooks for module in network.modules())


def test_diverged_run_ends_with_that_status_and_its_finite_measurements(tmp_path: Path) -> None:
    run = assemble.run(tiny("training.lr=1e38", iterations=6), tmp_path / "run", threads=1)
    assert run.status == "diverged"
    assert run.result is not None
    assert run.result["iterations"] == len([line for line in measured(run.folder) if "loss" in line])
    assert "stopped before iteration" in run.result["reason"]
    assert all(math.isfinite(line["loss"]) for line in run.metrics() if "loss" in line)
    assert not run.weights.exists()
    json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)


def test_diverged_run_ends_the_command_with_1_and_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "preresnet8", "--set", "network.width=4", "--set", "training.lr=1e38", "--threads", "1"]
    first = here(*words)
    assert first.code == 1
    assert "diverged" in first.out
    again = here(*words, "--json")
    assert again.code == 1
    assert again.json()["status"] == "diverged"
    assert "ended before" in again.err


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that diverged in training."""
    folder = tmp_path_factory.mktemp("runs") / "dead"
    assert assemble.run(tiny("training.lr=1e20", iterations=20), folder, threads=1).status == "diverged"
    return folder


def test_post_mortem_holds_the_weights_before_the_step_and_its_batch(dead: Path) -> None:
    experiment, images = tiny("training.lr=1e20", iterations=20), load(Data())
    torch.manual_seed(0)
    network = resnet.build(network_of(experiment)).to(memory_format=torch.channels_last)
    died = int(json.loads((dead / "result.json").read_text())["iterations"]) + 1
    assert died == 2
    with pytest.raises(NonFiniteError, match="before iteration 2"):
        loop.train(network, images, replace(experiment.training, iterations=2), seed=0)
    with safe_open(str(dead / "post-mortem.safetensors"), framework="pt") as file:
        told = file.metadata()
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert told["iteration"] == "2"
    assert told["tested"] == "false"
    for name, parameter in network.named_parameters():
        # With another number of threads than the run's, rounding differs.
        assert (kept[f"network.{name}"] - parameter).abs().max() <= 1e-3 * parameter.abs().max(), name
    indices, epochs = batch(len(images.train.labels), 32, seed=0, iteration=2)
    assert torch.equal(kept["indices"], indices)
    assert torch.equal(kept["epochs"], epochs)


def test_audit_of_a_run_that_diverged_finds_the_place_that_training_named(dead: Path) -> None:
    reason = json.loads((dead / "result.json").read_text())["reason"]
    found = here("audit", str(dead), "--json").json()
    assert found["verdict"].startswith("not finite")
    where = found["network"]["first_non_finite"].rpartition(" in ")[2]
    unit, _, inner = where.partition(".branch.")
    assert f"unit {unit} (branch.{inner})" in reason
    assert "CP403" in [finding["code"] for finding in found["findings"]]
    text = here("audit", str(dead)).out
    assert "the weights before iteration 2, at which the run diverged, and the batch of that iteration" in text


def test_a_run_that_diverged_in_a_test_is_looked_at_on_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load(Data())
    assert isinstance(images.held_out, InMemory)
    pixels = images.held_out.pixels.clone()
    pixels[3] = math.inf
    spoilt = replace(images, held_out=replace(images.held_out, pixels=pixels))
    monkeypatch.setattr(assemble, "load", lambda _: spoilt)
    assert assemble.run(tiny(iterations=3), tmp_path / "run", threads=1).status == "diverged"
    monkeypatch.setattr(targets, "load", lambda _: spoilt)
    found = targets.resolve(str(tmp_path / "run"))
    assert not found.module.training
    assert torch.equal(found.arguments[0], spoilt.held_out.plain(torch.arange(8)))


def test_a_damaged_post_mortem_is_named(dead: Path, tmp_path: Path) -> None:
    shutil.copytree(dead, tmp_path / "run")
    (tmp_path / "run" / "post-mortem.safetensors").write_bytes(b"nothing")
    assert_user_error(here("audit", str(tmp_path / "run")), "post-mortem.safetensors is damaged")
