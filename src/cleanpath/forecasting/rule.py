"""The rule: a few measurements, a weight for each, two bounds. Plain arithmetic; never imports torch.

    P(fails) = σ(s − b)            s = Σ weight · term, of all terms but `unrelated`
    P(starts slowly) = (1 − P(fails)) · σ(t − c)         t the same of `unlearnt`, `merged`, `unrelated`
    P(trains) = the rest                                                       σ(z) = 1 / (1 + e⁻ᶻ)

Two logistic regressions: the higher a score, the worse. Weights and bounds (`coefficients.json`) are those of
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
_LEARNT, _UNLEARNT = 0.45, 1.05
"""Losses, as shares of that of a guess, from which on it is clear that something is learnt, or that nothing is yet."""
_APART, _MERGED = 0.1, 1e-3
"""Outputs that differ by this share of their size lie well apart, or are one for all that can be seen."""
_LAST = 3
"""So many of the steps are taken together."""
_LEAST_GRADIENT = 1e-3
_RELATED = 0.4
"""An agreement of outputs with targets that is far from chance."""


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


def _merged(measured: Measured) -> float | None:
    """Of the last three steps the one in the middle: a single batch may be odd."""
    last = sorted(measured.steps.apart[-_LAST:])
    return None if len(last) < _LAST else _decades(last[1])


def merged_before(measured: Measured) -> float:
    """`merged` of the outputs before the first step."""
    return _decades(measured.steps.apart[0])


def _decades(apart: float) -> float:
    return -math.log10(min(max(apart, _MERGED), _APART))


def _vanished(measured: Measured) -> float | None:
    norms = measured.steps.gradient_norms[-_LAST:]
    known = [value for norm in norms if (value := _log(norm, _LEAST_GRADIENT)) is not None]
    return max(-sum(known) / _LAST, 0.0) if len(known) == _LAST else None


def _unrelated(measured: Measured) -> float | None:
    last = measured.steps.agreement[-_LAST:]
    return None if len(last) < _LAST else _RELATED - min(max(sum(last) / _LAST, 0.0), _RELATED)


def _unlearnt(measured: Measured) -> float | None:
    """Mean of the last three losses, as a share of the loss of a guess.

    That is log(classes), else the loss of always saying the targets' mean, else the loss at the start.
    """
    last = measured.steps.losses[-_LAST:]
    if not last:
        return None
    guess = math.log(measured.classes) if measured.classes else measured.guess or measured.steps.losses[0]
    share = sum(last) / len(last) / guess if guess > 0 else _UNLEARNT
    return min(max(share, _LEARNT), _UNLEARNT) if math.isfinite(share) else None


def _beyond(value: float, low: float, high: float) -> str:
    """Where a bounded value says no more than its bound."""
    return " or less" if value <= low else " or more" if value >= high else ""


TERMS: Mapping[str, Term] = {
    "forgotten": Term(
        _forgotten,
        lambda v: (
            f"what the features keep of how the inputs lie to each other, 0 to 1: {10**-v:.2f}"
            f"{_beyond(10**-v, _LEAST_MEMORY * 1.01, 1.1)}"
        ),
    ),
    "moved": Term(
        lambda m: _log(m.steps.moved, _LEAST_MOVED),
        lambda v: (
            f"how far {STEPS} steps at this rate move the weights: {10**v:.2g}"
            f"{_beyond(10**v, _LEAST_MOVED * 1.01, math.inf)} of their norm"
        ),
    ),
    "unlearnt": Term(
        _unlearnt,
        lambda v: f"the loss after {STEPS} steps, beside that of a guess: {v:.0%}{_beyond(v, _LEARNT, _UNLEARNT)}",
    ),
    "merged": Term(
        _merged,
        lambda v: (
            f"how far the outputs of different inputs are apart after {STEPS} steps: {10**-v:.2g}"
            f"{_beyond(10**-v, _MERGED * 1.01, _APART * 0.99)} of their size"
        ),
    ),
    "vanished": Term(
        _vanished, lambda v: f"norm of the gradient after {STEPS} steps: {10**-v:.2g}{'' if v else ' or more'}"
    ),
    "unrelated": Term(
        _unrelated,
        lambda v: (
            f"how the outputs after {STEPS} steps lie to each other as the targets do, 0 by chance: "
            f"{_RELATED - v:.2f}{_beyond(_RELATED - v, 0.0, _RELATED)}"
        ),
    ),
}
"""By name. `forgotten` = −log₁₀ memory, `moved` = log₁₀ of how far the weights move, `unlearnt` = the loss after the
steps as a share, `merged` = −log₁₀ of how far outputs are apart beside their size, `vanished` = −log₁₀ of the
gradient's norm after the steps where that is below 1, `unrelated` = how much the agreement of outputs with the targets
lacks to 0.4. The more of each, the worse."""
OF_FAILING = ("forgotten", "moved", "unlearnt", "merged", "vanished")
OF_STARTING = ("unlearnt", "merged", "unrelated")
"""Which of them each of the two questions has."""


def terms_of(measured: Measured) -> dict[str, float | None]:
    """All terms by name; None for what was not measured."""
    return {name: term.of(measured) for name, term in TERMS.items()}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Weights, bounds, and the values on which they were found."""

    weights: Mapping[str, float]
    """Of the score s: whether it fails."""
    fails_from: float
    """b: from this score on it rather fails."""
    slow_weights: Mapping[str, float]
    """Of the score t: whether it starts slowly, if it does not fail."""
    slow_from: float
    """c: from this score on it rather does."""
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
        """The sum of weights times terms."""
        return sum(weight * terms[name] for name, weight in self.weights.items())

    def probabilities(self, terms: Mapping[str, float]) -> dict[str, float]:
        """Of the three outcomes; their sum is 1. A term of the second question that is missing is as usual."""
        fails = _sigmoid(self.score(terms) - self.fails_from)
        known = {name: terms.get(name, self.usual[name]) for name in self.slow_weights}
        slow = _sigmoid(sum(weight * known[name] for name, weight in self.slow_weights.items()) - self.slow_from)
        return {TRAINS: (1.0 - fails) * (1.0 - slow), STARTS_SLOWLY: (1.0 - fails) * slow, FAILS: fails}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of what `benchmarks/forecast_fit.py` writes."""
        known = {name: data[name] for name in cls.__dataclass_fields__}
        if unknown := (known["weights"].keys() | known["slow_weights"].keys()) - TERMS.keys():
            raise SettingError(f"the rule has no term '{min(unknown)}'; it has {', '.join(TERMS)}")
        return cls(**{**known, "unsure": tuple(known["unsure"])})


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -700 else 0.0


@cache
def the_rule() -> Rule:
    """The one that is shipped."""
    text = resources.files("cleanpath.forecasting").joinpath("coefficients.json").read_text(encoding="utf-8")
    return Rule.from_data(json.loads(text))


def deciding(rule: Rule, terms: Mapping[str, float], *, bad: bool, slow: bool = False) -> Sequence[str]:
    """The terms that speak for the answer, the weightiest first, in words, beside what is usual of what trains."""
    weights = {name: w for name, w in rule.slow_weights.items() if name in terms} if slow else rule.weights
    shares = {name: weight * (terms[name] - rule.usual[name]) for name, weight in weights.items()}
    ordered = sorted(shares, key=shares.__getitem__, reverse=bad)
    speaking = [name for name in ordered if shares[name] and (shares[name] > 0) == bad] or ordered[:1]
    return [_said(rule, name, terms[name]) for name in speaking[:3]]


def _said(rule: Rule, name: str, value: float) -> str:
    words = TERMS[name].words
    return f"{words(value)} (where networks train, usually {words(rule.usual[name]).rpartition(': ')[2]})"
