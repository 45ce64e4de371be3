"""Precision, compilation, memory, BN's statistics and processes in every combination: one step beside the plain one."""

import json
from typing import Any

import pytest
import torch

from benchmarks.combinations import RESULTS, ROWS, Row, compared, on, step, within
from cleanpath.errors import SettingError
from cleanpath.experiment import Training

MICRO = "2 micro-batches, fused, clipped"
PLAIN = [row for row in ROWS if row.compile == "false"]


def assert_within(rows: list[dict[str, Any]]) -> None:
    assert [row for row in rows if not within(row)] == []


def test_combinations_come_to_the_plain_step() -> None:
    found = list(compared(PLAIN))
    assert_within(found)
    # Each does something: bf16 rounds, and computing again gives the same bits.
    assert all(row["step"] > 1e-3 for row in found if row["precision"] == "bf16")
    same = [row for row in found if row["way"] != MICRO]
    assert all(row["step"] == 0 for row in same if row["precision"] == "fp32")
    assert all(row["step beside the same precision"] == 0 for row in same)
    # Two micro-batches of two groups are the batch of four, in another order of sums.
    assert all(0 < row["step"] < 1e-4 for row in found if row["precision"] == "fp32" and row["way"] == MICRO)


# torch's own compiler looks at a gradient that it says not to look at.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_compiled_combinations_come_to_the_plain_step() -> None:
    found = list(compared([row for row in ROWS if row.compile == "true"]))
    assert_within(found)
    assert any(row["step"] > 0 for row in found)


@pytest.mark.slow
def test_combinations_on_two_processes_come_to_the_plain_step() -> None:
    assert_within(on(2, ROWS))


def test_the_recorded_table_has_every_combination() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert {(row["processes"], *(row[key] for key in vars(ROWS[0]))) for row in rows} == {
        (processes, *vars(row).values()) for processes in (1, 2) for row in ROWS
    }
    assert_within(rows)


def test_clipping_scales_the_step_to_the_most_that_is_asked() -> None:
    _, moved, _ = step(Row("fp32", "false", "plain", MICRO).changes)
    # One step of SGD from nothing: lr · (gradient + decay · weights), and the gradient's norm is the clip.
    assert float(moved.norm()) == pytest.approx(0.05 * 0.5, rel=0.05)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(SettingError, match="caffe_sgd has no such form"):
        Training(iterations=1, optimizer="caffe_sgd", fused=True)
    with pytest.raises(SettingError, match=r"training.clip is 0.0; must be finite and > 0"):
        Training(iterations=1, clip=0.0)
    with pytest.raises(SettingError, match=r"training.precision is 'fp16'; choose one of fp32, tf32, bf16"):
        Training(iterations=1, precision="fp16")


# torch's own compiler looks at a gradient that it says not to look at.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_what_earlier_networks_compiled_does_not_count_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanpath import build
    from cleanpath.training import passes

    monkeypatch.setitem(passes._COMPILED, "recompile_limit", 4)  # enough for one network, not for two
    for width in (2, 3):
        made = passes.Passes(build("preresnet8", width=width), Training(iterations=1, batch_size=2, compile=True))
        with made():
            made.backward(made.forward(torch.randn(2, 3, 8, 8), last=True).sum())


def test_the_network_is_the_plain_one_behind_a_step() -> None:
    from cleanpath import build
    from cleanpath.training.passes import Passes

    network = build("preresnet14", width=8)
    training = Training(iterations=1, batch_size=32, memory="recompute", bn_group=8, compile=True, precision="bf16")
    passes = Passes(network, training)
    before = {name: (type(module), {*vars(module)}) for name, module in network.named_modules()}
    with passes():
        assert any("forward" in vars(module) for module in network.modules())
    assert {name: (type(module), {*vars(module)}) for name, module in network.named_modules()} == before
    assert not torch.is_autocast_enabled("cpu")
