"""The two passes of a step as one CUDA graph: launched at once, where a kernel each keeps a GPU waiting for Python.

The kernels are those of an ordinary step, and so are the bits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm

from cleanpath.experiment import Training
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.passes import Passes
from cleanpath.training.watched import hooks_of, is_watched

_ORDINARY = 3
"""Steps that are made as ever before one is recorded: libraries choose their kernels in them, units are compiled."""
_KNOWN = ("cleanpath", "torch")


class Graph:
    """Loss and gradients of a batch, from the fourth step on by replaying one recorded step.

    A step is an ordinary one wherever `can_be_recorded` says so, and while something watches a module or a weight (a
    hook). What is changed in the network meanwhile, a mode or a frozen weight, has the next step recorded anew.
    """

    def __init__(self, passes: Passes, training: Training, loss_of: Loss) -> None:
        alone = passes.ranks.count == 1 and passes.device.type == "cuda"
        self._usable = alone and can_be_recorded(passes.network, training)
        self._passes, self._loss_of = passes, loss_of
        self._modules, self._weights = list(passes.network.modules()), list(passes.network.parameters())
        self._hooks = hooks_of(self._modules)
        self._made, self._state = 0, tuple[list[Any], ...]()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._gradients = list[tuple[nn.Parameter, Tensor]]()

    def replays(self) -> bool:
        """Whether the next step is to be made by `__call__`; asked once before each."""
        if not self._usable or is_watched(self._hooks, self._weights):
            return False
        self._made += 1
        return self._made > _ORDINARY

    def __call__(self, drawn: Batch) -> tuple[float, float]:
        """Loss and norm of the gradient, which is left in the parameters."""
        state = _state(self._modules, self._weights)
        if self._graph is None or state != self._state:
            self._record(drawn)
            self._state = state
        assert self._graph is not None
        self._images.copy_(drawn.images)
        self._labels.copy_(drawn.labels)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        loss, norm = self._found.tolist()
        return loss, norm

    def _record(self, drawn: Batch) -> None:
        passes = self._passes
        self._graph, self._gradients = None, []  # the memory of an earlier one
        self._images, self._labels = drawn.images.clone(), drawn.labels.clone()
        graph = torch.cuda.CUDAGraph()
        # Threads of a loader may talk to the GPU meanwhile.
        with passes(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self._loss_of(passes.forward(self._images, last=True), self._labels, self._labels, 1.0)
            passes.backward(loss)
            learning = [p for p in passes.network.parameters() if p.grad is not None]
            gradients = [p.grad for p in learning if p.grad is not None]
            self._found = torch.stack([loss.detach().double(), get_total_norm(gradients).double()])
        self._graph, self._gradients = graph, list(zip(learning, gradients, strict=True))


def can_be_recorded(network: nn.Module, training: Training) -> bool:
    """Whether every step does the same, without a look at a value.

    So it is with networks made of our modules and torch's, with one micro-batch; not where images are mixed or units
    computed again, with modules of anybody else's, whose code may look at values, and with a BN without momentum, which
    looks at its count.
    """
    as_ever = training.graph and training.memory == "plain" and not training.mixup and training.accumulation == 1
    return as_ever and all(map(_is_known, network.modules()))


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule | fx.GraphModule) or "forward" in vars(module):
        return False  # anybody's code under a name of torch's
    counts = isinstance(module, _NormBase) and module.track_running_stats and module.momentum is None
    return type(module).__module__.partition(".")[0] in _KNOWN and not counts


def _state(modules: Sequence[nn.Module], weights: Sequence[nn.Parameter]) -> tuple[list[Any], ...]:
    """What may be changed between two steps, and is a part of what was recorded: modes, rates of dropout, weights."""
    return (
        [module.training for module in modules],
        [vars(module).get("p") for module in modules],
        [weight.requires_grad for weight in weights],
        [weight.data_ptr() for weight in weights],
    )
