"""A user's own unit: one decorator in a file of their own, then trained, resumed, shown and loaded like the paper's."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cleanpath
from cleanpath import assemble, settings, single
from cleanpath.errors import Request, RunError, SettingError, Stopped, UserError
from cleanpath.experiment import Experiment, Network, Shortcut
from cleanpath.grid import local, plan
from cleanpath.naming import default_name
from cleanpath.nn import kinds, own
from cleanpath.nn.resnet import build
from cleanpath.nn.unit import ResidualUnit
from cleanpath.records import Writer, check_folder
from cleanpath.reproduction import reproduction
from tests.helpers import assert_same_run, assert_user_error, here, network_of, nothing_written, tiny
from tests.nn.networks import tiny as tiny_network

SOURCE = '''
"""Two units of my own."""
import cleanpath
from torch import nn
from cleanpath.nn.unit import ResidualUnit
from factor import HALF


class Half(nn.Module):
    def __init__(self, shortcut):
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x):
        return HALF * self.shortcut(x)


class Whole(nn.Module):
    """A unit that is no h + F."""

    def __init__(self, parts):
        super().__init__()
        self.first = nn.Conv2d(parts.in_channels, parts.out_channels, 3, stride=parts.stride, padding=1, bias=False)
        self.norm = parts.norm(parts.out_channels)
        self.second = nn.Linear(1, 1, bias=False)

    def initialise(self):
        nn.init.constant_(self.first.weight, 0.5)

    def forward(self, x):
        return self.norm(self.first(x)).relu()


@cleanpath.unit("halved")
def halved(parts):
    """y = x/2 + F(x).

    More of it.
    """
    return ResidualUnit(before=parts.before, shortcut=Half(parts.shortcut), branch=parts.branch, after=parts.after)


@cleanpath.unit("whole")
def whole(parts):
    return Whole(parts)
'''
FAULTY = """
import cleanpath
from torch import nn


