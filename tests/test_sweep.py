"""The sweep records whatever happens to a target, goes on where it stopped, and sums up what it wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sweep_summary import every, load, not_exact, summary

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    {"machine": "a machine"},
    {
        "target": "timm:one",
        "outcome": "audited",
        "parameters": 1234,
        "units": 3,
        "identity": 2,
        "h": {"identity": 2, "projection": 1},
        "f": {"relu": 3},
        "ratio": 2.0,
        "state": {"audit": "same", "KeyboardInterrupt": "same"},
    },
    {
        "target": "hf:two",
        "outcome": "unsure",
        "parameters": 9,
        "units": 0,
        "reason": "none",
        "not_seen": ["a | b"],
        "not_seen_count": 2,
        "ratio": 4.0,
        "state": {"audit": "changed: buffer x", "KeyboardInterrupt": "same"},
    },
    {"target": "hf:three", "outcome": "not built", "reason": "too large"},
]
FACTORIES = """
import os, time, torch
from cleanpath import build

class Heavy(torch.nn.Linear):
    def forward(self, x):
        return x + super().forward(x + torch.zeros(1 << 33).sum())

def dies():
    os.kill(os.getpid(), 11)

def sleeps():
    time.sleep(100)

def raises():
    raise ValueError("not today")

def heavy():
    return Heavy(4, 4), torch.ones(2, 4)
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    return path


def test_the_summary_counts_what_the_rows_say(results: Path) -> None:
    said = summary(load(results))
    assert "| timm | 1 | 1 | 0 | 0 | 0 |" in said
    assert "| transformers | 2 | 0 | 1 | 0 | 1 |" in said
    assert "| all | time | 2.5 | 3.0 | 3.5 | 4.0 | 2 |" in said
    assert "made to fail in the middle: 1 of 2." in said
    assert "- `hf:two`: audit: changed: buffer x" in said
    assert "a machine" in said


def test_every_target_has_a_row_with_its_reasons(results: Path) -> None:
    said = every(load(results))
    assert "| `timm:one` | 1,234 | 3 | 2 | identity 2, projection 1 | relu | audited | 2.0 |  |" in said
    assert "| `hf:two` | 9 | 0 | – | – | – | unsure | 4.0 | none; a \\| b; and 1 more |" in said
    assert "- `hf:three`: not built: too large" in not_exact(load(results).rows)


def test_no_results_yet_are_no_rows(tmp_path: Path) -> None:
    assert "| all | 0 | 0 | 0 | 0 | 0 |" in summary(load(tmp_path / "gone"))


@pytest.mark.slow
def test_whatever_happens_to_a_target_is_a_row(tmp_path: Path) -> None:
    for library in ("timm", "torchvision", "transformers"):
        pytest.importorskip(library)
    factories, results = tmp_path / "made.py", tmp_path / "found.jsonl"
    factories.write_text(FACTORIES, encoding="utf-8")
    targets = ["resnet8", *(f"{factories}:{name}" for name in ("dies", "sleeps", "raises", "heavy"))]
    command = [sys.executable, "-m", "benchmarks.audit_sweep", "--results", str(results), "--seconds", "15", *targets]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    good, dies, sleeps, raises, heavy = (json.loads(line) for line in results.read_text().splitlines()[1:])
    assert (good["outcome"], good["units"], set(good["state"].values())) == ("audited", 3, {"same"})
    assert (dies["outcome"], dies["reason"]) == ("failed", "the process died (-11), during build")
    assert (sleeps["outcome"], sleeps["reason"]) == ("failed", "no answer within 15 s, during build")
    assert (raises["outcome"], "not today" in raises["reason"]) == ("not built", True)
    assert heavy["outcome"] == "failed"
    again = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert "0 targets to audit, 5 have a row" in again.stdout
