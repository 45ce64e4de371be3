"""The page: one file that loads nothing, holds every number of the tables, and says in words what they come to."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from cleanpath.paper.published import Published
from cleanpath.paper.tables import RECIPES
from cleanpath.report import claimed
from cleanpath.report.claimed import verdicts_of
from cleanpath.report.claims_shown import claims_shown
from cleanpath.report.drawing import Drawn
from cleanpath.report.page import answer, page, verdict
from cleanpath.report.standing import Standing, Underway
from cleanpath.report.table import UNFINISHED, SeedResult, Table, number, spread
from cleanpath.report.table_text import interval
from tests.report.audit_example import clean
from tests.report.example import FILL, cell, crashed, diverged, missing, paper_table, run, table
from tests.report.reading import Element, Reader, contrast, themes

FACTS = {"torch": "2.14.1", "threads": "1", "commit": "dcd9625"}
COMMAND = "cleanpath reproduce table1 table2 --scale quick --seeds 3"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}{% raw %}'


def read(*tables: Table) -> Reader:
    return Reader(page(tables, FACTS, COMMAND))


def shown(element: Element) -> list[str]:
    return [child.text for child in element.children]


@pytest.fixture(scope="module")
def tables() -> tuple[Table, Table]:
    return paper_table("table1"), paper_table("table2")


@pytest.fixture(scope="module")
def html(tables: tuple[Table, Table]) -> str:
    return page(tables, FACTS, COMMAND)


@pytest.fixture(scope="module")
def whole(html: str) -> Reader:
    return Reader(html)


@pytest.fixture(scope="module")
def mixed() -> Reader:
    """One row of every kind."""
    return read(
        table(
            cell("original", run(2.0, 0), run(2.0, 1)),
            cell("scaling", run(92.0, 0), run(92.0, 1), paper="fail"),
            cell("gating", diverged(0), diverged(1), paper="fail"),
            cell("conv", crashed(0), missing(1)),
            cell("dropout", missing(0), missing(1), paper="fail"),
            cell("half", run(12.0, 0), missing(1), paper=None),
        )
    )


def test_a_page_is_one_document_that_loads_and_runs_nothing(html: str, whole: Reader) -> None:
    tags = {element.tag for element in whole.every}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    for element in whole.every:
        assert not [name for name in element.attributes if name.startswith("on") or name in ("src", "xlink:href")]
        assert element.attributes.get("href", "#").startswith("#")
    assert html.startswith("<!doctype html>")
    assert not re.search(r"https?:|url\(|@import|@font-face", html)


def test_the_page_forbids_its_browser_to_load_anything(whole: Reader) -> None:
    (policy,) = (e.attributes["content"] for e in whole.every if "http-equiv" in e.attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def test_ids_are_unique_and_links_arrive(whole: Reader) -> None:
    ids = [element.attributes["id"] for element in whole.every if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    links = {element.attributes["href"][1:] for element in whole.every if "href" in element.attributes}
    named = {name for e in whole.every for name in e.attributes.get("aria-labelledby", "").split()}
    assert {"table1", "table2", "table1-dropout", "table2-original-ResNet-164"} <= links
    assert links | named <= set(ids)


def test_every_row_shows_the_numbers_of_the_table(tables: tuple[Table, Table], whole: Reader) -> None:
    for c in tables[0].cells:
        values = [c.label, number(c.paper, 2), number(c.median, 1), spread(c), interval(c), "3"]
        assert shown(whole.at(f"table1-{c.row}"))[:6] == values
    for c in tables[1].cells:
        assert shown(whole.at(f"table2-{c.row}-{c.column}"))[:3] == [c.label, c.column, number(c.paper, 2)]
    assert shown(whole.at("table1-constant_half_half"))[1:] == [
        "12.35", "70.3", "70.3 ± 0.2", "70.1 to 70.5", "3", "", "▲ fails", "differs: converges in the paper",
    ]  # fmt: skip


def test_every_status_is_a_word_and_a_shape(mixed: Reader) -> None:
    words = {
        row: mixed.at(f"table1-{row}").children[-2] for row in ("original", "scaling", "gating", "conv", "dropout")
    }
    assert [element.text for element in words.values()] == [
        "● converges", "▲ fails", "✕ diverged", "■ crashed", "○ not run",
    ]  # fmt: skip
    shapes = [next(element.all("span")).attributes for element in words.values()]
    assert {"class": "shape", "aria-hidden": "true"} in shapes


def test_rows_without_a_result_say_once_how_they_are_filled(mixed: Reader, whole: Reader) -> None:
    (gap,) = (e for e in mixed.every if e.attributes.get("class") == "gap")
    assert gap.parent is mixed.at("table1-conv")
    assert (gap.attributes["rowspan"], gap.text) == ("2", f"filled by {FILL}")
    (gap,) = (e for e in whole.every if e.attributes.get("class") == "gap")
    assert gap.parent is whole.at("table2-original-ResNet-164")
    assert gap.attributes["rowspan"] == "5"


@pytest.mark.parametrize("name", ["whole", "mixed"])
def test_every_row_fills_all_columns(name: str, request: pytest.FixtureRequest) -> None:
    reader: Reader = request.getfixturevalue(name)
    for element in reader.root.all("table"):
        head, body = element.children
        width, spans = len(head.children[0].children), 0
        for row in body.children:
            wide = sum(int(e.attributes.get("colspan", 1)) for e in row.children)
            for e in row.children:
                spans = int(e.attributes["rowspan"]) if "rowspan" in e.attributes else spans
            assert wide == width or (spans > 0 and wide == width - 4)
            spans -= 1


def test_runs_that_are_missing_or_did_not_finish_are_told(mixed: Reader) -> None:
    assert shown(mixed.at("table1-half"))[5] == "1 of 2"
    items = [item.text for item in mixed.root.all("li")]
    assert "gating, seed 1: diverged: loss is inf, first at stage2.3.branch" in items
    assert "conv, seed 0: crashed: out of memory" in items


@pytest.mark.parametrize(
    ("paper", "seed", "expected"),
    [
        (6.61, run(2.0, 0), ("same: both converge", True)),
        ("fail", run(90.0, 0), ("same: both fail", True)),
        ("fail", diverged(), ("same: both fail", True)),
        (6.61, run(90.0, 0), ("differs: converges in the paper", False)),
        (6.61, diverged(), ("differs: converges in the paper", False)),
        ("fail", run(2.0, 0), ("differs: fails in the paper", False)),
        (6.61, missing(), ("no result", None)),
        ("fail", crashed(), ("no result", None)),
        (None, run(2.0, 0), ("not in the paper", None)),
        (None, missing(), ("not in the paper", None)),
    ],
)
def test_a_row_is_set_beside_the_paper_s(paper: Published | None, seed: SeedResult, expected: tuple[str, bool]) -> None:
    assert verdict(cell("original", seed, paper=paper)) == expected


def test_a_crash_turns_no_comparison_and_is_told() -> None:
    """A row of which one seed crashed is what its other seeds are: they fail, whatever the paper prints."""
    seeds = (run(85.0, 0), crashed(1), run(88.0, 2))
    failing, converging = (cell("conv_1x1", *seeds, paper=paper) for paper in ("fail", 12.22))
    assert verdict(failing) == ("same: both fail", True)
    assert verdict(converging) == ("differs: converges in the paper", False)
    assert verdict(cell("conv_1x1", diverged(0), crashed(1))) == ("differs: converges in the paper", False)
    assert verdict(cell("conv_1x1", run(2.0, 0), crashed(1))) == ("same: both converge", True)
    told = " ".join(answer(table(converging)))
    assert "0 of 1 converge here" in told
    assert "(fails here with 86.7%, of 3 runs 1 crashed; in the paper 12.22%)" in told
    page = read(table(converging))
    assert "crashed" in next(page.root.all("tbody")).text
    assert "out of memory" in page.root.text


def test_the_answer_counts_both_ways_and_names_who_disagrees(tables: tuple[Table, Table], whole: Reader) -> None:
    told = answer(tables[0])
    assert " ".join(told) == (
        "Of the rows that fail in the paper, 4 of 4 fail here too; "
        "of those that converge in the paper, 4 of 7 converge here. "
        "These disagree: constant scaling: shortcut 0.5, F 0.5 (fails here with 70.3%; in the paper 12.35%), "
        "shortcut-only gating, b = 0 (fails here with 89.2%; in the paper 12.86%), "
        "1×1 convolution (fails here with 69.3%; in the paper 12.22%). "
        "Beyond the paper, constant scaling: shortcut 1, F 0.5: converges here with 2.3%. "
        "3 runs per row, each with its own seed."
    )
    assert told[0].endswith("converge here.")
    paragraphs = [p.text for p in whole.root.all("p") if p.attributes.get("class") == "answer"]
    assert paragraphs == [
        f"{name}: {' '.join(answer(t))}" for name, t in zip(("Table 1", "Table 2"), tables, strict=True)
    ]


def test_the_answer_says_what_has_no_result(tables: tuple[Table, Table]) -> None:
    told = answer(tables[1])
    assert told[0] == "Of the rows with a result that converge in the paper, 4 of 5 converge here."
    assert told[-1] == "Without a result: all rows of ResNet-164."
    assert answer(table(cell("original", missing()))) == (f"Nothing has a result yet; {FILL} fills it.",)


def test_the_answer_says_that_no_row_disagrees_and_that_runs_are_single() -> None:
    told = answer(table(cell("original", run(2.0, 0)), cell("dropout", run(90.0, 0), paper="fail")))
    assert told[1:] == ("No row disagrees.", "One run per row.")


def test_what_cannot_be_concluded_is_listed() -> None:
    single = read(table(cell("original", run(2.0, 0))))
    split = read(table(cell("original", run(12.0, 0), run(34.0, 1), diverged(2))))
    assert "One run per row: how far another seed would be from it is not known." in single.root.text
    assert "original: its runs stand on both sides of the limit of 20% (12.3%, 34.4%, diverged)." in split.root.text
    assert "both sides" not in single.root.text
    assert "another seed" not in split.root.text


STANDING = Standing(
    ended=3,
    failed=((HOSTILE, HOSTILE),),
    underway=(
        Underway(
            label="table1/original seed 0",
            iteration=150,
            total=300,
            loss=1.2345,
            error=34.56,
            images_per_second=128.4,
            seconds_left=75,
        ),
        Underway(
            label="table1/dropout seed 0",
            iteration=0,
            total=None,
            loss=None,
            error=None,
            images_per_second=None,
            seconds_left=None,
        ),
    ),
    waiting=4,
    seconds_left=3700,
    at="12:34:56",
    every=7,
)


def test_page_of_runs_that_go_on_says_how_far_they_are_and_loads_itself_anew(tables: tuple[Table, Table]) -> None:
    reader = Reader(page(tables, FACTS, COMMAND, standing=STANDING))
    (refresh,) = (e for e in reader.every if e.attributes.get("http-equiv") == "refresh")
    assert refresh.attributes["content"] == "7"
    section = reader.at("live")
    (bar,) = section.all("progress")
    assert (bar.attributes["value"], bar.attributes["max"]) == ("4", "10")
    assert (
        "3 of 10 runs are done, 1 crashed, 2 go on, 4 wait, 128 images per second; about 1:01:40 left." in section.text
    )
    head, first, second = ([e.text for e in row.children] for row in section.all("tr"))
    assert head == ["run", "iteration", "loss", "test error, %", "images/s", "left"]
    assert first == ["table1/original seed 0", "150 of 300", "1.234", "34.6", "128", "1:15"]
    assert second == ["table1/dropout seed 0", "0", "–", "–", "–", "–"]
    assert [item.text for item in section.all("li")] == [f"{HOSTILE}: {HOSTILE}"]
    assert "12:34:56" in section.text
    assert reader.every.index(section) < reader.every.index(
        reader.at("verdicts" if "verdicts" in reader.ids else "table1")
    )


def test_page_of_a_report_does_not_load_itself(html: str) -> None:
    assert "refresh" not in html
    assert 'id="live"' not in html


def test_row_whose_runs_go_on_has_its_curves_so_far() -> None:
    going = replace(run(2.0, 0), status=UNFINISHED, error=None, train_error=None)
    reader = read(table(cell("original", run(2.0, 0)), cell("dropout", going, missing(1))))
    captions = [caption.text for caption in reader.at("table1").all("figcaption")]
    assert captions == ["original ● converges", "dropout ◐ not finished"]
    assert reader.at("table1-dropout").children[-2].text == "◐ not finished"
    assert "dropout: not finished, no result yet; original: 2.3%." in reader.root.text
    assert verdict(cell("dropout", going)) == ("no result", None)


def test_rows_that_are_not_run_as_the_paper_s_have_the_letters_of_the_sentences_that_say_so() -> None:
    both = cell("original", run(2.0, 0), deviates=("d", "t"))
    marked = read(table(both, cell("dropout", run(2.0, 0), deviates=("t",)), letters=("d", "t")))
    rows = [marked.at(f"table1-{row}").children[-3] for row in ("original", "dropout")]
    assert [row.text for row in rows] == ["d t", "t"]
    assert [one.attributes["title"] for one in rows[0].all("abbr")] == ["data", "training"]
    items = [item.text for item in marked.at("table1").all("li")]
    assert items[:2] == ["d Digits (8×8) in place of CIFAR-10.", "t 400 iterations in place of 64,000."]
    assert "“differs in”" in marked.root.text
    assert "“differs in”" not in read(table(cell("original", run(2.0, 0)))).root.text


def test_same_sentences_with_other_letters_are_listed_again() -> None:
    one, other = table(cell(), letters=("d", "t")), table(cell(), name="table2", letters=("d", ""))
    reader = read(one, other)
    assert [item.text for item in reader.at("table2").all("li")][1] == "400 iterations in place of 64,000."
    assert [item.text for item in read(one, replace(one, name="table2")).at("table2").all("li")] == [
        "All that Table 1 lists."
    ]


def test_intervals_are_explained_once_with_their_true_coverage() -> None:
    ten = cell("dropout", *(run(90.0 - seed, seed) for seed in range(10)), paper="fail")
    reader = read(table(cell("original", run(2.0, 0), run(2.0, 1), run(2.0, 2)), ten), table(ten, name="table2"))
    assert reader.root.text.count("97.9% of the time") == 1
    assert reader.root.text.count("with 3 runs 75% of the time") == 1
    heads = [
        [head.text for head in t.all("th") if head.attributes.get("scope") == "col"] for t in reader.root.all("table")
    ]
    assert [head[4] for head in heads if head[0] == "row"] == ["interval; n < 6: min–max, %", "interval, %"]


def test_deviations_are_listed_once(tables: tuple[Table, Table], whole: Reader) -> None:
    first, second = ([item.text for item in whole.at(key).all("li")] for key in ("table1", "table2"))
    assert first == list(tables[0].deviations)
    assert second == ["All that Table 1 lists."]


def test_every_chart_is_in_the_page_with_its_data(tables: tuple[Table, Table], whole: Reader) -> None:
    for key, n in (("table1", 12), ("table2", 5)):
        figures = list(whole.at(key).all("figure"))
        assert len(figures) == n
        for figure in figures:
            (drawing,) = figure.all("svg")
            assert drawing.attributes["role"] == "img"
            (data,) = figure.all("details")
            assert "open" not in data.attributes
            assert len(list(data.all("tr"))) == 1 + 21  # every fourth of 80, and the last
    caption = next(whole.at("table1").all("figcaption")).text
    assert caption == "original ● converges"
    (last,) = next(whole.at("table1").all("details")).all("tbody")
    assert last.children[-1].children[1].text == f"{tables[0].cells[0].seeds[0].error:.1f}"


def test_the_page_ends_with_how_it_was_measured(whole: Reader) -> None:
    section = whole.at("measured")
    terms, values = ([e.text for e in section.all(tag)] for tag in ("dt", "dd"))
    assert dict(zip(terms, values, strict=True)) == FACTS
    (command,) = section.all("pre")
    assert command.text == COMMAND


def test_hostile_text_stays_text() -> None:
    seeds = (run(2.0, 0), replace(crashed(1), reason=HOSTILE))
    row = cell(HOSTILE, *seeds, label=HOSTILE, column=HOSTILE)
    other = cell("original", missing(), column="ResNet-110")
    names = ("name", "title", "source", "quantity", "scale", "protocol", "fill")
    bad = table(row, other, deviations=(HOSTILE,), **dict.fromkeys(names, HOSTILE))
    html = page([bad], {HOSTILE: HOSTILE}, HOSTILE)
    reader = Reader(html)
    assert not {"script", "img"} & {element.tag for element in reader.every}
    assert not [e for e in reader.every if any(name.startswith("on") for name in e.attributes)]
    assert reader.root.text.count(HOSTILE) >= 15
    assert "<script" not in html
    assert "49" not in re.sub(r'(?:d|transform)="[^"]*"|<td>[^<]*</td>', "", html)


def test_a_page_without_tables_or_runs_is_a_page() -> None:
    assert "Nothing to report" in Reader(page([], {}, COMMAND)).root.text
    reader = read(table(cell("original", missing())))
    assert not list(reader.root.all("figure"))
    assert "Without curves (not run): original." in reader.root.text


def test_both_tables_with_three_seeds_stay_below_two_megabytes() -> None:
    both = ("ResNet-110", "ResNet-164")
    html = page([paper_table("table1"), paper_table("table2", ran=both)], FACTS, COMMAND)
    assert 100_000 < len(html.encode()) < 2_000_000


def test_twelve_seeds_take_hardly_more_room_than_three() -> None:
    few, many = (len(page([paper_table("table1", seeds)], FACTS, COMMAND)) for seeds in (3, 12))
    assert few < many < 1.3 * few


def test_title_names_a_few_tables_and_counts_many() -> None:
    every = [table(name=name) for name in RECIPES]
    for shown_tables, words in (
        (every[:2], "Table 1 and Table 2"),
        (every[:3], "Table 1, Table 2 and Table 3"),
        (every[:5], "Table 1 and 4 more"),
        (every, "Every table and figure"),
    ):
        whole = read(*shown_tables)
        assert next(whole.root.all("h1")).text == f"{words} at scale quick"
        assert next(whole.root.all("title")).text == f"{words} · quick · cleanpath"


def test_a_title_tells_what_was_set_and_whose_units_are_in_it() -> None:
    set_here = ("training.iterations=20", "network.depth=8", "data.seed=3")
    whole = Reader(page([table(changes=set_here)], FACTS, COMMAND, own=["mine.py", "yours.py"]))
    assert next(whole.root.all("h1")).text == "Table 1 at scale quick"
    (apart,) = (element.text for element in whole.every if element.attributes.get("class") == "set")
    assert apart == f"Set: {', '.join(set_here)}. With the units of mine.py and yours.py."
    assert next(whole.root.all("title")).text == (
        "Table 1 · quick · iterations=20 · depth=8 · 1 more set · mine.py · yours.py · cleanpath"
    )


def test_a_row_that_needs_to_be_told_has_its_note_once_below_the_table() -> None:
    noted = [
        cell("mine", run(2.0, 0), label="mine (u.py)", note="y = x + <F(x)>", column=column)
        for column in ("ResNet-110", "ResNet-164")
    ]
    whole = read(table(cell("original", run(2.0, 0)), *noted))
    (rows,) = (element for element in whole.every if element.attributes.get("class") == "rows")
    assert [child.text for child in rows.children] == ["mine (u.py)", "y = x + <F(x)>"]
    assert "What the rows are" not in page([table(cell("original", run(2.0, 0)))], FACTS, COMMAND)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_can_be_read_in_both_themes(html: str, theme: int) -> None:
    colours = themes(html)[theme]
    limits = {"text": 4.5, "soft": 4.5, "link": 4.5, "good": 4.5, "bad": 4.5, "none": 4.5}
    limits |= {"line-ok": 3, "line-bad": 3, "line-original": 3}
    assert set(colours) == {*limits, "page", "raised", "rule", "edge"}
    for ground in ("page", "raised"):
        for name, limit in limits.items():
            assert contrast(colours[name], colours[ground]) >= limit, f"{name} on {ground}"


def test_paper_is_light_and_every_colour_comes_from_the_theme(html: str) -> None:
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert themes(html)[0]["page"] == "#ffffff"
    assert re.findall(r"@media ([^{]*dark[^{]*?) \{", style[1]) == ["screen and (prefers-color-scheme: dark)"]
    rules = re.sub(r":root \{.*?\}", "", style[1], flags=re.DOTALL)
    assert not re.findall(r":\s*#[0-9a-f]{3,8}", rules)
    used = set(re.findall(r"var\(--([\w-]+)\)", style[1]))
    assert used == set(themes(html)[0])


def test_the_page_is_made_without_torch() -> None:
    code = "import sys, cleanpath.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_verdicts_come_first_and_are_words_with_shapes(tables: tuple[Table, Table], whole: Reader) -> None:
    judged = {one.claim.id: one for one in verdicts_of(tables)}
    items = [item for part in whole.root.all("ul") if "claims" in part.classes for item in part.children]
    shown_claims = [one.id for _, group in claims_shown(tables, list(judged.values())) for one in group]
    assert [item.attributes["id"] for item in items] == shown_claims
    assert set(shown_claims) == set(judged)
    for item in items:
        one = judged[item.attributes["id"]]
        word, said = item.children
        assert word.text == f"{claimed.SHAPES[one.verdict]} {one.verdict.replace('_', ' ')}"
        assert one.claim.sentence in said.text
        assert claimed.line_of(one, claimed.labels_of(tables)) in said.text
    places = [whole.every.index(element) for element in (items[0], next(whole.root.all("table")))]
    assert places == sorted(places)
    assert claimed.tally(list(judged.values()), tables) in whole.root.text
    assert len(set(claimed.SHAPES.values())) == 4


def test_page_says_how_far_the_order_of_rows_is_the_paper_s(whole: Reader) -> None:
    assert "order of 11 rows against the paper's: τ = " in whole.at("table1").text


def test_figure_draws_its_units() -> None:
    unit = clean(2).units[0]
    drawn = [Drawn(letter=letter, caption=HOSTILE, unit=unit) for letter in "ab"]
    reader = Reader(page([table(name="figure2")], FACTS, COMMAND, drawings={"figure2": drawn}))
    figures = list(reader.at("figure2").all("figure"))
    assert [next(one.all("figcaption")).text for one in figures] == [f"({letter}) {HOSTILE}" for letter in "ab"]
    assert len({next(one.all("svg")).attributes["aria-labelledby"] for one in figures}) == 2


def test_what_was_set_is_text_in_heading_and_count() -> None:
    html = page([replace(paper_table("table1"), changes=(f"data.name={HOSTILE}",))], FACTS, COMMAND)
    assert "<script" not in html
    assert "<img" not in html
    assert Reader(html).root.text.count(f"data.name={HOSTILE}") >= 3
