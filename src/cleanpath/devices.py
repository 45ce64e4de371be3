"""The device that a network computes on: the processor, or a GPU of NVIDIA's; and what is to be the same there.

A run's device is where its network is: images, checkpoints and random numbers follow it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.errors import SettingError

CPU = torch.device("cpu")
NAMES = ("auto", "cpu", "cuda")
"""`auto` is a GPU where there is one; `cuda:1` is the second."""
_AMPERE = (8, 0)
"""Compute capability from which on there is TF32."""


def chosen(name: str, *, beside: int = 0) -> torch.device:
    """The device of that name; where no GPU is named, the one `beside` others that processes of the same run have.

    Raises `SettingError` if this machine has none such.
    """
    kind, colon, number = name.partition(":")
    if kind not in NAMES or (colon and (kind != "cuda" or not number.isdecimal())):
        raise SettingError(f"no device '{name}'; give auto, cpu, cuda or cuda:N")
    found = torch.cuda.device_count()
    if kind == "cpu" or (kind == "auto" and not found):
        return CPU
    if number and beside:
        raise SettingError(
            f"--device {name} is one GPU for all processes of this run; give --device cuda: one for each"
        )
    at = int(number or beside)
    if at >= found:
        told = f"torch {torch.__version__} sees {found} GPU{'' if found == 1 else 's'} here"
        why = "" if torch.version.cuda or torch.version.hip else ", as it is built for the processor alone"
        fewer = f"{found} processes, or " if beside and found else ""
        raise SettingError(f"--device {name}: {told}{why}; take {fewer}--device cpu; `cleanpath doctor` lists devices")
    return torch.device("cuda", at)


def shared(name: str) -> list[torch.device]:
    """The devices that the runs of a grid share: every GPU, where none is named.

    Raises `SettingError` as `chosen`.
    """
    first = chosen(name)
    if first.type == "cpu" or ":" in name:
        return [first]
    return [torch.device("cuda", at) for at in range(torch.cuda.device_count())]


def check(device: torch.device, precision: str) -> None:
    """Raise `SettingError` for a precision that the device does not have."""
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < _AMPERE):
        raise SettingError("training.precision=tf32 is for NVIDIA GPUs from Ampere on; leave it out here, or use bf16")


def of(network: nn.Module) -> torch.device:
    """Where a network is; one without weights is on the processor."""
    return next((each.device for each in (*network.parameters(), *network.buffers())), CPU)


def described(device: torch.device) -> dict[str, Any]:
    """What a run's numbers may depend on; nothing of the processor, which is told anyway."""
    if device.type != "cuda":
        return {}
    return {
        "device": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    }


def peak_memory(device: torch.device) -> Mapping[str, int]:
    """The most bytes that tensors of this process have taken on a GPU."""
    return {"gpu_memory": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def free_memory(device: torch.device) -> int:
    """Bytes that a GPU has left, with those that this process holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def random_state(device: torch.device) -> Tensor:
    """Of the generators that a network on this device draws from: the processor's, and behind it the GPU's."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """The inverse; a state from another kind of device sets what it has."""
    count = torch.get_rng_state().numel()
    torch.set_rng_state(state[:count])
    if device.type == "cuda" and state.numel() > count:
        torch.cuda.set_rng_state(state[count:], device)


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Random states as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def exact(device: torch.device, *, tf32: bool = False, deterministic: bool = True) -> Iterator[None]:
    """On a GPU, while it lasts: fp32 is fp32 (torch's convolutions take TF32 else), and sums are the same each time."""
    if device.type != "cuda":
        yield
        return
    of_products, of_convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    cudnn = torch.backends.cudnn
    before = of_products.fp32_precision, of_convolutions.fp32_precision, cudnn.deterministic, cudnn.benchmark
    precision = "tf32" if tf32 else "ieee"
    try:
        of_products.fp32_precision = of_convolutions.fp32_precision = precision
        cudnn.deterministic = deterministic
        cudnn.benchmark = False  # kernels would be chosen by their time
        with torch.cuda.device(device):
            yield
    finally:
        of_products.fp32_precision, of_convolutions.fp32_precision, cudnn.deterministic, cudnn.benchmark = before
