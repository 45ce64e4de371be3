"""Verdicts on claims: an exact paired test each, corrected for all that are judged together; values in, verdicts out.

How a verdict is reached, with the formulae: docs/claims.md.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from cleanpath.paper import exact
from cleanpath.paper.claims import (
    EQUAL,
    HIGHER,
    LOWER,
    NOT_HIGHER,
    QUANTITIES,
    Cell,
    Claim,
    Comparison,
    Contrast,
    Order,
)
from cleanpath.paper.columns import ceiling, floor
from cleanpath.paper.published import FAIL_ABOVE
from cleanpath.paper.tables import has_limit

CONFIRMED, CONTRADICTED, UNDECIDED, NOT_RUN = "confirmed", "contradicted", "undecided", "not_run"

# (Table, row, column, quantity) to seed to value; ∞ for a run that diverged, no entry for a run that there is not.
Values = Mapping[tuple[str, str, str, str], Mapping[int, float]]
# What a page calls a row: (table, row) to words.
Labels = Mapping[tuple[str, str], str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the seeds of one comparison come to; differences in the unit of the claim's quantity."""

    comparison: Comparison
    differences: tuple[float, ...]
    """One per seed that all cells have, by seed."""
    medians: tuple[float, ...]
    """Of each cell, over these seeds."""
    favourable: int
    """Seeds whose difference goes the claim's way."""
    difference: float
    """Their median."""
    interval: tuple[float, float]
    """All shifts that the test does not reject at 5%, two-sided: not corrected for other claims."""
    rank_biserial: float
    """The difference without a unit: −1 if all seeds are below 0, 1 if all are above."""
    p_for: float
    p_against: float

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.differences)

    def to_data(self) -> dict[str, Any]:
        """As plain data; infinite numbers as words."""
        return {
            "cells": [list(cell) for cell in self.comparison.cells],
            "name": self.comparison.name,
            "n": self.n,
            "differences": [_plain(d) for d in self.differences],
            "medians": [_plain(m) for m in self.medians],
            "favourable": self.favourable,
            "difference": _plain(self.difference),
            "interval": [_plain(end) for end in self.interval],
            "rank_biserial": self.rank_biserial,
            "p_for": self.p_for,
            "p_against": self.p_against,
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, what became of it, and all numbers behind that; without results where it was not run."""

    claim: Claim
    verdict: str
    results: tuple[Result, ...] = ()
    p_for: float | None = None
    p_against: float | None = None
    holm_for: float | None = None
    holm_against: float | None = None
    family: int = 0
    """How many claims were judged together."""
    needed: int = 0
    """The least number of seeds with which one of so many can be confirmed."""
    needed_against: int = 0
    """The same for this one to be contradicted: more, the more comparisons it has."""
    doubt: str = ""
    """Why values that look alike decide nothing: a ceiling, a floor, too few seeds; or why no values could."""
    run_as: str = ""
    """What stands for the paper's networks and data; empty where they are the paper's."""
    missing: tuple[Cell, ...] = ()

    @property
    def n(self) -> int:
        """The seeds of the comparison that has fewest."""
        return min((result.n for result in self.results), default=0)

    @property
    def leading(self) -> Result | None:
        """The comparison that decides: the one that contradicts most, else the one that confirms least."""
        if not self.results:
            return None
        if self.verdict == CONTRADICTED:
            return min(self.results, key=lambda result: result.p_against)
        return max(self.results, key=lambda result: (result.p_for, -abs(result.rank_biserial), -abs(result.difference)))

    def to_data(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "claim": self.claim.to_data(),
            "verdict": self.verdict,
            "n": self.n,
            "p_for": self.p_for,
            "p_against": self.p_against,
            "holm_for": self.holm_for,
            "holm_against": self.holm_against,
            "family": self.family,
            "seeds_needed": self.needed,
            "seeds_needed_against": self.needed_against,
            "doubt": self.doubt,
            "run_as": self.run_as,
            "missing": [list(cell) for cell in self.missing],
            "results": [result.to_data() for result in self.results],
            "in_words": self.in_words(),
        }

    def in_words(self, labels: Labels | None = None) -> str:
        """One line; `labels` are what the page calls the rows."""
        result = self.leading
        if result is None:
            cells = ", ".join("/".join(cell) for cell in self.missing)
            return f"not run: no seed of {cells}"
        several = f"closest of {len(self.results)} comparisons: " if len(self.results) > 1 else ""
        found = _found(self.claim, self.verdict, result, labels or {})
        seeds = f"{result.favourable} of {_seeds(result.n)}" + (" as claimed" if self.verdict != CONFIRMED else "")
        doubt = f" ({self.doubt})" if self.doubt else ""
        p = self.holm_against if self.verdict == CONTRADICTED else self.holm_for
        corrected = "" if p is None else f", p = {p:.2g} after Holm over {self.family}"
        return f"{self.verdict}: {several}{found}, {seeds}{corrected}{doubt}{self.run_as and f'; {self.run_as}'}"


def judge(
    claims: Iterable[Claim],
    values: Values,
    alpha: float = 0.05,
    *,
    test_images: Mapping[Cell, int | None] | None = None,
    undecidable: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """A verdict on every claim, in their order; those whose comparisons all have a seed are judged together.

    Each claim gives two one-sided p-values, that it holds and that it is the other way. The first of all claims are one
    family for Holm, the second another: the chance that any claim is wrongly confirmed is at most `alpha`, and so is
    the chance that any is wrongly contradicted. `test_images` are those that the errors of a cell are counted on: cells
    within one of them are at a ceiling. `undecidable` are claims, with the reason, on which such values are no
    evidence: undecided whatever they are, and no part of the family.
    """
    beyond = undecidable or {}
    tested = [
        (
            claim,
            tuple(result_of(one, values, claim.quantity, claim.direction, claim.margin) for one in claim.comparisons),
        )
        for claim in claims
    ]
    judged = [results for claim, results in tested if all(result.n for result in results) and claim.id not in beyond]
    # All comparisons must hold: the largest p. One the other way suffices: the smallest, times how many there are.
    p_for = [max(result.p_for for result in results) for results in judged]
    p_against = [min(1.0, len(results) * min(result.p_against for result in results)) for results in judged]
    numbers = zip(p_for, p_against, exact.holm(p_for), exact.holm(p_against), strict=True)
    verdicts = []
    for claim, results in tested:
        if not all(result.n for result in results):
            verdicts.append(Verdict(claim=claim, verdict=NOT_RUN, missing=_missing(claim, values)))
        elif claim.id in beyond:
            verdicts.append(Verdict(claim=claim, verdict=UNDECIDED, results=results, doubt=beyond[claim.id]))
        else:
            images = test_images or {}
            verdicts.append(
                _decided(claim, results, next(numbers), family=len(judged), alpha=alpha, test_images=images)
            )
    return verdicts


def _decided(
    claim: Claim,
    results: tuple[Result, ...],
    p: tuple[float, float, float, float],
    *,
    family: int,
    alpha: float,
    test_images: Mapping[Cell, int | None],
) -> Verdict:
    """The verdict of these p-values: for, against, and both after Holm."""
    p_for, p_against, holm_for, holm_against = p
    alike = _alike(claim, results, test_images)
    n = min(result.n for result in results)
    needed, against = seeds_needed(family, alpha), seeds_to_contradict(claim, family, alpha)
    # Rows that cannot be told apart are like each other for a reason that is not the paper's.
    blind = bool(alike) and claim.direction in (EQUAL, NOT_HIGHER)
    verdict = CONTRADICTED if holm_against <= alpha else CONFIRMED if holm_for <= alpha and not blind else UNDECIDED
    doubts = (alike, _few(n, needed, against, family) if verdict == UNDECIDED else "")
    return Verdict(
        claim=claim,
        verdict=verdict,
        results=results,
        p_for=p_for,
        p_against=p_against,
        holm_for=holm_for,
        holm_against=holm_against,
        family=family,
        needed=needed,
        needed_against=against,
        doubt="; ".join(doubt for doubt in doubts if doubt),
    )


def seeds_needed(number_of_claims: int, alpha: float = 0.05) -> int:
    """The least n with K / 2^n ≤ α: the smallest p-value of n pairs is 2^−n, and Holm multiplies it by K."""
    n = 1
    while number_of_claims / 2**n > alpha:
        n += 1
    return n


def seeds_to_contradict(claim: Claim, number_of_claims: int, alpha: float = 0.05) -> int:
    """The same for the opposite of a claim, whose smallest p-value is 2^−n times the ways in which it can be."""
    return seeds_needed(number_of_claims * claim.ways_against, alpha)


def _few(n: int, needed: int, against: int, family: int) -> str:
    """What so many seeds cannot do to a claim, whatever they show; nothing if they are enough for both."""
    wanted = []
    one, this = ("it", "it") if family == 1 else (f"one of {family}", "this one")
    if n < needed:
        wanted.append(f"{needed} are needed to confirm {one}")
    if n < against and against > needed:
        wanted.append(f"{against} {'' if wanted else 'are needed '}to contradict {this}")
    return f"{_seeds(n)}, and {', '.join(wanted)}" if wanted else ""


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def seeds_sentence(seeds: int, claims: Sequence[Claim], alpha: float = 0.05, *, command: str = "") -> str | None:
    """What `--seeds` says where so many seeds cannot confirm any of these claims, or contradict some; None else.

    It ends with the option that gives enough, behind the `command` that it belongs to.
    """
    number = len(claims)
    enough = max((seeds_to_contradict(claim, number, alpha) for claim in claims), default=0)
    if seeds >= enough:
        return None
    said = _seeds(seeds)
    rest = f"{command} --seeds claims={enough}".strip()
    if seeds >= seeds_needed(number, alpha):
        safe = [claim.id for claim in claims if seeds < seeds_to_contradict(claim, number, alpha)]
        return f"{said} cannot contradict {', '.join(safe)}, each of several comparisons; {rest} can"
    least = min(1.0, number / 2**seeds)
    which = "the claim" if number == 1 else f"any of {number} claims"
    return (
        f"{said} cannot confirm {which}: the smallest p-value after Holm is {least:.2g}, above {alpha:g}; "
        f"{seeds_needed(number, alpha)} can, and {enough} can contradict each as well: {rest}"
    )


def result_of(comparison: Comparison, values: Values, quantity: str, direction: str, margin: float = 0.0) -> Result:
    """The test of one comparison, over the seeds that all of its cells have."""
    runs = [values.get((*cell, quantity), {}) for cell in comparison.cells]
    seeds = sorted(set.intersection(*(set(run) for run in runs)))
    per_seed = [tuple(float(run[seed]) for run in runs) for seed in seeds]
    differences = [_difference(comparison, of_a_seed) for of_a_seed in per_seed]
    # Whole numbers from here on, so that ties are ties.
    places = exact.decimals([*differences, *(value for of_a_seed in per_seed for value in of_a_seed)])
    d, within = [exact.on_grid(x, places) for x in differences], exact.on_grid(margin, places)
    p_for, p_against = _p_values(direction, d, within)
    low, high = exact.interval(d)
    return Result(
        comparison=comparison,
        differences=tuple(differences),
        medians=tuple(exact.median(of_a_cell) for of_a_cell in zip(*per_seed, strict=True)),
        favourable=sum(_as_claimed(direction, x, within) for x in d),
        difference=exact.median(d) / 10.0**places if d else 0.0,
        interval=(low / 10.0**places, high / 10.0**places),
        rank_biserial=exact.rank_biserial(d),
        p_for=p_for,
        p_against=p_against,
    )


def _p_values(direction: str, d: Sequence[float], margin: float) -> tuple[float, float]:
    """One-sided: that the differences go the claim's way, and that they go the other; the margin of most is 0."""
    if direction == HIGHER:
        return exact.p_above(d, -margin), exact.p_below(d, -margin)
    if direction == EQUAL:
        within = max(exact.p_below(d, margin), exact.p_above(d, -margin))
        return within, min(1.0, 2 * min(exact.p_above(d, margin), exact.p_below(d, -margin)))
    return exact.p_below(d, margin), exact.p_above(d, margin)


def _as_claimed(direction: str, d: float, margin: float) -> bool:
    return d > -margin if direction == HIGHER else abs(d) < margin if direction == EQUAL else d < margin


def _difference(comparison: Comparison, values: Sequence[float]) -> float:
    """The number of one seed; 0, a tie, where runs on both sides diverged."""
    if isinstance(comparison, Contrast):
        plus, minus = math.fsum(values[: len(comparison.plus)]), math.fsum(values[len(comparison.plus) :])
        return 0.0 if math.isinf(plus) and math.isinf(minus) else plus - minus
    pairs = list(combinations(values, 2))
    return sum((later > earlier) - (later < earlier) for earlier, later in pairs) / len(pairs)


def _alike(claim: Claim, results: Sequence[Result], test_images: Mapping[Cell, int | None]) -> str:
    """Why the compared cells cannot be told apart in test error; nothing where they can.

    All are at the ceiling, or all fail, where the paper's limit is for them. A row that is to be no worse than one that
    fails says nothing either.
    """
    if claim.quantity != "error":
        return ""
    medians = {cell: m for r in results for cell, m in zip(r.comparison.cells, r.medians, strict=True)}
    errors = {"/".join(cell): {0: middle} for cell, middle in medians.items()}
    images = {test_images.get(cell) for cell in medians}
    top = ceiling(errors, test_images=images.pop() if len(images) == 1 else None)
    if top or not all(has_limit(*cell) for cell in medians):
        return top or ""
    return floor(errors) or _beside_failing(claim, medians)


def _beside_failing(claim: Claim, medians: Mapping[Cell, float]) -> str:
    """That a row fails which others are to be no worse than, or like; nothing where none does."""
    if claim.direction not in (EQUAL, NOT_HIGHER):
        return ""
    sides = {cell for one in claim.comparisons if isinstance(one, Contrast) for cell in one.minus}
    failing = sorted("/".join(cell) for cell in sides if medians.get(cell, 0.0) > FAIL_ABOVE)
    return f"{failing[0]} fails, above {FAIL_ABOVE:g}%: no measure for others" if failing else ""


def _missing(claim: Claim, values: Values) -> tuple[Cell, ...]:
    """The cells without a run; all of them if each has one, but no seed in common."""
    return tuple(cell for cell in claim.cells if not values.get((*cell, claim.quantity))) or claim.cells


def _found(claim: Claim, verdict: str, result: Result, labels: Labels) -> str:
    """What was measured: both sides and how far they are apart, with the interval."""
    comparison, digits = result.comparison, QUANTITIES[claim.quantity].digits
    if isinstance(comparison, Order):
        return f"{comparison.name}: rising less falling pairs {_span(result, 2)}"
    if len(comparison.cells) > 2:
        return f"{comparison.name}: difference {_span(result, digits)}"
    sides = zip(_sides(comparison, labels), result.medians, strict=True)
    left, right = (f"{words} ({in_numbers(middle, digits)})" for words, middle in sides)
    if claim.margin:
        return f"{left} and {right}, margin {in_numbers(claim.margin, digits)}: difference {_span(result, digits)}"
    if verdict == UNDECIDED:
        return f"{left} and {right}: difference {_span(result, digits)}"
    way = LOWER if result.difference < 0 else HIGHER
    return f"{left} {way} than {right} by {_span(result, digits, turned=way == LOWER)}"


def _span(result: Result, digits: int, *, turned: bool = False) -> str:
    """The difference and its interval; `turned`, what the second side has more."""
    middle, (low, high) = result.difference, result.interval
    if turned:
        middle, low, high = -middle, -high, -low
    return f"{in_numbers(middle, digits)} [{in_numbers(low, digits)}, {in_numbers(high, digits)}]"


def _sides(contrast: Contrast, labels: Labels) -> list[str]:
    """What the two cells of a difference are called: by their rows, and by their columns where those differ."""
    cells = contrast.cells
    rows = [labels.get((table, row), row.replace("_", " ")) for table, row, _ in cells]
    columns = [column for _, _, column in cells]
    if columns[0] == columns[1]:
        return rows
    return columns if rows[0] == rows[1] else [f"{row}, {column}" for row, column in zip(rows, columns, strict=True)]


def in_numbers(value: float, digits: int) -> str:
    """A number with so many decimals, as sentences have it."""
    zero = f"{0:.{digits}f}"
    return f"{value:.{digits}f}".replace(f"-{zero}", zero).replace("-inf", "−∞").replace("inf", "∞").replace("-", "−")


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
