"""The authors' momentum against its formula, BN over groups against several networks, the average against its sum."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from cleanpath.experiment import Training
from cleanpath.training.grouped import BnGroups
from cleanpath.training.optimizers import CaffeSGD, optimizer_of
from cleanpath.training.schedule import learning_rate
from cleanpath.training.state import Learner


def one_weight(kind: str, **settings: float) -> tuple[nn.Linear, torch.optim.Optimizer]:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    return network, optimizer_of(network, Training(iterations=9, optimizer=kind, weight_decay=0.1, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sgd", "caffe_sgd"])
def test_both_forms_of_momentum_follow_their_formula(kind: str) -> None:
    network, optimizer = one_weight(kind, momentum=0.9)
    w, v = 2.0, 0.0
    for lr in (0.1, 0.1, 0.01, 0.01):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        network(torch.ones(1, 1)).backward()
        optimizer.step()
        g = 1.0 + 0.1 * w
        v = 0.9 * v + (lr * g if kind == "caffe_sgd" else g)
        w -= v if kind == "caffe_sgd" else lr * v
        assert network.weight.item() == pytest.approx(w, rel=1e-6)


def test_the_forms_differ_only_after_a_step_of_the_rate() -> None:
    found = dict[str, list[float]]()
    for kind in ("sgd", "caffe_sgd"):
        network, optimizer = one_weight(kind, momentum=0.9)
        for lr in (0.1, 0.1, 0.1, 0.01):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            network(torch.ones(1, 1)).backward()
            optimizer.step()
            found.setdefault(kind, []).append(network.weight.item())
    assert found["sgd"][:3] == pytest.approx(found["caffe_sgd"][:3], rel=1e-6)
    assert abs(found["sgd"][3] - found["caffe_sgd"][3]) > 0.01


def test_groups_of_a_batch_are_normalised_apart() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    x = torch.randn(12, 3, 4, 4)
    groups = BnGroups(norm, Training(iterations=1, batch_size=12, bn_group=4))
    with groups():
        together = norm(x)
    apart = torch.cat([functional.batch_norm(part, None, None, training=True) for part in torch.split(x, 4)])
    assert torch.equal(together, apart)
    assert int(norm.num_batches_tracked or 0) == 3
    norm.eval()
    with groups():
        assert torch.equal(norm(x), functional.batch_norm(x, norm.running_mean, norm.running_var))
    assert type(norm) is nn.BatchNorm2d


def test_average_is_the_sum_of_its_definition() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    learner = Learner(network, Training(iterations=9, average=0.8))
    expected = None
    for _ in range(5):
        network(torch.randn(6, 2)).sum().backward()
        learner.optimizer.step()
        assert learner.average is not None
        learner.average.update_parameters(network)
        weight = network[0].weight.detach().clone()  # type: ignore[operator]
        expected = weight if expected is None else 0.8 * expected + 0.2 * weight
    assert expected is not None
    assert torch.allclose(learner.tested.state_dict()["0.weight"], expected, atol=1e-6)
    learner.settle(learner.tested)
    assert torch.equal(network.state_dict()["0.weight"], learner.tested.state_dict()["0.weight"])


def test_cosine_falls_from_the_rate_to_nothing_after_a_linear_rise() -> None:
    training = Training(iterations=100, schedule="cosine", warmup=10, warmup_factor=0.1, warmup_shape="linear", lr=1.0)
    rates = [learning_rate(training, iteration, 100) for iteration in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(0.1 + 0.9 * 0.9)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_caffe_s_form_leaves_a_group_without_gradients_alone() -> None:
    one, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = CaffeSGD([{"params": [one]}, {"params": [other]}], lr=0.5, momentum=0.9)
    one.grad = torch.full((2,), 0.25)
    optimizer.step()
    assert one.tolist() == [0.875, 0.875]
    assert other.tolist() == [1.0, 1.0]
