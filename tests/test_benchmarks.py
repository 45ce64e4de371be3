"""What is claimed of speed is measured by a script that the page names, and judged the right way round."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import bench, figures, speed_tables, speed_targets
from benchmarks.bench import SCRIPTS
from benchmarks.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parent.parent
FILES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")}


def test_every_script_stands_in_the_table_of_all_scripts() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition("## All scripts")[2]
    scripts = {name for name, text in FILES.items() if '__name__ == "__main__"' in text}
    not_by_hand = {"sweep_child", "sweep_summary", "sweep_targets"}  # audit_sweep.py's
    assert {name for name in scripts - not_by_hand if f"`{name}.py`" not in page} == set()


def test_every_target_is_measured_by_a_script() -> None:
    elsewhere = {"audit": "audit_sweep", "gpu-110": "gpu_training", "gpu-164": "gpu_training"}
    for key in TARGETS:
        if key in elsewhere:
            assert elsewhere[key] in FILES
            continue
        stem = re.sub(r"\d+$", "", key)
        named = [
            name for name in (*SCRIPTS, "training_figures") if f'"{key}"' in FILES[name] or f'"{stem}{{' in FILES[name]
        ]
        assert named, key


def test_recorded_figures_are_of_targets_that_there_are() -> None:
    recorded = json.loads((ROOT / "results" / "bench.json").read_text(encoding="utf-8"))
    assert set(recorded) <= set(SCRIPTS)
    keys = {row["target"] for one in recorded.values() for row in one["figures"]}
    assert keys - {None} <= set(TARGETS)


def test_the_page_shows_what_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- begin: (\w+) -->\n(.*?)<!-- end -->", page, re.DOTALL))
    speed_targets.main()
    now = {"speed_targets": capsys.readouterr().out, **{name: table() for name, table in speed_tables.TABLES.items()}}
    assert shown == now, "run python docs/generate.py"


def test_a_target_is_met_from_above_or_from_below() -> None:
    ratio, share = Target("", 1.2, 1.5), Target("", 3.0, 1.0, "%")
    assert [ratio.met(value) for value in (1.1, 1.2, 2.0)] == [False, True, True]
    assert [share.met(value) for value in (3.1, 3.0, 0.5)] == [False, True, True]
    assert [ratio.aim_met(1.4), ratio.aim_met(1.5), share.aim_met(1.1), share.aim_met(1.0)] == [False, True] * 2
    assert not Target("", 1.2, None).aim_met(99.0)


def test_of_several_figures_for_a_target_the_worst_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {"processor": "P", "instructions": "I", "cores": 2, "torch": "2", "python": "3"}
    figures = [
        {"what": "", "value": value, "low": 0.0, "high": 9.0, "n": 3, "unit": "%", "target": "monitor", "more": ""}
        for value in (0.5, 3.5, 2.0)
    ]
    record = {"monitor_cost": {"machine": where, "figures": figures, "date": "today"}}
    (tmp_path / "bench.json").write_text(json.dumps(record))
    monkeypatch.setattr("benchmarks.recorded.FOLDER", tmp_path)
    monkeypatch.setattr("benchmarks.speed_targets.RESULTS", tmp_path / "none")
    assert speed_targets.measured()["monitor"].value == 3.5
    speed_targets.main()
    said = capsys.readouterr().out
    row = "| the monitor at every=100 | 3 | 1 | 3.5 % (0 to 9) | 3 | [1] | `monitor_cost` | "
    assert f"{row}**MISSED**, but not in all rounds |" in said
    assert f"0 of {len(TARGETS)} met, 1 missed, {len(TARGETS) - 1} not measured." in said
    assert all(
        "Not measured yet" in speed_tables.TABLES[name]()
        for name in ("training_speed", "step_profile", "one_layer", "audit_cost")
    )


def test_the_verdict_says_where_the_spread_crosses_what_is_wanted() -> None:
    target = Target("", 1.2, 1.5)

    def verdict(value: float, low: float, high: float) -> object:
        return speed_targets.Measured(value, low, high, 3, "", "").row(target, [""])[-1]

    assert verdict(1.3, 1.21, 1.4) == "met"
    assert verdict(1.3, 1.1, 1.4) == "met, but not in all rounds"
    assert verdict(1.1, 1.0, 1.3) == "**MISSED**, but not in all rounds"
    assert verdict(1.1, 1.0, 1.1) == "**MISSED**"


def test_records_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = speed_targets.measured()
    monkeypatch.chdir(tmp_path)
    assert before == speed_targets.measured() != {}
    assert bench.RESULTS == ROOT / "results" / "bench.json"


def test_a_table_that_there_is_not_is_told_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["nothing"]):
        monkeypatch.setattr("sys.argv", ["speed_tables", *words])
        with pytest.raises(SystemExit, match="2"):
            speed_tables.main()
        assert "training_speed" in capsys.readouterr().err


def test_a_script_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        said = json.dumps({"figures": [{"what": "it", "value": 1.0, "unit": "s"}]})
        return subprocess.CompletedProcess(command, int("grid" in command[2]), said)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "bench.json")
    monkeypatch.setattr("sys.argv", ["bench", "grid", "startup"])
    with pytest.raises(SystemExit, match="failed: grid"):
        bench.main()
    assert "it: 1 s" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "bench.json").read_text())) == ["startup"]


def test_rows_of_several_records_say_where_each_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"way": "plain", "images_per_second": 1, "times the plain one": [1, 1, 1], "seconds": [1], "memory": 1e9}
    where = {"processor": "P", "instructions": "I", "cores": 2, "torch": "2", "python": "3", "threads": 1}
    rows = [{**row, "share of its memory": 1.0}]
    records = [{"network": name, "side": 8, "rows": rows, "environment": where, "date": name} for name in ("a", "b")]
    (tmp_path / "training-speed.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    monkeypatch.setattr("benchmarks.recorded.FOLDER", tmp_path)
    said = speed_tables.training_speed()
    assert said.startswith("[1] P (I), 2 cores, torch 2, Python 3, a; [2] P (I), 2 cores, torch 2, Python 3, b.")
    assert "| a, 8×8, 1 [1] |" in said
    assert "| b, 8×8, 1 [2] |" in said


def test_figures_come_with_the_command_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/grid.py", "--few"])
    figures.show([figures.number("it", [1.0, 2.0, 3.0], unit="s")], as_json=False)
    command, machine, figure = capsys.readouterr().out.splitlines()
    assert command == "python -m benchmarks.grid --few"
    assert machine.startswith("processor ")
    assert figure == "it: 2 s (1 to 3, n = 3)"
