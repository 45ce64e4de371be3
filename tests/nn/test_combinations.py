"""Any shortcut × placement × branch × depth builds and trains, and a choice reaches every unit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cleanpath.experiment import Network, Shortcut
from cleanpath.nn.branch import PLACEMENTS as PLACEMENT_TABLE
from cleanpath.nn.branch import Placement
from cleanpath.nn.kinds import KINDS, Parts
from cleanpath.nn.resnet import build
from cleanpath.nn.shortcut import projection
from cleanpath.nn.unit import ResidualUnit
from tests.nn.networks import (
    ALL_SHORTCUTS,
    BEYOND,
    BRANCHES,
    LAYERS,
    PLACEMENTS,
    SHORTCUTS,
    UNGATED_WIDENINGS,
    depth_of,
    images,
    tiny,
)
from tests.nn.trace import fingerprint

IMAGENET_UNITS = {18: 8, 34: 16, 50: 16}


def learns_nothing(of: Network, name: str) -> bool:
    """The parameters whose gradient is zero: those of a projection that is multiplied by λ = 0."""
    return of.shortcut.scale == 0 and ".shortcut." in name


def assert_trains_one_step(of: Network, *, size: int = 8) -> None:
    """Loss finite, a gradient for every parameter, and a loss at the same images that falls."""
    torch.manual_seed(0)
    network = build(of)
    x = images(of, size=size, batch=8, dtype=torch.float32)
    labels = torch.arange(8) % of.num_classes
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss = functional.cross_entropy(network(x), labels)
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if learns_nothing(of, name):
            assert parameter.grad.abs().max() == 0, name
        else:
            assert parameter.grad.abs().max() > 0, name
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer.step()
    assert all(learns_nothing(of, n) or not torch.equal(p, before[n]) for n, p in network.named_parameters())


def unit_texts(of: Network) -> dict[str, str]:
    """What every unit computes."""
    with torch.device("meta"):
        return {name: fingerprint(unit) for name, unit in build(of).units().items()}


def assert_every_unit_changes(one: Network, other: Network, count: int) -> None:
    before, after = unit_texts(one), unit_texts(other)
    assert list(before) == list(after)
    assert len(before) == count
    assert [name for name in before if before[name] == after[name]] == []


def assert_all_differ(networks: list[Network], count: int) -> None:
    """No unit of one network computes what that unit computes in another; there are so many units."""
    texts = [unit_texts(of) for of in networks]
    assert len(texts[0]) == count
    for name in texts[0]:
        assert len({text[name] for text in texts}) == len(networks), name


def test_every_kind_of_shortcut_and_every_placement_is_tested() -> None:
    """A kind or placement that is added must be added to `networks.py`."""
    shortcuts = [*ALL_SHORTCUTS.values(), *(row.shortcut for row in BEYOND.values())]
    assert {setting.kind for setting in shortcuts} == set(KINDS)
    assert {*PLACEMENTS, *(row.placement for row in BEYOND.values())} == set(PLACEMENT_TABLE)
    default = vars(Shortcut())
    given = {name for s in shortcuts for name, value in vars(s).items() if value != default[name]}
    assert given - {"kind"} == set().union(*(kind.needs | kind.takes for kind in KINDS.values()))


@pytest.mark.parametrize("shortcut", ALL_SHORTCUTS)
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_any_shortcut_with_any_placement_and_branch_trains_one_step(placement: str, branch: str, shortcut: str) -> None:
    widening = "B" if branch == "bottleneck" else "A"
    assert_trains_one_step(tiny(branch, placement=placement, shortcut=ALL_SHORTCUTS[shortcut], widening=widening))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    branch=st.sampled_from(BRANCHES),
    units=st.integers(1, 6),
    placement=st.sampled_from(PLACEMENTS),
    shortcut=st.sampled_from(sorted(SHORTCUTS)),
    widening=st.sampled_from(["A", "B"]),
    widening_input=st.sampled_from(["activated", "raw"]),
    widening_norm=st.booleans(),
    padding=st.sampled_from(["after", "both"]),
    stride_on=st.sampled_from(["first", "middle"]),
    width=st.integers(3, 6),
    in_channels=st.sampled_from([1, 3]),
    num_classes=st.sampled_from([2, 10, 100]),
)
def test_any_setting_and_depth_trains_one_step(branch: str, units: int, shortcut: str, **rest: object) -> None:
    assert_trains_one_step(tiny(branch, units=units, shortcut=SHORTCUTS[shortcut], **rest))


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_imagenet_network_trains_one_step(placement: str, depth: int, in_channels: int) -> None:
    branch = "two_layer" if depth == 18 else "bottleneck"
    of = Network(depth=depth, branch=branch, placement=placement, layout="imagenet", width=4, in_channels=in_channels)
    for shortcut in ("identity", "exclusive_gating"):
        assert_trains_one_step(replace(of, shortcut=SHORTCUTS[shortcut], widening="B"), size=64)


@pytest.mark.parametrize("size", [8, 33])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_any_size_of_image_passes_any_shortcut(shortcut: str, size: int) -> None:
    """Also an odd one, where strides round: h and F have the same shape."""
    of = tiny("bottleneck", units=1, shortcut=SHORTCUTS[shortcut], num_classes=7)
    with torch.device("meta"):
        assert build(of)(torch.empty(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("branch", BRANCHES)
def test_another_placement_changes_every_unit(branch: str) -> None:
    assert_all_differ([tiny(branch, units=3, placement=placement) for placement in PLACEMENTS], 9)


@pytest.mark.parametrize("depth", IMAGENET_UNITS)
def test_another_placement_changes_every_unit_on_imagenet(depth: int) -> None:
    branch = "two_layer" if depth < 50 else "bottleneck"
    row = Network(depth=depth, branch=branch, placement="original", layout="imagenet", width=4)
    assert_all_differ([replace(row, placement=placement) for placement in PLACEMENTS], IMAGENET_UNITS[depth])


@pytest.mark.parametrize("placement", ["original", "full_preactivation"])
def test_another_shortcut_changes_every_unit(placement: str) -> None:
    """With option A; a bare 1×1 convolution is option B itself where the width changes, see below."""
    assert_all_differ([tiny(placement=placement, shortcut=setting) for setting in SHORTCUTS.values()], 6)


@pytest.mark.parametrize("kind", UNGATED_WIDENINGS)
def test_gates_leave_out_the_units_that_widen_where_they_are_told_to(kind: str) -> None:
    gated, identity = (unit_texts(tiny(units=3, shortcut=ALL_SHORTCUTS[name])) for name in (kind, "identity"))
    same = [name for name in identity if identity[name] == gated[name]]
    assert same == ["stages.stage2.unit1", "stages.stage3.unit1"]


def test_1x1_convolution_is_option_b_where_the_width_changes() -> None:
    identity, convolution = (
        unit_texts(tiny(units=3, widening="B", shortcut=SHORTCUTS[kind])) for kind in ("identity", "conv_1x1")
    )
    same = [name for name in identity if identity[name] == convolution[name]]
    assert same == ["stages.stage2.unit1", "stages.stage3.unit1"]


def test_another_after_changes_every_unit_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placement of one's own, as a row: the original without its ReLU after the sum."""
    row = replace(PLACEMENT_TABLE["original"], after=())
    monkeypatch.setitem(PLACEMENT_TABLE, "without_after", row)
    of = tiny(units=3)
    assert_every_unit_changes(of, replace(of, placement="without_after"), 9)
    before, after = unit_texts(of), unit_texts(replace(of, placement="without_after"))
    assert all(before[name] == f"{after[name]} relu" for name in before)
    assert_trains_one_step(replace(of, placement="without_after"))


