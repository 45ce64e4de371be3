"""What targets say before any step is made: which of them no forecast can be of, and what is to be doubted."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cleanpath.errors import UserError
from cleanpath.forecasting.probing import Batch, Loss, logits_of, usual_loss

_OTHERS = "torch.nn.functional.mse_loss for a regression, binary_cross_entropy_with_logits for labels of yes and no"
_ROUNDING = 1e-3


def doubts_of(batches: Sequence[Batch], loss: Loss) -> tuple[str, ...]:
    """What is to be doubted of a forecast on these targets.

    Raises `UserError` where the usual loss makes nothing of them, or any network learns them at once.
    """
    targets = [target for _, target in batches if isinstance(target, Tensor)]
    if len(targets) < len(batches):
        return ()
    if loss is usual_loss and targets[0].is_floating_point():
        _check_probabilities(targets)
    if all(map(_is_constant, targets)):
        if len({float(one.flatten()[0]) for one in targets}) > 1:
            return ("each batch has targets of one kind only; a loader that shuffles gives others",)
        same = f"all targets of these batches are {_said(targets[0])}"
        if loss is usual_loss:
            raise UserError(f"{same}, which any network learns at once; give batches of a loader that shuffles")
        return (f"{same}",)
    if loss is usual_loss and targets[0].is_floating_point() and any(_is_soft(one) for one in targets):
        return ("targets are soft, so that the loss cannot fall to 0; the rule was calibrated on whole labels",)
    return ()


def guessed(loss: Loss, output: Any, target: Any) -> float | None:
    """The loss of always saying the targets' mean, where outputs are like targets, as in a regression; else None."""
    said = logits_of(output)
    if not (isinstance(said, Tensor) and isinstance(target, Tensor)) or loss is usual_loss:
        return None
    if said is not output or said.shape != target.shape or not target.is_floating_point():
        return None
    with torch.no_grad():
        return float(loss(target.mean(0, keepdim=True).expand_as(target).to(said.dtype), target))


def _check_probabilities(targets: Sequence[Tensor]) -> None:
    for one in targets:
        if one.dim() < 2:
            raise UserError(f"targets are numbers ({one.dtype}), not labels of classes; give loss=…: {_OTHERS}")
        sums = one.sum(1)
        if bool((one < 0).any()) or bool(((sums - 1).abs() > _ROUNDING).any()):
            raise UserError(
                f"targets are numbers and no probabilities, for which the cross-entropy takes them; give loss=…: "
                f"{_OTHERS}"
            )


def _is_constant(target: Tensor) -> bool:
    return bool((target == target[:1]).all()) if target.dim() else True


def _is_soft(target: Tensor) -> bool:
    return bool(((target > _ROUNDING) & (target < 1 - _ROUNDING)).any())


def _said(target: Tensor) -> str:
    row = target[0] if target.dim() else target
    return f"{row.item():g}" if row.numel() == 1 else "alike"
