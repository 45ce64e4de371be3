"""What each network computes, against Figure 4 and the appendix of the paper, written down here.

A parameter count cannot tell any of these from another: see the second half.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import catalog
from cleanpath.nn.resnet import ResNet, build
from tests.nn.networks import ALL_SHORTCUTS, BRANCHES, LAYERS, PLACEMENTS, residual_units, tiny
from tests.nn.trace import feeding, fingerprint

# Figure 4, section 4.1; w is a weight layer: lead of F, F after its lead with one, two and three layers,
# f, what follows the stem's convolution, what follows the last sum.
FIGURE_4 = {
    "original": ("", ("w bn", "w bn relu w bn", "w bn relu w bn relu w bn"), "relu", "bn relu", ""),
    "bn_after_addition": ("", ("w", "w bn relu w", "w bn relu w bn relu w"), "bn relu", "bn relu", ""),
    "relu_before_addition": (
        "",
        ("w bn relu", "w bn relu w bn relu", "w bn relu w bn relu w bn relu"),
        "",
        "bn relu",
        "",
    ),
    "relu_only_preactivation": ("relu", ("w bn", "w bn relu w bn", "w bn relu w bn relu w bn"), "", "bn", "relu"),
    "full_preactivation": ("bn relu", ("w", "w bn relu w", "w bn relu w bn relu w"), "", "", "bn relu"),
}

# Three networks in full, so that the assembly below is checked too.
RESNET_8 = """
conv3x3:3>4 bn relu
( x + conv3x3:4>4 bn relu conv3x3:4>4 bn ) relu
( every1,1,2,2 zeros0,0,0,0,0,4 + conv3x3/2:4>8 bn relu conv3x3:8>8 bn ) relu
( every1,1,2,2 zeros0,0,0,0,0,8 + conv3x3/2:8>16 bn relu conv3x3:16>16 bn ) relu
avgpool flatten linear:16>10
"""
PRERESNET_20_BOTTLENECK = """
conv3x3:3>4
bn relu ( conv1x1:4>16 + conv1x1:4>4 bn relu conv3x3:4>4 bn relu conv1x1:4>16 )
( x + bn relu conv1x1:16>4 bn relu conv3x3:4>4 bn relu conv1x1:4>16 )
bn relu ( conv1x1/2:16>32 + conv1x1/2:16>8 bn relu conv3x3:8>8 bn relu conv1x1:8>32 )
( x + bn relu conv1x1:32>8 bn relu conv3x3:8>8 bn relu conv1x1:8>32 )
bn relu ( conv1x1/2:32>64 + conv1x1/2:32>16 bn relu conv3x3:16>16 bn relu conv1x1:16>64 )
( x + bn relu conv1x1:64>16 bn relu conv3x3:16>16 bn relu conv1x1:16>64 )
bn relu avgpool flatten linear:64>10
"""
PRERESNET_18 = """
conv7x7/2:3>64 bn relu maxpool3x3/2p1
( x + conv3x3:64>64 bn relu conv3x3:64>64 )
( x + bn relu conv3x3:64>64 bn relu conv3x3:64>64 )
bn relu ( conv1x1/2:64>128 + conv3x3/2:64>128 bn relu conv3x3:128>128 )
( x + bn relu conv3x3:128>128 bn relu conv3x3:128>128 )
bn relu ( conv1x1/2:128>256 + conv3x3/2:128>256 bn relu conv3x3:256>256 )
( x + bn relu conv3x3:256>256 bn relu conv3x3:256>256 )
bn relu ( conv1x1/2:256>512 + conv3x3/2:256>512 bn relu conv3x3:512>512 )
( x + bn relu conv3x3:512>512 bn relu conv3x3:512>512 )
bn relu avgpool flatten linear:512>1000
"""

F, F2 = "conv3x3:4>4 bn relu conv3x3:4>4 bn", "conv3x3/2:4>8 bn relu conv3x3:8>8 bn"
A = "every1,1,2,2 zeros0,0,0,0,0,4"
G, G2 = "conv1x1:4>4+b sigmoid", "conv1x1/2:4>8+b sigmoid"
GN, GN2 = "conv1x1:4>4 bn sigmoid", "conv1x1/2:4>8 bn sigmoid"
DROP = "( x * empty bernoulli_(0.5,) )"
# Figure 2 and Table 1; brackets of a product hold its factors.
FIGURE_2 = {
    "identity": (f"( x + {F} )", f"( {A} + {F2} )"),
    "none": (F, F2),
    "scaling 0, 1": (f"( *0.0 + {F} )", f"( {A} *0.0 + {F2} )"),
    "scaling 0.5, 1": (f"( *0.5 + {F} )", f"( {A} *0.5 + {F2} )"),
    "scaling 0.5, 0.5": (f"( *0.5 + {F} *0.5 )", f"( {A} *0.5 + {F2} *0.5 )"),
    "branch_scaling": (f"( x + {F} *0.3 )", f"( {A} + {F2} *0.3 )"),
    "exclusive_gating": (f"( ( {G} 1- * x ) + ( {G} * {F} ) )", f"( ( {G2} 1- * {A} ) + ( {G2} * {F2} ) )"),
    "exclusive_gating, norm": (f"( ( {GN} 1- * x ) + ( {GN} * {F} ) )", f"( ( {GN2} 1- * {A} ) + ( {GN2} * {F2} ) )"),
    "exclusive_gating, open widening": (f"( ( {G} 1- * x ) + ( {G} * {F} ) )", f"( {A} + {F2} )"),
    "shortcut_only_gating": (f"( ( {G} 1- * x ) + {F} )", f"( ( {G2} 1- * {A} ) + {F2} )"),
    "shortcut_only_gating, norm": (f"( ( {GN} 1- * x ) + {F} )", f"( ( {GN2} 1- * {A} ) + {F2} )"),
    "shortcut_only_gating, open widening": (f"( ( {G} 1- * x ) + {F} )", f"( {A} + {F2} )"),
    "conv_1x1": (f"( conv1x1:4>4 + {F} )", f"( conv1x1/2:4>8 + {F2} )"),
    "conv_1x1, norm": (f"( conv1x1:4>4 bn + {F} )", f"( conv1x1/2:4>8 bn + {F2} )"),
    "dropout": (f"( {DROP} + {F} )", f"( {A} {DROP} + {F2} )"),
    "dropout, inverted": (f"( dropout0.5 + {F} )", f"( {A} dropout0.5 + {F2} )"),
}


def from_the_paper(of: Network, counts: tuple[int, ...]) -> str:
    """The text of a network: stem, units with identity shortcuts, head."""
    lead, branches, after, stem, tail = FIGURE_4[of.placement]
    wider = 4 if of.branch == "bottleneck" else 1
    channels, first = of.width, True
    if of.layout == "cifar":
        words = [f"conv3x3:{of.in_channels}>{channels}", stem]
    else:
        words = [f"conv7x7/2:{of.in_channels}>{channels}", stem, lead, "maxpool3x3/2p1"]
    for stage, count in enumerate(counts):
        inner = of.width * 2**stage
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            widens = stride == 2 or channels != inner * wider
            shortcut = shortcut_where_it_widens(of, channels, inner * wider, stride) if widens else "x"
            branch = branches[LAYERS[of.branch] - 1]
            for layer in weight_layers(of, channels, inner, stride):
                branch = branch.replace("w", layer, 1)
            shared = first or (widens and of.widening_input == "activated")
            if first and of.layout == "imagenet":
                words.append(f"( {shortcut} + {branch} )")  # its lead stands in the stem, before the pool
            elif shared:
                words.append(f"{lead} ( {shortcut} + {branch} )")
            else:
                words.append(f"( {shortcut} + {lead} {branch} )")
            words.append(after)
            channels, first = inner * wider, False
    words += [tail, f"avgpool flatten linear:{channels}>{of.num_classes}"]
    return " ".join(" ".join(words).split())


def weight_layers(of: Network, channels: int, inner: int, stride: int) -> list[str]:
    half, last = "/2" if stride == 2 else "", inner * 4
    if of.branch == "bottleneck":
        one, three = (half, "") if of.stride_on == "first" else ("", half)
        return [f"conv1x1{one}:{channels}>{inner}", f"conv3x3{three}:{inner}>{inner}", f"conv1x1:{inner}>{last}"]
    return [f"conv3x3{half}:{channels}>{inner}", f"conv3x3:{inner}>{inner}"][: LAYERS[of.branch]]


def shortcut_where_it_widens(of: Network, channels: int, outer: int, stride: int) -> str:
    if of.widening == "A":
        before = (outer - channels) // 2 if of.padding == "both" else 0
        return f"every1,1,{stride},{stride} zeros0,0,0,0,{before},{outer - channels - before}"
    return f"conv1x1{'/2' if stride == 2 else ''}:{channels}>{outer}" + (" bn" if of.widening_norm else "")


def traced(of: Network) -> str:
    with torch.device("meta"):
        return fingerprint(build(of))


def parameters(network: ResNet) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class Bypassed(nn.Module):
    """Holds a module's parameters without computing it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return x


