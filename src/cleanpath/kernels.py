"""A kernel that damages memory, and how it is kept away.

torch 2.14's kernel of AVX2 processors for the gradient of a 1×1 convolution with a stride writes beyond its buffer
where the input has fewer than 8 channels ("free(): invalid pointer", sooner or later); AVX-512 processors have another.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

_CHANNELS = 8


def sound(network: nn.Module) -> AbstractContextManager[None]:
    """While it lasts, a network with such a convolution is computed by torch's plain kernels; others as ever."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2" and any(map(_is_struck, network.modules())):
        return torch.backends.mkldnn.flags(enabled=False, deterministic=None, allow_tf32=None, fp32_precision=None)
    return nullcontext()


def _is_struck(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == {1}
        and max(module.stride) > 1
        and module.in_channels < _CHANNELS
    )