class Wrong(nn.Module):
    def __init__(self, parts, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(parts.in_channels, parts.out_channels, 3, stride=parts.stride, padding=1)

    def forward(self, x):
        if self.kind == "writes":
            nn.functional.relu_(x)
        y = self.conv(x)
        if self.kind == "shrinks":
            return y[:, :, 1:]
        if self.kind == "tuple":
            return y, y
        if self.kind == "raises":
            raise ValueError("not today")
        return y


@cleanpath.unit("writes")
def writes(parts):
    return Wrong(parts, "writes")

@cleanpath.unit("shrinks")
def shrinks(parts):
    return Wrong(parts, "shrinks")

@cleanpath.unit("tuple")
def tuple_(parts):
    return Wrong(parts, "tuple")

@cleanpath.unit("raises")
def raises(parts):
    return Wrong(parts, "raises")

@cleanpath.unit("keeps")
def keeps(parts):
    return nn.Identity()

@cleanpath.unit("number")
def number(parts):
    return 3

@cleanpath.unit("fails")
def fails(parts):
    return parts.no_such_part
"""
KIND = "network.shortcut.kind=my_unit.py:halved"
SHORT = ("training.iterations=4", "network.width=4")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files, to work in; modules are as before afterwards."""
    (tmp_path / "my_unit.py").write_text(SOURCE)
    (tmp_path / "factor.py").write_text("HALF = 0.5\n")
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    kinds._load.cache_clear()


def short(*changes: str) -> Experiment:
    return single.experiment_of("preresnet8", [KIND, *SHORT, *changes])


def trained(*changes: str) -> tuple[str, ...]:
    words = ("train", "preresnet8", "--threads", "1")
    return (*words, *(word for change in (*SHORT, *changes) for word in ("--set", change)))


# ---- what it computes


@pytest.mark.parametrize("placement", ["original", "full_preactivation"])
def test_unit_is_what_its_function_says(place: Path, placement: str) -> None:  # noqa: ARG001
    """h(x) = x/2 is the kind `scaling` with λ = 0.5: bit for bit the same network."""
    own_unit = tiny_network(placement=placement, shortcut=Shortcut(kind="my_unit.py:halved"))
    ours = tiny_network(placement=placement, shortcut=Shortcut(kind="scaling", scale=0.5))
    torch.manual_seed(0)
    mine = build(own_unit)
    torch.manual_seed(0)
    theirs = build(ours)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(mine(x), theirs(x))


def test_parts_tell_what_a_unit_needs_to_know(place: Path) -> None:
    (place / "told.py").write_text(
        "import cleanpath\nTOLD = []\n\n@cleanpath.unit('told')\ndef told(parts):\n"
        "    TOLD.append(parts)\n    return parts.branch\n"
    )
    of = tiny_network(shortcut=Shortcut(kind="told.py:told"), normalisation="group", activation="silu")
    build(of)
    told = sys.modules[f"_cleanpath_units_{own.code_of('told.py')}"].TOLD
    assert [parts.index for parts in told] == [1, 2, 3, 4, 5, 6]
    assert {parts.count for parts in told} == {6}
    assert [(p.in_channels, p.out_channels, p.stride, p.changes_width) for p in told[1:4]] == [
        (4, 4, 1, False),
        (4, 8, 2, True),
        (8, 8, 1, False),
    ]
    assert isinstance(told[0].norm(4), nn.GroupNorm)
    assert isinstance(told[0].activation(), nn.SiLU)


def test_unit_that_is_no_sum_trains_and_is_shown(place: Path) -> None:  # noqa: ARG001
    kind = "network.shortcut.kind=my_unit.py:whole"
    assert here(*trained(kind), "--out", "run").code == 0
    shown = here("show", "preresnet8", "--set", kind, "--json").json()
    assert [unit["branch"] for unit in shown["units"]] == ["Whole"] * 3
    assert shown["parameters"] == 27 * 16 + 64 * 10 + 10 + 128 + sum(
        9 * i * o + 2 * o + 1 for i, o in ((16, 16), (16, 32), (32, 64))
    )
    network = build(tiny_network(shortcut=Shortcut(kind="my_unit.py:whole")))
    assert {float(u.get_parameter("first.weight").detach().mean()) for u in network.units().values()} == {0.5}


def test_words_of_a_unit_with_h_and_f(place: Path) -> None:  # noqa: ARG001
    shown = here("show", "preresnet20", "--set", KIND, "--json").json()["units"][1]
    assert (shown["h"], shown["branch"], shown["f"]) == ("Half", "BN ReLU conv3×3 BN ReLU conv3×3", "identity")
    assert "Half" in here("show", "preresnet20", "--set", KIND).out


def test_audit_finds_the_units(place: Path) -> None:  # noqa: ARG001
    network = cleanpath.build("preresnet14", shortcut=Shortcut(kind="my_unit.py:halved"))
    profile = cleanpath.audit(network, torch.randn(4, 3, 8, 8))
    assert [unit.h.scale for unit in profile.units] == [0.5] * 6
    assert any(finding.code == "CP102" for finding in profile.findings)


def test_audit_takes_the_setting(place: Path) -> None:  # noqa: ARG001
    ended = here("audit", "preresnet14", "--set", KIND, "--against", "preresnet14", "--json")
    assert ended.code == 0, ended.err
    found = ended.json()
    assert (found["here"]["target"], found["there"]["target"]) == (f"preresnet14 --set {KIND}", "preresnet14")
    assert [unit["h"]["scale"] for unit in found["here"]["units"]] == [0.5] * 6
    for target in ("timm:resnet18", "my_unit.py:halved", "saved.json", "elsewhere/run"):
        assert_user_error(here("audit", target, "--set", KIND), "--set is for networks of the catalog")
    assert_user_error(here("audit", "preresnet14", "--set", "training.lr=1"), "a network has the settings network.*")


def test_unit_in_place_of_its_file_is_answered_with_the_file(place: Path) -> None:  # noqa: ARG001
    told = here("reproduce", "table1", "--with", "my_unit.py:halved")
    assert_user_error(told, "my_unit.py:halved names a unit; give the file, my_unit.py")


# ---- a run


@pytest.mark.usefixtures("place")
def test_command_line_trains_and_all_verbs_take_the_run() -> None:
    ended = here(*trained(KIND), "--json")
    assert ended.code == 0, ended.err
    run = ended.json()
    assert run["status"] == "finished"
    assert run["experiment"]["network"]["shortcut"]["kind"] == "my_unit.py:halved"
    assert run["experiment"]["network"]["shortcut"]["code"] == own.code_of("my_unit.py")
    assert Path(run["folder"]).name.startswith("resnet8-full_preactivation-halved-digits-s0-")
    with nothing_written(Path(run["folder"])):
        again = here(*trained(KIND))
    assert "nothing to do" in again.err
    assert here("evaluate", run["folder"], "--json").json()["error"] == pytest.approx(run["result"]["error"])
    assert [u["h"]["scale"] for u in here("audit", run["folder"], "--json").json()["units"]] == [0.5] * 3
    assert here("show", run["folder"]).code == 0


def test_run_that_was_stopped_goes_on_bitwise(place: Path) -> None:
    experiment, request = short(), Request()
    assemble.run(experiment, place / "whole", threads=1)

    class Stop(cleanpath.Callback):
        def stepped(self, progress: object) -> None:  # noqa: ARG002
            request.signal_number = 15

    with pytest.raises(Stopped):
        assemble.run(experiment, place / "stopped", threads=1, callbacks=[Stop()], request=request)
    assemble.run(experiment, place / "stopped", threads=1)
    assert_same_run(place / "whole", place / "stopped")


def test_worker_processes_load_the_file_from_the_experiment_alone(place: Path) -> None:
    cells = plan.cells([short(f"seed={seed}") for seed in (0, 1)], place / "runs")
    local.check_cells(cells)
    local.run_cells(cells, workers=1, tell=lambda _: None)
    assert [cell.status for cell in cells] == ["finished", "finished"]
    assert multiprocessing.active_children() == []
    assemble.run(cells[0].experiment, place / "here", threads=1)
    assert_same_run(cells[0].folder, place / "here")


def test_cells_with_a_wrong_unit_are_refused_before_any_runs(place: Path) -> None:
    good = short()
    assert isinstance(good.network, Network)
    code = own.code_of("faulty.py")
    bad = settings.override(good, ["network.shortcut.kind=faulty.py:shrinks", f"network.shortcut.code={code}"])
    with pytest.raises(SettingError, match=r"unit stages\.stage1\.unit1 makes 2×4×7×8 of 2×4×8×8"):
        local.check_cells(plan.cells([good, bad], place / "runs"))
    assert not (place / "runs").exists()


def test_recompute_takes_the_unit(place: Path) -> None:
    for memory in ("plain", "recompute"):
        experiment = single.experiment_of("preresnet14", [KIND, *SHORT, f"training.memory={memory}"])
        assemble.run(experiment, place / memory, threads=1)
    assert_same_run(place / "plain", place / "recompute")


# ---- the file is a part of the experiment


def test_digest_changes_with_the_file_and_a_changed_file_is_refused(place: Path) -> None:
    before = short()
    assemble.run(before, place / "run", threads=1)
    (place / "my_unit.py").write_text(SOURCE.replace("HALF * self", "HALF * 1.0 * self"))
    after = short()
    assert settings.digest(before) != settings.digest(after)
    assert set(settings.differences(before, after)) == {"network.shortcut.code"}
    for use in (lambda: cleanpath.load(place / "run"), lambda: assemble.check(before)):
        with pytest.raises(UserError, match=r"my_unit\.py has changed since the experiment was made; put it back"):
            use()
    assert_user_error(here(*trained(KIND), "--out", "run"), "shortcut.code")
    (place / "my_unit.py").unlink()
    with pytest.raises(UserError, match=r"no file my_unit\.py; run from the folder that it was given from"):
        cleanpath.load(place / "run")
    (place / "my_unit.py").write_text(SOURCE)
    assert isinstance(cleanpath.load(place / "run"), nn.Module)


def test_comments_and_empty_lines_are_no_other_experiment(place: Path) -> None:
    before = own.code_of("my_unit.py")
    text = f"# What it is for.\n\n{SOURCE}\n\n# Tried: 0.3\n"
    line = next(line for line in SOURCE.splitlines() if "HALF * self" in line)
    (place / "my_unit.py").write_text(text.replace(line, f"{line}  # half of F\n\n").replace("\n", "\r\n"))
    assert own.code_of("my_unit.py") == before
    (place / "my_unit.py").write_text(SOURCE.replace("HALF * self", "HALF*HALF * self"))
    assert own.code_of("my_unit.py") != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a # b'\n", "x = 'a '\n"),
        ('x = """a\n\n# b"""\n', 'x = """a\n# b"""\n'),
        ("if a:\n    b\n    c\n", "if a:\n    b\nc\n"),
        ("no python (", "no python (("),
        ("# a\r# b\nx = 1\ny = 1\n", "# a\r# b\nx = 1\ny = 2\n"),
    ],
)
def test_what_only_looks_like_a_comment_is_code(one: str, other: str) -> None:
    assert own.digest(one.encode()) != own.digest(other.encode())


