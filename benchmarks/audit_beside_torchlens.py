"""The audit beside torchlens on the same models: time in alternation in one process, peak memory each in its own.

    pip install --target tl torchlens
    PYTHONPATH=tl python -m benchmarks.audit_beside_torchlens    rewrites results/torchlens.json

The two answer different questions. torchlens records every operation, with its activation and, asked for, its gradient,
draws the graph, and lets the network be changed as it runs; it knows neither residual units nor gains. The audit keeps
no activation; it reports the units, what h, F and f are, and what the signal gains forward and backward. Both run one
network on one batch. torchlens wraps torch's functions on its first call and leaves them so; here they are wrapped
before and unwrapped after its own turns, outside the time taken, since wrapped they would slow the others.
"""

import gc
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.figures import keep
from benchmarks.measuring import peak, seconds, training_step
from cleanpath import audit
from cleanpath.targets import Target, resolve

TARGETS = (
    "timm:resnet18",
    "timm:resnet50",
    "timm:mobilenetv3_small_100",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
    "hf:bert",
    "hf:gpt2",
    "preresnet110",
)
ROUNDS = 5

Ways = dict[str, Callable[[], Any]]


def main() -> None:
    """Compare on each model; print, write."""
    if find_spec("torchlens") is None:
        sys.exit("torchlens is not installed; pip install --target tl torchlens, and put it on PYTHONPATH")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torchlens tells what it cannot follow
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(_peak(*sys.argv[2:4])))
        return
    rows = list[dict[str, Any]]()
    for target in sys.argv[1:] or TARGETS:
        rows.append({"network": target, **_compared(target)})
        print(json.dumps(rows[-1]), flush=True)
    if not sys.argv[1:]:
        versions = {name: import_module(name).__version__ for name in ("torchlens", "timm", "transformers")}
        keep("torchlens", 1, {"rows": rows, "rounds": ROUNDS, "versions": versions})


def _ways(target: Target) -> Ways:
    """What is compared."""
    model, batch = target.module, target.keywords or target.arguments
    return {
        "training step": lambda: training_step(model, batch),
        "audit": lambda: audit(model, batch),
        "torchlens": lambda: _torchlens(target, gradients=False),
        "torchlens with gradients": lambda: _torchlens(target, gradients=True),
    }


def _torchlens(target: Target, *, gradients: bool) -> Any:
    """Every operation with its activation and, asked for, its gradient."""
    torchlens: Any = import_module("torchlens")
    capture = torchlens.options.CaptureOptions(save_grads=gradients)
    log = torchlens.trace(target.module, list(target.arguments), target.keywords, capture=capture)
    if gradients:
        outputs = [log[name].out for name in log.output_layers]
        log.log_backward(torch.stack([out.square().sum() for out in outputs if out.requires_grad]).sum())
        target.module.zero_grad(set_to_none=True)
    return log


def _compared(target: str) -> dict[str, Any]:
    """Of each way the median milliseconds, the median of the ratios to a training step beside it, and its memory."""
    ways = _ways(resolve(target))
    refused = {name: why for name, way in ways.items() if (why := _refusal(name, way))}
    times: dict[str, list[float]] = {name: [] for name in ways if name not in refused}
    for _ in range(ROUNDS):
        for name, taken in times.items():
            gc.collect()  # what the one before left is not to be paid for by the next
            with _wrapped(name):
                taken.append(seconds(ways[name]))
    step = times["training step"]
    peaks = {name: _peak_elsewhere(target, name) for name in times}
    found = {
        name: {
            "milliseconds": 1000 * statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, step, strict=True)),
            "memory": peaks[name],
        }
        for name, taken in times.items()
    }
    return {"ways": found, "refused": refused}


@contextmanager
def _wrapped(way: str) -> Iterator[None]:
    """Wrap the functions of torch for torchlens, in its own turns only."""
    if "torchlens" not in way:
        yield
        return
    wrappers: Any = import_module("torchlens.backends.torch.wrappers")
    wrappers.wrap_torch()
    try:
        yield
    finally:
        wrappers.unwrap_torch()


def _refusal(name: str, way: Callable[[], Any]) -> str:
    """Why something does not run; empty if it does. The run warms up."""
    try:
        with _wrapped(name):
            way()
    except Exception as error:  # noqa: BLE001 (foreign code)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return ""


def _peak_elsewhere(target: str, way: str) -> int:
    """Peak memory in a new process: the network and what is done with it."""
    command = [sys.executable, "-m", "benchmarks.audit_beside_torchlens", "--peak", target, way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def _peak(target: str, way: str) -> int:
    small = _ways(resolve("resnet8"))
    small["training step"](), small[way]()  # imports and caches
    built = resolve(target)
    training_step(built.module, built.keywords or built.arguments)
    return peak(built.module, _ways(built)[way])


if __name__ == "__main__":
    main()
