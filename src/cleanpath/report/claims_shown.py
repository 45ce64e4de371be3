"""The verdicts as a page shows them, by hypothesis: word, shape, sentence, and the numbers behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from cleanpath.paper.claims import QUANTITIES
from cleanpath.paper.hypotheses import HYPOTHESES
from cleanpath.paper.verdicts import NOT_RUN, Verdict
from cleanpath.report.claimed import SHAPES, labels_of, line_of
from cleanpath.report.table import Table


@dataclass(frozen=True, kw_only=True)
class ShownClaim:
    """One claim: what it says, what became of it, and the numbers."""

    id: str
    sentence: str
    kind: str
    word: str
    shape: str
    found: str
    about: str
    """The quantity, what would refute the claim, and where it stands."""


def claims_shown(tables: Sequence[Table], verdicts: Sequence[Verdict]) -> list[tuple[str, list[ShownClaim]]]:
    """The claims under their hypotheses, in their order; hypotheses of which nothing was run come last."""
    labels = labels_of(tables)
    found = [
        (f"{name}: {HYPOTHESES.get(name, '')}", [_shown(one, line_of(one, labels)) for one in group])
        for name, group in groupby(verdicts, key=lambda one: one.claim.hypothesis)
    ]
    return sorted(found, key=lambda group: all(one.kind == NOT_RUN for one in group[1]))


def _shown(verdict: Verdict, found: str) -> ShownClaim:
    claim = verdict.claim
    quantity = QUANTITIES[claim.quantity].words
    presumed = "" if claim.decisive else " The paper says this with a reserve, or a table only implies it."
    n = f"n = {verdict.n} {'seed' if verdict.n == 1 else 'seeds'}. " if verdict.verdict != NOT_RUN else ""
    return ShownClaim(
        id=claim.id,
        sentence=claim.sentence,
        kind=verdict.verdict,
        word=verdict.verdict.replace("_", " "),
        shape=SHAPES[verdict.verdict],
        found=found,
        about=f"{n}Compared in {quantity}; refuted if {claim.refuted_if}. {claim.source}.{presumed}",
    )
