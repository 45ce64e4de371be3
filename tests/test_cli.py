"""The verbs: help, examples, JSON, exit codes, and what a terminal or a pipe gets."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import cleanpath
from cleanpath import cli, reproduction, settings
from cleanpath.nn import catalog
from cleanpath.records import Writer
from cleanpath.report import listing
from tests.helpers import ONE, TINY, here, nothing_written, outside, tiny

VERBS = (
    *("list", "show", "train", "reproduce", "report", "compare", "audit", "explain", "forecast"),
    *("doctor", "evaluate", "predict", "export"),
)
COMMAND: Any = typer.main.get_command(cli.app)
TRAIN = ("--set", "network.width=4", "--set", "training.iterations=3", "--threads", "1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs below `runs`, named a and b, of different rates."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for name, lr in (("a", "0.1"), ("b", "0.2")):
            outcome = here("train", "preresnet8", *TRAIN, "--set", f"training.lr={lr}", "--out", f"runs/{name}")
            assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def work(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the working directory."""
    monkeypatch.chdir(runs)
    return runs


# Help.


def test_verbs_are_the_known_ones() -> None:
    assert set(COMMAND.commands) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_says_what_it_does_and_gives_examples_that_parse(verb: str, work: Path) -> None:  # noqa: ARG001
    text = COMMAND.commands[verb].help
    sentence, _, rest = text.partition("\n\n")
    assert sentence.endswith(".")
    assert rest.startswith("Examples: ")
    examples = [shlex.split(example) for example in rest.removeprefix("Examples: ").split(";")]
    assert len(examples) == 2
    for program, name, *words in examples:
        assert (program, name) == ("cleanpath", verb)
        context = COMMAND.commands[verb].make_context(verb, words)
        assert context.params


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_of_a_verb_is_explained(verb: str) -> None:
    for parameter in COMMAND.commands[verb].params:
        assert parameter.help, f"{verb} {parameter.name}"


