"""An audit as a page: what was measured and judged is all there, loads nothing, and can be read by anyone."""

import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from cleanpath.auditing.finding import Judgement
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.text import number
from cleanpath.auditing.values import Measurements, ShortcutRow
from cleanpath.report import audit_findings
from cleanpath.report.audit_charts import figures
from cleanpath.report.audit_page import SECTIONS, definitions, render
from cleanpath.report.audit_series import QUANTITIES, Depth
from tests.report.audit_example import HOSTILE, chain, clean, finding, menagerie, page, side, unit
from tests.report.reading import Element, Reader, contrast, themes

CHARTS = [quantity.key for quantity in QUANTITIES]


@pytest.fixture(scope="module")
def html() -> str:
    return render(page(menagerie()))


@pytest.fixture(scope="module")
def whole(html: str) -> Reader:
    return Reader(html)


@pytest.fixture(scope="module")
def healthy() -> Reader:
    return Reader(
        render(page(clean(), here=side(clean(), found=Judgement(passed=("CP101", "CP102"))), reference=clean()))
    )


@pytest.fixture(scope="module")
def beside() -> Reader:
    return Reader(render(page(menagerie(), there=side(clean(), "other:net"), reference=clean(20))))


def named(reader: Reader, word: str) -> list[Element]:
    return [element for element in reader.every if word in element.classes]


