"""A unit drawn: h straight, F in order, f below, and whatever breaks the path marked thrice."""

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from cleanpath.auditing.values import AfterRow, BeforeRow, BranchRow, ShortcutRow
from cleanpath.report.drawing import cut, explained, stack_drawing, unit_drawing
from tests.report.audit_example import HOSTILE, measured, menagerie, unit


def read(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)  # noqa: S314 (our own drawing)


def words(drawing: str) -> list[str]:
    return [text.text or "" for text in read(drawing).iter("text")]


def boxes(drawing: str, x: float) -> list[tuple[float, str]]:
    """The boxes on one path: top edge and word, from above."""
    found = []
    for group in read(drawing).iter("g"):
        rect, text = group.find("rect"), group.find("text")
        assert rect is not None
        assert text is not None
        if float(text.get("x", 0)) == x:
            found.append((float(rect.get("y", 0)), text.text or ""))
    return sorted(found)


TRUNK, BRANCH = 70, 206


def test_the_branch_stands_beside_the_trunk_in_order() -> None:
    drawing = unit_drawing(unit("a"), key="k")
    assert [word for _, word in boxes(drawing, BRANCH)] == ["BN", "ReLU", "conv 3×3", "BN", "ReLU", "conv 3×3"]
    assert boxes(drawing, TRUNK) == []
    assert "broken" not in words(drawing)


def test_a_line_shows_where_a_unit_begins_that_does_not_begin_at_its_fork() -> None:
    plain, asymmetric = (unit_drawing(unit("a"), key="k", above=above) for above in (0, 2))
    assert 'class="boundary"' not in plain
    (line,) = (path.get("d") or "" for path in read(asymmetric).iter("path") if path.get("class") == "boundary")
    y = float(line.split("L")[0].split()[1])
    tops = [top for top, _ in boxes(asymmetric, BRANCH)]
    assert tops[1] + 20 < y < tops[2]
    assert "Of F, BN and ReLU are of the unit above, for F alone." in (read(asymmetric).findtext("desc") or "")


def test_boxes_do_not_overlap_and_lie_inside() -> None:
    for one in menagerie().units:
        drawing = unit_drawing(one, key="k")
        root = read(drawing)
        high = float(root.get("height", 0))
        for path in (TRUNK, BRANCH):
            tops = [top for top, _ in boxes(drawing, path)]
            assert all(b - a >= 24 for a, b in pairwise(tops))
            assert all(0 <= top <= high - 20 for top in tops)
        crosses = [path.get("d") or "" for path in root.iter("path") if path.get("class") == "cross"]
        middles = [float(d.split()[1].split("l")[0]) + 5 for d in crosses]
        assert not [y for y in middles for top, _ in boxes(drawing, TRUNK) if top - 5 < y < top + 25]
        sums = [float(c.get("cy", 0)) for c in root.iter("circle") if c.get("class") == "sum"]
        assert len(sums) == 1
        assert all(top + 20 < sums[0] - 9 for top, _ in boxes(drawing, BRANCH))


@pytest.mark.parametrize(
    ("changes", "crosses", "alert"),
    [
        ({"h": ShortcutRow(kind="scaling", scale=0.5)}, 1, ["× 0.5"]),
        ({"h": ShortcutRow(kind="scaling", scale=1.00001, layers=("a",))}, 1, ["× 1 + 1e-05"]),
        ({"h": ShortcutRow(kind="gate", operations=("sigmoid", "× signal"))}, 1, ["sigmoid", "× signal"]),
        ({"h": ShortcutRow(kind="projection", operations=("conv 1×1",))}, 1, ["conv 1×1"]),
        ({"h": ShortcutRow(kind="projection", operations=("conv 1×1",)), "changes_shape": True}, 0, []),
        ({"h": ShortcutRow(kind="identity_pad")}, 0, []),
        ({"h": ShortcutRow(kind="other")}, 1, ["other"]),
        ({"f": AfterRow(kind="normalisation+relu")}, 1, ["normalisation", "relu"]),
        ({"f": AfterRow(kind="relu"), "h": ShortcutRow(kind="dropout")}, 2, ["dropout", "relu"]),
        ({"before": BeforeRow(operations=("BN", "ReLU"))}, 0, []),
        ({"before": BeforeRow(in_place="ReLU in a.relu")}, 1, ["ReLU in a.relu"]),
    ],
)  # fmt: skip
def test_what_breaks_the_path_has_a_colour_a_cross_and_a_word(
    changes: dict[str, object], crosses: int, alert: list[str]
) -> None:
    drawing = unit_drawing(unit("a", **changes), key="k")
    root = read(drawing)
    assert sum(path.get("class") == "cross" for path in root.iter("path")) == crosses
    assert words(drawing).count("broken") == crosses
    broken = [g for g in root.iter("g") if "broken" in (g.get("class") or "").split()]
    assert [g.findtext("text") for g in broken] == alert
    assert ("breaks" in (root.findtext("desc") or "").lower()) == (crosses > 0 and "before" not in changes)