def test_report_tells_of_runs_of_another_version_of_the_file(place: Path) -> None:
    asked = ("report", "table1", "--with", "my_unit.py", "--seeds", "2")
    job = reproduction(
        ["table1"],
        scale="quick",
        seeds=2,
        all_columns=True,
        changes=[],
        root=Path("runs"),
        own_units=[Path("my_unit.py")],
    )
    for cell in job.cells():
        with Writer(cell.folder, cell.experiment, {}):
            pass
    assert "version" not in here(*asked).err
    (place / "my_unit.py").write_text(f"{SOURCE}\nANOTHER = 1\n")
    told = "4 runs are of another version of my_unit.py and not shown: the file has changed since\n"
    Path("runs/foreign").mkdir()
    Path("runs/foreign/experiment.json").write_text("somebody's")
    assert here(*asked).err.count(told) == 1
    assert "version" not in here("report", "table1").err


def test_experiment_with_a_unit_goes_through_toml_and_json(place: Path) -> None:
    experiment = short()
    assert settings.from_data(json.loads(json.dumps(settings.to_data(experiment)))) == experiment
    (place / "run.toml").write_text(settings.to_toml(experiment))
    assert single.experiment_of("run.toml", []) == experiment
    (place / "my_unit.py").write_text(SOURCE + "ANOTHER = 1\n")
    with pytest.raises(UserError, match="has changed"):
        single.experiment_of("run.toml", [])
    assert single.experiment_of("run.toml", [KIND]) == short()  # said anew: the file as it is now
    without = (place / "run.toml").read_text().replace(f'code = "{network_of(experiment).shortcut.code}"\n', "")
    (place / "run.toml").write_text(without)
    assert single.experiment_of("run.toml", []) == short()


