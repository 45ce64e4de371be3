"""From measurements to an answer: the rule, what it cannot know, and what would change it. Never imports torch."""

import math
from collections.abc import Iterator, Mapping

from cleanpath.forecasting.rule import Rule, deciding, merged_before, terms_of, the_rule
from cleanpath.forecasting.values import (
    CANNOT_SAY,
    FAILS,
    FEWEST,
    STARTS_SLOWLY,
    TRAINS,
    Change,
    Forecast,
    Measured,
)

_MARGIN = 0.3
"""How far beyond the cells' values (in decades) the rule is still asked."""
_SMALLEST_RATE = 1e-3
"""As a share of the rate that was given."""
_HALF = 0.5
_NAMED = 2
"""Findings that are named as changes."""
_UNMEASURED = {
    "forgotten": f"inputs and features of the last layer must have a row for each of at least {FEWEST} images",
    "moved": "the weights are not finite after the steps",
    "unlearnt": "there is no finite loss to compare with",
    "merged": f"the output must have a row for each of at least {FEWEST} images, and finite ones",
    "vanished": "there were fewer than three steps with a finite gradient",
}
"""Why a term is missing."""


def judged(measured: Measured, rule: Rule | None = None) -> Forecast:
    """The rule's answer for these measurements."""
    rule = the_rule() if rule is None else rule
    if (stop := _not_finite(measured)) is not None:
        changes = tuple(_after_a_stop(measured))
        return Forecast(
            outcome=FAILS, reasons=(stop,), changes=changes, measured=measured, doubts=tuple(measured.doubts)
        )
    terms = terms_of(measured)
    if missing := [name for name in rule.weights if terms[name] is None]:
        reasons = tuple(f"'{name}' was not measured: {_UNMEASURED[name]}" for name in missing)
        return Forecast(outcome=CANNOT_SAY, reasons=reasons, measured=measured, doubts=tuple(measured.doubts))
    known = {name: value for name, value in terms.items() if value is not None}
    chances = rule.probabilities(known)
    outcome = _answer(rule, chances)
    bad = chances[FAILS] > _HALF if outcome == CANNOT_SAY else outcome != TRAINS
    return Forecast(
        outcome=outcome,
        probabilities=chances,
        reasons=tuple(deciding(rule, known, bad=bad, slow=outcome == STARTS_SLOWLY)),
        changes=() if outcome == TRAINS else tuple(_changes(rule, known, measured)),
        measured=measured,
        doubts=tuple(_doubts(rule, known, measured)),
    )


def _not_finite(measured: Measured) -> str | None:
    """A run stops where a loss or a gradient is not finite: that needs no rule."""
    losses, norms = measured.steps.losses, measured.steps.gradient_norms
    for what, values in (("loss", losses), ("norm of the gradient", norms)):
        for at, value in enumerate(values):
            if not math.isfinite(value):
                where = f"; not finite first: {measured.stopped}" if measured.stopped else ""
                when = f"after {at} {'step' if at == 1 else 'steps'}" if at else "at the start"
                return f"the {what} is {value} {when}, where a run stops{where}"
    return None


def _after_a_stop(measured: Measured) -> Iterator[Change]:
    """Where the first loss was finite the steps are too long; else it is in the network, and no rate mends it."""
    losses, norms = measured.steps.losses[:1], measured.steps.gradient_norms[:1]
    if all(map(math.isfinite, (*losses, *norms))):
        words = f"a rate below {measured.rate:g}, a warm-up, or clipped gradients: before the first step all is finite"
        yield Change(what="rate", to=None, sentence=words)
    yield from _of_findings(measured)


def _answer(rule: Rule, chances: Mapping[str, float]) -> str:
    low, high = rule.unsure
    if low < chances[FAILS] < high:
        return CANNOT_SAY
    if chances[FAILS] >= high:
        return FAILS
    return TRAINS if chances[TRAINS] >= chances[STARTS_SLOWLY] else STARTS_SLOWLY


