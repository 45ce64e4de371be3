"""Fit the forecast's rule to the recorded cells, and say how good it is on cells that it was not fitted to.

    python -m benchmarks.forecast_fit            write coefficients.json and results/forecast-accuracy.json
    python -m benchmarks.forecast_fit --check    say whether both are what the cells give

For depths, rates, variants and kinds one of them at a time is left out, the rule fitted to the rest, and asked about
the one. The cells that came after the terms had been chosen are asked of the rule that is shipped, fitted to those
before.
"""

import copy
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from benchmarks.forecast_cases import ROOT, Case, cases, ends_of_seeds
from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.rule import OF_FAILING, OF_STARTING, Rule, terms_of
from cleanpath.forecasting.values import FAILS, OUTCOMES, STARTS_SLOWLY, TRAINS, Measured

ACCURACY = ROOT / "results" / "forecast-accuracy.json"
COEFFICIENTS = ROOT / "src" / "cleanpath" / "forecasting" / "coefficients.json"
UNSURE = (0.3, 0.7)
"""Between these probabilities of failing the answer is `cannot say`."""
RIDGE = 1.0
"""Penalty on the squares of the weights, of terms in units of their standard deviation: none is infinite then where
classes separate."""
_CONSTANT = 1e-9
Floats = npt.NDArray[np.float64]
RATIO, LOSS = "gradient ratio", "loss after the steps"
RULES = {"the rule": OF_FAILING, **{f"{name} alone": (name,) for name in (RATIO, LOSS, *OF_FAILING)}}
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


class Table:
    """Cases with their terms; those are left out on which the rule is not asked, as nothing is finite."""

    def __init__(self, found: Iterable[Case]) -> None:
        self.cases = [one for one in found if _can_be_asked(one.measured)]
        self.terms = [{**_whole(terms_of(one.measured)), **_others(one.measured)} for one in self.cases]
        self.fails = np.array([one.fails for one in self.cases], dtype=bool)

    def where(self, chosen: Callable[[Case], bool]) -> "Table":
        """Those of which it is true."""
        found, kept = copy.copy(self), [at for at, one in enumerate(self.cases) if chosen(one)]
        found.cases, found.terms = [self.cases[at] for at in kept], [self.terms[at] for at in kept]
        found.fails = self.fails[kept]
        return found


def _can_be_asked(found: Measured) -> bool:
    numbers = (*found.steps.losses, *found.steps.gradient_norms)
    return None not in terms_of(found).values() and all(map(math.isfinite, numbers))


def _others(found: Measured) -> dict[str, float]:
    """What the rule is compared with.

    log₁₀ of the gradient at the first unit / at the last; the loss after the steps, as a share of log(classes).
    """
    ratio = found.gradient_ratio
    loss = sum(found.steps.losses[-3:]) / 3 / math.log(found.classes or 2)
    return {RATIO: math.log10(ratio) if ratio else 0.0, LOSS: min(loss, 3.0)}


def _whole(terms: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in terms.items() if value is not None}


def fitted(table: Table, names: Sequence[str] = OF_FAILING) -> Rule:
    """Two logistic regressions, their numbers rounded to what is worth printing.

    The second is of the cells that did not fail, and of which it is known how they started.
    """
    weights, bound = _logistic(table, names, table.fails)
    started = table.where(lambda one: not one.fails and one.slow is not None)
    slow = np.array([bool(one.slow) for one in started.cases], dtype=bool)
    slow_weights, slow_bound = _logistic(started, OF_STARTING, slow)
    trained = [t for t, one in zip(table.terms, table.cases, strict=True) if one.outcome == TRAINS]
    every = dict.fromkeys((*names, *OF_STARTING))
    return Rule(
        weights=weights,
        fails_from=bound,
        slow_weights=slow_weights,
        slow_from=slow_bound,
        usual={name: _rounded(float(np.median([t[name] for t in trained]))) for name in every},
        lowest={name: _rounded(min(t[name] for t in table.terms)) for name in every},
        highest={name: _rounded(max(t[name] for t in table.terms)) for name in every},
        unsure=UNSURE,
        cells=len(table.cases),
    )


def _logistic(table: Table, names: Sequence[str], bad: npt.NDArray[np.bool_]) -> tuple[dict[str, float], float]:
    """Weights of the terms and the bound, of a logistic regression with `RIDGE`."""
    x = np.array([[terms[name] for name in names] for terms in table.terms])
    mean, scale = x.mean(0), x.std(0)
    scale[scale < _CONSTANT] = 1.0
    z = (x - mean) / scale

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """With its gradient."""
        weights, score = parameters[:-1], z @ parameters[:-1] - parameters[-1]
        chances = np.clip(_sigmoid(score), 1e-12, 1 - 1e-12)
        off = chances - bad
        lost = -np.log(np.where(bad, chances, 1 - chances)).sum() + RIDGE * weights @ weights / 2
        return float(lost), np.r_[z.T @ off + RIDGE * weights, -off.sum()]

    start = np.zeros(len(names) + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-12, "maxiter": 2000}).x
    weights = found[:-1] / scale
    bound = _rounded(float(found[-1] + mean @ weights))
    return {name: _rounded(weight) for name, weight in zip(names, weights, strict=True)}, bound


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -40, 40))))


