"""Rules over profiles that are made by hand: their limits, what they leave alone, and that no number can crash one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanpath import Profile
from cleanpath.auditing.judging import every_rule, judge
from cleanpath.auditing.rules import after, branch, shortcut, signal
from cleanpath.auditing.rules.registry import HEADINGS
from cleanpath.auditing.values import (
    AfterRow,
    BeforeRow,
    BranchRow,
    Measurements,
    NetworkRow,
    OptimizerRow,
    ShortcutRow,
    UnitRow,
)
from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.report.annotations import github, markdown

USUAL: dict[str, float] = {
    "forward_gain": 1.1,
    "input_rms": 1.0,
    "output_rms": 1.1,
    "branch_share": 0.5,
    "backward_gain": 1.1,
    "gradient_rms": 0.1,
    "direct_gain": 1.0,
    "shortcut_gain": 1.0,
    "after_gain": 1.0,
    "negative_share": 0.5,
    "branch_negative_share": 0.5,
    "branch_gradient": 1.0,
}
"""A unit of a healthy network."""


def unit(at: int, *, h: str = "identity", scale: float | None = None, f: str = "nothing", **numbers: Any) -> UnitRow:
    return UnitRow(
        name=f"u{at}",
        h=ShortcutRow(kind=h, scale=scale),
        branch=BranchRow(operations=("BN", "ReLU", "conv 3×3")),
        f=AfterRow(kind=f),
        order="pre",
        previous=f"u{at - 1}" if at else None,
        shape=(2, 8, 4, 4),
        measurements=Measurements(**{**USUAL, **numbers}),
    )


def path(units: Sequence[UnitRow], **network: Any) -> Profile:
    return Profile(verdict="", units=tuple(units), network=NetworkRow(**{"tail": ("BN", "ReLU", "linear"), **network}))


def many(count: int, each: Callable[[int], UnitRow]) -> Profile:
    return path([each(at) for at in range(count)])


def severity(profile: Profile, code: str) -> str | None:
    found = [one.severity for one in judge(profile).findings if one.code == code]
    assert len(found) <= 1
    return found[0] if found else None


def assert_limit(code: str, below: Profile, above: Profile, lower: str | None, higher: str) -> None:
    """On both sides of a limit, nearly on it."""
    assert severity(below, code) == lower
    assert severity(above, code) == higher


def test_a_healthy_path_has_no_finding() -> None:
    assert not judge(many(20, unit)).findings


def test_a_factor_is_one_within_a_hundredth() -> None:
    def scaled(factor: float) -> Profile:
        return path([unit(0, h="scaling", scale=factor), *(unit(at) for at in range(1, 6))])

    level = shortcut.LEVEL
    assert_limit("CP102", scaled(1 + 0.9 * level), scaled(1 + 1.1 * level), None, "warning")
    assert_limit("CP102", scaled(1 - 0.9 * level), scaled(1 - 1.1 * level), None, "warning")


def test_a_factor_of_zero_is_an_error() -> None:
    assert severity(path([unit(0, h="scaling", scale=0.0), unit(1)]), "CP102") == "error"


@pytest.mark.parametrize("total", [shortcut.LOST, 1 / shortcut.LOST])
def test_factors_are_an_error_from_a_decade_over_depth(total: float) -> None:
    def scaled(product: float) -> Profile:
        return many(10, lambda at: unit(at, h="scaling", scale=product ** (1 / 10)))

    inside, outside = (1.01 * total, 0.99 * total) if total < 1 else (0.99 * total, 1.01 * total)
    assert_limit("CP102", scaled(inside), scaled(outside), "warning", "error")


def test_gates_are_closed_below_a_tenth_and_open_above() -> None:
    def gated(product: float) -> Profile:
        return many(10, lambda at: unit(at, h="gate", shortcut_gain=product ** (1 / 10)))

    assert severity(gated(1.01 * shortcut.LOST), "CP105") == "note"
    assert_limit("CP104", gated(1.01 * shortcut.LOST), gated(0.99 * shortcut.LOST), None, "error")


@pytest.mark.parametrize(
    ("code", "count", "lower", "higher"),
    [
        ("CP106", shortcut.MANY, "note", "warning"),
        ("CP106", shortcut.MANY_PROJECTIONS, "warning", "error"),
        ("CP101", shortcut.MANY, "note", "warning"),
        ("CP201", after.VERY_DEEP, "note", "warning"),
    ],
)
def test_units_in_a_row_are_counted(code: str, count: int, lower: str, higher: str) -> None:
    changed: dict[str, Any] = {"CP106": {"h": "projection"}, "CP101": {"h": "other"}, "CP201": {"f": "relu"}}[code]
    assert_limit(
        code,
        many(count - 1, lambda at: unit(at, **changed)),
        many(count, lambda at: unit(at, **changed)),
        lower,
        higher,
    )


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("CP101", {"h": "other"}),
        ("CP106", {"h": "projection"}),
        ("CP201", {"f": "relu"}),
        ("CP202", {"f": "normalisation"}),
        ("CP203", {"f": "scaling", "after_gain": 0.8}),
    ],
)
def test_half_of_a_path_is_odd_and_more_is_meant(code: str, changed: dict[str, Any]) -> None:
    def first(count: int) -> Profile:
        return many(8, lambda at: unit(at, **changed) if 0 < at <= count else unit(at))

    assert severity(first(4), code) == ("error" if code == "CP203" and shortcut.LOST > 0.8**4 else "warning")
    assert severity(first(5), code) == "note"


@pytest.mark.parametrize(("code", "changed"), [("CP201", {"f": "relu"}), ("CP202", {"f": "normalisation"})])
def test_what_comes_back_at_an_even_pace_is_meant(code: str, changed: dict[str, Any]) -> None:
    def at_places(*places: int) -> Profile:
        return many(16, lambda at: unit(at, **changed) if at in places else unit(at))

    assert severity(at_places(3, 7, 11, 15), code) == "note"
    assert severity(at_places(3, 7, 11), code) == "note"  # the last is told as the network's own
    assert severity(at_places(3, 7), code) == "warning"
    assert severity(at_places(3, 7, 12), code) == "warning"
    assert severity(at_places(7), code) == "warning"


@pytest.mark.parametrize(
    ("limit", "lower", "higher"), [(after.THIN, "note", "warning"), (after.LEAST, "warning", "error")]
)
def test_what_passes_many_activations_decides(limit: float, lower: str, higher: str) -> None:
    def bent(product: float) -> Profile:
        return many(10, lambda at: unit(at, f="relu", direct_gain=product ** (1 / 10)))

    assert_limit("CP201", bent(1.01 * limit), bent(0.99 * limit), lower, higher)


@pytest.mark.parametrize(
    ("limit", "lower", "higher"), [(shortcut.LOST, "note", "warning"), (after.GONE, "warning", "error")]
)
def test_what_passes_many_norms_decides(limit: float, lower: str, higher: str) -> None:
    def normed(product: float) -> Profile:
        return many(10, lambda at: unit(at, f="normalisation", direct_gain=product ** (1 / 10)))

    assert_limit("CP202", normed(1.01 * limit), normed(0.99 * limit), lower, higher)


def test_a_norm_behind_the_sum_takes_the_factor_out_again() -> None:
    deep_norm = many(40, lambda at: unit(at, h="scaling", scale=3.0, f="normalisation", direct_gain=0.99))
    assert severity(deep_norm, "CP102") == "note"
    assert severity(many(40, lambda at: unit(at, h="scaling", scale=3.0)), "CP102") == "error"


def test_a_branch_dominates_from_thirty_and_the_first_from_a_thousand() -> None:
    def loud(at: int, share: float) -> Profile:
        return many(6, lambda i: unit(i, branch_share=share) if i == at else unit(i))

    assert_limit("CP304", loud(2, 0.99 * branch.LOUD), loud(2, 1.01 * branch.LOUD), None, "warning")
    assert_limit("CP304", loud(0, 0.99 * branch.LOUD_FIRST), loud(0, 1.01 * branch.LOUD_FIRST), None, "warning")


def test_a_branch_is_dead_that_is_silent_and_gets_no_gradient() -> None:
    def silent(**numbers: Any) -> Profile:
        return many(6, lambda at: unit(at, **numbers) if at == 2 else unit(at))

    dead = silent(branch_share=0.9 * branch.SILENT, branch_gradient=0.0)
    assert_limit("CP302", silent(branch_share=1.1 * branch.SILENT, branch_gradient=0.0), dead, None, "warning")
    assert severity(silent(branch_share=0.0), "CP302") is None  # it gets a gradient: it opens
    assert (
        severity(silent(branch_share=0.0, branch_gradient=0.0, gradient_rms=0.0), "CP302") is None
    )  # nothing gets one


def test_relus_are_shut_above_three_quarters() -> None:
    def shut(share: float) -> Profile:
        return many(4, lambda at: unit(at, dead_relu_share=share) if at == 1 else unit(at))

    assert_limit("CP306", shut(branch.SHUT), shut(1.01 * branch.SHUT), None, "warning")


def test_few_entries_of_a_channel_say_nothing_of_it() -> None:
    def vectors(count: int) -> Profile:
        rows = [_shallow(unit(at, dead_relu_share=0.9)) for at in range(3)]
        return path([UnitRow(**{**row, "shape": (count, 8)}) for row in rows])

    assert_limit("CP306", vectors(branch.ENOUGH - 1), vectors(branch.ENOUGH), None, "warning")


@pytest.mark.parametrize(("code", "key", "sign"), [("CP401", "gradient_rms", -1), ("CP402", "output_rms", 1)])
@pytest.mark.parametrize(
    ("limit", "lower", "higher"), [(signal.COSTS, None, "warning"), (signal.FAILS, "warning", "error")]
)
def test_decades_over_depth(
    code: str,
    key: str,
    sign: int,
    limit: float,
    lower: str | None,
    higher: str,
) -> None:
    def rising(decades: float) -> Profile:
        def step(at: int) -> dict[str, Any]:
            return {key: 10 ** (sign * decades * at / 11)}

        return many(12, lambda at: unit(at, **step(at)))

    assert_limit(code, rising(0.99 * limit), rising(1.01 * limit), lower, higher)


def test_a_jump_is_no_geometric_law() -> None:
    jump = many(20, lambda at: unit(at, gradient_rms=1e-4 if at == 10 else 1.0))
    assert severity(jump, "CP401") is None


def test_a_loss_is_judged_only_where_it_is_known_to_be_one_at_the_start() -> None:
    units = [unit(at) for at in range(4)]
    known = {"classes": 10, "uniform_loss": 9.0, "loss": 9.0}
    assert severity(path(units, **known, fresh=True), "CP404") == "warning"
    assert severity(path(units, **known, loss_given=True), "CP404") == "warning"
    assert severity(path(units, **known), "CP404") is None
    assert severity(path(units, **{**known, "uniform_loss": 4.2, "loss": 4.2}, fresh=True), "CP404") is None


def test_what_overwrites_the_next_input_is_said_once() -> None:
    row = unit(0)
    head = [
        UnitRow(**{**_shallow(unit(at, f="relu")), "before": BeforeRow(in_place="ReLU in a")}) for at in range(1, 8)
    ]
    found = judge(path([row, *head])).findings
    assert [one.code for one in found] == ["CP204"]


def _shallow(row: UnitRow) -> dict[str, Any]:
    return {each.name: getattr(row, each.name) for each in fields(row)}


def test_ignored_findings_stay_listed_with_their_reason() -> None:
    profile = many(6, lambda at: unit(at, h="scaling", scale=0.5))
    whole = judge(profile, ["CP102=meant"])
    assert not whole.findings
    assert [(entry.finding.code, entry.reason) for entry in whole.ignored] == [("CP102", "meant")]
    part = judge(profile, ["CP102:u3=meant"])
    assert [one.units for one in part.findings] == [("u0", "u1", "u2", "u4", "u5")]
    assert [entry.finding.units for entry in part.ignored] == [("u3",)]


@pytest.mark.parametrize("request_", ["CP102", "CP102=", "CP102:u3"])
def test_ignoring_needs_a_reason(request_: str) -> None:
    with pytest.raises(SettingError, match="reason"):
        judge(many(2, unit), [request_])


def test_ignoring_an_unknown_code_names_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean CP"):
        judge(many(2, unit), ["CP199=why"])


def test_codes_are_unique_and_every_page_has_the_headings() -> None:
    rules = every_rule()
    assert [one.code for one in rules] == sorted({one.code for one in rules})
    assert len({one.name for one in rules}) == len(rules)
    for one in rules:
        assert tuple(one.sections)[: len(HEADINGS)] == HEADINGS
        assert all(one.sections.values())


NUMBERS = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, 1e-9, 1e9, -1.0, math.nan, math.inf, -math.inf]))
MEASURED = st.builds(Measurements, **{each.name: NUMBERS for each in fields(Measurements)})
KINDS = ("identity", "identity_pad", "scaling", "dropout", "gate", "projection", "other")
AFTERS = ("nothing", "relu", "normalisation", "scaling", "normalisation+relu", "dropout", "gelu+scaling")
UNITS = st.builds(
    UnitRow,
    name=st.just("u"),
    h=st.builds(ShortcutRow, kind=st.sampled_from(KINDS), scale=NUMBERS),
    branch=st.builds(
        BranchRow,
        operations=st.sampled_from([(), ("BN", "ReLU", "conv 3×3"), ("conv 1×1/2", "BN"), ("LN",)]),
        starts_at_zero=st.booleans(),
    ),
    f=st.builds(AfterRow, kind=st.sampled_from(AFTERS)),
    before=st.builds(BeforeRow, in_place=st.sampled_from(["", "ReLU in u"])),
    order=st.sampled_from([None, "pre", "post"]),
    stage=st.integers(1, 3),
    changes_shape=st.booleans(),
    measurements=MEASURED,
)
NETWORKS = st.builds(
    NetworkRow,
    tail=st.sampled_from([(), ("BN", "ReLU", "linear"), ("linear",)]),
    classes=st.sampled_from([None, 2, 10]),
    loss=NUMBERS,
    uniform_loss=NUMBERS,
    loss_given=st.booleans(),
    fresh=st.sampled_from([None, True, False]),
    frozen=st.sampled_from([(), ("a",), ("(root)",)]),
    first_non_finite=st.sampled_from([None, "u"]),
    optimizer=st.sampled_from([None, OptimizerRow(kind="SGD", rate=0.1, decayed_gates=("u.b",), missing=("w",))]),
)


@given(units=st.lists(UNITS, max_size=10), network=NETWORKS)
def test_no_number_crashes_a_rule_or_what_prints_it(units: list[UnitRow], network: NetworkRow) -> None:
    named = [
        UnitRow(**{**_shallow(row), "name": f"u{at}", "previous": f"u{at - 1}" if at else None})
        for at, row in enumerate(units)
    ]
    profile = Profile(verdict="", units=tuple(named), network=network)
    judgement = judge(profile)
    assert {one.code for one in judgement.findings}.isdisjoint(judgement.passed)
    for one in judgement.findings:
        assert one.sentence
        assert one.remedy
        assert set(one.units) <= {row.name for row in named}
    assert Profile.from_data(profile.to_data()).to_data() == profile.to_data()
    for text in (str(profile), github(profile, judgement), markdown("n", profile, judgement)):
        assert "None" not in text
