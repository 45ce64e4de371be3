"""The verb `audit`: what it prints, saves and compares, and what it answers to wrong input."""

import json
from pathlib import Path

import pytest

from cleanpath import Profile
from tests.helpers import here, tree

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x):
        x = 0.5 * x + self.drop(self.a(x))
        return x + self.b(x)

def net():
    return Net()
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FACTORY, encoding="utf-8")
    return tmp_path


def test_own_network_is_audited_verdict_first(work: Path) -> None:  # noqa: ARG001
    outcome = here("audit", "mine.py:net", "--input", "4x8")
    assert outcome.code == 0, outcome.err
    first, *rest = outcome.out.splitlines()
    assert first.startswith("mine.py:net: not clean: 2 residual units")
    assert any("scaling ×0.5" in line for line in rest)
    assert "not seen: nothing" in rest
    assert rest[-1].startswith("training mode, 144 parameters; random weights; inputs 4×8, as asked; seed 0")


def test_profile_is_saved_and_read_again_and_nothing_is_overwritten(work: Path) -> None:
    words = ("audit", "mine.py:net", "--input", "4x8", "--out", "p.json")
    first = here(*words)
    assert first.code == 0, first.err
    before = tree(work)
    second = here(*words)
    assert (second.code, second.out) == (2, "")
    assert "p.json exists" in second.err
    assert tree(work) == before
    saved = here("audit", "p.json", "--json").json()
    assert saved == json.loads((work / "p.json").read_text(encoding="utf-8"))
    assert Profile.load("p.json").verdict == saved["verdict"]


def test_a_place_that_is_not_there_is_refused_before_the_audit(work: Path) -> None:  # noqa: ARG001
    outcome = here("audit", "no_such_network_at_all", "--out", "absent/p.json")
    assert outcome.code == 2
    assert "no folder absent" in outcome.err


def test_comparison_with_itself_has_no_difference_and_with_another_mode_names_it(work: Path) -> None:  # noqa: ARG001
    words = ("audit", "mine.py:net", "--input", "64x8", "--json")
    assert here(*words[:-1], "--out", "p.json").code == 0
    assert here(*words, "--against", "p.json").json()["differences"] == []
    other = here(*words, "--mode", "eval", "--against", "p.json").json()["differences"]
    assert {"unit": "(network)", "quantity": "mode", "here": "eval", "there": "training"} in other


def test_draws_of_the_dropout_masks_give_a_spread(work: Path) -> None:  # noqa: ARG001
    words = ("audit", "mine.py:net", "--input", "64x8", "--json")
    one, many = (here(*words, "--draws", draws).json() for draws in ("1", "5"))
    assert one["units"][0]["spread"]["branch_share"] is None
    assert many["units"][0]["spread"]["branch_share"] > 0
    assert many["network"]["draws"] == 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("mine.py:net",), "say them, such as --input 2x3x224x224"),
        (("mine.py:net", "--input", "4x9"), "the model's own forward pass raised RuntimeError"),
        (("mine.py:nets", "--input", "4x8"), "net"),
        (("resnet57",), "nearest 56"),
        (("timm:resnet_18",), "timm:resnet18"),
        (("mine.py:net", "--input", "4x8", "--weights", "absent.safetensors"), "absent.safetensors"),
        (("resnet8", "--mode", "evaluate"), "eval"),
        (("resnet8", "--draws", "0"), "draws"),
        (("resnet8", "--against", "resnet57"), "nearest 56"),
    ],
)
def test_wrong_input_is_answered_in_a_line_or_two(words: tuple[str, ...], told: str, work: Path) -> None:  # noqa: ARG001
    outcome = here("audit", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert told in outcome.err
    assert len(outcome.err.splitlines()) <= 2
