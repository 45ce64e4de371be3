"""An audit as one HTML page: verdict, findings, drawings, the signal over depth, all units, how it was measured.

The page loads nothing, runs nothing, and is read in a browser, in the dark and on paper. Never imports torch.
"""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cleanpath.auditing.finding import Ignored, Judgement
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.text import not_seen, number
from cleanpath.auditing.values import Measurements, NetworkRow
from cleanpath.auditing.verdict import breaks_f, breaks_h
from cleanpath.report.anchors import Anchors, link
from cleanpath.report.audit_charts import HERE, THERE, Figure, figures
from cleanpath.report.audit_findings import SHAPES, Findings, Pages, Shown, by_severity
from cleanpath.report.audit_series import Depth, Values, decades
from cleanpath.report.audit_units import DRAWN, Group, Line, collapsed, drawings, every, pairs
from cleanpath.report.charts import COLOURS, MIDDLE, REFERENCE, THICK, THIN
from cleanpath.report.drawing import explained
from cleanpath.report.heat import colours, heat_map

SECTIONS = {
    "findings": "Findings",
    "network": "The network, drawn",
    "depth": "The signal over depth",
    "paths": "The direct path between any two units",
    "units": "Units",
    "unseen": "Not seen",
    "measured": "How measured",
}
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One network: its name, what was measured, what the rules said, and how it came about."""

    name: str
    profile: Profile
    judgement: Judgement
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """What the page is made from."""

    here: Side
    there: Side | None = None
    """Set beside it."""
    reference: Profile | None = None
    """A healthy network of the same depth."""
    pages: Pages = field(default_factory=dict)
    """Every rule's title and explanation."""
    command: str = ""
    """What made the page."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Versions, time, threads: printed as they are."""