def assert_told_apart(one: ResNet, other: ResNet) -> None:
    """Two networks of one parameter count with two texts."""
    assert parameters(one) == parameters(other)
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("widening", ["A", "B", "B norm"])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_network_for_small_images_computes_what_the_paper_draws(placement: str, branch: str, widening: str) -> None:
    of = tiny(branch, placement=placement, widening=widening[0], widening_norm="norm" in widening)
    assert traced(of) == from_the_paper(of, (2, 2, 2))


def test_every_shortcut_computes_what_figure_2_draws() -> None:
    """In the second unit of an original network, and where the width changes with option A."""
    assert set(FIGURE_2) == set(ALL_SHORTCUTS)
    for name, (inside, widening) in FIGURE_2.items():
        network = build(tiny(units=2, shortcut=ALL_SHORTCUTS[name]))
        for unit, text in (("stages.stage1.unit2", inside), ("stages.stage2.unit1", widening)):
            assert fingerprint(network.get_submodule(unit)) == f"{text} relu", name


@pytest.mark.parametrize(
    ("placement", "depth"),
    [
        *((placement, depth) for placement in PLACEMENTS for depth in (18, 50)),
        *(("full_preactivation", depth) for depth in (34, 101, 152, 200)),
    ],
)
def test_imagenet_network_computes_what_the_paper_draws(placement: str, depth: int) -> None:
    branch = "two_layer" if depth < 50 else "bottleneck"
    of = Network(depth=depth, branch=branch, placement=placement, layout="imagenet", widening="B", width=8)
    counts = {18: (2, 2, 2, 2), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}.get(depth, (3, 4, 6, 3))
    assert traced(of) == from_the_paper(of, counts)


