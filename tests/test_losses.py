"""The loss with weights of classes, and BN's statistics taken anew: against slow oracles."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cleanpath.data.images import Images, order
from cleanpath.data.memory import InMemory
from cleanpath.data.sources import load
from cleanpath.experiment import Data, Training
from cleanpath.training import loop
from cleanpath.training.keeper import NoKeeper
from cleanpath.training.losses import Loss
from cleanpath.training.statistics import as_tested

UNEVEN = torch.tensor([0] * 90 + [1] * 9 + [2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_balanced_loss_is_the_mean_over_classes_of_the_mean_over_their_images(parts: int, smoothing: float) -> None:
    """Over the whole training set each class then has the same say."""
    training = Training(
        epochs=1, batch_size=100, class_weights="balanced", accumulation=parts, label_smoothing=smoothing
    )
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    each = functional.cross_entropy(logits, UNEVEN, reduction="none", label_smoothing=smoothing)
    expected = np.mean([float(each[c == UNEVEN].mean()) for c in range(3)])
    loss_of = Loss(training, UNEVEN)
    pieces = zip(logits.chunk(parts), UNEVEN.chunk(parts), strict=True)
    assert sum(float(loss_of(x, y, y, 1.0)) for x, y in pieces) == pytest.approx(expected, rel=1e-5)


def test_a_class_without_images_has_no_say_and_even_classes_change_nothing() -> None:
    training = Training(epochs=1, class_weights="balanced")
    logits, labels = torch.randn(4, 5), torch.tensor([0, 0, 3, 3])
    found = float(Loss(training, labels)(logits, labels, labels, 1.0))
    assert found == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)


def uneven() -> Images:
    """Digits of which class 0 has a tenth."""
    images = load(Data())
    assert isinstance(images.train, InMemory)
    kept = (images.train.labels != 0) | (torch.arange(len(images.train.labels)) % 10 == 0)
    train = replace(images.train, pixels=images.train.pixels[kept], labels=images.train.labels[kept])
    return replace(images, train=train)


def test_balanced_training_errs_less_on_the_rare_class() -> None:
    images = uneven()
    errors = {}
    for weights in ("none", "balanced"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        training = Training(iterations=100, batch_size=64, lr=0.02, class_weights=weights)
        loop.train(network, images, training, seed=0)
        rare = images.held_out.labels == 0
        guesses = network(images.held_out.plain(torch.arange(len(rare)))).argmax(1)
        errors[weights] = float((guesses[rare] != 0).double().mean())
    assert errors["balanced"] < errors["none"]


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )


def test_statistics_taken_anew_are_plain_averages_over_batches() -> None:
    images, network = load(Data()), normed()
    training = Training(epochs=1, batch_size=64, bn_images=200)
    before = copy.deepcopy(network.state_dict())
    found = as_tested(network, images.train, training, seed=3, keeper=NoKeeper())
    assert found is not None
    places = order(len(images.train.labels), seed=3, epoch=0)[:192].reshape(3, 64)
    with torch.no_grad():
        maps = [network[0](images.train.plain(torch.from_numpy(row))).numpy() for row in places]
    mean = np.mean([m.mean(axis=(0, 2, 3)) for m in maps], axis=0)
    variance = np.mean([m.var(axis=(0, 2, 3), ddof=1) for m in maps], axis=0)
    assert found.state_dict()["1.running_mean"].numpy() == pytest.approx(mean, rel=1e-4, abs=1e-6)
    assert found.state_dict()["1.running_var"].numpy() == pytest.approx(variance, rel=1e-4)
    after = network.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name], value), f"{name} of the network in training has moved"


def test_without_the_setting_the_network_itself_is_tested() -> None:
    network = normed()
    assert as_tested(network, load(Data()).train, Training(epochs=1), seed=0, keeper=NoKeeper()) is network


def test_the_result_and_the_kept_network_have_the_new_statistics() -> None:
    images, network = load(Data()), normed()
    training = Training(iterations=30, batch_size=64, lr=0.05, bn_images=640)
    result = loop.train(network, images, training, seed=0)
    anew = as_tested(network, images.train, training, seed=0, keeper=NoKeeper())
    assert anew is not None
    assert torch.equal(anew.state_dict()["1.running_mean"], network.state_dict()["1.running_mean"])
    network.eval()
    guesses = network(images.held_out.plain(torch.arange(500))).argmax(1)
    assert 100 * float((guesses != images.held_out.labels).double().mean()) == pytest.approx(result["error"])


def test_a_stop_is_heard_while_statistics_are_taken() -> None:
    class Stopping(NoKeeper):
        stopping = True

    training = Training(epochs=1, bn_images=640)
    assert as_tested(normed(), load(Data()).train, training, seed=0, keeper=Stopping()) is None
