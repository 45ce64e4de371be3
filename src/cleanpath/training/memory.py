"""How much memory a step of training takes, counted on two images before it is made."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cleanpath import devices
from cleanpath.experiment import Training
from cleanpath.training.recompute import in_segments, through

_STATES = {"sgd": 1, "caffe_sgd": 1, "adamw": 2}
_WORK = 3.0
"""Of the largest activation, beside what is kept: results, gradients and copies that are at work at a time."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a step: for weights, gradients, the optimizer and the average; and for every image of a micro-batch."""

    fixed: int
    plain: float
    """Per image, with everything kept for the way back."""
    recompute: float
    """Per image, with the inputs of segments and the inside of one of them kept."""

    def of(self, training: Training, images: int | None = None) -> int:
        """Of the settings' way and so many images at a time, None: their micro-batch; in bytes."""
        images = images or training.batch_size // training.accumulation
        return round(self.fixed + self._each(training) * images)

    def largest_batch(self, training: Training, limit: int, *, images: int, processes: int = 1) -> int:
        """The largest batch of at most so many `images` that `processes` with `limit` bytes each can share; or 0."""
        group, parts = training.bn_group or 1, training.accumulation
        each = max(0, int((limit - self.fixed) / self._each(training)))
        micro = min(each // group * group * processes, images // parts // group * group)
        return micro * parts

    def _each(self, training: Training) -> float:
        return self.recompute if training.memory == "recompute" else self.plain


def memory_of(network: nn.Module, images: Tensor, training: Training) -> Memory:
    """Counted in one forward pass on a few images; the network's statistics and flags are as before afterwards."""
    kept = {name: value.clone() for name, value in network.named_buffers()}
    flags = {module: module.training for module in network.modules()}
    segment_inputs, inside, largest = 0, list[int](), 0

    def run(members: Sequence[nn.Module], x: Tensor) -> Tensor:
        nonlocal segment_inputs
        segment_inputs += _bytes(x)
        with _Counted() as counted:
            x = through(members, x)
        inside.append(counted.bytes)
        return x

    def look(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, _bytes(output))

    handles = [module.register_forward_hook(look) for module in network.modules()]
    try:
        network.train()
        with _Counted() as outside, in_segments(network, run), devices.forked(images.device):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in flags.items():
            module.training = flag
        for name, buffer in network.named_buffers():
            buffer.copy_(kept[name])
    weights = sum(_bytes(parameter) for parameter in network.parameters() if parameter.requires_grad)
    copies = 2 + _STATES[training.optimizer] + (training.average is not None)
    rest = outside.bytes + _WORK * largest
    count = len(images)
    return Memory(
        fixed=copies * weights,
        plain=(rest + sum(inside)) / count,
        recompute=(rest + segment_inputs + max(inside, default=0)) / count,
    )


class _Counted(AbstractContextManager["_Counted"]):
    """Bytes that autograd keeps meanwhile, each storage once; parameters are none of them."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen = set[int]()
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._alive = list[Tensor]()

    def __enter__(self) -> "_Counted":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self._alive.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._alive.append(tensor)  # so that its address is not given to another meanwhile
            self.bytes += storage.nbytes()
        return tensor


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