@pytest.mark.parametrize("setting", [{"widening_input": "raw"}, {"stride_on": "middle"}, {"padding": "both"}])
@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_named_settings_compute_what_they_say(placement: str, branch: str, setting: dict[str, Any]) -> None:
    of = tiny(branch, placement=placement, **setting)
    assert traced(of) == from_the_paper(of, (2, 2, 2))


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (tiny(units=1), RESNET_8),
        (tiny("bottleneck", placement="full_preactivation", widening="B"), PRERESNET_20_BOTTLENECK),
        (catalog.network("preresnet18"), PRERESNET_18),
    ],
    ids=["resnet8", "preresnet20-bottleneck", "preresnet18"],
)
def test_three_networks_compute_the_operations_written_out_in_full(of: Network, text: str) -> None:
    assert traced(of) == " ".join(text.split())


@pytest.mark.parametrize("name", ["resnet20", "preresnet20", "resnet164", "preresnet164", "cifar-preresnet110-1layer"])
def test_catalog_names_stand_for_the_papers_networks(name: str) -> None:
    of = catalog.network(name)
    per_stage = (of.depth - 2) // (3 * LAYERS[of.branch])
    assert of.placement == ("full_preactivation" if "preresnet" in name else "original")
    assert (of.widening, of.widening_norm, of.width) == ("B" if "164" in name else "A", False, 16)
    assert traced(of) == from_the_paper(of, (per_stage,) * 3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "preresnet50"])
