"""`reproduce`, `report` and `list tables` over every table and figure, with networks of three units and a few steps."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cleanpath import inventory, machine_speed, reproduction
from cleanpath.estimate import Speed
from cleanpath.experiment import Training
from cleanpath.paper import scales
from cleanpath.paper.claims import claims_within
from cleanpath.paper.hypotheses import CLAIMS
from cleanpath.paper.tables import RECIPES, experiments, missing, recipe_of
from cleanpath.records import Run, runs_below
from tests.helpers import Outcome, assert_user_error, here, nothing_written

_STEPS = Training(iterations=4, batch_size=32, lr=0.01, warmup=1)
# Scale quick with every network at its smallest.
SMALLEST = replace(
    scales.QUICK,
    seeds=1,
    networks={
        name: "cifar-resnet11-bottleneck"
        if "bottleneck" in small or name in ("ResNet-164", "ResNet-1001")
        else "cifar-resnet5-1layer"
        if "1layer" in small
        else "resnet8"
        for name, small in scales.QUICK.networks.items()
    },
    trainings={"": _STEPS, "first_paper": _STEPS},
)
UNIT = '''
"""A unit of a user's."""
import cleanpath
from cleanpath.nn.unit import ResidualUnit


@cleanpath.unit("{name}")
def made(parts):
    """{doc}"""
    return ResidualUnit(before=parts.before, shortcut=parts.shortcut, branch=parts.branch, after=parts.after)
