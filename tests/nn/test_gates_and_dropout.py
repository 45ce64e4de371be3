"""Shortcuts that draw or learn how much they pass: the paper's dropout and its gates, section 3.1."""

import math

import pytest
import torch
from torch import Tensor, nn

from cleanpath.experiment import Shortcut
from cleanpath.nn.shortcut import Dropout, Gate
from cleanpath.nn.unit import ExclusivelyGatedUnit
from tests.nn.networks import (
    SHORTCUTS,
    assert_bitwise,
    assert_close,
    built,
    clean_stage,
    outputs_of,
    residual_units,
    run_units,
    signal,
    silence,
    silent_110,
    stage_units,
    tiny,
)

SIGMA_OF_BIAS = {0.0: 0.5, -1.0: 0.2689, -3.0: 0.0474, -6.0: 0.00247, -7.0: 0.00091}
# (1 − σ(b))^54, the sheet's section 2.
DIRECT_PATH_OF_BIAS = {0.0: 5.6e-17, -1.0: 4.5e-8, -3.0: 0.073, -6.0: 0.875, -7.0: 0.952}


def share_tolerance(share: float, count: int) -> float:
    """Five standard errors of a share of `count` independent draws."""
    return 5 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_keeps_its_input_or_nothing_and_scales_it_on_average(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.full((1_000_000,), 3.0, dtype=torch.float64)
    dropped = Dropout(rate).train()(x)
    assert set(dropped.tolist()) == {0.0, 3.0}
    assert float(dropped.mean()) / 3 == pytest.approx(1 - rate, abs=share_tolerance(1 - rate, len(x)))
    assert_bitwise(Dropout(rate).eval()(x), (1 - rate) * x)


def test_dropout_of_rate_zero_is_the_identity() -> None:
    x = torch.randn(1000, dtype=torch.float64)
    assert_bitwise(Dropout(0.0).train()(x), x)
    assert_bitwise(Dropout(0.0).eval()(x), x)


@pytest.mark.parametrize("inverted", [False, True], ids=["as in the paper", "inverted"])
def test_dropout_halves_the_signal_per_unit_unless_it_is_inverted(*, inverted: bool) -> None:
    """Of three units 1/8 survives: as it was, or eightfold."""
    units = clean_stage(3, shortcut=Shortcut(kind="dropout", rate=0.5, inverted=inverted))
    for unit in units:
        silence(unit)
    torch.manual_seed(0)
    x = torch.ones(100, 2, 64, 64, dtype=torch.float64)
    kept = run_units([unit.train() for unit in units], x)
    assert set(kept.flatten().tolist()) == {0.0, 8.0 if inverted else 1.0}
    assert float((kept != 0).double().mean()) == pytest.approx(1 / 8, abs=share_tolerance(1 / 8, x.numel()))
    assert_bitwise(run_units([unit.eval() for unit in units], x), x if inverted else x / 8)


@pytest.mark.parametrize("kind", ["exclusive_gating", "shortcut_only_gating"])
@pytest.mark.parametrize("bias", SIGMA_OF_BIAS)
def test_gate_starts_at_the_sigmoid_of_its_bias(kind: str, bias: float) -> None:
    network = built(tiny(shortcut=Shortcut(kind=kind, bias=bias)))
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    assert len(gates) == 6
    for gate in gates:
        nn.init.zeros_(gate.conv.weight)
        g = gate(torch.randn(2, gate.conv.in_channels, 4, 4, dtype=torch.float64))
        assert_close(g, torch.full_like(g, 1 / (1 + math.exp(-bias))), atol=1e-15)
        assert float(g[0, 0, 0, 0].detach()) == pytest.approx(SIGMA_OF_BIAS[bias], rel=5e-3)


@pytest.mark.parametrize("bias", DIRECT_PATH_OF_BIAS)
def test_gates_leave_the_sheets_share_of_the_signal_in_resnet_110(bias: float) -> None:
    for kind in ("exclusive_gating", "shortcut_only_gating"):
        network = silent_110(Shortcut(kind=kind, bias=bias))
        for module in network.modules():
            if isinstance(module, Gate):
                nn.init.zeros_(module.conv.weight)
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        share = network.stages(x)[:, :1] / x[:, :, ::4, ::4]
        assert_close(share, torch.full_like(share, (1 - 1 / (1 + math.exp(-bias))) ** 54), atol=1e-12)
        assert float(share.mean().detach()) == pytest.approx(DIRECT_PATH_OF_BIAS[bias], rel=1e-2)


def test_exclusive_gate_is_evaluated_once_and_registered_once() -> None:
    network = built(tiny(shortcut=SHORTCUTS["exclusive_gating"]))
    units = residual_units(network)
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    with outputs_of(list(gates)) as calls:
        network(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert len(calls) == len(gates) == len(units) == 6
    assert [key for key in network.state_dict() if key.endswith("gate.conv.weight")] == [
        f"{name}.gate.conv.weight" for name in units
    ]
    assert len(list(network.named_parameters(remove_duplicate=False))) == len(list(network.parameters()))


def test_gate_of_a_unit_reads_the_units_input() -> None:
    network = built(tiny(placement="full_preactivation", shortcut=SHORTCUTS["exclusive_gating"]))
    for unit in stage_units(network):
        assert isinstance(unit, ExclusivelyGatedUnit)
        seen: list[Tensor] = []
        unit.gate.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        x = signal(unit)
        unit(x)
        assert seen[0] is x
