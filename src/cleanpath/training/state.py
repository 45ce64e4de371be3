"""All that a run's future depends on, as named tensors and plain numbers, and back."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cleanpath import devices
from cleanpath.experiment import Training
from cleanpath.training.optimizers import optimizer_of


@dataclass(kw_only=True)
class Course:
    """How far a run has come."""

    iteration: int = 0
    evaluated: bool = True
    """Whether what is due after this iteration has been tested."""
    losses: list[float] = field(default_factory=list)
    """Of the iterations since the last line of the record."""
    error: float = math.nan
    test_loss: float = math.nan
    seconds: float = 0.0
    """Spent in earlier tries."""

    def to_text(self) -> str:
        """As JSON; floats come back bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Course":
        """The inverse of `to_text`."""
        return cls(**json.loads(text))


class Learner:
    """The network, its optimizer, and its average, if it has one."""

    def __init__(self, network: nn.Module, training: Training) -> None:
        self.network, self._device = network, devices.of(network)
        self.optimizer = optimizer_of(network, training)
        self.average: AveragedModel | None = None
        if training.average is not None:
            moving = get_ema_multi_avg_fn(training.average)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, multi_avg_fn=moving, use_buffers=True)

    @property
    def tested(self) -> nn.Module:
        """What is tested and kept."""
        return self.network if self.average is None else self.average.module

    def settle(self, tested: nn.Module) -> None:
        """Give the network the weights and statistics that were tested."""
        if tested is not self.network:
            self.network.load_state_dict(tested.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers, the optimizer's state, the average, and the random state; on the processor."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for at, parameter in enumerate(self._parameters()):
            state: Mapping[str, Any] = self.optimizer.state.get(parameter, {})
            found |= {f"optimizer.{at}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        random = devices.random_state(self._device)
        return {name: value.detach().cpu().contiguous() for name, value in found.items()} | {"random": random}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; memory layouts stay as they are, on which the last bits of sums depend."""
        self.network.load_state_dict(_below("network.", tensors))
        if self.average is not None:
            self.average.load_state_dict(_below("average.", tensors))
        # Steps are counted on a GPU only by an optimizer that works there as one operation.
        counted = self._device if any(group.get("fused") for group in self.optimizer.param_groups) else devices.CPU
        for at, parameter in enumerate(self._parameters()):
            for name, value in _below(f"optimizer.{at}.", tensors).items():
                alike = value.shape == parameter.shape
                own = torch.empty_like(parameter) if alike else torch.empty_like(value, device=counted)
                self.optimizer.state[parameter][name] = own.detach().copy_(value)
        devices.set_random_state(tensors["random"], self._device)

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
