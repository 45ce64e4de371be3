"""One target of the sweep, in a process of its own: build it, time it, audit it, and see that nothing changed.

What is known is told at once, so that a process that dies or is stopped leaves what it had found.
"""

import statistics
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.campaign import call, undisturbed
from benchmarks.measuring import peak, seconds, training_step
from cleanpath import Profile, audit
from cleanpath.errors import UserError
from cleanpath.targets import resolve

Tell = Callable[[dict[str, Any]], None]

_PAIRS, _SECONDS = 4, 30.0
_NAMED = 3
_LEAST_PEAK = 32 << 20
"""Below, a peak says more about the allocator than about the network."""


def examine(target: str, tell: Tell) -> None:
    """All that a row of the sweep holds, told bit by bit."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    tell({"during": "build"})
    try:
        built = resolve(target)
    except UserError as error:
        tell({"outcome": "not built", "reason": _line(error)})
        return
    model = built.module
    batch = built.keywords or built.arguments
    tell({"build_seconds": round(time.perf_counter() - began, 3), "during": "step", "note": built.note})
    tell({"parameters": sum(parameter.numel() for parameter in model.parameters()), "mode": _mode(model, batch)})
    trouble = _steps(model, batch)
    if trouble:
        tell({"step": trouble})
    tell({"during": "audit"})
    try:
        tell(_audited(model, batch, steps=not trouble))
    except Exception as error:  # noqa: BLE001 (that is what the sweep looks for)
        tell({"outcome": "failed", "reason": f"{type(error).__name__}: {_line(error)}", "place": _place(error)})
    tell({"during": "state"})
    tell({"state": undisturbed(model, batch, seed=zlib.crc32(target.encode()))})


def _audited(model: nn.Module, batch: Any, *, steps: bool) -> dict[str, Any]:
    """Units, times and peaks: training steps and audits in alternation, the first pair for memory."""
    step_peak = peak(model, lambda: training_step(model, batch)) if steps else 0
    profiles = list[Profile]()
    audit_peak = peak(model, lambda: profiles.append(audit(model, batch)))
    pairs = list[tuple[float, float]]()
    began = time.perf_counter()
    while len(pairs) < _PAIRS and (not pairs or time.perf_counter() - began < _SECONDS):
        step = seconds(lambda: training_step(model, batch)) if steps else 0.0
        pairs.append((step, seconds(lambda: audit(model, batch))))
    found = {**_read(profiles[0]), "pairs": len(pairs), "audit_seconds": _median(taken for _, taken in pairs)}
    found |= {"step_peak": step_peak, "audit_peak": audit_peak}
    if steps:
        found |= {"step_seconds": _median(taken for taken, _ in pairs), "ratio": _median(a / s for s, a in pairs)}
        found["memory_ratio"] = round(audit_peak / step_peak, 3) if step_peak >= _LEAST_PEAK else None
    return found


def _read(profile: Profile) -> dict[str, Any]:
    """What is kept of a profile."""
    units, unsure = profile.units, profile.not_seen
    return {
        "outcome": "unsure" if unsure else "audited",
        "reason": "" if units else profile.verdict,
        "units": len(units),
        "identity": sum(unit.h.kind == "identity" for unit in units),
        "h": dict(Counter(unit.h.kind for unit in units).most_common()),
        "f": dict(Counter(unit.f.kind for unit in units).most_common()),
        "order": dict(Counter(unit.order or "neither" for unit in units).most_common()),
        "not_seen": [f"{one.what} at {one.where}: {one.reason}" for one in unsure[:_NAMED]],
        "not_seen_count": len(unsure),
    }


def _mode(model: nn.Module, batch: Any) -> str:
    """Training mode as the library builds it; evaluation where a forward pass in training mode wants more inputs."""
    try:
        with torch.random.fork_rng(devices=[]):
            call(model, batch)
    except Exception:  # noqa: BLE001 (foreign code)
        model.eval()
    return "training" if model.training else "eval"


def _steps(model: nn.Module, batch: Any) -> str:
    """Why a network makes no training step; empty if it does."""
    try:
        training_step(model, batch)
    except Exception as error:  # noqa: BLE001 (foreign code)
        return f"{type(error).__name__}: {_line(error)}"
    return ""


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _place(error: BaseException) -> str:
    """The innermost line of cleanpath that an exception came through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/cleanpath/" in frame.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else ""