def test_path_is_written_as_short_as_it_can_be(place: Path) -> None:  # noqa: ARG001
    other = single.experiment_of("preresnet8", ["network.shortcut.kind=./my_unit.py:halved", *SHORT])
    assert other == short()
    assert default_name(other) == default_name(short())


def test_file_given_from_elsewhere_is_the_same_experiment(place: Path) -> None:
    other = single.experiment_of("preresnet8", [f"network.shortcut.kind={place}/my_unit.py:halved", *SHORT])
    assert set(settings.differences(other, short())) == {"network.shortcut.kind"}
    assert default_name(other) == default_name(short())
    with Writer(place / "run", short(), {}):
        pass
    check_folder(place / "run", other)
    (place / "other.py").write_text(SOURCE + "ANOTHER = 1\n")
    for changed in ("my_unit.py:whole", "other.py:halved"):
        third = single.experiment_of("preresnet8", [f"network.shortcut.kind={changed}", *SHORT])
        assert default_name(third) != default_name(other)
        with pytest.raises(RunError, match="holds another experiment"):
            check_folder(place / "run", third)


def test_experiment_without_the_digest_of_its_file_is_not_recorded(place: Path) -> None:
    experiment = tiny("network.shortcut.kind=my_unit.py:halved")
    with pytest.raises(SettingError, match=r"does not say which content of my_unit\.py it means"):
        assemble.run(experiment, place / "run", threads=1)
    assert not (place / "run").exists()