@pytest.mark.parametrize("name", ["whole", "healthy", "beside"])
def test_a_page_is_one_document_that_loads_and_runs_nothing(name: str, request: pytest.FixtureRequest) -> None:
    reader: Reader = request.getfixturevalue(name)
    tags = {element.tag for element in reader.every}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "b"}
    for element in reader.every:
        assert not [key for key in element.attributes if key.startswith("on") or key in ("src", "xlink:href", "style")]
    (policy,) = (e.attributes["content"] for e in reader.every if "http-equiv" in e.attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def test_nothing_outside_is_referred_to(html: str) -> None:
    assert html.startswith("<!doctype html>")
    assert not re.search(r"https?:|url\(|@import|@font-face|<script|javascript:", html)


@pytest.mark.parametrize("name", ["whole", "healthy", "beside"])
def test_ids_are_unique_and_links_and_names_arrive(name: str, request: pytest.FixtureRequest) -> None:
    reader: Reader = request.getfixturevalue(name)
    assert len(reader.ids) == len(set(reader.ids))
    labels = {word for e in reader.every for word in e.attributes.get("aria-labelledby", "").split()}
    assert {*reader.links, *labels} <= set(reader.ids)
    assert set(SECTIONS) <= set(reader.links)


def test_every_unit_has_one_place_and_findings_link_to_it(whole: Reader) -> None:
    profile = menagerie()
    for each in profile.units:
        assert whole.at(f"unit-{each.name}").tag == "tr"
    first = whole.at("CP101-zoo.3")
    assert [a.attributes["href"] for a in first.all("a")] == ["#CP101-zoo.3", "#unit-zoo.3", "#unit-zoo.5"]
    assert "zoo.3 to zoo.5 (3)" in first.text
    scattered = whole.at("CP203-zoo.0")
    assert f"and {len(profile.units) // 2 - audit_findings.RUNS} more" in scattered.text


def test_a_finding_says_what_where_how_much_and_what_to_do(whole: Reader) -> None:
    first = whole.at("CP101-zoo.3")
    for said in ("✕ error CP101 scaled-shortcut", "3 shortcuts scale the signal", "defect of h", "0.5, expected 0",
                 "Make the shortcut an identity.", "equation (8)", "CP101 explained: scaled-shortcut"):  # fmt: skip
        assert said in first.text
    assert whole.at("CP900").text.startswith("○ note CP900")
    assert "0.5" not in whole.at("CP203-zoo.0").text


def test_a_rule_is_explained_once_with_its_text_as_text(whole: Reader) -> None:
    (told,) = (e for e in whole.every if e.attributes.get("id") == "rule-CP101")
    assert [item.text for item in told.all("li")] == ["one", "two"]
    assert [code.text for code in told.all("code")] == ["h", "h = 0.5 * x"]
    assert "<every> unit" in told.text
    assert "CP101 is explained above" in whole.at("CP101-zoo.7").text
    assert not list(whole.at("CP900").all("details"))


def test_ignored_passed_and_not_applicable_are_told_apart(whole: Reader) -> None:
    section = whole.at("findings")
    assert (
        "CP204 scaled-shortcut (note): 1 shortcuts scale the signal Ignored because: tied <on purpose>" in section.text
    )
    assert [e.text for e in section.all("summary")][-2:] == ["2 rules passed", "1 rule could not look"]
    assert "CP203 dead-branch" in section.text
    assert "CP301: no gates & no dropout" in section.text


def test_no_findings_is_a_sentence(healthy: Reader) -> None:
    assert "No findings: 2 rules looked and found nothing to say." in healthy.at("findings").text
    none = Reader(render(page(clean(), here=side(clean(), found=Judgement(not_applicable={"CP1": "why"})))))
    assert "No findings: no rule could look." in none.at("findings").text


def test_the_verdict_stands_first_with_the_count_and_four_figures(whole: Reader) -> None:
    (answer,) = named(whole, "answer")
    assert answer.text == "Not clean: first in zoo.3. 2 errors, 1 warning, 1 note."
    (shown,) = named(whole, "figures")
    assert len(list(shown.all("li"))) == 4
    assert shown.children[0].text == "32 residual units"


@pytest.mark.parametrize("name", ["whole", "healthy", "beside"])
def test_every_chart_is_there_with_words_and_numbers(name: str, request: pytest.FixtureRequest) -> None:
    reader: Reader = request.getfixturevalue(name)
    heats = ["heat", "there-heat"] if name == "beside" else ["heat"]
    for key in [*CHARTS, *heats]:
        figure = reader.at(f"{key}-figure")
        (drawing,) = figure.all("svg")
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-labelledby"] == f"chart-{key}-name chart-{key}-text"
        title, told = next(drawing.all("title")), next(drawing.all("desc"))
        assert next(figure.all("figcaption")).text == title.text
        assert len(told.text) > 20
        (numbers,) = figure.all("details")
        head, body = next(numbers.all("table")).children
        assert body.children
        assert {len(row.children) for row in body.children} == {len(head.children[0].children)}


def test_every_drawing_has_a_text_alternative(whole: Reader) -> None:
    drawn = [e for e in whole.every if e.tag == "svg" and "aria-hidden" not in e.attributes]
    assert len(drawn) > 20
    for drawing in drawn:
        assert [child.tag for child in drawing.children[:2]] == ["title", "desc"]
        assert all(child.text for child in drawing.children[:2])


def test_charts_tell_the_numbers_of_the_profile() -> None:
    profile = Profile(verdict="", units=chain(10, direct_gain=0.5))
    panels = {panel.key: panel for panel in figures(Depth(profile), None, None)}
    assert panels["direct"].title.startswith("Without branches, 0.000977 of the last gradient would reach")  # 0.5^10
    assert panels["direct"].rows[4][1] == "layer.4"
    assert panels["direct"].rows[4][3] == number(0.5**6)
    assert (
        panels["direct_gain"].title == "10 of 10 direct gains are more than 5% off 1; the furthest is 0.5, in layer.0."
    )
    assert panels["forward_gain"].title == "Every forward gain is 1 within 5%."


def test_the_healthy_line_meets_this_one_where_only_its_course_counts() -> None:
    far = Profile(
        verdict="", units=tuple(replace(u, measurements=replace(u.measurements, gradient_rms=7.0)) for u in chain(8))
    )
    panels = {panel.key: panel for panel in figures(Depth(clean()), None, Depth(far))}
    assert panels["gradient"].head == ("", "unit", "gradient", "healthy")
    assert panels["gradient"].rows[-1][2] == panels["gradient"].rows[-1][3]
    assert "scaled to meet this one at the last unit" in panels["gradient"].notes[0]


def test_what_is_missing_or_no_number_is_said_and_does_not_reach_the_drawing(whole: Reader) -> None:
    figure = whole.at("forward_gain-figure")
    assert "values are not finite and leave a gap" in figure.text
    assert "values are not known and leave a gap" in figure.text
    assert "values are zero: a hollow mark on the lower edge" in figure.text
    for path in figure.all("path"):
        assert not re.search("nan|inf", path.attributes["d"].lower())


def test_two_networks_stand_side_by_side(beside: Reader) -> None:
    answers = named(beside, "answer")
    assert [a.text[:18] for a in answers] == ["here: mymodels:net", "there: other:net C"]
    assert "there-CP101-layer.3" in beside.ids
    head = [cell.text for cell in next(beside.at("direct-figure").all("tr")).children]
    assert head == ["", "unit", "whole here", "direct here", "whole there", "direct there", "healthy", "healthy direct"]
    assert beside.at("gradient-figure").text.startswith("Here: the gradient")
    assert "identity → absent" not in beside.at("units").text  # no name in common: units pair by their place


def test_units_pair_by_name_and_a_link_of_either_network_arrives_at_their_row() -> None:
    other = Profile(verdict="", units=(*chain(4, direct_gain=0.5)[:3], unit("more")))
    reader = Reader(render(page(clean(4), there=side(other))))
    rows = {row.attributes.get("id"): row.text for row in reader.at("units").all("tr")}
    assert {"unit-layer.0", "unit-layer.3", "there-unit-more"} <= set(rows)
    assert "1 → 0.5" in rows["unit-layer.0"]
    links = [a.attributes["href"] for a in reader.at("there-CP203-layer.0").all("a")]
    assert links[1:3] == ["#unit-layer.0", "#unit-layer.2"]


def test_units_that_are_alike_share_a_row_and_are_all_listed_below(healthy: Reader) -> None:
    shown, folded = healthy.at("units").all("table")
    rows = [[cell.text for cell in row.children] for row in shown.children[1].children]
    assert [row[:2] for row in rows] == [["layer.0", "×4"], ["layer.4", "×4"]]
    assert rows[0][2:5] == ["identity", "BN, ReLU, conv 3×3, BN, ReLU, conv 3×3", "–"]
    assert rows[0][7:] == ["1.02", "1.01", "1", "0.3"]
    assert len(folded.children[1].children) == 8


def test_what_breaks_the_path_is_marked_in_the_table(whole: Reader) -> None:
    marked = {row.attributes["id"] for row in whole.root.all("tr") if any("bad" in c.classes for c in row.children)}
    expected = {
        f"unit-{unit.name}"
        for unit in menagerie().units
        if unit.f.kind != "nothing" or not unit.h.kind.startswith("identity")
    }
    assert marked == expected
    broken = replace(unit("a", h=ShortcutRow(kind="gate")), previous=None)
    cells = Reader(render(page(Profile(verdict="", units=(broken,))))).at("unit-a").children
    assert [cell.text for cell in cells if "bad" in cell.classes] == ["✕ gate"]


def test_how_it_was_measured_and_what_each_number_is(whole: Reader) -> None:
    section = whole.at("measured")
    for said in ("batches times draws", "relu in zoo.0", "SGD, rate 0.1", "no weights <between>", "--out profile.json"):
        assert said in section.text
    assert [e.text for e in section.all("pre")] == ["cleanpath audit mymodels:net --html net.html"]
    assert "2 units" not in section.text
    assert [name for name, _ in definitions()] == [each.name.replace("_", " ") for each in fields(Measurements)]
    assert dict(definitions())["branch share"] == "rms(F) / rms(h)."
    assert "module <b> in zoo.3: never & called (2 times)" in whole.at("unseen").text


def test_hostile_names_stay_text_everywhere() -> None:
    profile = menagerie(HOSTILE + "{}")
    bad = side(profile, HOSTILE)
    told = {HOSTILE: (HOSTILE, {HOSTILE: HOSTILE})}
    odd = finding(HOSTILE, "error", tuple(unit.name for unit in profile.units[:2]), name=HOSTILE, sentence=HOSTILE)
    found = replace(bad.judgement, findings=(*bad.judgement.findings, odd), not_applicable={HOSTILE: HOSTILE})
    document = render(
        page(profile, here=replace(bad, judgement=found), pages=told, facts={HOSTILE: HOSTILE}, command=HOSTILE)
    )
    reader = Reader(document)
    assert not {"script", "b", "img"} & {element.tag for element in reader.every}
    assert not [e for e in reader.every if any(key.startswith("on") for key in e.attributes)]
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.links) <= set(reader.ids)
    assert not any(re.search(r"\s", key) for key in reader.ids)
    assert " ".join(HOSTILE.split()) in reader.root.text
    assert "49" not in re.sub(r"<path[^>]*>|<td>[^<]*</td>|<text[^>]*>|translate\([^)]*\)", "", document).replace(
        "#", ""
    )


