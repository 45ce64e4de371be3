"""Fit the forecast's rule to the recorded cells, and say how good it is on cells that it was not fitted to.

    python -m benchmarks.forecast_fit            write coefficients.json and results/forecast-accuracy.json
    python -m benchmarks.forecast_fit --check    say whether both are what the cells give

The rule is fitted to the cells of Tables 1 and 2 on the digits (`kind` tables). What differs in kind is held out whole:
widths, bottlenecks, norms, data, optimizers, warm-ups, networks of others. For depths, rates and rows one of them at a
time is left out, the rule fitted to the rest, and asked about the one. scikit-learn is not needed.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.rule import TERMS, Rule, terms_of
from cleanpath.forecasting.values import FAILS, OUTCOMES, STARTS_SLOWLY, STEPS, TRAINS, Measured, Steps

ROOT = Path(__file__).resolve().parent.parent
CELLS = ROOT / "results" / "forecast-cells.jsonl"
ACCURACY = ROOT / "results" / "forecast-accuracy.json"
COEFFICIENTS = ROOT / "src" / "cleanpath" / "forecasting" / "coefficients.json"
LIMIT = 20.0
"""Training error in percent over the last 20 batches: above it a run has failed, as the paper has it of test errors."""
UNSURE = (0.3, 0.7)
"""Between these probabilities of failing the answer is `cannot say`."""
RIDGE = 1.0
"""Penalty on the squares of the weights, of terms in units of their standard deviation: none is infinite then where
classes separate."""
Floats = npt.NDArray[np.float64]
FITTED = "tables"
RATIO, LOSS = "gradient ratio", "loss after the steps"
RULES = {"the rule": tuple(TERMS), **{f"{name} alone": (name,) for name in (RATIO, LOSS, *TERMS)}}
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def outcome(row: Mapping[str, Any]) -> str:
    """What became of a cell: above the limit at the end it failed; above it in the middle it started slowly."""
    if _number(row["error"]) > LIMIT:
        return FAILS
    return STARTS_SLOWLY if _number(row["error_half"]) > LIMIT else TRAINS


def measured(row: Mapping[str, Any]) -> Measured:
    """The line of a cell as what the rule is given."""
    found = row["measured"]
    ratio = found["audit"].get("gradient_ratio")
    return Measured(
        rate=row["rate"],
        optimizer=row["optimizer"],
        classes=row["classes"],
        units=found["audit"]["units"],
        gradient_norm=_number(found["gradient_norm"]),
        gradient_ratio=None if ratio is None else 10 ** _number(ratio),
        memory=_number(found["feature_of_input"]) * max(1 - _number(found["stochastic"]) ** 2 / 2, 0.0),
        alike=_number(found["feature_cosine"]),
        steps=Steps(
            losses=tuple(map(_number, row["losses"][:STEPS])),
            gradient_norms=tuple(map(_number, row["gradient_norms"][:STEPS])),
            moved=_number(row["moved"]),
        ),
    )


def _number(value: float | str) -> float:
    return float(value)


class Table:
    """Cells with their terms and outcomes."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        # A cell that diverged within the first steps needs no rule.
        self.rows = [row for row in rows if len(row["losses"]) >= STEPS and not _is_odd(row)]
        self.measured = [measured(row) for row in self.rows]
        self.terms = [{**_whole(terms_of(one)), **_others(one)} for one in self.measured]
        self.outcomes = [outcome(row) for row in self.rows]

    def where(self, chosen: Callable[[Mapping[str, Any]], bool]) -> "Table":
        """Those of which it is true."""
        return Table([row for row in self.rows if chosen(row)])

    @property
    def fails(self) -> npt.NDArray[np.bool_]:
        """Which have failed."""
        return np.array([one == FAILS for one in self.outcomes], dtype=bool)


def _is_odd(row: Mapping[str, Any]) -> bool:
    return any(value is None or not math.isfinite(value) for value in terms_of(measured(row)).values())


def _others(found: Measured) -> dict[str, float]:
    """What the rule is compared with.

    log₁₀ of the gradient at the first unit / at the last; the loss after the steps, as a share of log(classes).
    """
    ratio = found.gradient_ratio
    loss = sum(found.steps.losses[-3:]) / 3 / math.log(found.classes or 2)
    return {RATIO: math.log10(ratio) if ratio else 0.0, LOSS: min(loss, 3.0)}


