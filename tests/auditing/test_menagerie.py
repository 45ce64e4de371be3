"""The audit finds what stands in every network of the menagerie, or says why not."""

import pytest
import torch

from cleanpath.auditing.examine import audit
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.values import UnitRow
from tests.auditing.menagerie import CASES, After, Case


def kinds_of_after(after: tuple[After, ...]) -> tuple[str, ...]:
    return tuple(one if isinstance(one, str) else "+".join(one) for one in after)


def audited(case: Case) -> Profile:
    torch.manual_seed(0)
    return audit(case.build(), case.inputs())


def exactly(case: Case, units: tuple[UnitRow, ...]) -> bool:
    """Whether number, kinds, factors and nesting are as written."""
    names = [unit.name for unit in units]
    parents = tuple(None if unit.parent is None else names.index(unit.parent) for unit in units)
    found = (tuple(unit.h.kind for unit in units), tuple(unit.f.kind for unit in units))
    readings = {(case.h, kinds_of_after(case.f))}
    if case.or_h or case.or_f:
        readings.add((case.or_h or case.h, kinds_of_after(case.or_f or case.f)))
    scales = tuple(unit.h.scale for unit in units)
    return (
        found in readings
        and parents == (case.parents or (None,) * case.units)
        and (not case.scale or all(a == b or a == pytest.approx(b) for a, b in zip(scales, case.scale, strict=True)))
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_audit_tells_the_truth(case: Case) -> None:
    profile = audited(case)
    told = " ".join(f"{entry.what} {entry.where} {entry.reason}" for entry in profile.not_seen).lower()
    reported = all(word.lower() in told for word in case.not_seen)
    if case.or_not_seen and reported and not exactly(case, profile.units):
        return
    assert exactly(case, profile.units), (profile.units, profile.not_seen)
    for layers, unit in zip(case.branch, profile.units, strict=False):
        assert set(layers) <= set(unit.branch.layers)
    for layers, unit in zip(case.shortcut, profile.units, strict=False):
        assert set(layers) <= set(unit.h.layers)
    assert case.or_not_seen or reported, profile.not_seen
    assert all(word.lower() in f"{profile.verdict} {told}".lower() for word in case.says)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_profile_survives_json(case: Case) -> None:
    profile = audited(case)
    assert Profile.from_json(profile.to_json()) == profile
