"""Where the time of a training step goes on the processor, and how far that is from what the machine could do.

    python -m benchmarks.step_profile    rewrites results/step-profile.json

ResNet-110 and -164 (pre-activation, 32×32, a batch of 128, all cores, fp32), plain in eager NCHW, ours on torch's
kernels, and on our own, a process each. Then a step by depth, 20 to 1202 layers, a batch of 8, one thread.

The machine's limit is what one step has to do, at the speeds measured here: its multiplications, three products for
each of a convolution, at the speed of a large product (of matrices, or a convolution of 64 channels, which is the
faster); and the bytes that cannot be avoided, at the speed of a copy: each convolution's input read forward and
backward and its gradient written, its output written and the gradient of that read; each sum read twice and written,
there and back. No step can take less than the larger of the two.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measuring import seconds
from benchmarks.plain_networks import twin
from benchmarks.recorded import FOLDER
from benchmarks.training_speed import WAYS, _our_step, _plain_step, _warmed
from cleanpath.assemble import environment
from cleanpath.grid.local import cores
from cleanpath.nn import catalog
from cleanpath.nn.multiply_adds import multiply_adds

RESULTS = FOLDER / "step-profile.json"
NETWORKS, BATCH, STEPS = ("preresnet110", "preresnet164"), 128, 3
DEPTHS, FEW = (20, 56, 110, 218, 434, 866, 1202), 8
SIDE = 32
COMPARED = tuple(WAYS)[:3]
_PARTS = {
    "convolution, forward": ("mkldnn_convolution", "thnn_conv2d", "slow_conv2d"),
    "convolution, backward": ("convolution_backward",),
    "norm": ("batch_norm",),
    "ReLU": ("relu", "clamp_min", "threshold"),
    "sum": ("add",),
    "norm, ReLU and convolution in one": ("_Joined",),
}
"""By the names of torch's operators; the first that fits counts."""


def main() -> None:
    """Measure all in processes of their own; print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=4, metavar=("NETWORK", "WAY", "BATCH", "THREADS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        name, way, batch, threads = asked.one
        print(json.dumps(measured(name, way, int(batch), int(threads))))
        return
    limits = machine_limits()
    print(json.dumps(limits))
    networks = {}
    for name in NETWORKS:
        ways = {way: _process(name, way, BATCH, cores()) for way in COMPARED}
        networks[name] = {"work": work(name, BATCH), "ways": ways}
        print(name, json.dumps(networks[name]), flush=True)
    growth = []
    for depth in DEPTHS:
        name = f"preresnet{depth}"
        took = {way: _process(name, way, FEW, 1)["seconds"] for way in COMPARED}
        growth.append({"network": name, "units": (depth - 2) // 2, "seconds": took})
        print(json.dumps(growth[-1]), flush=True)
    told = {"environment": environment(cores()), "date": time.strftime("%Y-%m-%d")}
    data = {"batch": BATCH, "limits": limits, "networks": networks, "few": FEW, "growth": growth, **told}
    RESULTS.write_text(f"{json.dumps(data, indent=1, ensure_ascii=False)}\n", encoding="utf-8")


def _process(name: str, way: str, batch: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.step_profile", "--one", name, way, str(batch), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(name: str, way: str, batch: int, threads: int) -> dict[str, Any]:
    """Of one process: the median step, its page faults, and the shares of its operators."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, plain = twin(name)
    _warmed()
    images, labels = torch.randn(batch, 3, SIDE, SIDE), torch.randint(10, (batch,))
    step = _plain_step(plain, images, labels) if way == "eager NCHW" else _our_step(ours, way, images, labels)
    step()
    took, faults = list[float](), list[int]()
    for _ in range(STEPS):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        took.append(seconds(step))
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {"seconds": statistics.median(took), "page faults": statistics.median(faults), "shares": _shares(step)}


def _shares(step: Callable[[], None]) -> dict[str, float]:
    """Of a step's time, by the kind of operator; children are not counted with their parents."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    found = Counter[str]()
    for event in profile.key_averages():
        part = next((part for part, names in _PARTS.items() if any(each in event.key for each in names)), "other")
        found[part] += event.self_cpu_time_total
    return {part: found[part] / found.total() for part in (*_PARTS, "other")}


def work(name: str, batch: int) -> dict[str, float]:
    """Of one step: operations, a multiplication and an addition each, and the bytes that cannot be avoided."""
    network, numbers = twin(name)[1], Counter[str]()

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            numbers["bytes"] += 4 * (3 * given[0].numel() + 2 * output.numel())
        else:
            numbers["bytes"] += 4 * 6 * output.numel()

    units = network.get_submodule("units")
    handles = [each.register_forward_hook(look) for each in (*network.modules(),) if isinstance(each, nn.Conv2d)]
    handles += [each.register_forward_hook(look) for each in units.children()]
    with torch.inference_mode():
        network(torch.randn(1, 3, SIDE, SIDE))
    for handle in handles:
        handle.remove()
    return {"operations": 6.0 * batch * multiply_adds(catalog.network(name), SIDE), "bytes": batch * numbers["bytes"]}


def machine_limits() -> dict[str, float]:
    """Operations and bytes in a second, on all cores: the best of some tries."""
    torch.set_num_threads(cores())
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    signal = torch.randn(BATCH, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    source, target = torch.randn(1 << 26), torch.empty(1 << 26)
    with torch.inference_mode():
        product = min(seconds(lambda: a @ b) for _ in range(30))
        convolution = min(seconds(lambda: functional.conv2d(signal, weight, padding=1)) for _ in range(30))
        copy = min(seconds(lambda: target.copy_(source)) for _ in range(20))
    return {
        "matrix product": 2 * 2048**3 / product,
        "3×3 convolution": 2 * signal.numel() * 64 * 9 / convolution,
        "copy": 2 * 4 * source.numel() / copy,
    }


if __name__ == "__main__":
    main()