def _whole(terms: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in terms.items() if value is not None}


def fitted(table: Table, names: Sequence[str] = tuple(TERMS)) -> Rule:
    """The ordered logistic regression, its numbers rounded to what is worth printing."""
    x = np.array([[terms[name] for name in names] for terms in table.terms])
    order = np.array([OUTCOMES.index(one) for one in table.outcomes])
    mean, scale = x.mean(0), x.std(0) + 1e-9
    z = (x - mean) / scale

    def loss(parameters: Floats) -> float:
        weights, first, gap = parameters[:-2], parameters[-2], math.exp(min(parameters[-1], 5.0))
        score = z @ weights
        fails, trains = _sigmoid(score - first - gap), _sigmoid(first - score)
        chances = np.choose(order, [trains, 1 - fails - trains, fails])
        return float(-np.log(np.clip(chances, 1e-9, 1)).sum() + RIDGE * weights @ weights / 2)

    found = minimize(loss, np.zeros(len(names) + 2), method="L-BFGS-B", options={"ftol": 1e-12, "maxiter": 2000}).x
    weights, first, gap = found[:-2] / scale, found[-2], math.exp(min(found[-1], 5.0))
    shift = float(mean @ weights)
    trained = [t for t, o in zip(table.terms, table.outcomes, strict=True) if o == TRAINS]
    return Rule(
        weights={name: _rounded(weight) for name, weight in zip(names, weights, strict=True)},
        slow_from=_rounded(first + shift),
        fails_from=_rounded(first + gap + shift),
        usual={name: _rounded(float(np.median([t[name] for t in trained]))) for name in names},
        lowest={name: _rounded(min(t[name] for t in table.terms)) for name in names},
        highest={name: _rounded(max(t[name] for t in table.terms)) for name in names},
        unsure=UNSURE,
        cells=len(table.rows),
    )


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -40, 40))))


def _rounded(value: float) -> float:
    return round(float(value), 2)


def asked(rule: Rule, table: Table) -> Floats:
    """The probability of failing of every cell."""
    return np.array([rule.probabilities(rule.score(terms))[FAILS] for terms in table.terms])


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


def scored(table: Table, chances: Floats) -> dict[str, Any]:
    """How good these probabilities are: over all cells, and over those on which there is an answer."""
    fails, said = table.fails, chances > 0.5
    sure = (chances <= UNSURE[0]) | (chances >= UNSURE[1])
    return {
        "cells": len(fails),
        "fails": int(fails.sum()),
        "balanced": _short(balanced(fails, said)),
        "area": _short(area(fails, chances)),
        "answered": int(sure.sum()),
        "balanced_answered": _short(balanced(fails[sure], said[sure])),
        "wrong_answered": int((fails[sure] != said[sure]).sum()),
    }