def test_digests_of_the_paper_s_networks_know_nothing_of_it() -> None:
    assert "code" not in json.dumps(settings.flat(tiny())).replace("network.shortcut.code", "")
    assert settings.digest(tiny()) == settings.digest(tiny("network.shortcut.code="))


# ---- read without being run


def test_rows_are_read_from_the_source_without_torch(place: Path) -> None:
    rows = own.rows_of("my_unit.py")
    assert [(row.name, row.doc) for row in rows] == [("halved", "y = x/2 + F(x)."), ("whole", "")]
    assert rows[0].shortcut == network_of(short()).shortcut
    code = "import sys; from cleanpath.nn import own; own.rows_of('my_unit.py'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=place).returncode == 0
    assert {row.name for row in rows} == set(kinds.load_units("my_unit.py"))
    assert {row.name for row in own.rows_of("faulty.py")} == set(kinds.load_units("faulty.py"))


@pytest.mark.parametrize(
    ("imported", "called"),
    [
        ("import cleanpath", "cleanpath.unit"),
        ("import cleanpath as cp", "cp.unit"),
        ("from cleanpath import unit", "unit"),
        ("from cleanpath import unit as kind", "kind"),
        ("from cleanpath.nn.kinds import unit as kind", "kind"),
    ],
)
def test_decorator_may_be_imported_under_any_name(place: Path, imported: str, called: str) -> None:
    (place / "other.py").write_text(f"{imported}\n@{called}('mine')\ndef one(parts):\n    return parts.branch\n")
    assert [row.name for row in own.rows_of("other.py")] == list(kinds.load_units("other.py")) == ["mine"]


def test_decorator_of_another_library_makes_no_unit(place: Path) -> None:
    (place / "other.py").write_text("import numpy as cp\n@cp.unit('mine')\ndef one(parts):\n    return parts.branch\n")
    with pytest.raises(UserError, match="makes no unit"):
        own.rows_of("other.py")


DECORATED = "import cleanpath\n@cleanpath.unit({name})\ndef one(parts):\n    return parts.branch\n"


@pytest.mark.parametrize(
    ("content", "words", "only"),
    [
        (None, "no file bad.py", ""),
        ("def f(:\n", "SyntaxError", ""),
        ("x = 1\n", "bad.py makes no unit; put @cleanpath.unit", ""),
        ("import nothing_of_this_name\n" + DECORATED.format(name="'a'"), "No module named", "load"),
        ("import sys\nsys.exit(3)\n" + DECORATED.format(name="'a'"), "SystemExit: 3", "load"),
        (DECORATED.format(name="'a'") + DECORATED.format(name="'a'"), "two units are called 'a'", ""),
        (DECORATED.format(name="'identity'"), "there is a shortcut 'identity' of cleanpath's already", "load"),
        (DECORATED.format(name="'a b'"), "a unit cannot be called 'a b'; use letters", ""),
        ("N = 'a'\n" + DECORATED.format(name="N"), "line 3: write the unit's name as text", "rows"),
    ],
)
def test_file_that_makes_no_unit_is_refused(place: Path, content: str | None, words: str, only: str) -> None:
    if content is not None:
        (place / "bad.py").write_text(content)
    ways: dict[str, Callable[[str], Any]] = {"rows": own.rows_of, "load": kinds.load_units}
    for name, way in ways.items():
        if only in ("", name):
            with pytest.raises(UserError) as caught:
                way("bad.py")
            assert words in str(caught.value)
            assert "bad.py" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("faulty.py:writes", "unit stages.stage1.unit1 writes into its input, which changes h unseen"),
        ("faulty.py:shrinks", "unit stages.stage1.unit1 makes 2×4×7×8 of 2×4×8×8; its place asks for 2×4×8×8"),
        ("faulty.py:keeps", "unit stages.stage2.unit1 makes 2×4×8×8 of 2×4×8×8; its place asks for 2×8×4×4"),
        ("faulty.py:tuple", "makes a tuple of 2×4×8×8"),
        ("faulty.py:raises", "unit stages.stage1.unit1 failed: ValueError: not today; faulty.py, line 21"),
        ("faulty.py:number", "number() returned a int; an nn.Module is needed"),
        ("faulty.py:fails", "fails() failed at unit 1 of 3: AttributeError"),
        ("faulty.py:writs", "no unit in faulty.py 'writs'; did you mean writes?"),
        ("falty.py:writes", "no file falty.py"),
    ],
)
def test_wrong_unit_is_refused_before_anything_is_written(place: Path, name: str, words: str) -> None:
    assert_user_error(here(*trained(f"network.shortcut.kind={name}")), words)
    assert not (place / "runs").exists()


