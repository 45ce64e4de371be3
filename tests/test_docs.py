"""What the READMEs and docs show is generated or runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cleanpath.auditing.rules.fixes import FIXES, page_on
from cleanpath.data import cifar
from cleanpath.naming import default_name
from cleanpath.paper.scales import SCALES
from cleanpath.paper.tables import RECIPES, experiments, recipe_of
from cleanpath.report.claimed import columns_of
from cleanpath.reproduction import reproduction
from tests.helpers import here
from tests.report import example
from tests.test_cifar import FORMS, write_binary

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md", *DOCS)
FIXES_OF = {code for code, one in FIXES.items() if one.safety != "none"}


@pytest.mark.slow
def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES[:2], "docs/training.md", "docs/fixes.md", "docs/forecast.md"])
def test_python_of_a_page_runs(page: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), {})  # noqa: S102 (our own page)


def test_recorded_results_are_those_of_today_s_recipes() -> None:
    """A recipe that changes changes its digests: then the results are to be recorded anew."""
    recorded = {name: ROOT / "results" / f"{name}.json" for name in SCALES}
    assert recorded["quick"].is_file()
    for name, path in recorded.items():
        tables = json.loads(path.read_text(encoding="utf-8"))["tables"] if path.is_file() else []
        for table in tables:
            of_today = {
                (row, column, seed): default_name(experiment)
                for (row, column, seed), experiment in experiments(
                    recipe_of(table["name"]), SCALES[name], seeds=range(10)
                ).items()
            }
            runs = {
                (row["row"], row["column"], s["seed"]): s["run"]
                for row in table["rows"]
                for s in row["seeds"]
                if s["run"]
            }
            assert {key: of_today.get(key) for key in runs} == runs
            if name == "quick":  # is there whole
                assert {key for key in of_today if key[2] < SCALES[name].seeds} <= set(runs)
        assert {table["name"] for table in tables} in (set(), {*RECIPES})


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|docs|tests|benchmarks|results)/[\w./-]+)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link}
    assert {link for link in links if not ((ROOT / page).parent / link).exists()} == set()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/fixes.md", "docs/forecast.md"])
def test_commands_of_a_page_run_as_printed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside files of the names that the page takes for the reader's, and a CIFAR-10 of a few images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEANPATH_DATA", str(tmp_path / "data"))
    write_binary("cifar10", tmp_path / "data" / FORMS["cifar10", "binary"])
    for file, factory in (("nets.py", "net"), ("my_model.py", "make")):
        Path(file).write_text(NETWORK.replace("FACTORY", factory), encoding="utf-8")
    cifar._cifar.cache_clear()
    commands = re.findall(r"^    cleanpath (.*?)(?: +#.*)?$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert commands
    for command in commands:
        ended = here(*command.split())
        assert ended.code == (1 if command.endswith("--fix") else 0), f"{command}: {ended.err}"
    cifar._cifar.cache_clear()


NETWORK = """import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(0.5 * x + self.norm(self.conv(x)))


def FACTORY():
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *(Unit() for _ in range(8)), *head)
"""


def test_every_fix_has_a_page_and_every_page_a_fix() -> None:
    assert {page.stem for page in (ROOT / "docs" / "fixes").iterdir()} == FIXES_OF
    overview = (ROOT / "docs" / "fixes.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(fixes/(CP\d+)\.md\)", overview)) == FIXES_OF


@pytest.mark.parametrize("code", sorted(FIXES_OF))
def test_page_of_a_fix_has_its_generated_parts_and_the_finding_names_it(code: str) -> None:
    text = (ROOT / "docs" / "fixes" / f"{code}.md").read_text(encoding="utf-8")
    assert [f"<!-- begin: fix_{part}_{code} -->" in text for part in ("head", "effect")] == [True, True]
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[0].startswith(f"# {code}: ")
    assert headings[1:] == [
        "## The equation",
        "## In the network",
        "## When it helps, and when not",
        "## Measured",
        "## What is refused",
    ]
    (link,) = set(re.findall(r"\(\.\./findings\.md#(cp\d+-[\w-]+)\)", text))
    findings = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8").splitlines()
    assert link in {line[3:].lower().replace(" ", "-") for line in findings if line.startswith("## CP")}
    assert f"(docs/fixes/{code}.md)" in page_on(code)


def test_every_verb_stands_in_the_readme() -> None:
    from cleanpath.cli import app

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = {
        command.name or (command.callback.__name__ if command.callback else "") for command in app.registered_commands
    }
    assert {verb for verb in verbs if f"cleanpath {verb}" not in text.replace("cleanpath\n", "cleanpath ")} == set()


def test_keys_of_a_reproduction_as_json_stand_in_the_docs() -> None:
    """The table of keys has those that are printed, and no others."""
    text = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8").partition("## As JSON")[2].partition("\n## ")[0]
    told: dict[str, list[str]] = {}
    for where, keys in re.findall(r"^\| (the object|`[^|]*`) \| (`[^|]*`) \|", text, re.MULTILINE):
        told.setdefault(where.strip("`"), []).extend(re.findall(r"`(\w+)`", keys))
    job = reproduction(["table1"], scale="quick", seeds=1, all_columns=True, changes=[], root=Path("nowhere"))
    data = job.outcome().to_data()
    row = data["tables"][0]["rows"][0]
    printed = {
        "the object": data,
        "tables[]": data["tables"][0],
        "tables[].rows[]": row,
        "tables[].rows[].seeds[]": row["seeds"][0],
        "verdicts[]": data["verdicts"][0],
        "columns[]": columns_of_one_run(),
    }
    assert set(told) == set(printed)
    for where, keys in told.items():
        assert len(keys) == len(set(keys))
        assert set(keys) == set(printed[where]), where


def columns_of_one_run() -> dict[str, object]:
    """What is said of a column, which is nothing where nothing ran."""
    (column,) = columns_of(example.table(example.cell("original", example.run(2.0, 0))))
    return column.to_data()
