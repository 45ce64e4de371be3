"""The two passes of a step as one CUDA graph: launched at once, where a kernel each keeps a GPU waiting for Python.

The kernels are those of an ordinary step, and so are the bits.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from cleanpath.experiment import Training
from cleanpath.training.losses import Batch, Loss
from cleanpath.training.passes import Passes

_ORDINARY = 3
"""Steps that are made as ever before one is recorded: libraries choose their kernels in them, units are compiled."""
_KNOWN = ("cleanpath", "torch")


class Graph:
    """Loss and gradients of a batch, from the fourth step on by replaying one recorded step.

    For networks made of our modules and torch's, with one micro-batch, on one GPU. Whatever watches a module (a hook)
    makes the step an ordinary one. Where gradients are accumulated, images mixed, units computed again, or processes
    wait for each other, every step is ordinary; so too with modules of anybody else's, which may look at values while
    they run.
    """

    def __init__(self, passes: Passes, training: Training, loss_of: Loss) -> None:
        network = passes.network
        ours = all(type(each).__module__.partition(".")[0] in _KNOWN for each in network.modules())
        alone = passes.ranks.count == 1 and passes.parts == 1
        self._usable = (
            passes.device.type == "cuda"
            and training.graph
            and training.memory == "plain"
            and not training.mixup
            and ours
            and alone
        )
        self._passes, self._loss_of = passes, loss_of
        self._modules = list(network.modules())
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._gradients = list[tuple[nn.Parameter, Tensor]]()

    @property
    def ready(self) -> bool:
        """Whether the next step is to be made by `__call__`."""
        if not self._usable or any(map(_is_watched, self._modules)):
            return False
        self._steps += 1
        return self._steps > _ORDINARY

    def __call__(self, drawn: Batch) -> tuple[float, float]:
        """Loss and norm of the gradient, which is left in the parameters."""
        if self._graph is None:
            self._record(drawn)
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


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)  # noqa: SLF001