@pytest.mark.slow
def test_a_thousand_units_stay_below_two_megabytes() -> None:
    units = chain(1000, "backbone.stages.{}.block")
    names = tuple(unit.name for unit in units)
    long = Profile(verdict="clean: 1000 residual units", units=units)
    odd = Judgement(findings=tuple(finding(f"CP{n}", "warning", names[n % 2 :: 2]) for n in range(20)))
    document = render(page(long, here=side(long, found=odd), there=side(long), reference=long))
    assert 100_000 < len(document.encode()) < 2_000_000
    reader = Reader(document)
    assert len(reader.ids) == len(set(reader.ids))
    assert len(list(next(reader.at("gradient-figure").all("tbody")).children)) == 200
    assert "200 of 1000 units" in reader.at("gradient-figure").text
    assert "geometric mean over 16 × 16 pairs" in reader.at("heat-figure").text


@pytest.mark.slow
def test_a_thousand_units_that_all_differ_stay_below_two_megabytes() -> None:
    units = tuple(replace(u, shape=(2, at + 1, 8, 8)) for at, u in enumerate(chain(1000, "backbone.stages.{}.block")))
    document = render(page(Profile(verdict="", units=units)))
    assert len(document.encode()) < 2_000_000
    assert "976 more kinds of unit are not drawn" in Reader(document).root.text