def _rounded(value: float) -> float:
    return round(float(value), 2)


def asked(rule: Rule, table: Table) -> Floats:
    """The probability of failing of every cell."""
    return np.array([rule.probabilities(terms)[FAILS] for terms in table.terms])


@dataclass(frozen=True)
class Told:
    """What a rule that had not seen a case said of it."""

    chances: Floats
    """Of failing."""
    shares: Floats
    """Of the cases that failed among those that the rule was fitted to: where the two classes have equal say."""

    def of(self, chosen: npt.NDArray[np.bool_]) -> "Told":
        """Of some cases."""
        return Told(self.chances[chosen], self.shares[chosen])


def balanced(fails: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_]) -> float:
    """The mean of the shares found of those that fail and of those that do not; nan where there are none of one."""
    if fails.all() or not fails.any():
        return math.nan
    return float((said[fails].mean() + (~said[~fails]).mean()) / 2)


def area(fails: npt.NDArray[np.bool_], chances: Floats) -> float:
    """The probability that a cell which fails has the higher chance of two (AUC)."""
    bad, good = chances[fails], chances[~fails]
    if not len(bad) or not len(good):
        return math.nan
    pairs = (bad[:, None] > good[None]).mean() + 0.5 * (bad[:, None] == good[None]).mean()
    return float(pairs)


def scored(fails: npt.NDArray[np.bool_], told: Told) -> dict[str, Any]:
    """How good it is: over all cells, cut where both classes have equal say, and over those that have an answer."""
    chances, said = told.chances, told.chances > 0.5
    sure = (chances <= UNSURE[0]) | (chances >= UNSURE[1])
    return {
        "cells": len(fails),
        "fails": int(fails.sum()),
        "balanced": _short(balanced(fails, chances > told.shares)),
        "area": _short(area(fails, chances)),
        "answered": int(sure.sum()),
        "balanced_answered": _short(balanced(fails[sure], said[sure])),
        "wrong_answered": int((fails[sure] != said[sure]).sum()),
    }


