"""Training on a GPU beside the plain network in eager fp32: images per second, memory, and the bytes that are moved.

    python -m benchmarks.gpu_training            ResNet-110 and -164 at a batch of 128, every way of training
    python -m benchmarks.gpu_training --deep     ResNet-1001 at batches of 64 and 128

Appends to results/gpu-training.jsonl. Ours is `training.loop.train` with all that belongs to it: images cropped and
mirrored anew, finiteness checked before each step, the record's callbacks. The plain one (benchmarks/plain_networks.py)
has its images on the GPU already, nothing is checked, and nobody waits for its loss. Its convolutions are fp32, where
torch's default on such a card is TF32: that default is a row of its own. The plain one runs first and last.

The bandwidth is that of a copy of a gibibyte, bytes read and written. The bytes of a step are those that the operations
of an unfused network read and write, counted on the processor; over time and bandwidth they are the share that is used.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.plain_networks import twin
from benchmarks.recorded import FOLDER
from cleanpath import devices
from cleanpath.assemble import environment
from cleanpath.data.images import Images
from cleanpath.data.memory import InMemory
from cleanpath.data.preparation import Preparation
from cleanpath.experiment import Training
from cleanpath.training.loop import train
from cleanpath.training.memory import memory_of
from cleanpath.training.progress import Stepped

RESULTS = FOLDER / "gpu-training.jsonl"
CUDA = torch.device("cuda", 0)
BATCH, IMAGES, COUNTED = 128, 25_600, 4
WAYS: Mapping[str, Mapping[str, Any]] = {
    "fp32, no graph": {"graph": False},
    "fp32": {},
    "fp32, not deterministic": {"deterministic": False},
    "tf32": {"precision": "tf32"},
    "tf32, fused": {"precision": "tf32", "fused": True},
    "tf32, compiled, fused": {"precision": "tf32", "compile": True, "fused": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled, fused": {"precision": "bf16", "compile": True, "fused": True},
}
DEEP = {"fp32": {}, "tf32": {"precision": "tf32"}, "bf16": {"precision": "bf16"}}


def main() -> None:
    """Time all ways of each network, print and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    asked = parser.parse_args()
    told = {"environment": environment(1, device=CUDA), "date": time.strftime("%Y-%m-%d"), "copy": _bandwidth()}
    for name in ("preresnet1001",) if asked.deep else ("preresnet110", "preresnet164"):
        rows = _deep(name, asked.steps) if asked.deep else _beside_plain(name, asked.steps, told["copy"])
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"network": name, "rows": rows, **told}) + "\n")


def _beside_plain(name: str, steps: int, copy: float) -> list[dict[str, Any]]:
    moved = _bytes_of_a_step(name)
    rows = [_plain(name, steps, tf32=False), _plain(name, steps, tf32=True)]
    rows += [_ours(name, way, settings, steps, BATCH) for way, settings in WAYS.items()]
    rows.append(_plain(name, steps, tf32=False))
    base = statistics.mean(row["images_per_second"] for row in rows if row["way"] == "plain, eager, fp32")
    for row in rows:
        row["times the plain one"] = row["images_per_second"] / base
        row["hours of 64,000 iterations"] = 64_000 * BATCH / row["images_per_second"] / 3600
        row["share of the bandwidth"] = moved * row["images_per_second"] / BATCH / copy
        print(name, {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return rows


def _deep(name: str, steps: int) -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    for batch in (64, 128):
        for way, settings in DEEP.items():
            rows.append(_ours(name, way, settings, steps, batch))
            print(name, rows[-1], flush=True)
    return rows


def _ours(name: str, way: str, settings: Mapping[str, Any], steps: int, batch: int) -> dict[str, Any]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    ours = twin(name)[0] if name != "preresnet1001" else _built(name)
    training = Training(iterations=steps, batch_size=batch, lr=0.01, **settings)
    counted = memory_of(ours, torch.randn(2, 3, 32, 32), training).of(training)
    network = ours.to(memory_format=torch.channels_last).to(CUDA)  # type: ignore[call-overload]
    moments = list[float]()
    began = time.perf_counter()
    train(network, _images(), training, seed=0, callbacks=[Stepped(lambda _: moments.append(time.perf_counter()))])
    took = [later - sooner for sooner, later in pairwise(moments)][steps // 3 : -1]
    return {
        "way": f"cleanpath, {way}",
        "batch": batch,
        "images_per_second": batch / statistics.median(took),
        "spread": [batch / q for q in statistics.quantiles(took, n=4)[::2]],
        "first step after": moments[0] - began,
        "memory": torch.cuda.max_memory_allocated(),
        "counted": counted,
    }


def _built(name: str) -> nn.Module:
    import cleanpath

    return cleanpath.build(name)


def _plain(name: str, steps: int, *, tf32: bool) -> dict[str, Any]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    network = twin(name)[1].to(CUDA)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = torch.randn(BATCH, 3, 32, 32, device=CUDA), torch.randint(10, (BATCH,), device=CUDA)
    took = list[float]()
    with devices.exact(CUDA, tf32=tf32):
        torch.backends.cudnn.deterministic = False
        for _ in range(steps // 10):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(10):
                optimizer.zero_grad()
                functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            torch.cuda.synchronize()
            took.append((time.perf_counter() - began) / 10)
    took = took[len(took) // 3 :]
    return {
        "way": f"plain, eager, {'tf32' if tf32 else 'fp32'}",
        "batch": BATCH,
        "images_per_second": BATCH / statistics.median(took),
        "spread": [BATCH / q for q in statistics.quantiles(took, n=4)[::2]],
        "memory": torch.cuda.max_memory_allocated(),
    }


def _images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(IMAGES) % 10
    preparation = Preparation(side=32, channels=3, mean=torch.full((3, 32, 32), 0.5), std=torch.ones(3, 32, 32))
    return Images(
        train=InMemory(pixels=pixels, labels=labels, preparation=preparation, padding=4),
        held_out=InMemory(pixels=pixels[:500], labels=labels[:500], preparation=preparation),
        classes=tuple("0123456789"),
        preparation=preparation,
    )


def _bandwidth() -> float:
    """Bytes per second of a copy, read and written."""
    one = torch.randn(1 << 28, device=CUDA)
    other = torch.empty_like(one)
    took = list[float]()
    for _ in range(12):
        torch.cuda.synchronize()
        began = time.perf_counter()
        other.copy_(one)
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * one.nbytes / statistics.median(took)


class _Counting(TorchDispatchMode):
    """Bytes of the tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            every = torch.utils._pytree.tree_leaves((args, kwargs, found))  # noqa: SLF001
            self.bytes += sum(one.nbytes for one in every if isinstance(one, Tensor))
        return found


def _bytes_of_a_step(name: str) -> float:
    """Of a batch, in fp32; what belongs to the weights is counted once for all images."""
    network = twin(name)[1]
    found = list[int]()
    for count in (COUNTED, 2 * COUNTED):
        images, labels = torch.randn(count, 3, 32, 32), torch.zeros(count, dtype=torch.long)
        with _Counting() as counting:
            functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        found.append(counting.bytes)
        network.zero_grad()
    each = (found[1] - found[0]) / COUNTED
    return found[0] + (BATCH - COUNTED) * each


if __name__ == "__main__":
    main()