@dataclass(frozen=True, kw_only=True)
class _SideView:
    """One network as the templates read it."""

    word: str
    name: str
    verdict: str
    count: str
    clean: bool
    key_figures: tuple[tuple[str, str], ...]
    severities: list[tuple[str, list[Shown]]]
    ignored: tuple[Ignored, ...]
    passed: tuple[tuple[str, str], ...]
    not_applicable: tuple[tuple[str, str, str], ...]
    groups: list[Group]
    left_out: int
    heat: Figure | None
    not_seen: list[str]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The units: what the page shows, and what it has folded."""

    shown: list[Line]
    folded: list[Line]


def render(page: AuditPage) -> str:
    """The complete HTML."""
    anchors = Anchors()
    for name in SECTIONS:
        anchors.new(name)
        anchors.new(f"{name}-heading")
    here, there = page.here, page.there
    anchors.units(pairs(here.profile, there.profile if there else None))
    depths = [Depth(side.profile) for side in (here, there) if side is not None]
    findings = Findings(anchors, page.pages)
    words = ("here", "there") if there else ("",)
    sides = [
        _side(side, depth, findings, anchors, word)
        for side, depth, word in zip((here, there), depths, words, strict=False)
        if side is not None
    ]
    reference = Depth(page.reference) if page.reference is not None and page.reference.units else None
    other = there.profile if there else None
    return (
        _environment()
        .get_template("audit.html")
        .render(
            page=page,
            title=f"Audit of {here.name}{f' beside {there.name}' if there else ''}",
            sides=sides,
            explained=Markup(explained("explained")),  # noqa: S704 (our own words)
            charts=figures(depths[0], depths[1] if there else None, reference),
            nested=sum(unit.parent is not None for unit in here.profile.units),
            stages=bool(depths[0].boundaries),
            reference_units=len(reference.units) if reference else 0,
            rows=_Rows(shown=collapsed(here.profile, other, anchors), folded=every(here.profile, other, anchors)),
            definitions=definitions(),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cleanpath.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals = {
        "svg": Markup,  # drawings and charts have escaped their words
        "link": link,
        "shapes": SHAPES,
        "sections": SECTIONS,
        "drawn": DRAWN,
        "widths": (THIN, THICK, MIDDLE),
        "colours": COLOURS,
        "reference": REFERENCE,
        "lines": (HERE, THERE),
        "heat": {theme: colours(theme) for theme in ("light", "dark")},
    }
    return environment


def _side(side: Side, depth: Depth, findings: Findings, anchors: Anchors, word: str) -> _SideView:
    profile, judgement = side.profile, side.judgement
    prefix = "there-" if word == "there" else ""
    shown = findings.of(judgement, profile.units, prefix)
    groups, left_out = drawings(profile, anchors, prefix)
    return _SideView(
        word=word,
        name=side.name,
        verdict=f"{profile.verdict[:1].upper()}{profile.verdict[1:]}",
        count=judgement.count(),
        clean=not judgement.findings,
        key_figures=_key_figures(depth),
        severities=by_severity(shown),
        ignored=judgement.ignored,
        passed=tuple((code, findings.title(code)) for code in judgement.passed),
        not_applicable=tuple((code, findings.title(code), why) for code, why in judgement.not_applicable.items()),
        groups=groups,
        left_out=left_out,
        heat=heat_map(depth, key=f"{prefix}heat", whose=f"{word}: " if word else ""),
        not_seen=not_seen(profile),
        facts=tuple(_facts(profile.network, side.note)),
    )


def _key_figures(depth: Depth) -> tuple[tuple[str, str], ...]:
    """Four numbers with what they are."""
    units = depth.profile.units
    broken = sum(breaks_h(unit) or breaks_f(unit) for unit in units)
    direct = depth.direct[0] if depth.direct else None
    return (
        (str(len(units)), "residual units"),
        (f"{broken} of {len(units)}" if units else "–", "units whose h or f breaks the path"),
        (number(direct), "gain of the direct path, from the last unit back to the first"),
        (_span(depth.of("gradient_rms")), "between the largest and the smallest gradient over depth"),
    )


def _span(values: Values) -> str:
    span = decades(values)
    return "–" if span is None else f"{10**span:.3g}×" if span < 4 else f"10{f'{span:.0f}'.translate(_RAISED)}×"


def _facts(network: NetworkRow, note: str) -> list[tuple[str, str]]:
    """What the profile says of how it was taken."""
    set_aside = ", ".join(f"{count} with {reason}" for reason, count in network.set_aside.items())
    fresh = {True: "at their start", False: "trained for at least one batch", None: "not known"}[network.fresh]
    optimizer = network.optimizer
    found = (
        ("target", note),
        ("mode", network.mode),
        ("batches times draws", str(network.draws)),
        ("parameters", f"{network.parameters:,}"),
        ("weights", fresh),
        ("loss", number(network.loss)),
        ("loss of uniform labels", number(network.uniform_loss) if network.classes else ""),
        ("classes", str(network.classes) if network.classes else ""),
        ("gradient norm", number(network.gradient_norm)),
        ("first value that is not finite", network.first_non_finite or ""),
        ("frozen", f"{network.frozen_share:.1%}: {', '.join(network.frozen)}" if network.frozen else ""),
        ("never reached", ", ".join(network.unreached)),
        ("sums", f"{network.sums}{f', of which set aside: {set_aside}' if set_aside else ''}"),
        ("concatenations", str(network.concatenations) if network.concatenations else ""),
        ("optimizer", f"{optimizer.kind}, rate {number(optimizer.rate)}" if optimizer else ""),
    )
    return [(name, value) for name, value in found if value and value != "–"]


@cache
def definitions() -> tuple[tuple[str, str], ...]:
    """Each measured quantity and what it is, from the source."""
    (body,) = ast.parse(inspect.getsource(Measurements)).body
    assert isinstance(body, ast.ClassDef), "a dataclass"
    found = list[tuple[str, str]]()
    for node, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(following, ast.Expr):
            found.append((node.target.id.replace("_", " "), str(ast.literal_eval(following.value))))
    return tuple(found)
