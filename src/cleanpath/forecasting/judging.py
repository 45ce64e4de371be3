"""From measurements to an answer: the rule, what it cannot know, and what would change it. Never imports torch."""

import math
from collections.abc import Iterator, Mapping

from cleanpath.forecasting.rule import Rule, deciding, terms_of, the_rule
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
PARALLEL = 0.9
"""Mean cosine of features from which on the rule does not order the recorded cells: post-norm transformers, and
networks with layer or group norm, whose ends differ by what is not measured here."""
_SMALLEST_RATE = 1e-3
"""As a share of the rate that was given."""
_NAMED = 2
"""Findings that are named as changes."""
_UNMEASURED = {
    "forgotten": f"inputs and features of the last layer must have a row for each of at least {FEWEST} images",
    "moved": "the weights are not finite after the steps",
    "unlearnt": "there is no finite loss to compare with",
    "vanished": "there is no finite gradient at the start",
}
"""Why a term is missing."""


def judged(measured: Measured, rule: Rule | None = None) -> Forecast:
    """The rule's answer for these measurements."""
    rule = the_rule() if rule is None else rule
    if (stop := _not_finite(measured)) is not None:
        changes = tuple(_of_findings(measured))
        return Forecast(outcome=FAILS, reasons=(stop,), changes=changes, measured=measured)
    terms = terms_of(measured)
    if missing := [name for name in rule.weights if terms[name] is None]:
        reasons = tuple(f"'{name}' was not measured: {_UNMEASURED[name]}" for name in missing)
        return Forecast(outcome=CANNOT_SAY, reasons=reasons, measured=measured)
    known = {name: value for name, value in terms.items() if value is not None}
    score = rule.score(known)
    chances = rule.probabilities(score)
    outcome, doubts = _answer(rule, chances), tuple(_doubts(rule, known, measured))
    if outcome != FAILS and _is_parallel(rule, known, measured):
        outcome = CANNOT_SAY
    bad = score > (rule.slow_from + rule.fails_from) / 2 if outcome == CANNOT_SAY else outcome != TRAINS
    return Forecast(
        outcome=outcome,
        probabilities=chances,
        reasons=tuple(deciding(rule, known, bad=bad)),
        changes=() if outcome == TRAINS else tuple(_changes(rule, known, measured)),
        measured=measured,
        doubts=doubts,
    )


def _not_finite(measured: Measured) -> str | None:
    """A run stops where a loss or a gradient is not finite: that needs no rule."""
    losses, norms = measured.steps.losses, measured.steps.gradient_norms
    for what, values in (("loss", losses), ("norm of the gradient", norms)):
        for at, value in enumerate(values):
            if not math.isfinite(value):
                return f"the {what} is {value} {f'after {at} steps' if at else 'at the start'}, where a run stops"
    return None


def _answer(rule: Rule, chances: Mapping[str, float]) -> str:
    low, high = rule.unsure
    if low < chances[FAILS] < high:
        return CANNOT_SAY
    if chances[FAILS] >= high:
        return FAILS
    return TRAINS if chances[TRAINS] >= chances[STARTS_SLOWLY] else STARTS_SLOWLY


def _is_parallel(rule: Rule, terms: Mapping[str, float], measured: Measured) -> bool:
    """Whether features of different images are nearly parallel, and nothing has been learnt yet."""
    unlearnt = terms.get("unlearnt", 0.0) >= rule.highest.get("unlearnt", math.inf)
    return measured.alike is not None and measured.alike > PARALLEL and unlearnt


def _doubts(rule: Rule, terms: Mapping[str, float], measured: Measured) -> Iterator[str]:
    if measured.classes is None:
        yield "the rule was calibrated on classifiers with a cross-entropy, and the audit knows this as none"
    if measured.attention:
        yield "it has attention: of the recorded transformers the rule foretold no better than chance"
    if _is_parallel(rule, terms, measured):
        yield f"the features of different inputs are nearly parallel (cosine {measured.alike:.2f}), nothing learnt yet"
    for name in rule.weights:
        if not rule.lowest[name] - _MARGIN <= terms[name] <= rule.highest[name] + _MARGIN:
            side = "below" if terms[name] < rule.lowest[name] else "above"
            yield f"'{name}' is {side} all on which the rule was calibrated"


def _changes(rule: Rule, terms: Mapping[str, float], measured: Measured) -> Iterator[Change]:
    """What brings the probability of failing below where the rule is sure, each alone; nothing where it is there."""
    is_well = _is_well(rule, terms)
    # Where steps are no longer than usual a lower rate was seen to make a small network fail that trained.
    is_far = terms["moved"] > rule.usual["moved"]
    if not is_well and is_far and (rate := _lower_rate(rule, terms, measured.rate)) is not None:
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
    return rule.probabilities(rule.score(terms))[FAILS] <= rule.unsure[0]


def _lower_rate(rule: Rule, terms: Mapping[str, float], rate: float) -> float | None:
    """The highest rate of one digit, or nearly, at which it would not fail.

    Steps move the weights in proportion to it; what they would have learnt is not known, and taken for nothing.
    """
    share = 1.0
    while share > _SMALLEST_RATE:
        share *= 0.9
        there = _at_rate(rule, terms, share)
        if there["moved"] < rule.lowest["moved"]:
            return None
        if _is_well(rule, there):
            lower = _rounded_down(rate * share)
            return lower if 0 < lower < rate and _is_well(rule, _at_rate(rule, terms, lower / rate)) else None
    return None


def _at_rate(rule: Rule, terms: Mapping[str, float], share: float) -> dict[str, float]:
    return {**terms, "moved": terms["moved"] + math.log10(share), "unlearnt": rule.highest["unlearnt"]}


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
