"""The rule: a few measurements, a weight for each, two bounds. Plain arithmetic; never imports torch.

    score s = Σ weight · term                      the terms below, the weights in `coefficients.json`
    P(fails) = σ(s − b₂),  P(trains) = σ(b₁ − s),  P(starts slowly) = the rest        σ(z) = 1 / (1 + e⁻ᶻ)

An ordered logistic regression: the higher the score, the worse. Weights and bounds are those of
`benchmarks/forecast_fit.py` on the cells of `results/forecast-cells.jsonl`; a test fits them again.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Self

from cleanpath.errors import SettingError
from cleanpath.forecasting.values import FAILS, STARTS_SLOWLY, STEPS, TRAINS, Measured

_LEAST_MEMORY, _LEAST_MOVED = 0.05, 0.01
"""Below these it makes no further difference: what is gone is gone, and what stands still stands still."""
_LEARNT, _UNLEARNT = 0.45, 0.95
"""Losses, as shares of that of a guess, from which on it is clear that something is learnt, or that nothing is yet."""


@dataclass(frozen=True)
class Term:
    """One measurement as it enters the score."""

    of: Callable[[Measured], float | None]
    """None where it was not measured."""
    words: Callable[[float], str]
    """What it says, in the unit in which it was measured."""


def _log(value: float | None, least: float) -> float | None:
    """log₁₀, from `least` on."""
    return None if value is None or not math.isfinite(value) else math.log10(max(value, least))


def _forgotten(measured: Measured) -> float | None:
    found = _log(measured.memory, _LEAST_MEMORY)
    return None if found is None else -found


def _vanished(measured: Measured) -> float | None:
    found = _log(measured.gradient_norm, 1e-12)
    return None if found is None else max(-found, 0.0)


def _unlearnt(measured: Measured) -> float | None:
    """Mean of the last three losses, as a share of the loss of a guess: log(classes), else the loss at the start."""
    last = measured.steps.losses[-3:]
    if not last:
        return None
    guess = math.log(measured.classes) if measured.classes else measured.steps.losses[0]
    share = sum(last) / len(last) / guess if guess > 0 else _UNLEARNT
    return min(max(share, _LEARNT), _UNLEARNT) if math.isfinite(share) else None


def _beyond(value: float, low: float, high: float) -> str:
    """Where a bounded value says no more than its bound."""
    return " or less" if value <= low else " or more" if value >= high else ""


TERMS: Mapping[str, Term] = {
    "forgotten": Term(
        _forgotten, lambda v: f"what the features keep of how the inputs lie to each other, 0 to 1: {10**-v:.2f}"
    ),
    "moved": Term(
        lambda m: _log(m.steps.moved, _LEAST_MOVED),
        lambda v: f"how far {STEPS} steps at this rate move the weights: {10**v:.2g} of their norm",
    ),
    "unlearnt": Term(
        _unlearnt,
        lambda v: f"the loss after {STEPS} steps, beside that of a guess: {v:.0%}{_beyond(v, _LEARNT, _UNLEARNT)}",
    ),
    "vanished": Term(_vanished, lambda v: f"norm of the gradient at the start: {10**-v:.2g}{'' if v else ' or more'}"),
}
"""By name. `forgotten` = −log₁₀ memory, `moved` = log₁₀ of how far the weights move, `unlearnt` = the loss after the
steps as a share, `vanished` = −log₁₀ of the gradient's norm where that is below 1. The more of each, the worse."""


def terms_of(measured: Measured) -> dict[str, float | None]:
    """All terms by name; None for what was not measured."""
    return {name: term.of(measured) for name, term in TERMS.items()}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Weights, bounds, and the values on which they were found."""

    weights: Mapping[str, float]
    slow_from: float
    """b₁: from this score on a network rather does not train at once."""
    fails_from: float
    """b₂: from this score on it rather fails."""
    usual: Mapping[str, float]
    """Medians of the terms over the cells that trained."""
    lowest: Mapping[str, float]
    """The smallest value of each term among all cells."""
    highest: Mapping[str, float]
    """The largest."""
    unsure: tuple[float, float]
    """Between these probabilities of failing the answer is `cannot say`."""
    cells: int = 0
    """How many it was fitted on."""

    def score(self, terms: Mapping[str, float]) -> float:
        """Σ weight · term."""
        return sum(weight * terms[name] for name, weight in self.weights.items())

    def probabilities(self, score: float) -> dict[str, float]:
        """Of the three outcomes; their sum is 1."""
        fails, trains = _sigmoid(score - self.fails_from), _sigmoid(self.slow_from - score)
        return {TRAINS: trains, STARTS_SLOWLY: max(1.0 - fails - trains, 0.0), FAILS: fails}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of what `benchmarks/forecast_fit.py` writes."""
        known = {name: data[name] for name in cls.__dataclass_fields__}
        if unknown := known["weights"].keys() - TERMS.keys():
            raise SettingError(f"the rule has no term '{min(unknown)}'; it has {', '.join(TERMS)}")
        return cls(**{**known, "unsure": tuple(known["unsure"])})


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -700 else 0.0


@cache
def the_rule() -> Rule:
    """The one that is shipped."""
    text = resources.files("cleanpath.forecasting").joinpath("coefficients.json").read_text(encoding="utf-8")
    return Rule.from_data(json.loads(text))


def deciding(rule: Rule, terms: Mapping[str, float], *, bad: bool) -> Sequence[str]:
    """The terms that speak for the answer, the weightiest first, in words, beside what is usual of what trains."""
    shares = {name: weight * (terms[name] - rule.usual[name]) for name, weight in rule.weights.items()}
    ordered = sorted(shares, key=shares.__getitem__, reverse=bad)
    speaking = [name for name in ordered if (shares[name] > 0) == bad] or ordered[:1]
    return [_said(rule, name, terms[name]) for name in speaking[:3]]


def _said(rule: Rule, name: str, value: float) -> str:
    words = TERMS[name].words
    return f"{words(value)} (where networks train, usually {words(rule.usual[name]).rpartition(': ')[2]})"
