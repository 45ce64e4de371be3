"""The optimizers by name, and the authors' own form of momentum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Training


class CaffeSGD(torch.optim.Optimizer):
    """SGD with the rate inside the velocity: v ← m·v + lr·g and w ← w − v, as Caffe has it.

    Equal to torch's form while the rate is constant; after a step of the rate the old velocity goes on at the old
    rate for about ten iterations (README of the first paper's Caffe models).
    """

    def __init__(self, parameters: Any, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            velocities = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            found = [parameter.grad for parameter in parameters]
            # All parameters at once: on a GPU a kernel each would take longer than the arithmetic.
            gradients = torch._foreach_add(found, parameters, alpha=group["weight_decay"])  # noqa: SLF001
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, gradients, alpha=group["lr"])
            torch._foreach_sub_(parameters, velocities)


def last_layer(network: nn.Module) -> nn.Module:
    """The layer that gives the logits: the last linear or convolutional one, in the order in which they are named."""
    return [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def optimizer_of(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer that the settings name, with weight decay where they say.

    A module tells which of its parameters are biases of gates by a method `gate_biases`.

    Deviations: `adamw` decays the weights apart from the gradient (Loshchilov and Hutter 2019); `momentum` is its β₁.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    free = _free_of_decay(network, parameters, training.decay_on)
    decayed, kept = [p for p in parameters if p not in free], [p for p in parameters if p in free]
    if training.body_factor == 1:
        parts = [({*parameters}, 1.0)]
    else:
        head = {*last_layer(network).parameters()}
        parts = [({*parameters} - head, training.body_factor), (head, 1.0)]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in some if p in part], "weight_decay": decay, "factor": factor}
        for some, decay in ((decayed, training.weight_decay), (kept, 0.0))
        for part, factor in parts
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise SettingError("all weights of the network are frozen; unfreeze some with requires_grad_()")
    if training.optimizer == "caffe_sgd":
        return CaffeSGD(groups, lr=training.lr, momentum=training.momentum)
    fused = training.fused or None  # None: as torch chooses
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, betas=(training.momentum, 0.999), fused=fused)
    # Layer after layer in C++ where torch would do so in Python on a processor: the same bits in 0.85 of the time.
    options: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov, **options)


def gate_biases(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that the network's modules name as biases of gates."""
    named = (getattr(module, "gate_biases", None) for module in network.modules())
    return [bias for told in named if callable(told) for bias in told()]


def check(network: nn.Module, training: Training) -> None:
    """Raise `SettingError` if biases of gates are to go without decay and there are none."""
    if training.decay_on == "all_but_gate_bias" and not gate_biases(network):
        raise SettingError("training.decay_on=all_but_gate_bias needs a network with gates; this one has none, use all")


def _free_of_decay(network: nn.Module, parameters: list[nn.Parameter], decay_on: str) -> set[nn.Parameter]:
    if decay_on == "all":
        return set()
    if decay_on == "all_but_gate_bias":
        return {*gate_biases(network)}
    layers = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return {*parameters} - {layer.weight for layer in layers}
