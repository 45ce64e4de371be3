"""A training step, and how long something takes and how much memory it holds at most."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.campaign import call


def training_step(model: nn.Module, batch: Any) -> None:
    """Forward, and backward from the sum of the squares of every floating output."""
    outputs = [tensor for tensor in tensors_of(call(model, batch)) if tensor.requires_grad]
    if not outputs:
        raise ValueError("no output carries a gradient")
    loss = torch.stack([tensor.abs().square().sum().float() for tensor in outputs]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors of an output, whatever it is nested in."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from tensors_of(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from tensors_of(part)


def seconds(act: Callable[[], Any]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def peak(model: nn.Module, act: Callable[[], Any]) -> int:
    """The most memory that a network and what is done with it hold while it is done, in bytes; Linux only.

    Whatever else the process holds at the beginning is not counted.
    """
    own = [*model.parameters(), *model.buffers()]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _of_status("VmRSS") - sum(tensor.numel() * tensor.element_size() for tensor in own)
    act()
    return _of_status("VmHWM") - before


def _of_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
