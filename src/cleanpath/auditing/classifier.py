"""Whether a network is a classifier, and how sure of itself it starts: the loss at step 0 beside log(classes)."""

from typing import Any

import torch
from torch import Tensor

from cleanpath.auditing.passes import Pass

_BALANCED = 1e-3
"""∂E/∂z of a cross-entropy is softmax minus target, whose sum over the classes is 0; rounding leaves this share."""


def classes_of(seen: Pass, loss: Tensor | None) -> tuple[int | None, float | None]:
    """The number of classes and the cross-entropy against labels drawn uniformly; None for what is no classifier.

    With a loss, only an output through which that loss is a cross-entropy counts.
    """
    logits = _logits(seen)
    if logits is None or not logits.is_floating_point():
        return None, None
    axis = _class_axis(logits, loss)
    if axis is None or logits.shape[axis] < 2:
        return None, None
    scores = logits.detach().float()
    uniform = torch.logsumexp(scores, axis) - scores.mean(axis)
    return logits.shape[axis], float(uniform.mean())


def _logits(seen: Pass) -> Tensor | None:
    """The output called so, else the only output."""
    output: Any = seen.output
    named = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if isinstance(named, Tensor) and named.grad_fn is not None:
        return named
    return seen.outputs[0] if len(seen.outputs) == 1 else None


def _class_axis(logits: Tensor, loss: Tensor | None) -> int | None:
    """The axis of the classes: the only one besides the batch's, or that over which the loss's gradient is balanced."""
    if loss is None:
        return 1 if logits.dim() == 2 else None
    if logits.dim() < 2 or loss is logits:
        return None
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
    if gradient is None or not bool(gradient.any()):
        return None
    axes = (axis for axis in (logits.dim() - 1, 1) if logits.shape[axis] > 1)
    return next((axis for axis in axes if _balanced(gradient.float(), axis)), None)


def _balanced(gradient: Tensor, axis: int) -> bool:
    return bool(gradient.sum(axis).norm() <= _BALANCED * gradient.norm())