def _short(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def left_out(table: Table, by: str, names: Sequence[str] = tuple(TERMS)) -> Floats:
    """The probabilities when each value of a column is asked of a rule that has not seen it."""
    chances = np.full(len(table.rows), np.nan)
    for value in sorted({str(row[by]) for row in table.rows}):
        here = np.array([str(row[by]) == value for row in table.rows])
        rule = fitted(table.where(lambda row, value=value: str(row[by]) != value), names)  # type: ignore[misc]
        chances[here] = asked(rule, table)[here]
    return chances


def seeds(table: Table) -> dict[str, Any]:
    """How well the outcome with one seed foretells that with another: no forecast that knows no seed can beat it."""
    groups: dict[tuple[Any, ...], list[bool]] = {}
    for row, fails in zip(table.rows, table.fails, strict=True):
        key = tuple(row[name] for name in ("row", "depth", "rate"))
        groups.setdefault(key, []).append(bool(fails))
    pairs = [(a, b) for many in groups.values() for i, a in enumerate(many) for j, b in enumerate(many) if i != j]
    if not pairs:
        return {"pairs": 0, "balanced": None}
    one, other = np.array(pairs, dtype=bool).T
    return {
        "pairs": len(pairs) // 2,
        "balanced": _short(balanced(other, one)),
        "differ": int((one != other).sum()) // 2,
    }


def reliability(table: Table, chances: Floats) -> list[dict[str, Any]]:
    """Of the cells in each bin of probability: how many, the mean probability, and the share that failed."""
    found = []
    for low, high in pairwise(BINS):
        here = (chances >= low) & ((chances < high) | (high == 1.0))
        if here.any():
            mean, share = _short(float(chances[here].mean())), _short(float(table.fails[here].mean()))
            found.append({"from": low, "to": high, "cells": int(here.sum()), "said": mean, "failed": share})
    return found


def answers(table: Table, rule_of: Callable[[Mapping[str, Any]], Rule]) -> dict[str, dict[str, int]]:
    """How often each answer was given to each outcome."""
    counted: dict[str, dict[str, int]] = {name: {} for name in OUTCOMES}
    for row, one, became in zip(table.rows, table.measured, table.outcomes, strict=True):
        said = judged(one, rule_of(row)).outcome
        counted[became][said] = counted[became].get(said, 0) + 1
    return counted


def accuracy(rows: Sequence[Mapping[str, Any]]) -> tuple[Rule, dict[str, Any]]:
    """The rule that is shipped, and all that docs/forecast.md prints."""
    every = Table(rows)
    table = every.where(lambda row: row["kind"] == FITTED)
    rule = fitted(table)
    within: dict[str, Any] = {}
    for by in ("depth", "rate", "row"):
        within[by] = {name: scored(table, left_out(table, by, names)) for name, names in RULES.items()}
    by_row = {
        value: fitted(table.where(lambda row, value=value: row["row"] != value)) for value in _values(table, "row")
    }
    apart: dict[str, Any] = {}
    for kind in sorted({row["kind"] for row in every.rows} - {FITTED}):
        there = every.where(lambda row, kind=kind: row["kind"] == kind)
        apart[kind] = {name: scored(there, asked(fitted(table, names), there)) for name, names in RULES.items()}
    others = every.where(lambda row: row["kind"] != FITTED)
    rows_apart = left_out(table, "row")
    found = {
        "cells": len(rows),
        "fitted_on": len(table.rows),
        "odd": len(rows) - len(every.rows),
        "outcomes": {name: table.outcomes.count(name) for name in OUTCOMES},
        "seeds": seeds(table),
        "left_out": within,
        "kinds": apart,
        "all_kinds": {name: scored(others, asked(fitted(table, names), others)) for name, names in RULES.items()},
        "reliability": reliability(table, rows_apart),
        "reliability_kinds": reliability(others, asked(rule, others)) if others.rows else [],
        "answers": answers(table, lambda row: by_row[row["row"]]),
        "answers_kinds": answers(others, lambda _: rule),
        "each_row": _each(table, "row", rows_apart),
        "wrong": _wrong(table, rows_apart),
        "wrong_kinds": _wrong(others, asked(rule, others)),
    }
    return rule, found


def _values(table: Table, by: str) -> list[Any]:
    return list(dict.fromkeys(row[by] for row in table.rows))


def _each(table: Table, by: str, chances: Floats) -> dict[str, Any]:
    found = {}
    for value in _values(table, by):
        here = np.array([row[by] == value for row in table.rows])
        sure = here & ((chances <= UNSURE[0]) | (chances >= UNSURE[1]))
        wrong = int((table.fails[sure] != (chances[sure] > 0.5)).sum())
        found[str(value)] = {
            "cells": int(here.sum()),
            "fails": int(table.fails[here].sum()),
            "answered": int(sure.sum()),
            "wrong": wrong,
        }
    return found


def _wrong(table: Table, chances: Floats) -> list[dict[str, Any]]:
    """The answered cells on which the rule was wrong."""
    names = ("kind", "row", "depth", "rate", "optimizer", "seed", "error_half", "error")
    return [
        {**{name: row[name] for name in names}, "said": _short(chance)}
        for row, fails, chance in zip(table.rows, table.fails, chances, strict=True)
        if not UNSURE[0] < chance < UNSURE[1] and fails != (chance > 0.5)
    ]


def main() -> None:
    """Write both files, or check them."""
    rows = [json.loads(line) for line in CELLS.read_text(encoding="utf-8").splitlines()]
    rule, found = accuracy(rows)
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
