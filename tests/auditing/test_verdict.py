"""The sentence about a path: clean, clean for now, or broken, and where."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import cleanpath
from cleanpath.auditing.values import AfterRow, NetworkRow, ShortcutRow
from cleanpath.auditing.verdict import factor, verdict
from tests.report.audit_example import measured, unit

LEARNED = ShortcutRow(kind="scaling", scale=1.0, layers=("a.scale",))


def told(*changes: dict[str, object]) -> str:
    return verdict([unit(f"u{at}", **one) for at, one in enumerate(changes)], NetworkRow(), ())


def test_a_learned_scale_of_1_is_clean_now_and_not_by_construction() -> None:
    assert told({}, {"h": LEARNED}, {"h": LEARNED}) == (
        "clean now, not by construction: 3 residual units, in 2 of them h is learned and an identity only now, "
        "first in u1 (h scales by 1)"
    )


def test_what_is_broken_is_told_before_what_may_break() -> None:
    half = ShortcutRow(kind="scaling", scale=0.5)
    assert told({"h": LEARNED}, {"h": half}, {"h": LEARNED, "f": AfterRow(kind="relu")}) == (
        "not clean: 3 residual units, in 2 of them the path is no identity, first in u1 (h scales by 0.5); "
        "in one other h is learned and an identity only now"
    )


def test_a_factor_beside_1_is_not_printed_as_1() -> None:
    assert [factor(value) for value in (1.0, 0.5, 1.00001, 0.99999)] == ["1", "0.5", "1 + 1e-05", "1 − 1e-05"]
    near = {"h": replace(LEARNED, scale=1.00001), "measurements": measured(shortcut_defect=1e-5)}
    assert "not clean" in told(near)
    assert "h scales by 1 + 1e-05" in told(near)


class Weighted(nn.Module):
    """y = s x + F(x), with s learned."""

    def __init__(self, start: float | list[float]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(start))
        self.branch = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale * x + self.branch(x)
        return y


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (1.0, "clean now, not by construction: 2 residual units, in 2 of them h is learned"),
        ([1.0, 1.0, 1.0, 1.0], "clean now, not by construction: 2 residual units, in 2 of them h is learned"),
        ([0.5, 1.5, 0.5, 1.5], "not clean: 2 residual units"),
        (0.9, "not clean: 2 residual units"),
    ],
)
def test_an_audit_tells_a_learned_identity_from_a_scaling(start: float | list[float], words: str) -> None:
    model = nn.Sequential(Weighted(start), Weighted(start))
    assert cleanpath.audit(model, torch.randn(3, 4)).verdict.startswith(words)