@pytest.mark.parametrize("words", [(), *((verb,) for verb in VERBS)], ids=["", *VERBS])
def test_help_is_printed_on_stdout_and_ends_with_0(words: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        outcome = here(*words, option)
        assert outcome.code == 0
        assert outcome.out.startswith("Usage: ")
        assert outcome.err == ""
        assert "\x1b" not in outcome.out


def test_help_names_every_verb() -> None:
    text = here("--help").out
    assert all(f"\n  {verb} " in text for verb in VERBS)


def test_version_is_the_package_s() -> None:
    assert here("--version").out == f"cleanpath {cleanpath.__version__}\n"


WITHOUT_TORCH = """
import sys
from cleanpath.cli import main
sys.argv = ["cleanpath", *sys.argv[1:]]
try:
    main()
finally:
    loaded = sorted({"torch", "safetensors", "sklearn"} & set(sys.modules))
    print("LOADED", *loaded, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["reproduce", "--help"],
        ["list", "networks"],
        ["list", "tables"],
        ["list", "runs"],
        ["list", "settings"],
        ["list", "data"],
        ["show", "table1"],
        ["show", "runs/a"],
        ["compare", "runs/a", "runs/b"],
        ["report", "table1", "table2", "--page", "page.html"],
    ],
    ids=" ".join,
)
def test_verb_that_only_reads_does_not_import_torch(words: list[str], work: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, cwd=work, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "LOADED"
    assert done.stdout


def test_probe_for_torch_finds_it_where_it_is(work: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "show", "resnet8"], capture_output=True, text=True, cwd=work, check=False
    )
    assert "torch" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_finished_reproduction_is_printed_without_torch(tmp_path: Path) -> None:
    words = ("reproduce", "table2", *TINY, *ONE, "--json")
    first = outside(*words, cwd=tmp_path)
    assert first.code == 0, first.err
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stderr.splitlines()[-1] == "LOADED"
    assert done.stdout == first.out
    page = (tmp_path / "reports" / "reproduction.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "full pre-activation" in page


# Results.

AS_JSON = {
    "list networks": (["list", "networks", "--json"], "cleanpath.list.networks", {"networks"}),
    "list tables": (["list", "tables", "--json"], "cleanpath.list.tables", {"tables"}),
    "list data": (["list", "data", "--json"], "cleanpath.list.data", {"data"}),
    "list runs": (["list", "runs", "--json"], "cleanpath.list.runs", {"runs"}),
    "list settings": (["list", "settings", "--json"], "cleanpath.list.settings", {"settings"}),
    "show network": (["show", "preresnet20", "--json"], "cleanpath.network", {"parameters", "macs", "depth", "units"}),
    "show table": (["show", "table1", "--json"], "cleanpath.published", {"name", "rows"}),
    "show run": (["show", "runs/a", "--json"], "cleanpath.run", {"status", "experiment", "environment", "result"}),
    "train": (
        ["train", "preresnet8", *TRAIN, "--set", "training.lr=0.1", "--out", "runs/a", "--json"],
        "cleanpath.run",
        {"status", "result"},
    ),
    "train --dry-run": (
        ["train", "preresnet8", *TRAIN, "--dry-run", "--json"],
        "cleanpath.run_plan",
        {"folder", "digest", "experiment", "seconds", "memory"},
    ),
    "report": (["report", "table1", "--json"], "cleanpath.tables", {"tables"}),
    "compare": (["compare", "runs/a", "runs/b", "--json"], "cleanpath.comparison", {"runs", "settings", "results"}),
    "audit": (["audit", "resnet8", "--json"], "cleanpath.profile", {"verdict", "units", "network", "not_seen"}),
    "audit --against": (
        ["audit", "resnet8", "--against", "preresnet8", "--json"],
        "cleanpath.profile_comparison",
        {"here", "there", "differences"},
    ),
    "list rules": (["list", "rules", "--json"], "cleanpath.list.rules", {"rules"}),
    "explain": (["explain", "CP104", "--json"], "cleanpath.rule", {"code", "name", "title", "sections"}),
    "forecast": (
        ["forecast", "preresnet8", *TRAIN, "--json"],
        "cleanpath.forecast",
        {"outcome", "probabilities", "reasons", "changes", "measured", "doubts", "experiment"},
    ),
    "doctor": (["doctor", "--json"], "cleanpath.doctor", {"checks"}),
}


@pytest.mark.parametrize(("words", "schema", "keys"), AS_JSON.values(), ids=AS_JSON)
def test_json_is_all_of_stdout_and_has_schema_and_version(
    words: list[str],
    schema: str,
    keys: set[str],
    work: Path,  # noqa: ARG001
) -> None:
    outcome = here(*words)
    assert outcome.code == 0, outcome.err
    data = outcome.json()
    assert (data["schema"], data["version"]) == (schema, 1)
    assert set(data) >= keys


def test_every_verb_has_json() -> None:
    verbs = {words[0] for words, _, _ in AS_JSON.values()} | {
        "reproduce",
        "evaluate",
        "predict",
        "export",
    }  # test_grid.py, test_trained.py
    assert verbs == set(VERBS)


def test_one_schema_name_is_one_schema(work: Path) -> None:  # noqa: ARG001
    listed, reported = (here(*AS_JSON[name][0]).json() for name in ("list tables", "report"))
    assert listed["schema"] != reported["schema"] or set(listed["tables"][0]) == set(reported["tables"][0])


@pytest.mark.parametrize("name", [name for name in AS_JSON if name != "report"])
def test_plain_output_has_no_escape_and_no_json(name: str, work: Path) -> None:  # noqa: ARG001
    outcome = here(*(word for word in AS_JSON[name][0] if word != "--json"))
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip()
    assert not {"\x1b", "\r"} & set(outcome.out + outcome.err)
    assert not outcome.out.startswith("{")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("ascii", "show preresnet20"),
        ("ascii", "audit resnet8"),
        ("ascii", "report table1"),
        pytest.param("latin-1", "report table1", marks=pytest.mark.slow),
        pytest.param("cp1252", "audit resnet8", marks=pytest.mark.slow),
    ],
)
def test_a_terminal_without_our_letters_gets_plain_ones(encoding: str, words: str, work: Path) -> None:
    outcome = outside(*words.split(), cwd=work, PYTHONIOENCODING=encoding)
    assert outcome.code == 0, outcome.err
    assert "?" not in outcome.out


@pytest.mark.parametrize(("words", "every"), [((), True), (("--columns", "first"), False)])
def test_report_takes_the_columns_that_reproduce_takes(
    words: tuple[str, ...],
    every: bool,  # noqa: FBT001
    work: Path,  # noqa: ARG001
) -> None:
    assert here("report", "table2", *words, "--json").json()["all_columns"] is every


@pytest.mark.parametrize("form", ["text", "md", "csv"])
def test_report_is_printed_in_every_format(form: str, work: Path) -> None:  # noqa: ARG001
    outcome = here("report", "table1", "table2", "--format", form)
    assert outcome.code == 0
    assert "\x1b" not in outcome.out
    assert outcome.out.count("bn_after_addition" if form in ("csv", "json") else "BN after addition") >= 2
    assert outcome.err == "page: reports/reproduction.html\n"


def test_report_without_runs_says_how_to_fill_the_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = here("report", "table1")
    assert outcome.code == 0
    assert "cleanpath reproduce table1 --scale quick" in outcome.out
    assert not (tmp_path / "runs").exists()


def test_list_takes_a_pattern(work: Path) -> None:  # noqa: ARG001
    found = [row["name"] for row in here("list", "networks", "pre*", "--json").json()["networks"]]
    assert found == [name for name in catalog.names() if name.startswith("pre")]
    assert [row["name"] for row in here("list", "runs", "a", "--json").json()["runs"]] == ["a"]
    assert here("list", "runs", "nothing").out == "none\n"


def test_listed_settings_are_those_that_set_takes(work: Path) -> None:  # noqa: ARG001
    assert [row["name"] for row in here("list", "settings", "--json").json()["settings"]] == list(settings.names())


def test_listed_runs_say_status_and_error(work: Path) -> None:
    found = {row["name"]: row for row in here("list", "runs", "--json").json()["runs"]}
    assert set(found) == {"a", "b"}
    result = json.loads((work / "runs" / "a" / "result.json").read_text())
    assert (found["a"]["status"], found["a"]["error"], found["a"]["iterations"]) == ("finished", result["error"], 3)


def test_compare_lists_what_differs_and_nothing_else(work: Path) -> None:  # noqa: ARG001
    data = here("compare", "runs/a", "runs/b", "--json").json()
    assert data["runs"] == ["a", "b"]
    assert data["settings"] == {"training.lr": [0.1, 0.2]}
    assert data["results"]["status"] == ["finished", "finished"]
    assert data["results"]["iterations"] == [3, 3]
    text = here("compare", "runs/a", "runs/b").out
    assert "training.lr" in text
    assert "training.momentum" not in text


def test_compare_shows_where_runs_ran_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where: dict[str, Any] = {"threads": 1, "torch": "2.14.1", "processor": "A", "cores": 2}
    others: dict[str, dict[str, Any]] = {"a": {}, "b": {"cores": 8}}
    others["c"] = {"processes": 2, "processor": "B", "threads": 2}
    for name, other in others.items():
        with Writer(tmp_path / name, tiny(), {**where, **other}):
            pass
    with Writer(tmp_path / "bare", tiny(), {}):
        pass
    data = here("compare", "a", "b", "c", "--json").json()
    assert data["environment"] == {"processes": [1, 1, 2], "threads": [1, 1, 2], "processor": ["A", "A", "B"]}
    assert here("compare", "a", "b", "--json").json()["environment"] == {}
    assert here("compare", "a", "bare", "--json").json()["environment"]["torch"] == ["2.14.1", None]
    lines = here("compare", "a", "c").out.splitlines()
    assert [line.strip() for line in lines if len(line.split()) == 1] == ["environment", "results"]
    assert lines[2].split() == ["processes", "1", "2"]


def test_run_that_ended_is_not_trained_again_unless_fresh(work: Path) -> None:
    words = ("train", "preresnet8", *TRAIN, "--set", "training.lr=0.1", "--out", "runs/a")
    with nothing_written(work / "runs"):
        again = here(*words)
    assert again.code == 0
    assert "ended before; nothing to do" in again.err
    before = (work / "runs" / "a" / "result.json").stat().st_mtime_ns
    weights = (work / "runs" / "a" / "weights.safetensors").read_bytes()
    assert here(*words, "--fresh").code == 0
    assert (work / "runs" / "a" / "result.json").stat().st_mtime_ns > before
    assert (work / "runs" / "a" / "weights.safetensors").read_bytes() == weights


def test_train_without_out_makes_a_run_below_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = here("train", "preresnet8", "--data", "digits", "--seed", "3", *TRAIN, "--json")
    data = outcome.json()
    assert data["folder"] == f"runs/{data['name']}"
    assert (tmp_path / data["folder"] / "result.json").is_file()
    assert data["experiment"]["seed"] == 3
    assert data["name"].startswith("preresnet8-digits-s3-")


def test_printed_toml_is_the_experiment_and_runs_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = here("train", "preresnet8", *TRAIN, "--dry-run", "--json").json()
    Path("again.toml").write_text(plan["toml"])
    again = here("train", "again.toml", "--dry-run", "--json").json()
    assert again["digest"] == plan["digest"]
    assert settings.read(Path("again.toml")) == settings.from_data(plan["experiment"])
    text = here("train", "preresnet8", *TRAIN, "--dry-run").out
    assert plan["toml"].strip() in text


def test_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with nothing_written(tmp_path):
        outcome = here("train", "preresnet8", *TRAIN, "--dry-run")
        assert outcome.code == 0
        assert "nothing was written" in outcome.out
        grid = here("reproduce", "table2", *TINY, *ONE, "--dry-run")
        assert grid.code == 0, grid.err
        assert "5 of 5 to do" in grid.out
        assert "nothing was written" in grid.out
        assert "not in these times: the start of torch and of a process for every run; what is measured on" in grid.out


# Exit codes and odd surroundings.


def test_bug_of_ours_ends_with_3_and_shows_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(listing, "rows", broken)
    outcome = here("list", "networks")
    assert outcome.code == 3
    assert "RuntimeError: the moon is full" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: this is a bug of cleanpath; please report it")
    assert outcome.out == ""


def test_crashed_cell_ends_the_reproduction_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanpath.records import record_failure

    monkeypatch.chdir(tmp_path)

    def crash(job: reproduction.Reproduction, **_: Any) -> None:
        for cell in job.cells():
            record_failure(cell.folder, "no memory")

    monkeypatch.setattr(reproduction, "run", crash)
    outcome = here("reproduce", "table2", *TINY, *ONE)
    assert outcome.code == 1
    assert outcome.out.count("failed") == 5


def test_interrupt_outside_of_a_run_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "rows", stop)
    outcome = here("list", "networks")
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("words", "code"), [(["list", "networks"], 0), (["show", "resnet9"], 2), (["trian"], 2)])
def test_module_answers_as_the_script_does(words: list[str], code: int, tmp_path: Path) -> None:
    module = outside(*words, cwd=tmp_path)
    script = subprocess.run(
        [str(Path(sys.executable).with_name("cleanpath")), *words],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        check=False,
    )
    assert (module.code, module.out, module.err) == (code, script.stdout, script.stderr)
    assert script.returncode == code


@pytest.mark.parametrize("words", [["list", "networks"], ["list", "networks", "--json"], ["--help"]], ids=" ".join)
def test_reader_that_has_gone_is_no_error(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "cleanpath", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0


def test_closed_stdout_is_no_bug(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{shlex.quote(sys.executable)} -m cleanpath list networks >&-"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    "environment",
    [{"COLUMNS": "20"}, {"LANG": "C", "LC_ALL": "C"}, {"TERM": "dumb"}, {"HOME": "/nowhere"}],
    ids=lambda environment: next(iter(environment)),
)
def test_odd_surroundings_change_nothing_that_is_printed(environment: dict[str, str], tmp_path: Path) -> None:
    plain = outside("show", "table2", cwd=tmp_path)
    odd = outside("show", "table2", cwd=tmp_path, **environment)
    assert (odd.code, odd.err) == (0, "")
    assert odd.out == plain.out


def test_folder_with_spaces_quotes_and_emoji_is_a_folder_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a 'b' \"c\" 🙂 [red]"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run = here("train", "preresnet8", *TRAIN, "--out", "my [bold] run")
    assert run.code == 0, run.err
    assert "my [bold] run" in run.out
    assert "my [bold] run" in here("show", "my [bold] run").out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cleanpath rep", {"reproduce", "report"}),
        ("cleanpath reproduce ta", {f"table{number}" for number in range(1, 6)}),
        ("cleanpath reproduce al", {"all"}),
        ("cleanpath show figure", {f"figure{number}" for number in range(1, 7)}),
        ("cleanpath show preresnet11", {"preresnet110"}),
        ("cleanpath compare runs/", {"runs/a", "runs/b"}),
    ],
)
def test_shell_completes_verbs_tables_networks_and_runs_without_torch(
    words: str, expected: set[str], work: Path
) -> None:
    code = (
        "import sys; from cleanpath.cli import main; sys.argv = ['cleanpath']\n"
        "try: main()\nfinally: sys.stderr.write(str('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=work,
        env={
            **os.environ,
            "_CLEANPATH_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        check=False,
    )
    assert set(done.stdout.split()) == expected, done.stderr
    assert done.stderr.endswith("False")


def test_command_of_a_message_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanpath.usage import this_command

    words = ["train", "my file.toml", "--set", "training.lr_drops=[0.5, 0.7]", "--fresh"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/cleanpath", *words])
    assert shlex.split(this_command()) == ["cleanpath", *words]
    assert shlex.split(this_command(without="--fresh")) == ["cleanpath", *words[:-1]]


def test_library_and_command_name_a_run_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(settings.to_toml(tiny()))
    assert here("train", "mine.toml", "--dry-run", "--json").json()["digest"] == settings.digest(tiny())
