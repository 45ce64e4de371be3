"""The profile is a plain value: it goes to JSON and back, refuses what is not its own, and needs no torch."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cleanpath.auditing.profile import VERSION, Profile
from cleanpath.auditing.values import AfterRow as After
from cleanpath.auditing.values import BranchRow, Measurements, NetworkRow, NotSeen, ShortcutRow, UnitRow
from cleanpath.errors import UserError


def row(name: str, gain: float | None, previous: str | None = None, *, parent: str | None = None) -> UnitRow:
    return UnitRow(
        name=name,
        h=ShortcutRow(kind="scaling", scale=0.5, layers=("a.b",)),
        branch=BranchRow(layers=("c",), parameters=7),
        f=After(kind="relu"),
        previous=previous,
        parent=parent,
        shape=(2, 3),
        measurements=Measurements(direct_gain=gain, forward_gain=math.inf),
    )


PROFILE = Profile(
    verdict="not clean",
    units=(row("u0", 0.5), row("u1", 0.25, "u0"), row("u2", None, "u1"), row("v", 3.0)),
    network=NetworkRow(loss=math.nan, gradient_profile=(1.0, None, math.inf), set_aside={"no weights": 2}),
    not_seen=(NotSeen(what="x", where="y", reason="z", count=3),),
)


def test_json_keeps_everything(tmp_path: Path) -> None:
    again = Profile.from_json(PROFILE.to_json())
    assert again.to_json() == PROFILE.to_json()
    assert again.units == PROFILE.units
    assert again.network.loss is not None
    assert math.isnan(again.network.loss)
    PROFILE.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json").units == PROFILE.units
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_the_document_has_the_promised_shape() -> None:
    data = json.loads(PROFILE.to_json())
    assert {"schema", "version", "verdict", "units", "network", "not_seen", "findings", "ignored"} == set(data)
    expected = {"kind": "scaling", "scale": 0.5, "description": "", "operations": [], "layers": ["a.b"]}
    assert data["units"][0]["h"] == expected
    assert {"name", "h", "branch", "f", "parent", "measurements"} <= set(data["units"][0])
    assert data["units"][0]["measurements"]["forward_gain"] == "inf"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ("{}", "schema"),
        ('{"schema": "cleanpath.profile", "version": 99}', "version 99"),
        (f'{{"schema": "cleanpath.profile", "version": {VERSION}}}', "damaged"),
    ],
)
def test_what_is_no_profile_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Profile.from_json(text)


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        Profile.load(tmp_path / "absent.json")


def test_path_gains_are_products_along_the_path() -> None:
    assert PROFILE.path_gain(0, 1) == 0.125
    assert PROFILE.path_gain(0, 0) == 0.5
    assert PROFILE.path_gain(0, 2) is None
    assert PROFILE.path_gain(0, 3) is None
    assert PROFILE.path_gains() == (
        (0.5, 0.125, None, None),
        (None, 0.25, None, None),
        (None, None, None, None),
        (None, None, None, 3.0),
    )


def test_comparison_names_what_differs_and_nothing_else() -> None:
    assert PROFILE.compare(replace(PROFILE, network=PROFILE.network)) == ()
    other = replace(PROFILE, units=(row("u0", 0.75), *PROFILE.units[1:3], row("w", 3.0)))
    found = {(d.unit, d.quantity, d.here, d.there) for d in PROFILE.compare(other)}
    assert found == {("u0", "direct_gain", 0.5, 0.75), ("v", "unit", True, None), ("w", "unit", None, True)}


def test_reading_a_profile_needs_no_torch() -> None:
    code = "import sys, cleanpath.auditing.profile, cleanpath.auditing.verdict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