def test_a_placement_may_name_an_operation_twice_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stem and lead stand together in an ImageNet network's stem: conv, BN ReLU, BN ReLU."""
    row = Placement(lead=("norm", "relu"), stem=("norm", "relu"), after=("norm", "relu", "norm"))
    monkeypatch.setitem(PLACEMENT_TABLE, "twice", row)
    of = Network(depth=18, branch="two_layer", placement="twice", layout="imagenet", width=4)
    with torch.device("meta"):
        network = build(of)
    assert fingerprint(network.stem) == "conv7x7/2:3>4 bn relu bn relu maxpool3x3/2p1"
    assert fingerprint(network.get_submodule("stages.stage1.unit2")).endswith(") bn relu bn")


def test_a_shortcut_of_ones_own_reaches_every_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    def negated(parts: Parts, setting: object) -> nn.Module:  # noqa: ARG001
        shortcut = projection(parts.in_channels, parts.out_channels, parts.stride, norm=parts.norm(parts.out_channels))
        return ResidualUnit(before=parts.before, shortcut=shortcut, branch=parts.branch, after=parts.after)

    monkeypatch.setitem(KINDS, "own", replace(KINDS["identity"], make=negated))
    of = tiny(units=3)
    assert_every_unit_changes(of, replace(of, shortcut=replace(of.shortcut, kind="own")), 9)


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("units", [1, 2, 5])
def test_depth_counts_the_units(branch: str, units: int) -> None:
    with torch.device("meta"):
        network = build(Network(depth=depth_of(branch, units), branch=branch, placement="original"))
    assert len(network.units()) == 3 * units
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 3 * units * LAYERS[branch]
