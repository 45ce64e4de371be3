"""Wrong input of every kind: exit code 2, one or two lines that say what to do, and nothing written.

The numbers are the rows of the project's table of bad inputs that concern what exists now.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cleanpath import assemble, settings, single
from cleanpath.errors import SettingError
from cleanpath.records import Writer
from tests.helpers import assert_user_error, here, nothing_written, tiny


def train(*changes: str) -> list[str]:
    """A training with settings."""
    return ["train", "preresnet8", *(word for change in changes for word in ("--set", change))]


CASES: dict[str, tuple[list[str], list[str]]] = {
    "1 verb": (["trian"], ["trian", "train"]),
    "2 option": (["train", "preresnet8", "--epoch", "3"], ["--epoch", "--set training.epochs="]),
    "2 option of reproduce": (["reproduce", "table1", "--seed", "3"], ["--seed", "--seeds"]),
    "2 option without a value": (["train", "preresnet8", "--set"], ["--set"]),
    "3 network": (["show", "resnet-111"], ["no network 'resnet-111'", "resnet110", "cleanpath list networks"]),
    "4 depth": (["train", "resnet21"], ["depth 21 is not 6n+2", "nearest 20 and 26"]),
    "4 depth of show": (["show", "resnet21"], ["depth 21 is not 6n+2", "nearest 20 and 26"]),
    "5 bottleneck depth": (["show", "cifar-resnet165-bottleneck"], ["depth 165 is not 9n+2", "nearest 164 and 173"]),
    "5 ImageNet depth": (["show", "imagenet-resnet51"], ["no ImageNet network of depth 51", "50"]),
    "6 placement": (train("network.placement=preact"), ["no placement 'preact'", "full_preactivation"]),
    "7 shortcut": (train("network.shortcut.kind=gating"), ["no shortcut 'gating'", "exclusive_gating"]),
    "7 shortcut, shorter": (train("network.shortcut.kind=gate"), ["no shortcut 'gate'", "exclusive_gating"]),
    "7 shortcut without its setting": (train("network.shortcut.kind=scaling"), ["needs shortcut.scale"]),
    "7 setting that the shortcut does not read": (train("network.shortcut.rate=0.5"), ["does not read shortcut.rate"]),
    "8 no epochs": (train("training.epochs=0"), ["training.epochs is 0; must be >= 1"]),
    "9 epochs below 0": (train("training.epochs=-3"), ["training.epochs is -3; must be >= 1"]),
    "10 epochs in words": (train("training.epochs=ten"), ["training.epochs: 'ten' is not a whole number"]),
    "11 epochs as a power": (train("training.epochs=1e3"), ["'1e3' is not a whole number; write 1000"]),
    "12 lr nan": (train("training.lr=nan"), ["training.lr is nan; must be finite and > 0"]),
    "12 lr inf": (train("training.lr=inf"), ["training.lr is inf; must be finite and > 0"]),
    "13 lr below 0": (train("training.lr=-0.1"), ["training.lr is -0.1", "> 0"]),
    "14 batch of none": (train("training.batch_size=0"), ["training.batch_size is 0"]),
    "15 batch larger than the data": (train("training.batch_size=5000"), ["5000", "1297 training images", "lower it"]),
    "18 momentum": (train("training.momentum=1.5"), ["training.momentum is 1.5", "< 1"]),
    "19 drop past the end": (train("training.lr_drops=0.5,200"), ["training.lr_drops has 200.0"]),
    "19 warm-up past the end": (
        train("training.iterations=5", "training.warmup=5"),
        ["training.warmup is 5"],
    ),
    "28 set without a value": (train("training.epochs"), ["--set training.epochs: write key=value"]),
    "28 unknown setting": (train("training.epoch=3"), ["training.epoch", "training.epochs"]),
    "29 set twice": (train("training.lr=0.1", "training.lr=0.2"), ["training.lr is given twice: 0.1 and 0.2"]),
    "29 set twice, by option and setting": (
        ["train", "preresnet8", "--seed", "1", "--set", "seed=2"],
        ["seed is given twice"],
    ),
    "30 seed": (["train", "preresnet8", "--seed", str(2**70)], [str(2**70), "2**63"]),
    "30 seed below 0": (["train", "preresnet8", "--seed=-1"], ["seed is -1"]),
    "30 seed in words": (["train", "preresnet8", "--seed", "one"], ["--seed", "integer"]),
    "31 data set": (["train", "preresnet8", "--data", "digit"], ["no data set 'digit'", "digits"]),
    "31 split": (train("data.held_out=train"), ["data.held_out is 'train'", "validation"]),
    "7 shortcut in a file": (["train", "gate.toml"], ["no shortcut 'gate'", "exclusive_gating"]),
    "42 images too small": (["train", "resnet18"], ["ImageNet", "8×8"]),
    "20 unknown key in TOML": (["train", "key.toml"], ["key.toml", "training.epoch", "training.epochs"]),
    "21 key twice in TOML": (["train", "twice.toml"], ["twice.toml", "line 3"]),
    "22 TOML syntax": (["train", "syntax.toml"], ["syntax.toml", "line 2"]),
    "23 not UTF-8": (["train", "latin.toml"], ["latin.toml is not UTF-8 (byte 0xff at 11)"]),
    "24 config is a folder": (["train", "folder.toml"], ["folder.toml is a folder"]),
    "25 config missing": (["train", "missing.toml"], ["missing.toml does not exist"]),
    "26 newer format": (["train", "newer.toml"], ["format 3", "reads 1"]),
    "27 config too large": (["train", "large.toml"], ["1.0 MB", "limit is 1 MB"]),
    "config with a wrong type": (["train", "type.json"], ["network.depth is '8'", "int is needed"]),
    "config that is a list": (["train", "list.json"], ["list.json holds a list"]),
    "43 output is not a run": ([*train(), "--out", "mine"], ["mine is not a run", "nothing was touched"]),
    "44 output is a file": ([*train(), "--out", "notes.txt"], ["notes.txt is a file"]),
    "45 output below a file": ([*train("training.iterations=2"), "--out", "notes.txt/run"], ["notes.txt/run"]),
    "44 runs is a file": (["reproduce", "table1", "--runs", "notes.txt"], ["notes.txt is a file", "--runs"]),
    "47 another experiment": (
        [*train("training.lr=0.3"), "--out", "run"],
        ["run holds another experiment", "training.lr 0.05 (asked 0.3)"],
    ),
    "47 another experiment, planned": (
        [*train("training.lr=0.3"), "--out", "run", "--dry-run"],
        ["run holds another experiment"],
    ),
    "48 run in use": (["train", "tiny.toml", "--out", "held"], [f"is being written by process {os.getpid()}"]),
    "48 run in use, fresh": (
        ["train", "tiny.toml", "--out", "held", "--fresh"],
        [f"is being written by process {os.getpid()}"],
    ),
    "50 no run to show": (["show", "mine", "--json"], ["mine is not a run (no experiment.json)"]),
    "50 no run to compare": (["compare", "run", "mine"], ["mine is not a run (no experiment.json)"]),
    "50 nothing to compare": (["compare", "run", "nowhere"], ["nowhere is not a run"]),
    "51 experiment cut": (["show", "cut", "--json"], ["cut/experiment.json"]),
    "51 result cut": (["show", "damaged"], ["damaged/result.json is damaged", "train again"]),
    "51 result cut, compared": (["compare", "run", "damaged"], ["damaged/result.json is damaged"]),
    "compare of one": (["compare", "run"], ["at least two"]),
    "table": (["reproduce", "tabel1"], ["no table 'tabel1'", "table1"]),
    "table of report": (["report", "table9"], ["no table and no folder of runs 'table9'", "table1"]),
    "folder of report": (["report", "nowhere/runs"], ["no folder of runs 'nowhere/runs'", "cleanpath list tables"]),
    "scale": (["reproduce", "table1", "--scale", "quik"], ["no scale 'quik'", "quick"]),
    "own unit of no file": (["reproduce", "table1", "--with", "none.py"], ["no file none.py"]),
    "own unit of a text": (["reproduce", "table1", "--with", "notes.txt"], ["notes.txt"]),
    "own unit where none varies": (["reproduce", "depth", "--with", "notes.txt"], ["notes.txt"]),
    "seeds": (["reproduce", "table1", "--seeds", "0"], ["--seeds", "equal to 1"]),
    "seeds in words": (["report", "table1", "--seeds", "claim"], ["--seeds is 'claim'", "claims=N"]),
    "no seed of claims": (["report", "table1", "--seeds", "claims=0"], ["--seeds is 'claims=0'"]),
    "workers": (["reproduce", "table1", "--workers", "0"], ["--workers", "equal to 1"]),
    "columns": (["reproduce", "table1", "--columns", "second"], ["--columns", "first", "all"]),
    "threads": (["train", "preresnet8", "--threads", "0"], ["--threads", "equal to 1"]),
    "format": (["report", "table1", "--format", "yaml"], ["--format is 'yaml'", "text, md, csv"]),
    "page is a folder": (["report", "table1", "--page", "mine"], ["--page mine is a folder"]),
    "list of nothing": (["list", "tabels"], ["tabels", "tables"]),
    "size": (["show", "resnet8", "--size", "0"], ["--size", "equal to 1"]),
    "no argument": (["train"], ["network"]),
    "one argument too many": (["show", "resnet8", "resnet20"], ["resnet20"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and folders of every wrong kind, one good run, and one run that is held."""
    root = tmp_path_factory.mktemp("bad")
    good = settings.to_toml(tiny())
    usual = single.experiment_of("preresnet8", [])
    texts = {
        "tiny.toml": good,
        "gate.toml": settings.to_toml(tiny("network.shortcut.kind=gate")),
        "key.toml": good.replace("iterations =", "epoch ="),
        "twice.toml": "format = 1\nseed = 1\nseed = 2\n",
        "syntax.toml": "format = 1\nseed 1\n",
        "newer.toml": good.replace("format = 1", "format = 3"),
        "large.toml": "#" * 1_000_001,
        "type.json": json.dumps(settings.to_data(tiny())).replace('"depth": 8', '"depth": "8"'),
        "list.json": "[]",
        "notes.txt": "mine",
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "latin.toml").write_bytes(b"format = 1\n\xff")
    (root / "folder.toml").mkdir()
    (root / "mine").mkdir()
    (root / "mine" / "notes.txt").write_text("mine")
    for name in ("run", "cut", "damaged"):
        with Writer(root / name, usual, {}) as writer:
            writer.finish({"status": "finished", "error": 1.0})
    (root / "cut" / "experiment.json").write_text('{"format": 1,')
    (root / "damaged" / "result.json").write_text('{"status":')
    return root


