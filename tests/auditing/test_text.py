"""What a profile looks like as text: verdict first, repetitions in one line, bars, two side by side."""

from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from cleanpath.auditing import text
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.values import AfterRow, BranchRow, Measurements, NetworkRow, NotSeen, ShortcutRow, UnitRow
from tests.helpers import examples


def row(
    name: str, *, gain: float | None = 1.0, layers: tuple[str, ...] = ("norm", "fc"), f: str = "nothing"
) -> UnitRow:
    found = Measurements(forward_gain=gain, backward_gain=gain, direct_gain=gain, gradient_rms=gain, output_rms=gain)
    return UnitRow(
        name=name,
        h=ShortcutRow(kind="identity"),
        branch=BranchRow(layers=tuple(f"{name}.{layer}" for layer in layers)),
        f=AfterRow(kind=f),
        measurements=found,
    )


def chain(count: int, **values: float) -> tuple[UnitRow, ...]:
    rows = [row(f"layer.{index}", **values) for index in range(count)]  # type: ignore[arg-type]
    return tuple(
        replace(one, previous=before.name if before else None) for one, before in zip(rows, [None, *rows], strict=False)
    )


def transformer(count: int) -> tuple[UnitRow, ...]:
    parts = (("attn", ("norm1", "qkv", "proj")), ("mlp", ("norm2", "fc1", "fc2")))
    return tuple(row(f"blocks.{i}.{name}", layers=layers) for i in range(count) for name, layers in parts)


def shown(renderable: RenderableType, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_first_line_is_the_verdict() -> None:
    profile = Profile(verdict="clean: 3 residual units", units=chain(3))
    assert str(profile).splitlines()[0] == "clean: 3 residual units"
    assert shown(text.renderable(profile, "timm:x")).startswith("timm:x: clean: 3 residual units\n")


def test_equal_neighbours_stand_in_one_line_and_all_on_request() -> None:
    profile = Profile(verdict="", units=chain(18))
    assert "×18" in str(profile)
    assert "layer.17" not in str(profile)
    every = shown(text.renderable(profile, every=True))
    assert "×" not in every
    assert all(f"layer.{index} " in every for index in range(18))


def test_a_pattern_that_repeats_stands_once() -> None:
    lines = [line for line in str(Profile(verdict="", units=transformer(12))).splitlines() if "blocks." in line]
    assert [line.split()[:3] for line in lines] == [["┌", "blocks.0.attn", "×12"], ["└", "blocks.0.mlp", "×12"]]
    assert "norm1 qkv proj" in lines[0]


def test_a_narrow_terminal_gets_two_lines_per_row_and_no_torn_name() -> None:
    lines = shown(text.renderable(Profile(verdict="", units=transformer(12))), width=60).splitlines()
    at = lines.index("┌ blocks.0.attn ×12: h identity, F norm1 qkv proj, f –")
    assert lines[at + 1] == "    forward 1 │  backward 1 │  direct 1 │  F/h –"
    assert all(len(line) <= 60 for line in lines)


def test_a_unit_that_differs_stands_alone() -> None:
    units = chain(9)
    other = (*units[:4], replace(units[4], f=AfterRow(kind="relu")), *units[5:])
    lines = [line.split() for line in str(Profile(verdict="", units=other)).splitlines() if line.startswith("layer.")]
    assert [(line[0], line[1]) for line in lines] == [("layer.0", "×4"), ("layer.4", "identity"), ("layer.5", "×4")]


@examples
@given(kinds=st.lists(st.integers(0, 2), max_size=40), every=st.booleans())
def test_every_unit_stands_in_exactly_one_line_and_lines_hold_one_kind(kinds: list[int], *, every: bool) -> None:
    units = list(enumerate(kinds))
    lines = [alike for _, alike in text.repeats(units, lambda unit: unit[1], every=every)]
    assert sorted(unit for alike in lines for unit in alike) == units
    assert all(len({kind for _, kind in alike}) == 1 for alike in lines)
    assert not every or [alike for (alike,) in lines] == units


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "    │    "),
        (2.0, "    │██  "),
        (0.5, "  ██│    "),
        (1e9, "    │████"),
        (0.0, " " * 9),
        (None, " " * 9),
        (float("nan"), " " * 9),
        (float("inf"), " " * 9),
    ],
)
def test_bar(value: float | None, expected: str) -> None:
    assert text.bar(value) == expected


def test_sparkline_follows_the_logarithm_and_fits() -> None:
    assert text.sparkline([10.0**power for power in range(7)]) == "▁▂▃▄▅▆▇"
    assert set(text.sparkline([1.0, 1.01, 1.0])) == {"▄"}  # a hundredth is no slope
    assert len(text.sparkline([1.0] * 1000)) <= 60


def test_depth_is_told_at_both_ends_with_the_direct_path() -> None:
    told = str(Profile(verdict="", units=chain(10, gain=0.5)))
    assert "carries 0.000977 of the gradient" in told  # 0.5^10, equation (8)
    assert "rms 0.5 at the first unit, 0.5 at the last" in told


def test_what_was_not_seen_is_said_with_its_reason() -> None:
    profile = Profile(verdict="", not_seen=(NotSeen(what="sum", where="a.b", reason="fused [1]", count=3),))
    assert "not seen: sum in a.b: fused [1] (3 times)" in str(profile)
    assert "not seen: nothing" in str(Profile(verdict="", network=NetworkRow(mode="training")))
    assert "not seen: what only training does" in str(Profile(verdict="", network=NetworkRow(mode="eval")))


def test_two_profiles_stand_side_by_side() -> None:
    here = Profile(verdict="clean", units=chain(4), network=NetworkRow(mode="eval"))
    there = Profile(verdict="not clean", units=(*chain(4, gain=2.0)[:3], row("more")))
    told = shown(text.renderable_pair(here, there, ("a", "b"), every=False))
    assert told.startswith("here:  a: clean\nthere: b: not clean\n")
    table = [line.split() for line in told.splitlines() if line.startswith(("layer", "more"))]
    assert table[0][:5] == ["layer.0", "×3", "identity", "–", "1"]
    assert "1 → 2" in told
    assert "identity → absent" in told
    assert "absent → identity" in told


def test_profiles_without_a_common_name_pair_by_position() -> None:
    here, there = Profile(verdict="", units=chain(2)), Profile(verdict="", units=transformer(1))
    assert [(a and a.name, b and b.name) for a, b in here.pairs(there)] == [
        ("layer.0", "blocks.0.attn"),
        ("layer.1", "blocks.0.mlp"),
    ]