def _short(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def left_out(table: Table, by: str, names: Sequence[str] = OF_FAILING) -> Told:
    """What is said when each value of a field is asked of a rule that has not seen it."""
    values, chances = [getattr(one, by) for one in table.cases], np.full(len(table.cases), np.nan)
    shares = chances.copy()
    for value in dict.fromkeys(values):
        here = np.array([other == value for other in values])
        rest = table.where(lambda one, value=value: getattr(one, by) != value)  # type: ignore[misc]
        chances[here], shares[here] = asked(fitted(rest, names), table)[here], rest.fails.mean()
    return Told(chances, shares)


def seeds() -> dict[str, Any]:
    """How well a run's end foretells that of another seed: no forecast that does not know the seed can beat it."""
    groups = ends_of_seeds().values()
    pairs = [(a, b) for many in groups for i, a in enumerate(many) for j, b in enumerate(many) if i != j]
    one, other = np.array(pairs, dtype=bool).T
    several = [many for many in groups if len(many) > 1]
    return {
        "cells": len(several),
        "runs": sum(map(len, several)),
        "agree": sum(len(set(many)) == 1 for many in several),
        "balanced": _short(balanced(other, one)),
    }


def reliability(fails: npt.NDArray[np.bool_], chances: Floats) -> list[dict[str, Any]]:
    """Of the cells in each bin of probability: how many, the mean probability, and the share that failed."""
    found = []
    for low, high in pairwise(BINS):
        here = (chances >= low) & ((chances < high) | (high == 1.0))
        if here.any():
            mean, share = _short(float(chances[here].mean())), _short(float(fails[here].mean()))
            found.append({"from": low, "to": high, "cells": int(here.sum()), "said": mean, "failed": share})
    return found


def answers(table: Table, rule_of: Callable[[Case], Rule]) -> dict[str, dict[str, int]]:
    """How often each answer was given to each outcome that is known."""
    counted: dict[str, dict[str, int]] = {name: {} for name in OUTCOMES}
    for one in table.cases:
        if one.fails or one.slow is not None:
            said = judged(one.measured, rule_of(one)).outcome
            counted[one.outcome][said] = counted[one.outcome].get(said, 0) + 1
    return counted


GROUPS = ("depth", "rate", "variant", "kind")
"""By what is left out."""
OURS = ("tables", "quick")
"""Kinds that are networks of Tables 1 and 2 and the like, on the digits."""


def accuracy(found: Sequence[Case]) -> tuple[Rule, dict[str, Any]]:
    """The rule that is shipped, fitted to all cells, and all that docs/forecast.md prints.

    Beside what is left out of all cells stands what a rule fitted to the earlier ones says of those that came later.
    """
    every = Table(found)
    rule = fitted(every)
    told = {(by, name): left_out(every, by, names) for by in GROUPS for name, names in RULES.items()}
    ours = np.array([one.kind in OURS for one in every.cases])
    decided = np.array([one.decided for one in every.cases])

    def scores(by: str, chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return {name: scored(every.fails[chosen], told[by, name].of(chosen)) for name in RULES}

    within = {by: scores(by, ours) for by in GROUPS if by != "kind"}
    within_decided = {by: scores(by, ours & decided) for by in GROUPS if by != "kind"}
    kinds = [one.kind for one in every.cases]
    of_kind = {kind: scores("kind", np.array([other == kind for other in kinds])) for kind in dict.fromkeys(kinds)}
    by_variant = {v: fitted(every.where(lambda one, v=v: one.variant != v)) for v in {o.variant for o in every.cases}}  # type: ignore[misc]
    by_kind = {k: fitted(every.where(lambda one, k=k: one.kind != k)) for k in dict.fromkeys(kinds)}  # type: ignore[misc]
    chances, of_kinds = (told[by, "the rule"].chances for by in ("variant", "kind"))
    return rule, {
        "cells": len(found),
        "not_asked": len(found) - len(every.cases),
        "outcomes": {name: sum(one.outcome == name for one in every.cases) for name in OUTCOMES},
        "seeds": seeds(),
        "left_out": within,
        "kinds": of_kind,
        "other_kinds": scores("kind", ~ours),
        "left_out_decided": within_decided,
        "other_kinds_decided": scores("kind", ~ours & decided),
        "reliability": reliability(every.fails[ours], chances[ours]),
        "reliability_kinds": reliability(every.fails[~ours], of_kinds[~ours]),
        "answers": answers(every.where(lambda one: one.kind in OURS), lambda one: by_variant[one.variant]),
        "answers_kinds": answers(every.where(lambda one: one.kind not in OURS), lambda one: by_kind[one.kind]),
        "suggestions": suggestions(every.where(lambda one: one.kind in OURS), lambda one: by_variant[one.variant]),
        "suggestions_kinds": suggestions(every.where(lambda one: one.kind not in OURS), lambda one: by_kind[one.kind]),
        "variants": _each(every, chances, ours),
        "slow": _starting(every, "kind"),
        "ours_left_out": _of_others(every),
        "later": _later(every),
        "wrong_kinds": _wrong(every, of_kinds, ~ours),
    }


def _later(every: Table) -> dict[str, Any]:
    """The cells of the second campaign, asked of rules that are fitted to the cells before it."""
    early, late = (every.where(lambda one, later=later: one.later == later) for later in (False, True))  # type: ignore[misc]
    rule, share = fitted(early), np.full(len(late.cases), early.fails.mean())
    told = {name: Told(asked(fitted(early, names), late), share) for name, names in RULES.items()}
    decided = np.array([one.decided for one in late.cases], dtype=bool)

    def scores(chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return {name: scored(late.fails[chosen], one.of(chosen)) for name, one in told.items()}

    kinds = [one.kind for one in late.cases]
    groups: dict[str, set[bool]] = {}
    for one in late.cases:
        groups.setdefault(f"{one.network} {one.depth} {one.rate}", set()).add(one.fails)
    every_kind = left_out(every, "kind")
    others = np.array([one.kind not in OURS and one.decided for one in every.cases])
    return {
        "with_them": scored(every.fails[others], every_kind.of(others)),
        "cells": len(groups),
        "agree": sum(len(ends) == 1 for ends in groups.values()),
        "fitted_to": len(early.cases),
        "all": scores(np.full(len(kinds), True)),  # noqa: FBT003
        "decided": scores(decided),
        "kinds": {kind: scores(np.array([other == kind for other in kinds])) for kind in dict.fromkeys(kinds)},
        "kinds_decided": {
            kind: scores(decided & np.array([other == kind for other in kinds])) for kind in dict.fromkeys(kinds)
        },
        "reliability": reliability(late.fails, told["the rule"].chances),
        "answers": answers(late, lambda _: rule),
        "wrong": _wrong(late, told["the rule"].chances, decided),
        "slow": _of_starts(late, [rule] * len(late.cases)),
    }


def _of_others(every: Table) -> dict[str, Any]:
    """Tables 1 and 2 and scale quick, both at once, asked of a rule that has seen the other kinds only."""
    rest = every.where(lambda one: one.kind not in OURS)
    rule, share = fitted(rest), rest.fails.mean()
    found: dict[str, Any] = {"fitted_to": len(rest.cases)}
    for kind in OURS:
        here = every.where(lambda one, kind=kind: one.kind == kind)  # type: ignore[misc]
        found[kind] = scored(here.fails, Told(asked(rule, here), np.full(len(here.cases), share)))
    return found


def _starting(table: Table, by: str) -> dict[str, Any]:
    """How well slow starts are told from others, each value of a field asked of a rule that has not seen it."""
    values = [getattr(one, by) for one in table.cases]
    rules = {v: fitted(table.where(lambda one, v=v: getattr(one, by) != v)) for v in dict.fromkeys(values)}  # type: ignore[misc]
    return _of_starts(table, [rules[value] for value in values])


def _of_starts(table: Table, rules: Sequence[Rule]) -> dict[str, Any]:
    """Among the cells that did not fail, and of which it is known how they started."""
    told = [
        (one.slow, rule.probabilities(terms)[STARTS_SLOWLY] / max(1 - rule.probabilities(terms)[FAILS], 1e-12))
        for one, terms, rule in zip(table.cases, table.terms, rules, strict=True)
        if not one.fails and one.slow is not None
    ]
    slow, chances = np.array([one for one, _ in told], dtype=bool), np.array([chance for _, chance in told])
    return {
        "cells": len(told),
        "slow": int(slow.sum()),
        "area": _short(area(slow, chances)),
        "balanced": _short(balanced(slow, chances > slow.mean())),
        "said": int((chances > 0.5).sum()),
        "right": int(slow[chances > 0.5].sum()),
    }


def suggestions(table: Table, rule_of: Callable[[Case], Rule]) -> dict[str, dict[str, int]]:
    """Of cells that failed and were said to: what the rule named to change it, and what is recorded of such a change.

    Of a rate, the same network at the highest recorded rate below; of units, the deepest recorded one with no more.
    """
    found = {what: dict.fromkeys(("named", "recorded", "did not fail"), 0) for what in ("rate", "depth")}
    for one in table.cases:
        answer = judged(one.measured, rule_of(one))
        for change in answer.changes if one.fails and answer.outcome == FAILS else ():
            if change.what in found and change.to is not None:
                counts, lower = found[change.what], _changed(table, one, change.what, change.to)
                counts["named"] += 1
                counts["recorded"] += lower is not None
                counts["did not fail"] += lower is not None and not lower.fails
    return found


def _changed(table: Table, one: Case, what: str, to: float) -> Case | None:
    same = [other for other in table.cases if (other.network, other.seed) == (one.network, one.seed)]
    if what == "rate":
        lower = [other for other in same if other.depth == one.depth and other.rate <= to * 1.05]
        return max(lower, key=lambda other: other.rate, default=None)
    lower = [other for other in same if other.rate == one.rate and other.measured.units <= to]
    return max(lower, key=lambda other: other.measured.units, default=None)


def _each(table: Table, chances: Floats, chosen: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """For each variant: cells, how many failed, on how many there was an answer, how many answers were wrong."""
    counted: dict[str, dict[str, int]] = {}
    for one, chance, counts in zip(table.cases, chances, chosen, strict=True):
        if counts:
            line = counted.setdefault(one.variant, dict.fromkeys(("cells", "fails", "answered", "wrong"), 0))
            answered = not UNSURE[0] < chance < UNSURE[1]
            line["cells"] += 1
            line["fails"] += one.fails
            line["answered"] += int(answered)
            line["wrong"] += int(answered and one.fails != (chance > 0.5))
    return counted


def _wrong(table: Table, chances: Floats, chosen: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """The answers that were wrong."""
    return [
        {
            **{name: getattr(one, name) for name in ("kind", "variant", "depth", "rate", "seed", "error")},
            "optimizer": one.measured.optimizer,
            "said": _short(chance),
        }
        for one, chance, counts in zip(table.cases, chances, chosen, strict=True)
        if counts and not UNSURE[0] < chance < UNSURE[1] and one.fails != (chance > 0.5)
    ]


def main() -> None:
    """Write both files, or check them."""
    rule, found = accuracy(cases())
    texts = {
        COEFFICIENTS: json.dumps(asdict(rule), indent=1, ensure_ascii=False) + "\n",
        ACCURACY: json.dumps(found, indent=1, ensure_ascii=False) + "\n",
    }
    if "--check" in sys.argv[1:]:
        stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        sys.exit(f"not what the cells give: {', '.join(stale)}" if stale else 0)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