'''
FEW = ("depth", "responses", "truncation", "warmup", "shortcuts", "table5", "figure1", "figure2")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and the smallest scale in the place of quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(scales.SCALES, "quick", SMALLEST)
    return tmp_path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder in which several tables and figures were reproduced, and what that printed."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(scales.SCALES, "quick", SMALLEST)
        outcome = here("reproduce", *FEW, "--workers", "2", "--json")
    assert outcome.code == 0, outcome.err
    return folder, outcome.json()


def reproduce(*words: str) -> Outcome:
    return here("reproduce", *words, "--workers", "2", "--json")


def cells(data: Any, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    table = next(table for table in data["tables"] if table["name"] == name)
    return {(row["row"], row["column"]): row for row in table["rows"]}


def assert_complete(data: Any, name: str) -> None:
    """Every cell of the table has a number, or is a competitor's, or says why not and what fills it."""
    found = cells(data, name)
    left_out = missing(recipe_of(name), SMALLEST)
    for key, row in found.items():
        if row["external"]:
            assert row["status"] == "external"
        elif key in left_out:
            assert (row["status"], row["n"], row["left_out"]) == ("missing", 0, left_out[key])
            assert f"cleanpath reproduce {name} --scale " in row["fill"]
            assert "GPU-hours" in row["fill"] or "cleanpath list tables" in row["fill"]
        else:
            assert row["status"] in ("ok", "fail"), row
            assert row["n"] == 1
            assert row["median"] is not None
    own = {key for key, row in found.items() if not row["external"]}
    assert own == {(row.key, column.key) for row, column in recipe_of(name).cells()}


@pytest.mark.parametrize("name", FEW)
def test_table_is_complete_and_says_where_it_comes_from(name: str, shared: tuple[Path, Any]) -> None:
    _, data = shared
    assert [table["name"] for table in data["tables"]] == list(FEW)
    assert_complete(data, name)


def test_numbers_that_are_measured_are_those_in_the_runs_folders(shared: tuple[Path, Any]) -> None:
    folder, data = shared
    for name, quantity in (("responses", "response"), ("truncation", "truncated")):
        for row in cells(data, name).values():
            (seed,) = row["seeds"]
            told = json.loads((folder / "runs" / seed["run"] / "measured.json").read_text())
            if row["quantity"] == quantity:
                assert row["median"] == told["end"][quantity]
                assert seed["series"][quantity]
    assert {row["quantity"] for row in cells(data, "truncation").values()} == {"negative_share", "truncated"}
    assert 0 < cells(data, "truncation")["original", "ResNet-164"]["median"] < 1


def test_every_run_of_the_first_seed_has_its_profiles(shared: tuple[Path, Any]) -> None:
    folder, _ = shared
    runs = runs_below(folder / "runs")
    assert runs
    for run in runs:
        assert (run.folder / "profile-start.json").is_file()
        assert (run.folder / "profile-end.json").is_file()
        assert (run.folder / "moments.json").is_file()


def test_second_call_trains_and_measures_nothing(shared: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = shared
    monkeypatch.chdir(folder)
    with nothing_written(folder / "runs"):
        again = reproduce(*FEW)
        reported = here("report", *FEW, "--json")
    assert again.json() == data
    assert reported.json() == data


def test_measurement_that_was_removed_is_made_again_without_training(
    shared: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = shared
    monkeypatch.chdir(folder)
    run = next(run for run in runs_below(folder / "runs") if run.name.startswith("plain"))
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    (run.folder / "measured.json").unlink()
    unmeasured = cells(here("report", "responses", "--json").json(), "responses")
    assert {row["status"] for key, row in unmeasured.items() if key[0].startswith("plain")} == {"missing"}
    assert reproduce("responses").json()["tables"][0] == data["tables"][FEW.index("responses")]
    changed = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {"measured.json", "profile-start.json", "profile-end.json"}


@pytest.mark.parametrize("form", ["text", "md", "csv"])
def test_tables_are_printed_in_every_format(
    form: str, shared: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared[0])
    outcome = here("report", *FEW, "--format", form)
    assert outcome.code == 0, outcome.err
    for name in FEW:
        if RECIPES[name].rows:
            assert name in outcome.out
    page = (shared[0] / "reports" / "reproduction.html").read_text(encoding="utf-8")
    assert "GPU-hours" in page
    assert "nothing is trained" in page
    if form == "text":
        assert "nothing small stands for ImageNet" in outcome.out
        assert "prints no numbers" in outcome.out


def test_drawing_alone_needs_no_run() -> None:
    outcome = reproduce("figure4")
    assert outcome.code == 0, outcome.err
    assert outcome.json()["tables"][0]["rows"] == []
    assert not Path("runs").exists()


def test_verdicts_are_in_data_terminal_and_markdown(shared: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = shared
    monkeypatch.chdir(folder)
    ids = [claim.id for claim in claims_within(CLAIMS, FEW)]
    assert [one["claim"]["id"] for one in data["verdicts"]] == ids
    # One seed decides nothing, and what the scale leaves out is not run.
    assert {one["verdict"] for one in data["verdicts"]} == {"undecided", "not_run"}
    for form in ("text", "md"):
        outcome = here("report", *FEW, "--format", form)
        first = outcome.out.splitlines()[0]
        assert first.startswith(f"{len(ids)} claims of the paper are about these tables: ")
        for one in data["verdicts"]:
            assert one["claim"]["sentence"] in outcome.out
    assert outcome.err.startswith("page: ")
    assert "1 seed cannot confirm any of" in here("reproduce", *FEW, "--dry-run", "--seeds", "1").err
    page = (folder / "reports" / "reproduction.html").read_text(encoding="utf-8")
    assert page.count('class="unit"') > 8  # figures 1 and 2, and the units of the rows
    assert 'class="gains" role="img"' in page


def test_cells_of_claims_alone_have_more_seeds(work: Path) -> None:
    outcome = reproduce("warmup", "responses", "--seeds", "claims=2")
    assert outcome.code == 0, outcome.err
    data = outcome.json()
    assert (data["seeds"], data["seeds_of_claims"]) == (1, 2)
    assert {row["n"] for row in cells(data, "warmup").values()} == {2}  # both are compared by H11a
    assert {row["n"] for row in cells(data, "responses").values()} == {1}
    assert {one["n"] for one in data["verdicts"]} == {2}
    assert all("--seeds claims=2" in one["fill"] for one in data["tables"])
    with nothing_written(work / "runs"):
        assert here("report", "warmup", "responses", "--seeds", "claims=2", "--json").json() == data


def job_of(*what: str, seeds: int | str | None, scale: str = "quick") -> reproduction.Reproduction:
    return reproduction.reproduction(
        what, scale=scale, seeds=seeds, all_columns=True, changes=[], root=Path("runs"), own_units=[]
    )


def test_plan_of_all_gives_ten_seeds_to_the_claims_that_the_scale_can_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--seeds claims` gives is enough to confirm, and the command that it names to contradict as well."""
    monkeypatch.setitem(scales.SCALES, "quick", scales.QUICK)
    plain, more = job_of("all", seeds=None), job_of("all", seeds="claims")
    wanted = {cell for claim in CLAIMS if claim.id not in scales.QUICK.undecidable for cell in claim.cells}
    for recipe in more.recipes:
        found = more.experiments(recipe)
        for row, column in {key[:2] for key in found}:
            n = sum(key[:2] == (row, column) for key in found)
            in_claims = (recipe.name, row, column) in wanted
            assert n == (10 if in_claims else 3), (recipe.name, row, column)
    assert len(plain.cells()) < len(more.cells()) < len(job_of("all", seeds=10).cells())
    few = plain.few_seeds()
    assert few is not None
    assert few.startswith("3 seeds cannot confirm any of ")
    told = more.few_seeds()
    assert told is not None
    assert told.startswith("10 seeds cannot contradict ")
    words = re.search(r"cleanpath reproduce all --scale quick --seeds (claims=\d+)", told)
    assert words is not None
    assert words[0] in few
    assert words[0] in (Path(__file__).parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")
    assert job_of("all", seeds=words[1]).few_seeds() is None


def test_strict_ends_with_1_where_a_claim_is_contradicted(
    shared: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared[0])
    assert here("report", "depth", "--strict").code == 0
    monkeypatch.setattr(reproduction, "contradicted", bool)
    assert here("report", "depth", "--strict").code == 1
    assert here("report", "depth").code == 0


# A folder of runs.


@pytest.mark.slow
def test_folder_of_runs_has_the_page_that_reproduce_wrote_and_one_for_all(work: Path) -> None:
    assert reproduce("warmup").code == 0
    page = (work / "reports" / "reproduction.html").read_bytes()
    one = here("report", "runs", "--page", "again.html", "--json")
    assert (one.code, one.err) == (0, "page: again.html\n")
    assert (work / "again.html").read_bytes() == page
    assert here("report", "runs", "--live", "--page", "live.html").code == 0  # all is done: it ends at once
    assert (work / "live.html").read_bytes() == page
    assert reproduce("truncation").code == 0
    with nothing_written(work / "runs"):
        both = here("report", "runs", "--page", "again.html", "--json")
    assert [path.name for path in sorted(work.glob("again*.html"))] == [
        *("again-truncation-quick.html", "again-warmup-quick.html", "again.html")
    ]
    assert (work / "again-warmup-quick.html").read_bytes() == page
    data = both.json()
    assert data["schema"] == "cleanpath.reports"
    (whole,) = data["reports"]
    assert [table["name"] for table in whole["tables"]] == ["truncation", "warmup"]
    assert whole["tables"][1] == one.json()["reports"][0]["tables"][0]
    for form in ("text", "md", "csv"):
        printed = here("report", "runs", "--format", form)
        assert "warmup" in printed.out
        assert "truncation" in printed.out


def test_folder_of_runs_is_asked_for_alone_and_says_itself_what_was_asked(work: Path) -> None:
    for folder in ("empty", "runs/one"):
        (work / folder).mkdir(parents=True)
    (work / "runs" / "one" / "experiment.json").write_text("{}")
    assert_user_error(here("report", "empty"), "nothing was reproduced in empty", "cleanpath reproduce")
    assert_user_error(here("report", "table1", "empty"), "empty is a folder", "alone")
    assert_user_error(here("report", "runs/one"), "runs/one is one run", "name the folder that holds the runs, runs")
    for option in (("--seeds", "3"), ("--scale", "quick"), ("--set", "seed=1"), ("--runs", "runs"), ("--with", "u.py")):
        assert_user_error(here("report", "empty", *option), f"{option[0]} is for tables", "recorded there")


# A user's own unit.


def test_unit_of_a_user_s_is_a_row_beside_the_paper_s(work: Path) -> None:
    Path("my_unit.py").write_text(UNIT.format(name="mine", doc="y = x + F(x), as the original."))
    outcome = reproduce("shortcuts", "warmup", "--with", "my_unit.py")
    assert outcome.code == 0, outcome.err
    data = outcome.json()
    mine = {key: row for key, row in cells(data, "shortcuts").items() if key[0] == "mine"}
    assert {column for _, column in mine} == {"ResNet-32", "ResNet-110"}
    for (_, column), row in mine.items():
        original = cells(data, "shortcuts")["original", column]
        assert row["median"] == original["median"]  # the same unit, the same seeds and images
        assert row["paper"] is None
        assert (row["label"], row["note"]) == ("mine (my_unit.py)", "y = x + F(x), as the original.")
        run = Run(work / "runs" / row["seeds"][0]["run"])
        assert run.experiment.network.shortcut.kind == "my_unit.py:mine"  # type: ignore[union-attr]
        assert (run.folder / "profile-start.json").is_file()
    assert not [key for key in cells(data, "warmup") if key[0] == "mine"]
    tables = {table["name"]: table for table in data["tables"]}
    assert "--with my_unit.py" in tables["shortcuts"]["fill"]
    assert "--with" not in tables["warmup"]["fill"]
    assert "mine (my_unit.py)" in (work / "reports" / "reproduction.html").read_text(encoding="utf-8")
    names = {run.name for run in runs_below(work / "runs")}
    Path("my_unit.py").write_text(UNIT.format(name="mine", doc="Another sentence."))
    changed = here("reproduce", "shortcuts", "--with", "my_unit.py", "--dry-run", "--json").json()
    # Other content is another experiment; the paper's rows stay.
    assert {row["run"] for row in changed["cells"] if row["status"] == "to do"} & names == set()
    assert changed["to_do"] == 1  # both columns are one network at this scale


@pytest.mark.parametrize(
    ("text", "words", "answer"),
    [
        (None, ("table1",), ["no file my_unit.py"]),
        ("def f(:\n", ("table1",), ["cannot import my_unit.py", "SyntaxError"]),
        ("x = 1\n", ("table1",), ["my_unit.py makes no unit", "@cleanpath.unit"]),
        (UNIT.format(name="dropout", doc="Mine."), ("table1",), ["table1 has a row 'dropout' already"]),
        (UNIT.format(name="mine", doc="Mine."), ("depth",), ["varies the unit", "table1"]),
        (UNIT.format(name="mine", doc="Mine.").replace("parts.after)", "parts.nothing)"), ("table1",), ["made()"]),
        (UNIT.format(name="mine", doc="Mine.").replace("import cleanpath", "import nowhere"), ("table1",), ["nowhere"]),
    ],
)
def test_file_that_makes_no_good_unit_is_refused_before_anything_runs(
    text: str | None, words: tuple[str, ...], answer: list[str], work: Path
) -> None:
    if text is not None:
        Path("my_unit.py").write_text(text)
    with nothing_written(work):
        assert_user_error(here("reproduce", *words, "--with", "my_unit.py"), *answer)


# Names, plans and lists.


def test_wrong_name_among_right_ones_is_refused() -> None:
    assert_user_error(here("reproduce", "table1", "figur1"), "no table 'figur1'", "figure1")
    assert_user_error(here("report", "everything"), "no table and no folder of runs 'everything'")


def test_plan_of_all_has_shared_cells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.SCALES, "quick", scales.QUICK)
    from cleanpath.reproduction import reproduction

    def count(*what: str) -> int:
        job = reproduction(what, scale="quick", seeds=None, all_columns=True, changes=[], root=Path("runs"))
        return len(job.cells())

    assert count("all") == count(*RECIPES) < sum(map(count, RECIPES))
    assert count("table1", "figure3") == count("table1") == 12 * 3


@pytest.mark.parametrize("name", ["table1", "table5"])
def test_plan_at_scale_paper_says_its_gpu_hours_and_tries_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(speed=Speed(per_layer=0.001, multiply_adds=1e10))
    monkeypatch.setattr(machine_speed, "measured", lambda: known)
    plan = here("reproduce", name, "--scale", "paper", "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert "GPU-hours" in plan.json()["how"]
    assert "estimate" in plan.json()["how"]
    assert plan.json()["seconds"] > 1e6
    assert plan.json()["disk"] > 1e8
    told = " ".join(here("reproduce", name, "--scale", "paper", "--dry-run").out.split())
    assert re.search(r"about [\d,]+ hours( \(until .*\))?, [\d,.]+ core-hours, [\d.]+ [GM]B on disk", told)


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of known speed."""
    monkeypatch.setattr(inventory, "_speed", lambda: Speed(per_layer=0.001, multiply_adds=1e10))


@pytest.mark.usefixtures("speed")
def test_list_has_every_table_with_its_cells_their_state_and_the_cost(
    shared: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared[0])
    rows = here("list", "tables", "--json").json()["tables"]
    by_name = {row["name"]: row for row in rows}
    assert list(by_name) == [*RECIPES, "all"]
    quick = {name: next(one for one in row["scales"] if one["scale"] == "quick") for name, row in by_name.items()}
    assert (quick["depth"]["finished"], quick["depth"]["seconds"]) == (quick["depth"]["runs"], 0.0)
    assert quick["table2"]["finished"] < quick["table2"]["runs"]
    assert quick["table2"]["seconds"] > 0
    assert quick["all"]["runs"] < sum(one["runs"] for name, one in quick.items() if name != "all")
    assert {one["row"]: one["scales"]["quick"] for one in by_name["table5"]["cells"]}["ResNet-152 original"][
        "left_out"
    ] == SMALLEST.reasons["ImageNet"]
    for row in by_name["depth"]["cells"]:
        assert row["scales"]["quick"] == {"left_out": "", "runs": 1, "finished": 1}
    paper = next(one for one in by_name["table3"]["scales"] if one["scale"] == "paper")
    assert paper["gpu_hours"] > 8 * 5 * 27  # four of its cells are ResNet-1001, five seeds each, about 54 hours a run
    printed = here("list", "tables", "depth").out
    assert "11/11 finished" not in printed  # rows share their networks at this scale
    assert "2/2 finished" in printed
    (line,) = (line for line in printed.splitlines() if "ResNet-1202 in CIFAR-10" in line)
    assert line.split() == ["depth", "ResNet-1202", "in", "CIFAR-10", "7.93", "1/1", "0/3", "0/5"]
    for row in here("list", "tables", "table5").out.splitlines()[1:13]:
        assert row.split()[-5:-1] == ["left", "out", "left", "out"]
    assert "GPU-h" in printed


@pytest.mark.parametrize("name", RECIPES)
def test_table_is_shown_as_the_paper_has_it(name: str) -> None:
    outcome = here("show", name)
    assert outcome.code == 0, outcome.err
    assert f"{name}: " in outcome.out


@pytest.mark.slow
def test_every_table_and_figure_is_reproduced_by_one_command(work: Path) -> None:
    outcome = reproduce("all")
    assert outcome.code == 0, outcome.err
    data = outcome.json()
    assert [table["name"] for table in data["tables"]] == list(RECIPES)
    for name in RECIPES:
        assert_complete(data, name)
    runs = {run.name for run in runs_below(work / "runs")}
    asked = {one for name in RECIPES for one in experiments(recipe_of(name), SMALLEST, seeds=[0]).values()}
    assert len(runs) <= len(asked)
    again = reproduce("all")
    assert again.json() == data
    page = work / "reports" / "reproduction.html"
    assert page.stat().st_size < 2e6
