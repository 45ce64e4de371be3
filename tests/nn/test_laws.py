"""The paper's laws of the direct path: equations (1) to (8)."""

import math

import pytest
import torch
from torch import Tensor, nn

from cleanpath.experiment import Shortcut
from cleanpath.nn.shortcut import Scale
from cleanpath.nn.unit import ExclusivelyGatedUnit, ResidualUnit
from tests.nn.networks import (
    BRANCHES,
    CLEAN,
    PLACEMENTS,
    SHORTCUTS,
    Detached,
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

STAGES = ("stage1", "stage2", "stage3")
# 54 units and 1/2: the sheet's 0.5^18 per stage and 0.5^54 over ResNet-110, powers of two and so exact.
PER_STAGE, OVER_110 = 3.8146972656e-06, 5.5511151231e-17


def scaled_stage(factors: list[float]) -> list[ResidualUnit]:
    """A stage whose units have the given λ, each its own."""
    units = clean_stage(len(factors), shortcut=Shortcut(kind="scaling", scale=0.5))
    for unit, factor in zip(units, factors, strict=True):
        assert isinstance(unit.shortcut, Scale)
        unit.shortcut.factor = factor
    return units


def detach_branches(units: list[ResidualUnit]) -> None:
    for unit in units:
        unit.branch = Detached(unit.branch)


def branch_sum(units: list[ResidualUnit], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """x_L, and the outputs of F on the way."""
    with outputs_of([unit.branch for unit in units]) as branches:
        return run_units(units, x), branches


def product_after(factors: list[float], index: int) -> float:
    return math.prod(factors[index + 1 :])


# ---- equations (1) and (2)


@pytest.mark.parametrize("shortcut", [name for name, setting in SHORTCUTS.items() if setting.kind != "none"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_unit_is_equations_1_and_2(placement: str, shortcut: str) -> None:
    network = built(tiny(placement=placement, shortcut=SHORTCUTS[shortcut])).eval()
    units = residual_units(network)
    assert len(units) == 6
    for unit in units.values():
        x = signal(unit)
        split = unit.before(x)
        h, branch = unit.shortcut(split), unit.branch(split)
        if isinstance(unit, ExclusivelyGatedUnit):
            g = unit.gate(split)
            h, branch = (1 - g) * h, g * branch
        assert_bitwise(unit(x), unit.after(h + branch))


@pytest.mark.parametrize("branch", BRANCHES)
def test_f_is_an_object_of_its_own(branch: str) -> None:
    kinds = {"original": nn.ReLU, "bn_after_addition": nn.Sequential}
    for placement in PLACEMENTS:
        for unit in residual_units(built(tiny(branch, placement=placement))).values():
            assert type(unit.after) is kinds.get(placement, nn.Identity)


# ---- equation (3)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", CLEAN)
def test_identity_unit_with_a_zero_branch_returns_its_input_bitwise(
    placement: str, branch: str, *, training: bool
) -> None:
    network = built(tiny(branch, units=3, placement=placement)).train(training)
    for stage in STAGES:
        for unit in stage_units(network, stage):
            silence(unit)
            x = signal(unit)
            assert x.min() < 0
            assert_bitwise(unit(x), x)


@pytest.mark.parametrize("branch", BRANCHES)
def test_original_unit_with_a_zero_branch_returns_only_inputs_that_are_not_negative(branch: str) -> None:
    for unit in stage_units(built(tiny(branch))):
        silence(unit)
        x = signal(unit)
        assert_bitwise(unit(x.abs()), x.abs())
        assert_bitwise(unit(x), torch.relu(x))
        assert not torch.equal(unit(x), x)


# ---- equation (4)


@pytest.mark.parametrize("units", [1, 2, 5, 17, 53])
@pytest.mark.parametrize("placement", CLEAN)
def test_deep_feature_is_a_shallow_one_plus_the_sum_of_branches(placement: str, units: int) -> None:
    stage = clean_stage(units, placement=placement)
    x = signal(stage[0])
    deep, branches = branch_sum(stage, x)
    assert len(branches) == units
    scale = max(float(value.detach().abs().max()) for value in [x, deep, *branches])
    assert_close(deep, x + torch.stack(branches).sum(dim=0), atol=4 * units * 2.0**-53 * units * scale)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("stage", STAGES)
def test_sum_of_branches_holds_in_every_stage_and_for_every_branch(branch: str, stage: str) -> None:
    units = clean_stage(4, branch=branch, stage=stage)
    x = signal(units[0])
    deep, branches = branch_sum(units, x)
    assert_close(deep, x + sum(branches))


@pytest.mark.slow
def test_sum_of_branches_holds_in_the_deepest_stage() -> None:
    units = clean_stage(332, branch="bottleneck")
    x = signal(units[0])
    deep, branches = branch_sum(units, x)
    assert_close(deep, x + sum(branches), atol=1e-10)


@pytest.mark.parametrize("branch", BRANCHES)
def test_gap_of_a_relu_after_the_sum_is_the_truncated_negative_part(branch: str) -> None:
    """x_L − x_l − ΣF = Σ max(0, −y_i), since ReLU(y) = y + max(0, −y)."""
    units = clean_stage(5, branch=branch, placement="original")
    x = signal(units[0]).abs()
    truncated: list[Tensor] = []
    for unit in units:
        unit.after.register_forward_pre_hook(lambda _, inputs: truncated.append(torch.relu(-inputs[0])))
    deep, branches = branch_sum(units, x)
    gap = deep - x - sum(branches)
    assert len(truncated) == 5
    cut = torch.stack(truncated).sum(dim=0)
    assert cut.sum() > 1
    assert_close(gap, cut)
    assert gap.min() >= -1e-12


# ---- equation (5)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("units", [1, 4, 18])
@pytest.mark.parametrize("placement", CLEAN)
def test_gradient_with_branches_detached_passes_unchanged(placement: str, units: int, *, training: bool) -> None:
    stage = clean_stage(units, placement=placement)
    detach_branches(stage)
    x = signal(stage[0]).requires_grad_()
    deep = run_units([unit.train(training) for unit in stage], x)
    at_deep = signal(stage[0], seed=6)
    (at_shallow,) = torch.autograd.grad(deep, x, at_deep)
    assert_bitwise(at_shallow, at_deep)


def test_loss_of_a_whole_network_reaches_every_unit_of_a_stage_unchanged() -> None:
    network = built(tiny(units=5, placement="full_preactivation"))
    units = stage_units(network, "stage2")
    detach_branches(units)
    with outputs_of(list(units)) as features:
        logits = network(torch.randn(4, 3, 8, 8, dtype=torch.float64))
        for feature in features:
            feature.retain_grad()
        logits.square().sum().backward()
    grads = [feature.grad for feature in features]
    assert grads[-1] is not None
    assert grads[-1].abs().max() > 0
    for grad in grads:
        assert grad is not None
        assert_bitwise(grad, grads[-1])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", CLEAN)
def test_gradient_is_the_deep_one_plus_the_branch_term(placement: str, branch: str, *, training: bool) -> None:
    units = [unit.train(training) for unit in clean_stage(4, branch=branch, placement=placement)]
    x = signal(units[0]).requires_grad_()
    deep, branches = branch_sum(units, x)
    at_deep = signal(units[0], seed=6)
    (at_shallow,) = torch.autograd.grad(deep, x, at_deep, retain_graph=True)
    (branch_term,) = torch.autograd.grad(torch.stack(branches).sum(dim=0), x, at_deep)
    assert branch_term.abs().max() > 1e-3
    assert_close(at_shallow, at_deep + branch_term, atol=1e-10)


def test_gradient_does_not_vanish_with_small_weights() -> None:
    """The last convolution of a full pre-activation branch has no BN behind it; its size c leaves a term of order c."""
    distance = []
    for size in (1e-2, 1e-4):
        units = clean_stage(4)
        for unit in units:
            with torch.no_grad():
                unit.branch.get_parameter("conv2.weight").mul_(size)
        x = signal(units[0]).requires_grad_()
        at_deep = signal(units[0], seed=6)
        (at_shallow,) = torch.autograd.grad(run_units(units, x), x, at_deep)
        distance.append(float((at_shallow - at_deep).norm() / at_deep.norm()))
    assert 0 < distance[0] < 0.1
    assert distance[1] == pytest.approx(distance[0] / 100, rel=0.1)


# ---- equations (7) and (8)

FACTORS = [0.5, 1.25, -0.75, 0.3, 1.0, 0.9]


def test_scaled_signal_is_the_product_of_the_factors() -> None:
    """(7) without branches."""
    units = scaled_stage(FACTORS)
    for unit in units:
        silence(unit)
    x = signal(units[0])
    assert_close(run_units(units, x), math.prod(FACTORS) * x, atol=1e-15)


def test_scaled_signal_is_the_product_plus_the_folded_branches() -> None:
    """(7): F̂_i = (Π_{j>i} λ_j) F_i."""
    units = scaled_stage(FACTORS)
    x = signal(units[0])
    deep, branches = branch_sum(units, x)
    folded = [product_after(FACTORS, index) * value for index, value in enumerate(branches)]
    assert_close(deep, math.prod(FACTORS) * x + sum(folded))


def test_scaled_gradient_is_the_product_of_the_factors() -> None:
    """(8) without the branch term."""
    units = scaled_stage(FACTORS)
    detach_branches(units)
    x = signal(units[0]).requires_grad_()
    at_deep = signal(units[0], seed=6)
    (at_shallow,) = torch.autograd.grad(run_units(units, x), x, at_deep)
    assert_close(at_shallow, math.prod(FACTORS) * at_deep, atol=1e-15)


def test_scaled_gradient_is_the_product_plus_the_folded_branch_term() -> None:
    """(8)."""
    units = scaled_stage(FACTORS)
    x = signal(units[0]).requires_grad_()
    deep, branches = branch_sum(units, x)
    at_deep = signal(units[0], seed=6)
    (at_shallow,) = torch.autograd.grad(deep, x, at_deep, retain_graph=True)
    folded = torch.stack([product_after(FACTORS, index) * value for index, value in enumerate(branches)]).sum(dim=0)
    (branch_term,) = torch.autograd.grad(folded, x, at_deep)
    assert_close(at_shallow, math.prod(FACTORS) * at_deep + branch_term, atol=1e-10)


def test_halved_shortcuts_leave_the_sheets_share_of_the_signal_in_resnet_110() -> None:
    """The original unit, on signals that are not negative: 0.5^18 in a stage, 0.5^54 from stem to head, exactly."""
    network = silent_110(Shortcut(kind="scaling", scale=0.5))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    after_first = network.get_submodule("stages.stage1")(x)
    assert_bitwise(after_first, 0.5**18 * x)
    assert pytest.approx(PER_STAGE, rel=1e-9) == 0.5**18
    at_head = network.stages(x)
    assert_bitwise(at_head[:, :1], OVER_110_EXACT * x[:, :, ::4, ::4])
    assert pytest.approx(OVER_110, rel=1e-9) == OVER_110_EXACT


OVER_110_EXACT = 2.0**-54


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_scaling_of_the_branch_alone_makes_no_product(*, training: bool) -> None:
    units = clean_stage(6, shortcut=Shortcut(kind="branch_scaling", branch_scale=0.25))
    x = signal(units[0]).requires_grad_()
    with outputs_of([unit.branch.get_submodule("0") for unit in units]) as unscaled:
        deep = run_units([unit.train(training) for unit in units], x)
    assert_close(deep, x + 0.25 * sum(unscaled))
    detach_branches(units)
    at_deep = signal(units[0], seed=6)
    (at_shallow,) = torch.autograd.grad(run_units(units, x), x, at_deep)
    assert_bitwise(at_shallow, at_deep)
