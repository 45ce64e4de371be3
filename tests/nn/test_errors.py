"""What a user reads who asks for a network that is none: what was asked, what was found, what to do."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from cleanpath.errors import CleanpathError, SettingError, UnknownNameError, UserError
from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import catalog
from cleanpath.nn.kinds import KINDS
from cleanpath.nn.resnet import build
from tests.nn.networks import LAYERS, SHORTCUTS, tiny

READS: dict[str, set[str]] = {
    "identity": set(),
    "none": set(),
    "scaling": {"scale", "branch_scale"},
    "branch_scaling": {"branch_scale"},
    "exclusive_gating": {"bias", "norm", "gate_widening"},
    "shortcut_only_gating": {"bias", "norm", "gate_widening"},
    "conv_1x1": {"norm"},
    "dropout": {"rate", "inverted"},
    "skip_init": {"start"},
    "layer_scale": {"start"},
    "weighted_residual": {"start"},
    "stochastic_depth": {"rate", "inverted"},
    "squeeze_excitation": {"reduction"},
    "highway": {"bias"},
    "fixup": set(),
    "deepnorm": set(),
    "hyper_connections": {"streams"},
    "manifold_hyper_connections": {"streams"},
}
NUMBERS = {"scale": 0.5, "branch_scale": 0.5, "bias": -1.0, "rate": 0.5, "start": 0.5, "streams": 2, "reduction": 4}
VALUES: dict[str, float] = NUMBERS | {"inverted": True, "norm": True, "gate_widening": False}
NEEDS = (
    {"scaling": "scale", "branch_scaling": "branch_scale", "dropout": "rate", "stochastic_depth": "rate"}
    | {"layer_scale": "start"}
    | dict.fromkeys(("exclusive_gating", "shortcut_only_gating", "highway"), "bias")
    | dict.fromkeys(("hyper_connections", "manifold_hyper_connections"), "streams")
)


def shortcut_with(kind: str, settings: dict[str, Any]) -> Shortcut:
    return Shortcut(kind=kind, **settings)


def assert_says(error: pytest.ExceptionInfo[CleanpathError], *words: str) -> None:
    """One sentence of at most two lines with these words; the user can mend it."""
    text = str(error.value)
    assert isinstance(error.value, UserError)
    assert error.value.exit_code == 2
    assert text.count("\n") <= 1
    assert len(text) < 300
    for word in words:
        assert re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text), f"{word!r} is not in {text!r}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("preresnet57", ("57", "6n+2", "two_layer", "56", "62")),
        ("resnet61", ("61", "56", "62")),
        ("cifar-resnet165-bottleneck", ("165", "9n+2", "bottleneck", "164", "173")),
        ("cifar-preresnet172-bottleneck", ("172", "164", "173")),
        ("cifar-plain9-1layer", ("9", "3n+2", "one_layer", "8", "11")),
        ("resnet7", ("7", "8")),
        ("resnet2", ("2", "8")),
        ("resnet0", ("0", "8")),
        ("cifar-resnet10-bottleneck", ("10", "11")),
        ("imagenet-resnet51", ("51", "ImageNet", "50")),
        ("imagenet-preresnet1000", ("1000", "200", "152")),
        ("imagenet-resnet18-bottleneck", ("18", "bottleneck", "50", "101", "152", "200")),
        ("imagenet-resnet18-1layer", ("18", "one_layer", "none")),
    ],
)
def test_depth_that_the_layers_cannot_make_names_the_nearest(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SettingError) as error:
        catalog.network(name)
    assert_says(error, *words)


@pytest.mark.parametrize("depth", [57, 0, 3])
def test_depth_of_a_specification_is_checked_too(depth: int) -> None:
    with pytest.raises(SettingError) as error:
        build(tiny(depth=depth))
    assert_says(error, "depth", str(depth))


@pytest.mark.parametrize("depth", [8, 57, 110, 165, 1202])
def test_nearest_depths_that_are_named_can_be_built(depth: int) -> None:
    """A message is built from values: each depth it names is one that the layers make."""
    for branch, layers in LAYERS.items():
        of = tiny(branch, depth=depth)
        if (depth - 2) % (3 * layers) == 0:
            catalog.stages(of)
            continue
        with pytest.raises(SettingError) as error:
            catalog.stages(of)
        nearest = [int(number) for number in re.findall(r"\d+", str(error.value).split("nearest")[1])]
        assert nearest
        for other in nearest:
            catalog.stages(tiny(branch, depth=other))
        assert min(nearest) < depth < max(nearest) or depth < min(nearest)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("preresnt110", "preresnet110"),
        ("ResNet110", "resnet110"),
        ("resnet-110", "resnet110"),
        ("preresnet164-bottlenek", "preresnet164"),
        ("vgg16", "; see `cleanpath list networks`"),
        ("", "; see `cleanpath list networks`"),
    ],
)
def test_unknown_network_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        catalog.network(name)
    assert_says(error, near, "cleanpath list networks")
    assert f"'{name}'" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "near"), [("exclusive_gate", "exclusive_gating"), ("drop_out", "dropout"), ("xyz", "identity")]
)
def test_unknown_shortcut_is_answered_with_the_nearest(kind: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        build(tiny(shortcut=Shortcut(kind=kind)))
    assert_says(error, "shortcut", kind, near)


@pytest.mark.parametrize(
    ("placement", "near"), [("full_preactivaton", "full_preactivation"), ("pre", "relu_only_preactivation")]
)
def test_unknown_placement_is_answered_with_the_nearest(placement: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        build(tiny(placement=placement))
    assert_says(error, "placement", placement, near)


def test_unknown_setting_of_a_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as error:
        catalog.network("resnet20", num_clases=3)
    assert_says(error, "num_clases", "num_classes")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["scale", "branch_scale", "bias"])
def test_number_that_is_not_finite_is_refused(name: str, value: float) -> None:
    with pytest.raises(SettingError) as error:
        shortcut_with("scaling", {name: value})
    assert_says(error, f"shortcut.{name}", str(value), "finite")


@pytest.mark.parametrize("rate", [1.5, 1.0, -0.1, math.nan])
def test_dropout_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(SettingError) as error:
        Shortcut(kind="dropout", rate=rate)
    assert_says(error, "shortcut.rate", str(rate), "0", "1")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("scaling", "scale"),
        ("branch_scaling", "branch_scale"),
        ("exclusive_gating", "bias"),
        ("shortcut_only_gating", "bias"),
        ("dropout", "rate"),
        ("stochastic_depth", "rate"),
        ("layer_scale", "start"),
        ("highway", "bias"),
        ("hyper_connections", "streams"),
    ],
)
def test_setting_that_a_shortcut_needs_must_be_given(kind: str, missing: str) -> None:
    with pytest.raises(SettingError) as error:
        build(tiny(shortcut=Shortcut(kind=kind)))
    assert_says(error, kind, "needs", f"shortcut.{missing}")


@pytest.mark.parametrize("kind", [kind for kind in NEEDS if NEEDS[kind] != "streams"])
def test_setting_of_zero_is_a_setting(kind: str) -> None:
    build(tiny(units=1, shortcut=shortcut_with(kind, {NEEDS[kind]: 0.0})))


@pytest.mark.parametrize("kind", READS)
def test_setting_that_a_shortcut_does_not_read_is_refused(kind: str) -> None:
    needed = {NEEDS[kind]: VALUES[NEEDS[kind]]} if kind in NEEDS else {}
    for unread in set(VALUES) - READS[kind]:
        with pytest.raises(SettingError) as error:
            build(tiny(shortcut=shortcut_with(kind, needed | {unread: VALUES[unread]})))
        assert_says(error, kind, "does not read", f"shortcut.{unread}")
        assert all(f"shortcut.{name}" in str(error.value) for name in READS[kind])


def test_every_kind_is_in_the_list_above() -> None:
    assert set(READS) == set(KINDS)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"branch": "three_layer"}, ("network.branch", "three_layer", "bottleneck")),
        ({"layout": "mnist"}, ("network.layout", "mnist", "cifar")),
        ({"widening": "C"}, ("network.widening", "C", "A", "B", "D")),
        ({"widening_input": "both"}, ("network.widening_input", "both", "raw")),
        ({"padding": "left"}, ("network.padding", "left", "after")),
        ({"stride_on": "last"}, ("network.stride_on", "last", "middle")),
        ({"width": 0}, ("network.width", "0", "1")),
        ({"in_channels": 0}, ("network.in_channels", "0", "1")),
        ({"num_classes": 1}, ("network.num_classes", "1", "2")),
    ],
)
def test_value_that_a_network_cannot_have_is_refused(setting: dict[str, Any], words: tuple[str, ...]) -> None:
    of = tiny()
    with pytest.raises(SettingError) as error:
        replace(of, **setting)
    assert_says(error, *words)


def test_branch_that_imagenet_does_not_have_at_a_depth_is_refused() -> None:
    with pytest.raises(SettingError) as error:
        build(Network(depth=50, branch="two_layer", placement="original", layout="imagenet"))
    assert_says(error, "50", "two_layer", "18", "34")


@pytest.mark.parametrize("name", catalog.names())
def test_name_of_a_network_of_the_catalog_is_its_name(name: str) -> None:
    assert catalog.name_of(catalog.network(name)) == name


def test_two_specifications_that_differ_in_shortcut_or_placement_have_two_names() -> None:
    kinds = {setting.kind: setting for setting in SHORTCUTS.values()}
    placements = ("original", "bn_after_addition", "full_preactivation")
    specs = [tiny(placement=placement, shortcut=kind) for placement in placements for kind in kinds.values()]
    names = [catalog.name_of(of) for of in specs]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_names_are_found_by_pattern() -> None:
    assert catalog.names("preresnet1?1") == ("preresnet101",)
    assert catalog.names("cifar-*") == ("cifar-plain110-1layer", "cifar-resnet110-1layer", "cifar-preresnet110-1layer")
    assert catalog.names("nothing*") == ()
    assert len(set(catalog.names())) == len(catalog.names())
