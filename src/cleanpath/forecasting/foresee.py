"""`forecast`: measure a network for the time of a few steps, and say with the printed rule whether it will train.

    found = forecast(model, batches, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    found = forecast(model, loader, optimizer=optimizer, loss=lambda output, target: …)

`batches` are pairs (inputs, target) of the sizes that the model will be trained on.
"""

import math
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cleanpath.auditing.examine import audit
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.standing import check_optimizer
from cleanpath.errors import UserError
from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.memory import memory_of
from cleanpath.forecasting.probing import Batch, Loss, called, lost, rewound, steps, taken, undisturbed, usual_loss
from cleanpath.forecasting.targets import doubts_of, guessed
from cleanpath.forecasting.values import Forecast, Measured


def forecast(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    optimizer: Optimizer,
    loss: Loss = usual_loss,
    seed: int = 0,
) -> Forecast:
    """Whether the model will train with this optimizer on batches like these: trains, starts slowly, fails.

    An audit and ten steps, in less than the time of twenty; then all is as before, bit for bit, also after an
    exception: weights, buffers, gradients, flags, hooks, random generators, and the optimizer. A loader is asked for
    its first ten batches. `loss(output, target)` is by default the cross-entropy of the output.

    Raises `UserError` for a model, batches, a loss or an optimizer with which no step can be made.
    """
    return judged(measured(model, batches, optimizer=optimizer, loss=loss, seed=seed))


def measured(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    optimizer: Optimizer,
    loss: Loss = usual_loss,
    seed: int = 0,
    clip: float | None = None,
) -> Measured:
    """What the rule is given, `forecast` without its answer; steps `clip` the norm of the gradient."""
    if not isinstance(model, nn.Module):
        raise UserError(f"forecast needs a torch.nn.Module, this is a {type(model).__name__}")
    check_optimizer(optimizer, model)
    if not any(float(group["lr"]) for group in optimizer.param_groups):
        raise UserError(
            "the optimizer's rate is 0, at which no step moves a weight; put it to the one behind a warm-up"
        )
    with undisturbed(model):
        chosen = taken(batches)
        doubts = doubts_of(chosen, loss)
        inputs, target = chosen[0]
        profile = audit(model, inputs, loss=lambda output: lost(loss, output, target), seed=seed)
        with rewound(model):  # so that the steps begin where training would
            memory, alike = memory_of(model, inputs, seed=seed)
            guess = guessed(loss, called(model, inputs), target) if profile.network.classes is None else None
        made = steps(model, optimizer, chosen, loss, seed=seed, clip=clip)
        stopped = profile.network.first_non_finite
        if stopped is None and not made.finite:  # the weights are those with which it came
            inputs, target = chosen[len(made.losses) - 1]
            there = audit(model, inputs, loss=lambda output: lost(loss, output, target), seed=seed)
            stopped = there.network.first_non_finite or "the loss, of outputs that are finite"
    return Measured(
        rate=max(float(group["lr"]) for group in optimizer.param_groups),
        optimizer=type(optimizer).__name__,
        classes=profile.network.classes,
        units=sum(unit.parent is None for unit in profile.units),
        gradient_norm=made.gradient_norms[0] if made.gradient_norms else None,
        gradient_ratio=_ratio(profile),
        memory=memory,
        alike=alike,
        steps=made,
        guess=guess,
        stopped=stopped,
        doubts=doubts,
        findings=tuple((one.code, one.remedy) for one in profile.judged().at_least("error")),
    )


def _ratio(profile: Profile) -> float | None:
    """The gradient at the first unit beside that at the last."""
    rows = [unit.measurements.gradient_rms for unit in profile.units if unit.parent is None]
    if not rows or not rows[0] or not rows[-1]:
        return None
    ratio: Any = rows[0] / rows[-1]
    return ratio if math.isfinite(ratio) else None
