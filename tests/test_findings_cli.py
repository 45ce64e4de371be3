"""Findings on the command line: exit codes, pages, annotations, Markdown, explanations; and as an assertion."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cleanpath
from cleanpath.errors import SettingError
from cleanpath.report.annotations import github, markdown
from tests.helpers import here

FACTORY = """
import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return 0.5 * x + self.fc(torch.relu(self.norm(x)))


def broken():
    torch.manual_seed(0)
    return nn.Sequential(*(Unit() for _ in range(6)), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(4, 8)
"""


class Unit(nn.Module):
    """A pre-activation unit with a factor on its shortcut."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.norm, self.fc, self.factor = nn.LayerNorm(8), nn.Linear(8, 8), factor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.factor * x + self.fc(torch.relu(self.norm(x)))
        return y


def network(factor: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Unit(factor) for _ in range(6)), nn.LayerNorm(8), nn.Linear(8, 3))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY, encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("work")
def test_finding_says_what_how_much_and_what_to_do() -> None:
    outcome = here("audit", "nets.py:broken")
    assert outcome.code == 0, outcome.err
    first, count, *rest = outcome.out.splitlines()
    assert first.startswith("nets.py:broken: not clean: 6 residual units")
    assert count == "1 error"
    told = "\n".join(rest)
    assert "CP102 error  the shortcut of 6 units is multiplied by 0.5" in told
    assert "0.0156, expected: 1" in told  # 0.5⁶
    assert "cleanpath explain CP102" in told


@pytest.mark.parametrize(("severity", "code"), [("error", 1), ("warning", 1), ("note", 1)])
@pytest.mark.usefixtures("work")
def test_error_fails_at_every_threshold(severity: str, code: int) -> None:
    assert here("audit", "nets.py:broken", "--fail-on", severity).code == code


@pytest.mark.usefixtures("work")
def test_warnings_do_not_fail_an_audit_that_fails_on_errors() -> None:
    assert here("audit", "resnet110", "--fail-on", "error").code == 0
    assert here("audit", "resnet110", "--fail-on", "warning").code == 1


@pytest.mark.usefixtures("work")
def test_ignored_finding_is_listed_with_its_reason_and_does_not_fail() -> None:
    outcome = here("audit", "nets.py:broken", "--ignore", "CP102=it is an exercise", "--fail-on", "note")
    assert outcome.code == 0, outcome.out
    assert "no findings" in outcome.out
    assert "ignored: CP102 in 0 and 5 more: it is an exercise" in outcome.out
    data = here("audit", "nets.py:broken", "--ignore", "CP102=it is an exercise", "--json").json()
    assert data["findings"] == []
    assert data["ignored"][0]["reason"] == "it is an exercise"


@pytest.mark.parametrize("wrong", ["CP102", "CP102=", "CP999=why", "=why"])
@pytest.mark.usefixtures("work")
def test_ignoring_without_reason_or_of_what_is_not_there_is_refused_before_the_audit(wrong: str) -> None:
    outcome = here("audit", "no_such_network", "--ignore", wrong)
    assert (outcome.code, outcome.out) == (2, "")
    assert "no_such_network" not in outcome.err


@pytest.mark.usefixtures("work")
def test_annotations_point_at_the_class_of_the_unit() -> None:
    outcome = here("audit", "nets.py:broken", "--format", "github")
    first, last = outcome.out.splitlines()
    assert first.startswith("::error file=nets.py,line=6,title=CP102 scaled-shortcut::the shortcut of 6 units")
    assert last == "cleanpath: 1 error"


@pytest.mark.usefixtures("work")
def test_markdown_is_a_verdict_and_a_table() -> None:
    lines = here("audit", "nets.py:broken", "--format", "md").out.splitlines()
    assert lines[0].startswith("**nets.py:broken**: not clean")
    assert lines[2].startswith("| code | severity")
    assert lines[4].startswith("| CP102 | error |")
    assert lines[4].count(" | ") == 6


def test_page_is_written_and_only_a_page_of_ours_is_overwritten(work: Path) -> None:
    outcome = here("audit", "nets.py:broken", "--html", "page.html")
    assert outcome.code == 0, outcome.err
    page = (work / "page.html").read_text(encoding="utf-8")
    assert 'id="CP102-0"' in page
    assert here("audit", "nets.py:broken", "--html", "page.html").code == 0
    (work / "mine.html").write_text("<p>mine</p>", encoding="utf-8")
    refused = here("audit", "nets.py:broken", "--html", "mine.html")
    assert refused.code == 2
    assert "no page of cleanpath" in refused.err
    assert (work / "mine.html").read_text(encoding="utf-8") == "<p>mine</p>"
    assert here("audit", "nets.py:broken", "--html", "absent/page.html").code == 2


def test_explain_prints_the_page_by_code_and_by_name() -> None:
    by_code, by_name = here("explain", "CP104"), here("explain", "closed-gate")
    assert by_code.out == by_name.out
    headings = ("Measured", "Why", "Evidence", "Remedy", "False alarms", "How to suppress", "Reference")
    places = [by_code.out.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    wrong = here("explain", "CP10")
    assert wrong.code == 2
    assert "CP101" in wrong.err


def test_hostile_names_stay_data_in_annotations_and_markdown() -> None:
    module = nn.Sequential()
    for index in range(6):
        module.add_module(f"a:b,c%\n|<i>{index}", Unit(0.5))
    profile = cleanpath.audit(module, torch.randn(4, 8))
    lines = github(profile, profile.judged()).splitlines()
    assert all(line.startswith(("::", "cleanpath:")) for line in lines)
    table = [line for line in markdown("x|y", profile, profile.judged()).splitlines() if line.startswith("| CP")]
    assert all("<i>" not in line and line.count(" | ") == 6 for line in table)


def test_assertion_fails_with_the_finding_as_its_message() -> None:
    with pytest.raises(AssertionError, match=r"CP102 error in 0, 1, 2 …: the shortcut of 6 units"):
        cleanpath.assert_clean_path(network(0.5), torch.randn(4, 8))


def test_assertion_passes_a_clean_network_and_returns_its_profile() -> None:
    profile = cleanpath.assert_clean_path(network(1.0), torch.randn(4, 8), fail_on="note")
    assert len(profile.units) == 6
    assert profile.findings == ()


def test_assertion_obeys_what_is_ignored_and_refuses_an_unknown_severity() -> None:
    ignored = cleanpath.assert_clean_path(network(0.5), torch.randn(4, 8), ignore=["CP102=meant"])
    assert [one.code for one in ignored.findings] == ["CP102"]
    with pytest.raises(SettingError, match="no severity 'fatal'"):
        cleanpath.assert_clean_path(network(1.0), torch.randn(4, 8), fail_on="fatal")


def test_nothing_to_assert_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="nothing to assert in Linear"):
        cleanpath.assert_clean_path(nn.Linear(8, 8), torch.randn(4, 8))
