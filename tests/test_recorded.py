"""What was asked of a folder of runs: recorded beside them, read again, and put together."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cleanpath.errors import UserError
from cleanpath.paper.tables import RECIPES
from cleanpath.recorded import Asked, asked_of, check_runs, pages_of, record, recorded
from cleanpath.records import Writer
from cleanpath.reproduction import Reproduction, reproduction
from tests.helpers import tiny

PAGE = Path("reports/page.html")


def job(
    root: Path, *what: str, seeds: str | None = None, scale: str = "quick", changes: tuple[str, ...] = ()
) -> Reproduction:
    return reproduction(what, scale=scale, seeds=seeds, all_columns=True, changes=changes, root=root)


def places(root: Path) -> dict[str, list[str]]:
    """The pages of a folder: name to tables, those for all first."""
    whole, single = pages_of(root, PAGE, "cleanpath report runs")
    return {one.path.name: [recipe.name for recipe in one.job.recipes] for one in (*whole, *single)}


@pytest.mark.parametrize("seeds", [None, "2", "claims", "claims=7"])
@pytest.mark.parametrize("what", [("table1",), ("depth", "table2"), ("all",)])
def test_what_was_recorded_asks_for_the_same_runs(what: tuple[str, ...], seeds: str | None, tmp_path: Path) -> None:
    before = job(tmp_path, *what, seeds=seeds, changes=("training.lr=0.03",))
    record(before, "cleanpath reproduce so")
    (asked,) = recorded(tmp_path)
    after = asked.reproduction(tmp_path)
    assert after.cells() == before.cells()
    assert (after.recipes, after.seeds, after.changes) == (before.recipes, before.seeds, before.changes)
    assert (asked.what, asked.command) == (what, "cleanpath reproduce so")


def test_record_is_written_once_per_reproduction_and_keeps_its_last_command(tmp_path: Path) -> None:
    record(job(tmp_path, "table1"), "one")
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    record(job(tmp_path, "table1"), "one")
    assert path.stat().st_mtime_ns == written
    record(job(tmp_path, "table1"), "two")
    record(job(tmp_path, "table1", seeds="9"), "three")
    assert {one.command for one in recorded(tmp_path)} == {"two", "three"}


def test_drawing_has_no_runs_to_record(tmp_path: Path) -> None:
    record(job(tmp_path / "runs", "figure2"), "cleanpath reproduce figure2")
    assert not (tmp_path / "runs").exists()


def test_page_of_one_reproduction_is_the_page_of_all(tmp_path: Path) -> None:
    record(job(tmp_path, "table1", "table2"), "cleanpath reproduce table1 table2")
    ((page,), single) = pages_of(tmp_path, PAGE, "cleanpath report runs")
    assert single == ()
    assert (page.path, page.command) == (PAGE, "cleanpath reproduce table1 table2")


def test_several_reproductions_have_a_page_each_and_one_for_all_of_a_way(tmp_path: Path) -> None:
    for what in (("table2", "depth"), ("table1",)):
        record(job(tmp_path, *what), " ".join(what))
    assert places(tmp_path) == {
        "page.html": ["table1", "table2", "depth"],
        "page-table1-quick.html": ["table1"],
        "page-table2-depth-quick.html": ["table2", "depth"],
    }
    record(job(tmp_path, "table1", scale="laptop"), "other scale")
    record(job(tmp_path, "table1", changes=("training.lr=0.03",)), "other settings")
    found = places(tmp_path)
    assert len(found) == 5  # no page has two numbers for one row
    assert found["page-laptop.html"] == found["page-table1-quick.html"] == ["table1"]
    assert found["page-quick.html"] == ["table1", "table2", "depth"]
    known = {"page-laptop.html", "page-quick.html", "page-table1-quick.html", "page-table2-depth-quick.html"}
    (changed,) = set(found) - known
    assert re.fullmatch(r"page-quick-lr-0\.03-[0-9a-f]{4}\.html", changed)


def test_report_of_runs_that_are_not_there_is_refused_where_others_are(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    check_runs(job(runs, "figure2"), named=True)  # trains nothing
    changed = job(runs, "table1", seeds="1", changes=("training.lr=0.03",))
    check_runs(changed)
    with pytest.raises(UserError, match=r"none of the 12 runs that were asked for is in .* make these") as raised:
        check_runs(changed, named=True)
    assert "what was reproduced there" not in str(raised.value)
    record(changed, "cleanpath reproduce table1 --set training.lr=0.03")
    with pytest.raises(UserError, match=r"there: cleanpath reproduce table1 --set training\.lr=0\.03; ask for those"):
        check_runs(job(runs, "table1", seeds="1"))
    check_runs(changed)  # recorded, and not begun yet


@pytest.mark.parametrize(
    ("one", "other", "both"), [("2", "4", "4"), ("3", "claims=10", "claims=10"), ("5", "claims=10", "10")]
)
def test_page_of_all_has_the_most_seeds(one: str, other: str, both: str, tmp_path: Path) -> None:
    record(job(tmp_path, "table1", seeds=one), "one")
    record(job(tmp_path, "table2", seeds=other), "other")
    ((whole,), _) = pages_of(tmp_path, PAGE, "report")
    assert whole.job.seeds.option == f"--seeds {both}"
    assert whole.command == "report"


def test_all_is_one_word_again_and_a_long_name_is_short(tmp_path: Path) -> None:
    assert asked_of(job(tmp_path, *RECIPES), "").what == ("all",)
    asked = Asked(what=tuple(RECIPES)[:12], scale="quick", seeds="3", all_columns=True)
    assert asked.in_short == f"12-tables-{asked.digest}"
    assert replace(asked, what=("table1",)).in_short == "table1-quick"
    assert replace(asked, seeds="4").digest != asked.digest == replace(asked, command="x").digest


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"schema": "cleanpath.reproduction", "version": 1, "what": ["table1"]}'], ids=str
)
def test_damaged_record_is_named_with_what_to_do(text: str, tmp_path: Path) -> None:
    (tmp_path / "reproduction-0.json").write_text(text)
    with pytest.raises(UserError, match=r"reproduction-0\.json is damaged .*; remove it"):
        recorded(tmp_path)


@pytest.mark.parametrize("change", [{"version": 2}, {"what": ["table9"]}, {"scale": "huge"}], ids=str)
def test_record_of_another_version_is_not_read(change: dict[str, object], tmp_path: Path) -> None:
    record(job(tmp_path, "table1"), "so")
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match="another cleanpath"):
        recorded(tmp_path)


def test_folder_without_runs_and_a_single_run_are_answered_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was reproduced in"):
        recorded(tmp_path)
    run = tmp_path / "run"
    with Writer(run, tiny(), {}) as writer:
        writer.finish({"status": "finished"})
    with pytest.raises(UserError, match="nothing was reproduced in"):  # by `train`
        recorded(tmp_path)
    with pytest.raises(UserError, match=f"is one run; name the folder that holds the runs, {tmp_path}"):
        recorded(run)
