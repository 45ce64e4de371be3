"""The pages in a browser: nothing is complained of, every chart has a size, and a telephone need not scroll sideways.

The page stands unchanged in a frame; the script that measures it belongs to the document around the frame.
"""

import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from html import escape, unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cleanpath.report.audit_page import AuditPage, render
from cleanpath.report.beginnings import beginning
from cleanpath.report.drawing import Drawn
from cleanpath.report.page import page as reproduction
from cleanpath.report.standing import Standing, Underway
from cleanpath.report.table import UNFINISHED, Table
from tests.report.audit_example import HOSTILE, clean, menagerie, page, side
from tests.report.example import cell, paper_table, run, table

pytestmark = pytest.mark.slow
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = 390, 1280
MEASURE = """
<!doctype html><meta charset="utf-8"><title>frames</title>
<iframe id="phone" style="border:0" width="{phone}" height="900" srcdoc="{page}"></iframe>
<iframe id="desk" style="border:0" width="{desk}" height="900" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const told = {{}};
  for (const name of ["phone", "desk"]) {{
    const view = document.getElementById(name).contentDocument, root = view.documentElement;
    const boxes = [...view.querySelectorAll("svg")].map(each => each.getBoundingClientRect());
    const scrolling = ".scroll, pre, svg, details:not([open])";
    const wide = [...view.querySelectorAll("body *")].filter(each =>
      each.getBoundingClientRect().right > root.clientWidth + 1 && !each.closest(scrolling));
    const texts = [...view.querySelectorAll("svg text")].filter(each => {{
      const own = each.getBoundingClientRect(), whole = each.ownerSVGElement.getBoundingClientRect();
      return own.width && (own.right > whole.right + 1 || own.left < whole.left - 1 || own.bottom > whole.bottom + 1);
    }});
    const cut = [...view.querySelectorAll(".scroll")].filter(each =>
      !each.closest("details") && each.scrollWidth > each.clientWidth + 1);
    told[name] = {{
      cut: cut.map(each => [each.tabIndex, each.getAttribute("role"), view.defaultView.getComputedStyle(each)
        .backgroundAttachment, !!(each.getAttribute("aria-label") || each.getAttribute("aria-labelledby"))]),
      scroll: root.scrollWidth, client: root.clientWidth, ready: view.readyState,
      boxes: boxes.map(box => [box.width, box.height]),
      wide: wide.slice(0, 5).map(each => each.tagName + "." + each.className + " " + each.textContent.slice(0, 40)),
      texts: texts.slice(0, 5).map(each => each.textContent),
      ground: view.defaultView.getComputedStyle(view.body).backgroundColor,
    }};
  }}
  document.body.appendChild(document.createElement("output")).textContent = JSON.stringify(told);
}};
</script>
"""


@pytest.fixture(scope="module", autouse=True)
def chromium() -> str:
    if BROWSER is None and not os.environ.get("CI"):
        pytest.skip("no chromium on PATH; `apt-get install chromium` for these tests")
    assert BROWSER is not None, "CI is set and chromium is not on PATH: .ci/run installs it where there is apt-get"
    return BROWSER


@dataclass(frozen=True)
class Visit:
    """What a browser made of a document."""

    dom: str
    console: tuple[str, ...]


