"""Profiles made by hand: every kind of h and f, names that mean harm, numbers that are none, a thousand units."""

import math
from collections.abc import Mapping
from dataclasses import replace

from cleanpath.auditing.finding import Finding, Ignored, Judgement
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.values import (
    AfterRow,
    BeforeRow,
    BranchRow,
    Measurements,
    NetworkRow,
    NotSeen,
    OptimizerRow,
    ShortcutRow,
    UnitRow,
)
from cleanpath.report.audit_page import AuditPage, Side

HOSTILE = '</script><b>"\'&{{7*7}} datum["x"]+\\u0041 %41 <!--'
KINDS_OF_H = ("identity", "identity_pad", "identity_slice", "scaling", "projection", "gate", "dropout", "other")
KINDS_OF_F = ("nothing", "relu", "normalisation+relu", "normalisation")
PAGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "CP101": (
        "scaled-shortcut",
        {"What": "The defect of `h`, <every> unit:\n\n- one\n- two", "Example": "    h = 0.5 * x\n\nAnd so on."},
    ),
    "CP203": ("dead-branch", {"What": "Branches that give zero."}),
}


def measured(**changes: float | None) -> Measurements:
    """Healthy numbers, changed."""
    healthy = Measurements(
        forward_gain=1.02,
        input_rms=1.0,
        output_rms=1.02,
        branch_share=0.3,
        backward_gain=1.01,
        gradient_rms=0.02,
        direct_gain=1.0,
    )
    return replace(healthy, **changes)


def unit(name: str, **changes: object) -> UnitRow:
    """A clean unit, changed."""
    plain = UnitRow(
        name=name,
        h=ShortcutRow(kind="identity"),
        branch=BranchRow(operations=("BN", "ReLU", "conv 3×3", "BN", "ReLU", "conv 3×3"), layers=(f"{name}.conv1",)),
        f=AfterRow(),
        order="pre",
        shape=(2, 16, 8, 8),
        parameters=4672,
        measurements=measured(),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def chain(count: int, name: str = "layer.{}", **numbers: float | None) -> tuple[UnitRow, ...]:
    """Clean units one after another on one trunk, in two stages, with a signal that grows."""
    names = [name.format(at) for at in range(count)]
    return tuple(
        unit(
            each,
            previous=names[at - 1] if at else None,
            stage=1 if at < count / 2 else 2,
            measurements=measured(output_rms=1.01**at, gradient_rms=0.02 * 0.99**at, **numbers),
        )
        for at, each in enumerate(names)
    )


def clean(count: int = 8) -> Profile:
    """Nothing is wrong."""
    network = NetworkRow(parameters=4672 * count, draws=1, sums=count, stem=("conv 3×3",), tail=("pooling", "linear"))
    return Profile(verdict=f"clean: {count} residual units", units=chain(count), network=network)


def menagerie(name: str = "zoo.{}") -> Profile:
    """Every kind of h with every kind of f, nested units, gates, and every way in which a number can be missing."""
    pairs = [(h, f) for h in KINDS_OF_H for f in KINDS_OF_F]
    values = (1.0, 0.5, 0.0, None, math.nan, math.inf, 1e-40, 3.0)
    names = [name.format(at) for at in range(len(pairs))]
    units = []
    for at, (h, f) in enumerate(pairs):
        value = values[at % len(values)]
        units.append(
            unit(
                names[at],
                h=ShortcutRow(
                    kind=h,
                    scale=0.5 if h == "scaling" else None,
                    operations=() if h in ("identity", "other") else ("conv 1×1/2", "BN"),
                    description="a, <b>",
                ),
                f=AfterRow(kind=f),
                branch=BranchRow(operations=tuple(f"op {n}" for n in range(at % 14)), layers=("a.conv1", "a.conv2")),
                before=BeforeRow(operations=("BN",) * (at % 3), in_place="relu in a.relu" if at == 5 else ""),
                changes_shape=h.startswith("identity_"),
                previous=names[at - 1] if at else None,
                parent=names[at - 1] if at % 9 == 8 else None,
                order=("pre", "post", None)[at % 3],
                stage=1 + at // 10,
                shape=() if at == 3 else (2, 16, 8, 8),
                measurements=measured(
                    forward_gain=value, backward_gain=value, branch_share=value, output_rms=value, gradient_rms=value,
                    direct_gain=0.5,
                ),
            )
        )  # fmt: skip
    network = NetworkRow(
        parameters=1, draws=2, loss=math.nan, gradient_norm=math.inf, first_non_finite=f"relu in {names[0]}",
        sums=40, set_aside={"no weights <between>": 2}, concatenations=1, frozen=(names[1],), frozen_share=0.25,
        unreached=(names[2],), optimizer=OptimizerRow(kind="SGD", rate=0.1), classes=10, uniform_loss=2.3, fresh=True,
    )  # fmt: skip
    seen = (NotSeen(what="module <b>", where=names[3], reason="never & called", count=2),)
    return Profile(verdict=f"not clean: first in {names[3]}", units=tuple(units), network=network, not_seen=seen)


def finding(code: str, severity: str, units: tuple[str, ...], **changes: object) -> Finding:
    """A finding, changed."""
    plain = Finding(
        code=code,
        name="scaled-shortcut",
        severity=severity,
        units=units,
        sentence=f"{len(units)} shortcuts scale the signal",
        quantity="defect of h",
        measured=0.5,
        expected="0",
        remedy="Make the shortcut an identity.",
        reference="equation (8)",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def judgement(profile: Profile) -> Judgement:
    """Every part of a judgement has something in it."""
    names = tuple(each.name for each in profile.units)
    return Judgement(
        findings=(
            finding("CP101", "error", names[3:6]),
            finding("CP101", "error", names[7:8]),
            finding("CP203", "warning", (*names[::2],), measured=None),
            finding("CP900", "note", ()),
        ),
        ignored=(Ignored(finding=finding("CP204", "note", names[:1]), reason="tied <on purpose>"),),
        passed=("CP102", "CP203"),
        not_applicable={"CP301": "no gates & no dropout"},
    )


def side(profile: Profile, name: str = "mymodels:net", found: Judgement | None = None) -> Side:
    """A network with its judgement."""
    return Side(name=name, profile=profile, judgement=found or judgement(profile), note="random weights; seed 0")


def page(profile: Profile, **changes: object) -> AuditPage:
    """A page about one network, changed."""
    plain = AuditPage(
        here=side(profile),
        pages=PAGES,
        command="cleanpath audit mymodels:net --html net.html",
        facts={"torch": "2.14.1", "threads": "2"},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]
