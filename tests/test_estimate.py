"""Estimates of time and GPU-hours: closed forms, the paper's own statements, and lines through two points."""

from dataclasses import replace

import pytest

from cleanpath import estimate
from cleanpath.estimate import Probe, Speed, speed_of
from cleanpath.experiment import Data, Experiment, Foreign, Training
from cleanpath.nn import catalog
from cleanpath.nn.multiply_adds import multiply_adds
from cleanpath.paper import recipes


def cifar(name: str, training: Training) -> Experiment:
    return Experiment(network=catalog.network(name), data=Data(name="cifar10"), training=training)


def test_speed_is_the_line_through_both_probes() -> None:
    found = speed_of(
        Probe(layers=10, multiply_adds=1e9, seconds=10 * 0.002 + 1e9 / 5e9),
        Probe(layers=20, multiply_adds=9e9, seconds=20 * 0.002 + 9e9 / 5e9),
    )
    assert found.per_layer == pytest.approx(0.002)
    assert found.multiply_adds == pytest.approx(5e9)


def test_speed_of_probes_that_contradict_each_other_has_no_negative_part() -> None:
    found = speed_of(Probe(layers=10, multiply_adds=1e9, seconds=5.0), Probe(layers=10, multiply_adds=9e9, seconds=1.0))
    assert found.per_layer >= 0
    assert found.multiply_adds > 0


def test_seconds_are_those_of_steps_and_of_a_test_per_epoch() -> None:
    one = cifar("resnet20", Training(epochs=2, batch_size=100))
    speed = Speed(per_layer=0.001, multiply_adds=1e10)
    step = 20 * 0.001 + 3 * 100 * multiply_adds(one.network, 32) / 1e10
    # 500 steps an epoch; 10,000 images forward are as much as 33 steps of 100 there and back.
    assert estimate.seconds(one, speed) == pytest.approx(step * (1000 + 2 * 10_000 / 300))


def test_gpu_hours_are_what_the_paper_says_of_its_two_networks() -> None:
    small = cifar("preresnet1001", recipes.paper())
    large = Experiment(
        network=catalog.network("preresnet200"), data=Data(name="imagenet:x"), training=recipes.paper_imagenet()
    )
    assert estimate.gpu_hours([small]) == pytest.approx(2 * 27)
    assert estimate.gpu_hours([large]) == pytest.approx(8 * 3 * 7 * 24)
    assert estimate.gpu_hours([small, small]) == pytest.approx(4 * 27)
    # A tenth of the layers is about a tenth of the time (Section 5).
    assert estimate.gpu_hours([cifar("resnet110", recipes.paper())]) == pytest.approx(54 / 5.9, rel=0.01)


def test_length_in_epochs_and_in_iterations_are_the_same_work() -> None:
    epochs = cifar("resnet20", Training(epochs=4, batch_size=100))
    iterations = replace(epochs, training=Training(iterations=2000, batch_size=100))
    assert estimate.work(epochs) == estimate.work(iterations)


def test_correction_is_the_median_ratio() -> None:
    assert estimate.corrected([(2.0, 1.0), (9.0, 3.0), (8.0, 1.0), (1.0, 0.0)]) == 3.0
    assert estimate.corrected([]) is None


def test_runs_of_other_data_and_networks_have_no_estimate() -> None:
    one = cifar("resnet20", Training(iterations=1))
    assert estimate.known(one)
    assert not estimate.known(replace(one, data=Data(name="folder:photos")))
    assert not estimate.known(replace(one, network=Foreign(target="timm:resnet18")))
