"""What the campaign measures of a network that has not been trained, or has been for a few steps.

More than the forecast needs: which of it decides is what the campaign is to find out.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import cleanpath
from cleanpath.training.optimizers import last_layer

Batch = tuple[Tensor, Tensor]


def at_the_start(network: nn.Module, batches: Sequence[Batch]) -> dict[str, Any]:
    """Two gradients, the outputs for a batch in several ways, and the audit with the loss of the first batch."""
    network.train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    (x, y), (other_x, other_y) = batches[0], batches[1]
    random_state = torch.get_rng_state()
    with _features(network) as features:
        logits, loss, first = _gradients(network, x, y)
        inner = features[0]
    _, other_loss, second = _gradients(network, other_x, other_y)
    with torch.no_grad():
        again = network(x)
        noise = torch.randn_like(x) * 0.1 * x.pow(2).mean().sqrt()
        torch.set_rng_state(random_state)
        near = network(x + noise)
        torch.set_rng_state(random_state)
        here = network(x)
    network.load_state_dict(state)
    found = {
        "loss": loss,
        "other_loss": other_loss,
        **_of_gradients(network, first, second),
        **_of_outputs("output", logits, x, y),
        **_of_outputs("feature", inner, x, y),
        "stochastic": _rms(again - here) / max(_spread(here), 1e-30),
        "sensitivity": (_rms(near - here) / max(_spread(here), 1e-30)) / 0.1,
    }
    labels = y
    torch.set_rng_state(random_state)
    profile = cleanpath.audit(network, x, loss=lambda output: cross_entropy(output, labels))
    torch.set_rng_state(random_state)
    return {**found, "audit": _of_profile(profile)}


def distance(network: nn.Module, start: Sequence[Tensor]) -> float:
    """How far all weights together have moved, as a share of their norm."""
    pairs = list(zip(network.parameters(), start, strict=True))
    moved = math.sqrt(sum(float((p.detach() - s).double().pow(2).sum()) for p, s in pairs))
    return moved / math.sqrt(sum(float(s.double().pow(2).sum()) for _, s in pairs))


@contextmanager
def _features(network: nn.Module) -> Iterator[list[Tensor]]:
    """What goes into the last layer."""
    found = list[Tensor]()
    handle = last_layer(network).register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
    try:
        yield found
    finally:
        handle.remove()


def _gradients(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, float, dict[str, Tensor]]:
    network.zero_grad()
    logits = network(x)
    loss = cross_entropy(logits, y)
    loss.backward()  # type: ignore[no-untyped-call]
    return logits.detach(), loss.item(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def _of_gradients(network: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Any]:
    weights = {name: p.detach() for name, p in network.named_parameters() if p.dim() > 1 and name in first}
    relative = [float(first[name].norm() / w.norm()) for name, w in weights.items()]
    products = {name: float((first[name] * second[name]).sum()) for name in first}
    cosines = [products[n] / max(float(first[n].norm() * second[n].norm()), 1e-30) for n in weights]
    third = max(len(relative) // 3, 1)
    return {
        "gradient_norm": _norm(first.values()),
        "gradient_cosine": sum(products.values()) / max(_norm(first.values()) * _norm(second.values()), 1e-30),
        "layer_cosine": median(cosines),
        "first_cosine": fmean(cosines[:third]),
        "weight_norm": _norm(weights.values()),
        "relative_first": fmean(relative[:third]),
        "relative_middle": median(relative),
        "relative_last": fmean(relative[-third:]),
        "layers": len(weights),
    }


def _of_outputs(name: str, outputs: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    flat, given = outputs.flatten(1).double(), x.flatten(1).double()
    unit = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-30)
    count = len(flat)
    cosine = (float((unit @ unit.T).sum()) - count) / (count * (count - 1))
    classes = torch.nn.functional.one_hot(y).double()
    distances = torch.cdist(flat, flat) + torch.diag(torch.full((count,), math.inf).double())
    nearest = distances.argmin(1)
    return {
        f"{name}_rms": _rms(flat),
        f"{name}_spread": _spread(flat),
        f"{name}_cosine": cosine,
        f"{name}_of_input": _alignment(given, flat),
        f"{name}_of_labels": _alignment(classes, flat),
        f"{name}_nearest_error": 100 * float((y[nearest] != y).double().mean()),
    }


def _alignment(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment: 1 where the distances between images are the same up to a factor."""
    a, b = a - a.mean(0), b - b.mean(0)
    ka, kb = a @ a.T, b @ b.T
    return float((ka * kb).sum() / (ka.norm() * kb.norm()).clamp(min=1e-30))


def _of_profile(profile: cleanpath.Profile) -> dict[str, Any]:
    rows = [unit.measurements for unit in profile.units if unit.parent is None]
    kept = [unit.measurements for unit in profile.units if unit.parent is None and not unit.changes_shape]
    if not rows:
        return {"units": 0}
    gradients = [row.gradient_rms for row in rows]
    first, last = gradients[0], gradients[-1]
    return {
        "units": len(rows),
        "gradient_ratio": _log_ratio(first, last),
        "backward_gain": _mean_log(row.backward_gain for row in kept),
        "forward_gain": _mean_log(row.forward_gain for row in kept),
        "direct_gain": _mean_log(row.direct_gain for row in kept),
        "path_log": sum(math.log10(row.direct_gain) for row in kept if row.direct_gain),
        "last_rms": rows[-1].output_rms,
        "first_rms": rows[0].input_rms,
        "branch_share": _mean_log(row.branch_share for row in kept),
        "cosine": _mean(row.cosine for row in kept),
        "negative_share": _mean(row.negative_share for row in kept),
        "branch_negative_share": _mean(row.branch_negative_share for row in kept),
        "dead_relu_share": max((row.dead_relu_share or 0.0 for row in rows), default=0.0),
        "shortcut_defect": _mean(row.shortcut_defect for row in kept),
        "after_defect": _mean(row.after_defect for row in kept),
        "uniform_loss": profile.network.uniform_loss,
        "codes": sorted({finding.code for finding in profile.findings}),
    }


def _log_ratio(first: float | None, last: float | None) -> float | None:
    return math.log10(first / last) if first and last else None


def _mean_log(values: Iterator[float | None]) -> float | None:
    found = [math.log10(one) for one in values if one]
    return fmean(found) if found else None


def _mean(values: Iterator[float | None]) -> float | None:
    found = [one for one in values if one is not None]
    return fmean(found) if found else None


def _norm(tensors: Any) -> float:
    return math.sqrt(sum(float(one.double().pow(2).sum()) for one in tensors))


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().pow(2).mean().sqrt())


def _spread(outputs: Tensor) -> float:
    """Rms of what differs between the images of a batch."""
    return _rms(outputs - outputs.mean(0))