@pytest.mark.parametrize(
    "profile", [Profile(verdict="no residual units were found"), Profile(verdict="", units=chain(1))]
)
def test_a_page_about_almost_nothing_is_a_page(profile: Profile) -> None:
    reader = Reader(render(page(profile, here=side(profile, found=Judgement()))))
    assert len(reader.ids) == len(set(reader.ids))
    assert "No two units are joined" in reader.at("paths").text
    if not profile.units:
        assert "Nothing was measured over depth." in reader.root.text
        assert "No residual unit was found." in reader.root.text


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_can_be_read_in_both_themes(html: str, theme: int) -> None:
    colours = themes(html)[theme]
    texts = ("text", "soft", "link", "good", "bad", "none", "warn")
    marks = ("line-ok", "line-bad", "line-original", "line-there", "h-6", "h6", "h-5", "h5")
    heat = {f"h{at}" for at in range(-6, 7)}
    assert set(colours) == {*texts, *marks, *heat, "page", "raised", "rule", "edge"}
    for ground in ("page", "raised"):
        for name in texts:
            assert contrast(colours[name], colours[ground]) >= 4.5, f"{name} on {ground}"
        for name in marks:
            assert contrast(colours[name], colours[ground]) >= 3, f"{name} on {ground}"


def test_labels_of_lines_are_in_a_colour_of_text(html: str) -> None:
    for colour in {*re.findall(r'<text[^>]*fill="(#[0-9a-fA-F]{6})"', html)}:
        rule = re.search(rf'(?:text)?\[fill="{colour}" i\] \{{ fill: var\(--([\w-]+)\)', html, re.IGNORECASE)
        texts = re.findall(rf'text\[fill="{colour}" i\] \{{ fill: var\(--([\w-]+)\)', html, re.IGNORECASE)
        assert rule is not None
        for theme in themes(html):
            name = texts[-1] if texts else rule[1]
            assert contrast(theme[name], theme["page"]) >= 4.5


def test_a_page_needs_no_torch() -> None:
    code = (
        "import sys; from cleanpath.report.audit_page import render; from tests.report.audit_example import *;"
        "render(page(clean())); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
