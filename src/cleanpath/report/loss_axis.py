"""The logarithmic axis that the training losses of a table share: where it begins and ends, and its numbers."""

import math
from collections.abc import Sequence

LOSS_LIMITS = (1e-5, 1e3)  # what lies beyond is drawn at the edge
_RARE = 0.02  # of all points: so few at either end do not stretch the axis of all panels by more than a decade
_STEPS = (1, 2, 3, 5)  # where an axis of less than two decades begins, ends and has its numbers
_DECADES, _NEAR = 100.0, 20.0  # an axis as long as the first has whole decades; of one above the second few numbers fit


def loss_axis(losses: Sequence[float]) -> tuple[float, float]:
    """Where an axis of these losses, in their order, begins and ends: whole decades, or nearer if there are few.

    A few values far from all others, as of a run that is about to diverge, are left to the edge.
    """
    if not losses:
        return 0.1, 1.0
    rare = int(_RARE * len(losses))
    low = min(max(losses[0], losses[rare] / 10, LOSS_LIMITS[0]), LOSS_LIMITS[1])
    high = max(min(losses[-1], 10 * losses[-1 - rare], LOSS_LIMITS[1]), low)
    if high / low < _DECADES:
        marks = [step * 10.0**power for power in range(-6, 5) for step in _STEPS]
        low, high = max(m for m in marks if m <= low * 1.0001), min(m for m in marks if m >= high * 0.9999)
        return (low, high) if low < high else (low, min(m for m in marks if m > high * 1.0001))
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))


def loss_marks(low: float, high: float) -> list[float]:
    """Where such an axis has its numbers."""
    steps = (1,) if high / low > 1.01 * _DECADES else (1, 3) if high / low > _NEAR else _STEPS
    marks = [step * 10.0**power for power in range(-6, 5) for step in steps]
    return [mark for mark in marks if low * 0.9999 <= mark <= high * 1.0001]