def test_before_stands_above_the_fork_and_f_below_the_sum() -> None:
    one = unit("a", before=BeforeRow(operations=("BN",)), f=AfterRow(kind="relu"))
    drawing = unit_drawing(one, key="k")
    (fork,) = (float(c.get("cy", 0)) for c in read(drawing).iter("circle") if c.get("class") == "dot")
    (end,) = (float(c.get("cy", 0)) for c in read(drawing).iter("circle") if c.get("class") == "sum")
    (above, _), (below, _) = boxes(drawing, TRUNK)
    assert above + 20 <= fork < end < below


def test_a_long_branch_is_cut_in_the_middle() -> None:
    assert cut([str(n) for n in range(9)]) == [str(n) for n in range(9)]
    long = [str(n) for n in range(30)]
    assert cut(long) == [*long[:5], "… 22 more", *long[-3:]]
    drawing = unit_drawing(unit("a", branch=BranchRow(operations=tuple(long))), key="k")
    assert len(boxes(drawing, BRANCH)) == 9


def test_a_branch_of_which_nothing_is_known_is_one_box() -> None:
    drawing = unit_drawing(unit("a", branch=BranchRow()), key="k")
    assert [word for _, word in boxes(drawing, BRANCH)] == ["F"]


def test_a_long_word_is_cut_and_whole_in_its_title() -> None:
    drawing = unit_drawing(unit("a", branch=BranchRow(operations=("conv 3×3/2 grouped twice",))), key="k")
    assert [word for _, word in boxes(drawing, BRANCH)] == ["conv 3×3/2 groupe…"]
    assert "conv 3×3/2 grouped twice" in [title.text for title in read(drawing).iter("title")]


def test_the_text_alternative_tells_the_unit() -> None:
    root = read(unit_drawing(unit("a", h=ShortcutRow(kind="scaling", scale=0.5)), key="k"))
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "k-name k-text")
    assert root.findtext("title") == "a"
    told = "h is scaling by 0.5, which breaks the path. F: BN, ReLU, conv 3×3, BN, ReLU, conv 3×3. f is nothing."
    assert root.findtext("desc") == told


def test_hostile_words_are_text() -> None:
    one = unit(
        HOSTILE,
        h=ShortcutRow(kind="other", operations=(HOSTILE,)),
        branch=BranchRow(operations=(HOSTILE,)),
        f=AfterRow(kind=HOSTILE),
        before=BeforeRow(operations=(HOSTILE,), in_place=HOSTILE),
    )
    for drawing in (unit_drawing(one, key="k"), stack_drawing((HOSTILE,), key="k", title=HOSTILE)):
        root = read(drawing)
        assert root.findtext("title") == HOSTILE
        assert {element.tag for element in root.iter()} <= {
            "svg",
            "title",
            "desc",
            "g",
            "rect",
            "path",
            "circle",
            "text",
        }


def test_a_drawing_takes_its_colours_from_the_page_and_loads_nothing() -> None:
    for drawing in (
        unit_drawing(menagerie().units[-1], key="k"),
        explained("k"),
        stack_drawing(("BN",), key="k", title=""),
    ):
        assert not re.search(r"https?:|url\(|href|style=|#[0-9a-f]{6}", drawing)


def test_a_stack_holds_its_operations_in_order() -> None:
    assert words(stack_drawing(("conv 7×7/2", "BN", "ReLU"), key="k", title="stem")) == ["conv 7×7/2", "BN", "ReLU"]


@pytest.mark.parametrize(
    ("h", "defect", "word"),
    [
        (ShortcutRow(kind="scaling", scale=1.0, layers=("a.scale",)), 0.0, "× 1, learned"),
        (ShortcutRow(kind="scaling", scale=1.0, layers=("a.scale",)), None, "× 1, learned"),
        (ShortcutRow(kind="projection", operations=("product",), layers=("a.mix",)), 0.0, "product"),
    ],
)
def test_a_learned_shortcut_that_is_an_identity_now_is_not_called_broken(
    h: ShortcutRow, defect: float | None, word: str
) -> None:
    one = unit("a", h=h, measurements=measured(shortcut_defect=defect))
    drawing = unit_drawing(one, key="k")
    assert [told for _, told in boxes(drawing, TRUNK)] == [word]
    assert "identity now" in words(drawing)
    assert "broken" not in drawing
    assert f"h is {h.kind}" in drawing
    assert "learned: an identity now, and free to leave it." in drawing
    assert "breaks" not in drawing


@pytest.mark.parametrize(
    ("h", "defect"),
    [
        (ShortcutRow(kind="scaling", scale=1.0, layers=("a.scale",)), 0.2),  # a vector whose mean is 1
        (ShortcutRow(kind="scaling", scale=0.9, layers=("a.scale",)), 0.1),
        (ShortcutRow(kind="projection", layers=("a.mix",)), None),
        (ShortcutRow(kind="gate", layers=("a.gate",)), 0.0),
    ],
)
def test_a_learned_shortcut_that_is_none_is_broken(h: ShortcutRow, defect: float | None) -> None:
    drawing = unit_drawing(unit("a", h=h, measurements=measured(shortcut_defect=defect)), key="k")
    assert "broken" in words(drawing)
    assert "identity now" not in drawing
