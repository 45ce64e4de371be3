"""What an audit costs: its time and its peak memory over those of one training step on the same batch.

python benchmarks/audit_cost.py
python benchmarks/audit_cost.py timm:resnet18 hf:bert --rounds 9

A step is forward, the audit's own loss (a fixed random projection of every output) and backward to all parameters.
Memory is the peak of resident memory above its level once the network was built, each in a process of its own.
"""

import argparse
import ctypes
import gc
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import machine
from torch import nn

from cleanpath.auditing.examine import audit
from cleanpath.auditing.passes import tensors_of
from cleanpath.targets import resolve

TARGETS = (
    "timm:resnet18",
    "timm:resnet50",
    "timm:mobilenetv3_small_100",
    "timm:efficientnet_b0",
    "timm:regnety_002",
    "timm:convnext_atto",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "hf:bert",
    "hf:gpt2",
    "hf:llama",
    "hf:t5",
    "hf:vit",
    "hf:wav2vec2",
    "preresnet56",
    "preresnet110",
)


@dataclass(frozen=True)
class Cost:
    """Seconds of steps and audits in turn."""

    steps: list[float]
    audits: list[float]

    @property
    def ratios(self) -> list[float]:
        """Each audit over the step before it."""
        return [one / other for one, other in zip(self.audits, self.steps, strict=True)]


def step(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """One training step without the optimizer; the parameters' gradients are dropped."""
    output = module(*args, **kwargs)
    ends = [end for end in tensors_of(output) if end.grad_fn is not None]
    directions = [torch.randn_like(end) / max(end.numel(), 1) ** 0.5 for end in ends]
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    torch.autograd.grad(ends, wanted, directions, allow_unused=True)


def audited(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """One audit with what a target is called with."""
    audit(module, dict(kwargs) if kwargs else tuple(args))


CALLS: dict[str, Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], None]] = {"step": step, "audit": audited}


def step_seconds(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """The time of one training step."""
    return _seconds(step, module, args, kwargs)


def audit_seconds(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """The time of one audit."""
    return _seconds(audited, module, args, kwargs)


def cost(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], rounds: int = 5) -> Cost:
    """Steps and audits in turn, so that both meet the same machine; one of each warms up."""
    taken = [(step_seconds(module, args, kwargs), audit_seconds(module, args, kwargs)) for _ in range(rounds + 1)]
    return Cost([one for one, _ in taken[1:]], [other for _, other in taken[1:]])


def peak_memory(what: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Peak resident memory of one `step` or `audit` above the level before it, in MiB; meant for a fresh process.

    Linux keeps the peak itself (VmHWM) and forgets the past one on request; nothing is sampled, so nothing is missed.
    """
    small = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    CALLS[what](small, (torch.zeros(1, 4),), {})  # loads the code
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    level = _status("VmRSS")
    CALLS[what](module, args, kwargs)
    return (_status("VmHWM") - level) / 1024


def peak_memory_apart(what: str, target: str) -> float:
    """The same for a target that `resolve` knows, in a process of its own."""
    command = [sys.executable, __file__, target, "--memory-of", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _seconds(
    call: Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], None],
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> float:
    began = time.perf_counter()
    call(module, args, kwargs)
    return time.perf_counter() - began


def _status(what: str) -> int:
    """One of the kernel's figures on this process, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def main() -> None:
    """Print one row per target, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", choices=sorted(CALLS), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.memory_of:
        target = resolve(chosen.targets[0])
        print(peak_memory(chosen.memory_of, target.module, target.arguments, target.keywords))
        return
    print(f"{'target':36} {'step ms':>8} {'audit ms':>8}  {'ratio':<20} {'step MiB':>8} {'audit MiB':>9}  ratio")
    times, memories = list[float](), list[float]()
    for name in chosen.targets:
        target = resolve(name)
        taken = cost(target.module, target.arguments, target.keywords, chosen.rounds)
        times.append(statistics.median(taken.ratios))
        spread = f"{times[-1]:.2f} ({min(taken.ratios):.2f} to {max(taken.ratios):.2f})"
        medians = (1e3 * statistics.median(seconds) for seconds in (taken.steps, taken.audits))
        line = "{:36} {:8.1f} {:8.1f}  {:20}".format(name, *medians, spread)
        if not chosen.no_memory:
            peaks = [peak_memory_apart(what, name) for what in ("step", "audit")]
            memories.append(peaks[1] / peaks[0])
            line += " {:8.1f} {:9.1f}  {:.2f}".format(*peaks, memories[-1])
        print(line, flush=True)
    said = f", memory {statistics.median(memories):.2f}" if memories else ""
    print(f"median over {len(times)} targets: time {statistics.median(times):.2f}{said}")
    print(f"{machine()}, {torch.get_num_threads()} thread(s); python {' '.join(sys.argv)}")


if __name__ == "__main__":
    main()
