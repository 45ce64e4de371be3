"""A network before its first step, beside its curves: its gains over depth and its unit, from a made-up profile."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cleanpath.auditing.profile import Profile
from cleanpath.report.beginnings import beginning, beginnings, gains_drawing, sentence, typical
from cleanpath.report.page import page
from tests.report.audit_example import clean
from tests.report.example import cell, run, table


def halving(count: int = 5) -> Profile:
    """Each unit doubles the signal and halves the gradient."""
    whole = clean(count)
    units = tuple(
        replace(
            unit,
            measurements=replace(
                unit.measurements,
                input_rms=2.0**at,
                output_rms=2.0 ** (at + 1),
                gradient_rms=2.0**-count * 2.0**at,
                backward_gain=0.5,
            ),
        )
        for at, unit in enumerate(whole.units)
    )
    return replace(whole, units=units)


def test_gains_are_those_from_the_first_unit_and_from_the_last() -> None:
    one = beginning(halving())
    assert one.forward == pytest.approx((2, 4, 8, 16, 32))
    assert one.backward == pytest.approx((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2))
    assert sentence(one) == "At initialisation, gain over all 5 units: forward 32, backward 0.0312."


def test_unit_that_is_drawn_keeps_the_width() -> None:
    units = clean(4).units
    wide = tuple(replace(unit, changes_shape=at == 1) for at, unit in enumerate(units))
    assert typical(wide) is wide[2]
    assert typical(wide[1:2]) is None
    assert typical(()) is None


def test_lines_are_drawn_where_the_values_are() -> None:
    """Over two decades either way, 1 stands in the middle of the box and 0.5 a little below."""
    svg = gains_drawing(beginning(halving()), key="k", title="<mine>")
    lines = dict(re.findall(r'class="(forward|backward)" d="M([^"]*)"', svg))
    heights = {word: [float(point.split()[1]) for point in path.split("L")] for word, path in lines.items()}
    middle = (18 + 92 - 18) / 2
    assert heights["forward"] == sorted(heights["forward"], reverse=True)
    assert heights["backward"] == sorted(heights["backward"], reverse=True)
    assert max(heights["forward"]) < middle < min(heights["backward"])
    assert "&lt;mine&gt;" in svg


def test_runs_without_a_profile_or_with_a_damaged_one_have_none(tmp_path: Path) -> None:
    seeds = [replace(run(2.0, seed), run=f"run-{seed}") for seed in range(3)]
    for seed in seeds[:2]:
        (tmp_path / seed.run).mkdir()
    halving().save(tmp_path / "run-0" / "profile-start.json")
    (tmp_path / "run-1" / "profile-start.json").write_text("{", encoding="utf-8")
    tables = [table(cell("original", *seeds))]
    found = beginnings(tmp_path, tables)
    assert set(found) == {"run-0"}
    html = page(tables, {}, "cleanpath", beginnings=found)
    assert html.count('class="gains" role="img"') == 1
    assert "unit, as it was built" in html
    assert 'class="gains" role="img"' not in page(tables, {}, "cleanpath")
