"""Which steps a GPU may replay; what replaying gives is in test_gpu.py, where there is one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

import cleanpath
from cleanpath.experiment import Shortcut, Training
from cleanpath.training.graph import can_be_recorded
from cleanpath.training.watched import hooks_of, is_watched

PLAIN = Training(iterations=4, batch_size=32)


class Mine(nn.Module):
    """Somebody's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def patched() -> nn.Module:
    relu = nn.ReLU()
    relu.forward = lambda x: x * float(x.sum())  # type: ignore[method-assign,assignment]
    return relu


@pytest.mark.parametrize("kind", ["identity", "dropout", "stochastic_depth", "exclusive_gating"])
def test_our_networks_are_recorded(kind: str) -> None:
    settings = {"dropout": {"rate": 0.5}, "stochastic_depth": {"rate": 0.5}, "exclusive_gating": {"bias": -6.0}}
    shortcut = Shortcut(kind=kind, **settings.get(kind, {}))  # type: ignore[arg-type]
    assert can_be_recorded(cleanpath.build("resnet8", shortcut=shortcut), PLAIN)


@pytest.mark.parametrize(
    "changes",
    [{"graph": False}, {"memory": "recompute"}, {"mixup": 0.2}, {"accumulation": 2}],
    ids=lambda changes: next(iter(changes)),
)
def test_steps_that_are_made_otherwise_are_not(changes: dict[str, Any]) -> None:
    assert not can_be_recorded(cleanpath.build("resnet8"), Training(iterations=4, batch_size=32, **changes))


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(Mine, id="own class"),
        pytest.param(lambda: nn.BatchNorm2d(4, momentum=None), id="BN that counts"),
        pytest.param(patched, id="own forward"),
        pytest.param(lambda: fx.symbolic_trace(nn.ReLU()), id="traced"),
    ],
)
def test_code_that_may_look_at_values_is_not(module: Callable[[], nn.Module]) -> None:
    assert can_be_recorded(nn.Sequential(nn.ReLU()), PLAIN)
    assert not can_be_recorded(nn.Sequential(nn.ReLU(), module()), PLAIN)


def nothing(*_: Any) -> None:
    return None


@pytest.mark.parametrize(
    "watch",
    [
        pytest.param(lambda net: net[0].register_forward_hook(nothing), id="forward"),
        pytest.param(lambda net: net[0].register_forward_pre_hook(nothing), id="before forward"),
        pytest.param(lambda net: net[0].register_full_backward_hook(nothing), id="backward"),
        pytest.param(lambda net: net[0].register_full_backward_pre_hook(nothing), id="before backward"),
        pytest.param(lambda net: net[0].weight.register_hook(nothing), id="gradient"),
        pytest.param(lambda net: net[0].weight.register_post_accumulate_grad_hook(nothing), id="gathered gradient"),
        pytest.param(lambda _: nn.modules.module.register_module_forward_hook(nothing), id="every module"),
    ],
)
def test_whoever_watches_is_told_of_every_step(watch: Callable[[nn.Sequential], Any]) -> None:
    network = nn.Sequential(nn.Linear(2, 2))

    hooks = hooks_of(list(network.modules()))

    def watched() -> bool:
        return is_watched(hooks, list(network.parameters()))

    assert not watched()
    handle = watch(network)
    assert watched()
    handle.remove()
    assert not watched()
