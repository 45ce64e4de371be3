"""What a forecast is, as plain values; never imports torch.

found = forecast(model, batches, optimizer=optimizer)
found.outcome                    # "fails"
found.probabilities["fails"]     # 0.97
print(found)                     # with what decides, and what would change it
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cleanpath.auditing.profile import plain

SCHEMA, VERSION = "cleanpath.forecast", 1
STEPS = 10
"""So many steps are made."""
FEWEST = 8
"""Images, so that how they lie to each other says something."""
TRAINS, STARTS_SLOWLY, FAILS, CANNOT_SAY = "trains", "starts slowly", "fails", "cannot say"
OUTCOMES = (TRAINS, STARTS_SLOWLY, FAILS)
"""In the order of the rule, the best first."""
SHARE = 0.02
"""Of the runs that it is asked for, at most, that a forecast nobody asked for may take."""
_STEPS_TAKEN = 20
"""As many training steps as a forecast lasts, at most (benchmarks/forecast_cost.py)."""


def is_long(iterations: int, runs: int = 1) -> bool:
    """Whether a forecast is at most `SHARE` of so many runs of so many iterations."""
    return SHARE * runs * iterations >= _STEPS_TAKEN


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the first steps at the rate of the run showed."""

    losses: tuple[float, ...]
    """Before each step."""
    gradient_norms: tuple[float, ...]
    """Of all trained weights together, before each step."""
    moved: float
    """‖w₁₀ − w₀‖ / ‖w₀‖: how far the weights are from their start, as a share of their norm."""
    apart: tuple[float, ...] = ()
    """How far the outputs for the inputs of a batch are from each other, beside their size, at each step."""
    agreement: tuple[float, ...] = ()
    """Whether outputs lie to each other as the targets do, at each step: 0 for those that know nothing, 1 at most."""

    @property
    def finite(self) -> bool:
        """Whether all losses and gradients were."""
        return all(map(math.isfinite, (*self.losses, *self.gradient_norms)))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of the model, its data and its optimizer when the rule is asked."""

    rate: float
    """The largest of the optimizer's groups."""
    optimizer: str
    """Its class."""
    classes: int | None
    """Of a classifier."""
    units: int
    """Residual units that the audit found; nested ones count as one."""
    gradient_norm: float | None
    """‖∂E/∂w‖ over all weights, before the first step."""
    gradient_ratio: float | None
    """rms(∂E/∂x) at the first unit / at the last one."""
    memory: float | None
    """What the features keep of how the inputs lie to each other, 0 to 1 (`forecasting/memory.py`)."""
    alike: float | None
    """The mean cosine between the features of two images."""
    steps: Steps
    """The first steps."""
    guess: float | None = None
    """The loss of always saying the targets' mean, of what is no classifier."""
    stopped: str | None = None
    """Where the first value that is not finite arose."""
    doubts: tuple[str, ...] = ()
    """What is amiss with the targets."""
    findings: tuple[tuple[str, str], ...] = ()
    """Codes and remedies of what the audit calls an error."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Something that would change the answer."""

    what: str
    """`rate`, `depth` or the code of a finding."""
    to: float | None
    """The rate, or the number of units; None where it is no number."""
    sentence: str
    """In words."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Whether a network will train: an answer, how sure it is, why, and what would change it."""

    outcome: str
    """`trains`, `starts slowly`, `fails`, or `cannot say`."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of the three outcomes, as the rule was calibrated; empty where it does not apply."""
    reasons: tuple[str, ...] = ()
    """The measurements that decide, the weightiest first."""
    changes: tuple[Change, ...] = ()
    """What would change the answer."""
    measured: Measured | None = None
    """What the rule was given."""
    doubts: tuple[str, ...] = ()
    """In what this network differs from those that the rule was calibrated on."""

    def to_data(self) -> dict[str, Any]:
        """Plain dictionaries and lists; numbers that are not finite become words. `words` is the forecast as text."""
        return {"schema": SCHEMA, "version": VERSION, **plain(self), "words": str(self)}

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.to_data(), indent=1, allow_nan=False, ensure_ascii=False)

    @property
    def line(self) -> str:
        """The answer in one line: with the three probabilities, and the reason that weighs most."""
        why = f": {self.reasons[0]}" if self.reasons else ""
        return f"{self.outcome}{self._chances}{why}"

    @property
    def _chances(self) -> str:
        told = ", ".join(f"{name} {self.probabilities[name]:.0%}" for name in OUTCOMES if self.probabilities)
        return f" ({told})" if told else ""

    def __str__(self) -> str:
        """The answer, its reasons, and what would change it."""
        lines = [f"forecast: {self.outcome}{self._chances}"]
        lines += [f"  because {one}" for one in self.reasons]
        lines += [f"  would change it: {one.sentence}" for one in self.changes]
        lines += [f"  but {one}" for one in self.doubts]
        return "\n".join(lines)
