"""Order and addition: what Table 2's placements share, and what tells them apart (sections 4.1 and 4.2)."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Network, Shortcut
from cleanpath.nn.asymmetric import Asymmetric
from cleanpath.nn.resnet import ResNet
from tests.nn.networks import (
    BRANCHES,
    PLACEMENTS,
    assert_bitwise,
    assert_close,
    built,
    copy_in_order,
    gradients,
    images,
    outputs_of,
    residual_units,
    run_units,
    signal,
    stage_units,
    tiny,
)

NO_SHORTCUT = {"none": Shortcut(kind="none"), "scaling 0": Shortcut(kind="scaling", scale=0.0)}
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


def same_parameters(of: Network, source: ResNet) -> ResNet:
    network = built(of)
    copy_in_order(source, network)
    return network


def assert_same_function(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    """Equal logits; equal gradients at the input, and by their sums of squares at all parameters together."""
    sizes = []
    x = x.clone().requires_grad_()
    ours, theirs = one(x), other(x)
    assert_close(ours, theirs)
    (at_one,), (at_other,) = (torch.autograd.grad(out.square().sum(), x, retain_graph=True) for out in (ours, theirs))
    assert at_one.abs().max() > 1e-6
    assert_close(at_one, at_other, atol=1e-10)
    for module, out in ((one, ours), (other, theirs)):
        sizes.append(sorted(float(grad.norm()) for grad in gradients(module, out.square().sum())))
    assert sizes[0] == pytest.approx(sizes[1], abs=1e-8, rel=1e-8)


# ---- h = 0


@MODES
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("kind", NO_SHORTCUT)
@pytest.mark.parametrize("placement", PLACEMENTS[1:])
def test_without_a_shortcut_every_order_is_the_same_function(
    placement: str, kind: str, branch: str, *, training: bool
) -> None:
    """The order only matters because of the addition; the ends agree, since the last BN and ReLU are the head's."""
    shortcut = NO_SHORTCUT[kind]
    original = built(tiny(branch, shortcut=shortcut))
    other = same_parameters(tiny(branch, shortcut=shortcut, placement=placement), original)
    x = images(tiny())
    assert_same_function(original.train(training), other.train(training), x)


def test_with_a_shortcut_every_order_is_another_function() -> None:
    """The negative control."""
    x = images(tiny())
    original = built(tiny())
    for placement in PLACEMENTS[1:]:
        other = same_parameters(tiny(placement=placement), original)
        assert (original(x) - other(x)).abs().max() > 1e-3


@MODES
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_constant_0_1_is_the_plain_network(placement: str, branch: str, *, training: bool) -> None:
    plain = built(tiny(branch, placement=placement, shortcut=NO_SHORTCUT["none"])).train(training)
    scaled = built(tiny(branch, placement=placement, shortcut=NO_SHORTCUT["scaling 0"])).train(training)
    assert set(plain.state_dict()) == set(scaled.state_dict())
    scaled.load_state_dict(plain.state_dict())
    x = images(tiny())
    logits, ours = plain(x), scaled(x)
    assert torch.equal(logits, ours)
    for one, other in zip(gradients(plain, logits.square().sum()), gradients(scaled, ours.square().sum()), strict=True):
        assert torch.equal(one, other)


# ---- equation (9), Figure 5


@MODES
@pytest.mark.parametrize("widening", ["A", "B"])
@pytest.mark.parametrize("shared", [True, False], ids=["activated", "raw"])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize(
    ("after", "before"),
    [("original", "relu_only_preactivation"), ("bn_after_addition", "full_preactivation")],
    ids=["ReLU", "BN-ReLU"],
)
def test_asymmetric_activation_after_the_sum_is_preactivation(
    after: str, before: str, branch: str, widening: str, *, shared: bool, training: bool
) -> None:
    of = tiny(branch, units=3, placement=after, widening=widening)
    post = built(of).train(training)
    pre_of = tiny(branch, units=3, placement=before, widening=widening, widening_input="activated" if shared else "raw")
    pre = same_parameters(pre_of, post).train(training)
    x = images(of)
    assert_same_function(Asymmetric(post, shared=shared), pre, x)
    assert (post(x) - pre(x)).abs().max() > 1e-3  # the activation on both paths is another function


@pytest.mark.parametrize(
    ("after", "before"), [("original", "relu_only_preactivation"), ("bn_after_addition", "full_preactivation")]
)
def test_asymmetric_activation_is_preactivation_on_imagenet(after: str, before: str) -> None:
    """The stem's pool stands behind the first activation in both forms."""
    of, pre_of = (
        Network(depth=18, branch="two_layer", placement=placement, layout="imagenet", widening="B", width=2)
        for placement in (after, before)
    )
    post = built(of).eval()
    pre = same_parameters(pre_of, post).eval()
    assert_same_function(Asymmetric(post, shared=True), pre, images(of, size=32))


def test_asymmetric_form_needs_units_of_equation_1() -> None:
    gated = built(tiny(shortcut=Shortcut(kind="exclusive_gating", bias=-6.0)))
    with pytest.raises(SettingError, match=r"unit stages\.stage1\.unit1 is not h\(x\) \+ F\(x\)"):
        Asymmetric(gated)


# ---- signs


@pytest.mark.parametrize("branch", BRANCHES)
def test_relu_before_the_addition_makes_the_signal_grow(branch: str) -> None:
    """Figure 4(c): F ≥ 0, so x_l never falls along a stage, at any place."""
    units = stage_units(built(tiny(branch, units=5, placement="relu_before_addition")))
    x = signal(units[0])
    with outputs_of([unit.branch for unit in units]) as branches, outputs_of(list(units)) as features:
        run_units(units, x)
    assert all(value.min() >= 0 for value in branches)
    assert any(value.max() > 0 for value in branches)
    for before, behind in pairwise([x, *features]):
        assert (behind >= before).all()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("branch", BRANCHES)
def test_signal_is_never_negative_where_a_relu_follows_the_sum(placement: str, branch: str) -> None:
    """Figures 4(a) and (b); and it is, somewhere, in (d) and (e), which also fall somewhere."""
    network = built(tiny(branch, units=3, placement=placement))
    with outputs_of(list(residual_units(network).values())) as features:
        network(images(tiny()))
    lowest = min(float(feature.detach().min()) for feature in features)
    if placement in ("original", "bn_after_addition", "relu_before_addition"):
        assert lowest >= 0  # in (c) because the stem ends in a ReLU
    else:
        assert lowest < -0.1
    falls = [(behind - before).min() < -0.1 for before, behind in pairwise(features[:3])]
    assert any(falls) == (placement != "relu_before_addition")


@pytest.mark.parametrize("at_the_end", [True, False])
def test_scaling_of_the_branch_stands_behind_its_last_norm(*, at_the_end: bool) -> None:
    """Before a BN it would have no effect: the last convolution of an original branch can be scaled freely."""
    network = built(tiny(shortcut=Shortcut(kind="scaling", scale=0.5, branch_scale=0.5)))
    for unit in residual_units(network).values():
        x = signal(unit)
        before = unit.branch(x)
        if at_the_end:
            unit.branch.get_submodule("1").factor = 0.25  # type: ignore[assignment]
            assert_bitwise(unit.branch(x), before / 2)
        else:
            with torch.no_grad():
                unit.branch.get_parameter("0.conv2.weight").mul_(4)
            assert_close(unit.branch(x), before, atol=1e-3)