@pytest.mark.parametrize(("words", "answer"), CASES.values(), ids=CASES)
def test_wrong_input_is_answered_in_a_line_and_nothing_is_written(
    words: list[str], answer: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if "held" in words:
        with Writer(folder / "held", tiny(), {}), nothing_written(folder):
            outcome = here(*words)
    else:
        with nothing_written(folder):
            outcome = here(*words)
    assert_user_error(outcome, *answer)


def test_page_that_cannot_be_written_is_the_user_s_to_mend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with nothing_written(folder):
        assert_user_error(here("report", "table1", "--page", "notes.txt/page.html"), "notes.txt")


@pytest.mark.parametrize("content", ['{"error": 1.0}', '{"status": "odd"}', "{}"])
@pytest.mark.parametrize("words", [["show", "odd"], ["list", "runs", "--runs", "."]], ids=" ".join)
def test_result_without_what_belongs_in_it_is_no_bug_of_ours(
    words: list[str], content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Writer(tmp_path / "odd", tiny(), {}) as writer:
        writer.finish({"status": "finished"})
    (tmp_path / "odd" / "result.json").write_text(content)
    outcome = here(*words)
    if words[0] == "list":
        assert (outcome.code, "damaged" in outcome.out) == (0, True), outcome.err
    else:
        assert_user_error(outcome, "result.json", "damaged")


def test_network_larger_than_the_memory_is_the_user_s_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = here("train", "preresnet8", "--set", "network.width=200000", "--threads", "1")
    assert_user_error(outcome, "memory")


@pytest.mark.parametrize("setting", ["network.in_channels=3", "network.num_classes=100"])
def test_setting_that_does_not_fit_the_data_is_not_overruled_in_silence(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with nothing_written(tmp_path):
        assert_user_error(here("train", "preresnet8", "--set", setting, "--dry-run"), setting.partition("=")[0])


def test_what_is_found_wrong_before_the_first_step_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise SettingError("the weights do not go together")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assemble, "train", wrong)
    assert_user_error(here("train", "preresnet8", "--out", "run"), "the weights do not go together")
    assert [*tmp_path.iterdir()] == []