def test_imagenet_names_project_with_a_norm_in_the_original_form_only(name: str) -> None:
    """Caffe's released models and fb.resnet.torch have it; the pre-activation's projection is a bare convolution."""
    of = catalog.network(name)
    assert of.widening_norm == (not name.startswith("pre"))
    assert traced(of) == from_the_paper(of, (2, 2, 2, 2) if "18" in name else (3, 4, 6, 3))


@pytest.mark.parametrize("name", ["plain20", "plain34", "plain164"])
def test_plain_network_is_one_path(name: str) -> None:
    of = catalog.network(name)
    assert of.placement == "original"
    resnet = traced(replace(of, shortcut=Shortcut()))
    without = traced(of)
    assert "(" not in without
    assert without.split() == [word for word in branches_only(resnet.split()) if word]


def branches_only(words: list[str]) -> list[str]:
    """The words outside brackets, and inside them those behind the plus."""
    kept, on_shortcut = [], False
    for word in words:
        if word == "(":
            on_shortcut = True
        elif word == "+":
            on_shortcut = False
        elif word != ")" and not on_shortcut:
            kept.append(word)
    return kept


@pytest.mark.parametrize("placement", PLACEMENTS[:4])
@pytest.mark.parametrize("branch", BRANCHES)
def test_orders_of_one_count_are_told_apart(placement: str, branch: str) -> None:
    others = PLACEMENTS[PLACEMENTS.index(placement) + 1 :]
    for other in others:
        assert_told_apart(build(tiny(branch, placement=placement)), build(tiny(branch, placement=other)))


@pytest.mark.parametrize("setting", ["widening_input", "stride_on", "padding"])
def test_dialects_of_one_count_are_told_apart(setting: str) -> None:
    """Raw or shared pre-activation, the strided layer, the side of the zeros."""
    widening = "A" if setting == "padding" else "B"
    one = tiny("bottleneck", placement="full_preactivation", widening=widening)
    value: Any = {"widening_input": "raw", "stride_on": "middle", "padding": "both"}[setting]
    assert_told_apart(build(one), build(replace(one, **{setting: value})))


def test_first_activation_behind_the_split_is_told_apart() -> None:
    of = tiny(placement="full_preactivation")
    moved = build(of)
    unit = residual_units(moved)["stages.stage1.unit1"]
    unit.branch, unit.before = nn.Sequential(unit.before, unit.branch), nn.Identity()
    assert_told_apart(build(of), moved)
    assert "( x + bn relu" in fingerprint(moved).split("conv3x3:4>4")[0]


def test_missing_last_activation_is_told_apart() -> None:
    of = tiny(placement="full_preactivation")
    without = build(of)
    without.head.activation = Bypassed(without.get_submodule("head.activation"))
    assert_told_apart(build(of), without)


def test_projection_without_its_norm_is_told_apart() -> None:
    of = tiny(widening="B", widening_norm=True)
    without = build(of)
    projection = without.get_submodule("stages.stage2.unit1.shortcut")
    assert isinstance(projection, nn.Sequential)
    projection[1] = Bypassed(projection[1])
    assert_told_apart(build(of), without)


@pytest.mark.parametrize("name", ["preresnet164", "preresnet20", "cifar-preresnet110-1layer"])
def test_full_preactivation_normalises_the_input_of_every_weight_layer(name: str) -> None:
    """Section 4.2: but for the first convolution, which reads the images."""
    with torch.device("meta"):
        inputs = feeding(build(catalog.network(name)), 2)
    assert inputs.pop("stem.conv") == ""
    assert set(inputs.values()) == {"bn relu"}


def test_original_network_does_not_normalise_the_merged_signal() -> None:
    """Section 4.2: the other side of the claim, so that the test above can fail."""
    with torch.device("meta"):
        inputs = feeding(build(catalog.network("resnet20")), 2)
    assert sum(words != "bn relu" for name, words in inputs.items() if name.endswith("branch.conv1")) == 8