def _doubts(rule: Rule, terms: Mapping[str, float], measured: Measured) -> Iterator[str]:
    yield from measured.doubts
    if measured.classes is None:
        yield "the rule was calibrated on classifiers with a cross-entropy, and this loss is another"
    if missing := [name for name in rule.slow_weights if name not in terms]:
        yield f"'{missing[0]}' was not measured, and is taken as usual; it says only whether it starts slowly"
    for name in rule.weights:
        if not rule.lowest[name] - _MARGIN <= terms[name] <= rule.highest[name] + _MARGIN:
            side = "below" if terms[name] < rule.lowest[name] else "above"
            yield f"'{name}' is {side} all on which the rule was calibrated"


def _changes(rule: Rule, terms: Mapping[str, float], measured: Measured) -> Iterator[Change]:
    """What brings the probability of failing below where the rule is sure, each alone; nothing where it is there."""
    is_well = _is_well(rule, terms)
    # Where steps are no longer than usual a lower rate was seen to make a small network fail that trained.
    is_far = terms["moved"] > rule.usual["moved"]
    if not is_well and is_far and (rate := _lower_rate(rule, terms, measured)) is not None:
        words = f"a rate of {rate:g} in place of {measured.rate:g}, if long steps are the harm"
        yield Change(what="rate", to=rate, sentence=words)
    if not is_well and (units := _fewer_units(rule, terms, measured)) is not None:
        words = f"about {units} units in place of {measured.units}, if each adds as much to the harm as the others"
        yield Change(what="depth", to=float(units), sentence=words)
    yield from _of_findings(measured)


def _of_findings(measured: Measured) -> Iterator[Change]:
    for code, remedy in measured.findings[:_NAMED]:
        yield Change(what=code, to=None, sentence=f"{remedy} ({code})")


def _is_well(rule: Rule, terms: Mapping[str, float]) -> bool:
    return rule.probabilities(terms)[FAILS] <= rule.unsure[0]


def _lower_rate(rule: Rule, terms: Mapping[str, float], measured: Measured) -> float | None:
    """The highest rate of one digit, or nearly, at which it would not fail.

    Steps move the weights in proportion to it, and leave outputs as far apart as they were before the first; what they
    would have learnt is not known, and taken for nothing.
    """
    steady = {**terms, "unlearnt": rule.highest["unlearnt"], "merged": min(terms["merged"], merged_before(measured))}
    share = 1.0
    while share > _SMALLEST_RATE:
        share *= 0.9
        there = _at_rate(steady, share)
        if there["moved"] < rule.lowest["moved"]:
            return None
        if _is_well(rule, there):
            lower = _rounded_down(measured.rate * share)
            is_one = 0 < lower < measured.rate and _is_well(rule, _at_rate(steady, lower / measured.rate))
            return lower if is_one else None
    return None


def _at_rate(terms: Mapping[str, float], share: float) -> dict[str, float]:
    return {**terms, "moved": terms["moved"] + math.log10(share)}


def _rounded_down(value: float) -> float:
    """To one digit, never up: the next rate above may be one that fails."""
    digits, _, exponent = f"{value:.9e}".partition("e")
    return float(f"{digits[0]}e{exponent}")


def _fewer_units(rule: Rule, terms: Mapping[str, float], measured: Measured) -> int | None:
    """How many units would not fail, if forgetting and the growth of the gradient are the same in every unit.

    A step moves the weights in proportion to the gradient.
    """
    ratio = max(math.log10(measured.gradient_ratio or 1.0), 0.0)
    for fewer in range(measured.units - 1, 0, -1):
        share = fewer / measured.units
        there = {**terms, "forgotten": terms["forgotten"] * share, "moved": terms["moved"] - ratio * (1 - share)}
        if _is_well(rule, there):
            return fewer
    return None