def visit(address: str, folder: Path, *flags: str) -> Visit:
    """Load an address and let it settle."""
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--no-first-run"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    done = subprocess.run(
        [*command, *flags, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    return Visit(done.stdout, tuple(line for line in lines if re.search(r"CONSOLE|Content.Security.Policy", line)))


def framed(html: str, folder: Path, *flags: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is measured in a page at both widths, and the console."""
    file = folder / "frames.html"
    file.write_text(MEASURE.format(page=escape(html), phone=PHONE, desk=DESK), encoding="utf-8")
    seen = visit(file.as_uri(), folder, *flags)
    (told,) = re.findall(r"<output>(.*?)</output>", seen.dom, re.DOTALL)
    measured: dict[str, Any] = json.loads(unescape(told))
    return measured, seen.console


def assert_quiet_and_fits(html: str, folder: Path, *flags: str) -> dict[str, Any]:
    """No console message, and on a telephone and a desk nothing scrolls sideways or leaves its drawing."""
    measured, console = framed(html, folder, *flags)
    assert console == ()
    for view in ("phone", "desk"):
        found = measured[view]
        assert found["ready"] == "complete"
        assert found["scroll"] <= found["client"], f"{view}: {found['wide']}"
        assert found["texts"] == [], f"{view}: words leave their drawing"
        assert len(found["boxes"]) == html.count("<svg")
    return measured


def undrawn(found: dict[str, Any]) -> int:
    """How many drawings of a view have no size, as those have that are folded."""
    return sum(min(box) <= 0 for box in found["boxes"])


def audits() -> dict[str, AuditPage]:
    hostile = menagerie(HOSTILE + "{}" + "x" * 60)
    return {
        "healthy": page(clean(), reference=clean()),
        "menagerie": page(menagerie()),
        "hostile": page(hostile, here=side(hostile, HOSTILE)),
        "against": page(clean(20), there=side(menagerie()), reference=clean(20)),
        "thousand": page(clean(1000), reference=clean(1000)),
        "nothing": page(clean(0)),
        "one": page(clean(1)),
    }


@pytest.mark.parametrize("name", list(audits()))
def test_a_page_is_quiet_drawn_and_no_wider_than_a_telephone(name: str, tmp_path: Path) -> None:
    html = render(audits()[name])
    measured = assert_quiet_and_fits(html, tmp_path)
    assert {view: undrawn(measured[view]) for view in ("phone", "desk")} == {"phone": 0, "desk": 0}
    assert PHONE - 20 <= measured["phone"]["client"] <= PHONE  # a scroll bar may take its part


@pytest.mark.parametrize(("scheme", "ground"), [("0", "rgb(22, 24, 29)"), ("1", "rgb(255, 255, 255)")])
def test_the_page_follows_the_reader_s_theme(scheme: str, ground: str, tmp_path: Path) -> None:
    measured, _ = framed(render(page(clean())), tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert measured["desk"]["ground"] == ground


def test_a_link_to_a_folded_unit_opens_its_list(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render(page(clean())), encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()
    folded = re.compile(r"<details open(?:=\"\")?>\s*<summary>all 8 units")
    assert folded.search(visit(f"{address}#{quote('unit-layer.2')}", tmp_path).dom)
    assert not folded.search(visit(address, tmp_path).dom)


@pytest.mark.parametrize("scheme", ["0", "1"])
def test_the_page_of_a_reproduction_is_quiet_drawn_and_fits(scheme: str, tmp_path: Path) -> None:
    """With verdicts, units that a figure draws, and gains beside the curves; dark and light."""
    table1 = paper_table("table1", seeds=1)
    named = tuple(
        replace(cell, seeds=tuple(replace(seed, run=cell.row) for seed in cell.seeds)) for cell in table1.cells
    )
    started = {cell.row: beginning(clean(20)) for cell in named}
    drawn = [Drawn(letter=letter, caption="original", unit=clean(2).units[0]) for letter in "abcdef"]
    html = reproduction(
        [replace(table1, cells=named), table(name="figure2")],
        {"torch": "2.14.1"},
        "cleanpath",
        beginnings=started,
        drawings={"figure2": drawn},
    )
    measured = assert_quiet_and_fits(html, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert max(undrawn(measured[view]) for view in ("phone", "desk")) <= len(named)  # units are folded


def widest() -> Table:
    """Two columns with every letter, long names and the longest words of each column."""
    cells = [
        cell(
            f"constant_{at}",
            *(run(100.0 if at else 3.0 * seed, seed) for seed in range(10 - 6 * at)),
            label="exclusive gating, b = −6, without weight decay on b",
            column=column,
            deviates=("c", "n", "d", "t", "w", "g"),
        )
        for column in ("ResNet-110", "ResNet-1001")
        for at in (0, 1)
    ]
    return table(*cells, letters=("c", "n"))


@pytest.mark.parametrize("of", [paper_table("table1"), paper_table("table2"), widest()], ids=["one", "two", "widest"])
def test_no_table_is_cut_off_on_a_desk_and_one_that_is_on_a_telephone_shows_it(of: Table, tmp_path: Path) -> None:
    measured, _ = framed(reproduction([of], {}, "cleanpath"), tmp_path)
    assert measured["desk"]["cut"] == []
    assert measured["phone"]["cut"] == [[0, "region", "local, local, scroll, scroll", True]]


@pytest.mark.parametrize("scheme", ["0", "1"])
def test_the_page_of_runs_that_go_on_is_quiet_drawn_and_fits(scheme: str, tmp_path: Path) -> None:
    """With ten runs beside three, letters, a crash with a long reason, and a row that has only begun."""
    table1 = paper_table("table1")
    ten = tuple(run(70.0 + seed, seed) for seed in range(10))
    going = replace(run(2.0, 0), status=UNFINISHED, error=None)
    begun = replace(table1.cells[1], seeds=(going,))
    cells = (replace(table1.cells[0], seeds=ten, deviates=("c", "n", "d", "t", "g")), begun, *table1.cells[2:])
    underway = Underway(
        label="table1/exclusive_gating_-6 seed 0",
        iteration=63_999,
        total=64_000,
        loss=2.345,
        error=88.8,
        images_per_second=12_345.6,
        seconds_left=36_000,
    )
    standing = Standing(
        ended=1,
        failed=(("table1/dropout seed 0", "MemoryError: " + "x" * 300),),
        underway=(underway,),
        waiting=1,
        seconds_left=None,
        at="12:00:00",
        every=600,
    )
    marked = replace(table1, cells=cells, letters=("d", "t"))
    html = reproduction([marked, table(name="figure2")], {"torch": "2.14.1"}, "cleanpath", standing=standing)
    measured = assert_quiet_and_fits(html, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert {view: undrawn(measured[view]) for view in ("phone", "desk")} == {"phone": 0, "desk": 0}


def test_a_page_that_is_live_is_loaded_again_and_finds_what_was_written(tmp_path: Path) -> None:
    standing = Standing(ended=0, failed=(), underway=(), waiting=1, seconds_left=None, at="12:00:00", every=1)
    one = table(cell("original", run(2.0, 0)))
    versions = [reproduction([one], {}, "cleanpath", standing=standing), reproduction([one], {}, "cleanpath")]
    loaded = []

    class Handler(BaseHTTPRequestHandler):
        """What was written by the time that the browser looks again is another page."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            if self.path == "/page.html":
                loaded.append(self.path)
                self.wfile.write(versions[min(len(loaded), 2) - 1].encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen = visit(f"http://127.0.0.1:{server.server_port}/page.html", tmp_path)
        server.shutdown()
    assert len(loaded) == 2  # the second does not load itself again
    assert 'id="live"' not in seen.dom


PRINTED = """
<!doctype html><meta charset="utf-8"><title>print</title>
<iframe id="page" style="border:0" width="700" height="900" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const view = document.getElementById("page").contentDocument, style = view.defaultView.getComputedStyle;
  const shown = selector => [...view.querySelectorAll(selector)].map(each => each.getBoundingClientRect().height > 0);
  document.body.appendChild(document.createElement("output")).textContent = JSON.stringify({{
    words: shown(".claims details"), said: shown(".claims details .about"), numbers: shown("details .data"),
    progress: shown("progress"), ground: style(view.body).backgroundColor, wide: view.documentElement.scrollWidth,
    heads: style(view.querySelector("thead")).display, rows: style(view.querySelector("tbody tr")).breakInside,
    marker: style(view.querySelector("summary")).listStyleType,
  }});
}};
</script>
"""


def test_on_paper_words_are_open_numbers_folded_and_nothing_is_dark(tmp_path: Path) -> None:
    """The rules for paper, made those of the screen; the screen's own are taken away, so that it could be dark."""
    standing = Standing(ended=0, failed=(), underway=(), waiting=1, seconds_left=None, at="12:00:00", every=600)
    html = reproduction([paper_table("table1"), paper_table("table2")], {}, "cleanpath", standing=standing)
    assert html.count("@media print") == 1
    printed = html.replace("@media screen", "@media speech").replace("@media print", "@media screen")
    file = tmp_path / "frames.html"
    file.write_text(PRINTED.format(page=escape(printed)), encoding="utf-8")
    seen = visit(file.as_uri(), tmp_path, "--blink-settings=preferredColorScheme=0")
    assert seen.console == ()
    (told,) = re.findall(r"<output>(.*?)</output>", seen.dom, re.DOTALL)
    found = json.loads(unescape(told))
    assert found["words"]
    assert all(found["words"])
    assert all(found["said"])
    assert len(found["said"]) == len(found["words"])
    assert not any(found["numbers"] + found["progress"])
    assert found["ground"] == "rgb(255, 255, 255)"
    assert found["wide"] <= 700
    assert (found["heads"], found["rows"], found["marker"]) == ("table-header-group", "avoid", "none")


def test_the_check_sees_what_a_page_must_not_do(tmp_path: Path) -> None:
    harm = '<script>alert(1)</script><div style="width:900px">.</div></main>'
    bad = render(page(clean())).replace("</main>", harm)
    measured, console = framed(bad, tmp_path)
    assert any("Content Security Policy" in line for line in console)
    assert measured["phone"]["scroll"] > PHONE