def test_settings_that_the_unit_does_not_read_are_refused(place: Path) -> None:  # noqa: ARG001
    assert_user_error(here(*trained(KIND, "network.shortcut.scale=0.5")), "does not read shortcut.scale")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("show", "preresnet20", "--set", "training.lr=1"), "a network has the settings network.*"),
        (("show", "table1", "--set", "network.depth=20"), "--set is for data sets and networks"),
        (("show", "preresnet20", "--set", "network.shortcut.kind=fixup"), "set network.normalisation=none"),
    ],
)
def test_show_refuses_settings_that_are_none_of_its_thing(words: tuple[str, ...], answer: str) -> None:
    assert_user_error(here(*words), answer)


# ---- in a notebook


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(kinds.OWN)
    yield
    kinds.OWN.clear()
    kinds.OWN.update(before)


@pytest.mark.usefixtures("registered")
def test_decorated_function_is_a_kind_by_its_bare_name_and_may_be_said_again() -> None:
    for factor in (0.5, 0.25):

        @cleanpath.unit("mine")
        def mine(parts: kinds.Parts, factor: float = factor) -> nn.Module:
            from cleanpath.nn.shortcut import Scale, then

            h = then(parts.shortcut, Scale(factor))
            return ResidualUnit(before=parts.before, shortcut=h, branch=parts.branch, after=parts.after)

        assert mine.__name__ == "mine"
        network = cleanpath.build("preresnet8", shortcut=Shortcut(kind="mine"))
        assert network.units()["stages.stage1.unit1"].get_submodule("shortcut").factor == factor


def test_names_that_are_kept_from_users_are_those_of_all_kinds() -> None:
    assert set(kinds.KINDS) == own.OURS


@pytest.mark.parametrize("name", ["dropout", "fixup", "hyper_connections"])
def test_name_of_ours_is_refused_also_before_any_network_was_built(name: str) -> None:
    code = (
        "import sys, cleanpath\n"
        "try:\n"
        f"    cleanpath.unit({name!r})(lambda parts: parts.branch)\n"
        "except cleanpath.errors.UserError as error:\n"
        "    print(error, 'cleanpath.nn.shortcut' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"there is a shortcut '{name}' of cleanpath's already; give the unit another name False\n"


@pytest.mark.usefixtures("registered")
def test_name_that_is_taken_is_refused(place: Path) -> None:
    with pytest.raises(UserError, match="there is a shortcut 'dropout' of cleanpath's already"):
        cleanpath.unit("dropout")(lambda parts: parts.branch)
    cleanpath.unit("mine")(lambda parts: parts.branch)
    (place / "other.py").write_text(DECORATED.format(name="'mine'"))
    with pytest.raises(UserError, match=r"there is a unit 'mine' of .*test_own_unit\.py already"):
        exec(compile((place / "other.py").read_text(), "other.py", "exec"), {})  # noqa: S102 (our own text)
    assert "mine" in kinds.load_units("other.py")  # by its path it is another one
