"""Parameter counts as exact integers, for every name of the catalog, on the meta device.

Source of each number: "sheet" is section 4 of the paper's fact sheet; the others come from `closed_form` below, which
shares no line with the package and must also give the sheet's.
"""

import pytest
import torch

from cleanpath.experiment import Network, Shortcut
from cleanpath.nn import catalog
from cleanpath.nn.resnet import build
from tests.nn.networks import ALL_SHORTCUTS, LAYERS, PLACEMENTS, depth_of, on_meta, tiny

# Two-layer networks on small images, option A: no parameter in a shortcut, so the three families agree.
TWO_LAYER = {
    8: 75_290,
    14: 172_506,
    20: 269_722,  # sheet
    26: 366_938,
    32: 464_154,  # sheet
    38: 561_370,
    44: 658_586,  # sheet
    56: 853_018,  # sheet
    110: 1_727_962,  # sheet
    218: 3_477_850,
    1202: 19_421_274,  # sheet
}
# Bottlenecks on small images, option B without BN on the projections; a plain network has no projections.
BOTTLENECK = {
    164: {"plain": 1_661_274, "resnet": 1_703_258, "preresnet": 1_703_258},  # sheet but for plain
    1001: {"plain": 10_285_722, "resnet": 10_327_706, "preresnet": 10_327_706},  # sheet but for plain
}
# ImageNet, option B; with BN on the projections in the original form (sheet but for plain).
IMAGENET = {
    18: {"plain": 11_515_688, "resnet": 11_689_512, "preresnet": 11_687_720},
    34: {"plain": 21_623_848, "resnet": 21_797_672, "preresnet": 21_795_880},
    50: {"plain": 22_780_456, "resnet": 25_557_032, "preresnet": 25_549_352},
    101: {"plain": 41_772_584, "resnet": 44_549_160, "preresnet": 44_541_480},
    152: {"plain": 57_416_232, "resnet": 60_192_808, "preresnet": 60_185_128},
    200: {"plain": 61_897_256, "resnet": 64_673_832, "preresnet": 64_666_152},
}
COUNTS = {
    **{f"{family}{depth}": n for depth, n in TWO_LAYER.items() for family in ("plain", "resnet", "preresnet")},
    **{f"{family}{depth}": n for depth, row in BOTTLENECK.items() for family, n in row.items()},
    **{f"{family}{depth}": n for depth, row in IMAGENET.items() for family, n in row.items()},
    # sheet: "110 (also 1layer-110)"
    "cifar-plain110-1layer": 1_727_962,
    "cifar-resnet110-1layer": 1_727_962,
    "cifar-preresnet110-1layer": 1_727_962,
}
# The sheet's other columns: what a name does not say. 110 with gates and 1×1 convolutions, 100 classes, option B.
VARIANTS = [
    ("resnet20", {"widening": "B"}, 272_282),
    ("resnet20", {"widening": "B", "widening_norm": True}, 272_474),
    ("resnet32", {"widening": "B"}, 466_714),
    ("resnet44", {"widening": "B", "widening_norm": True}, 661_338),
    ("resnet56", {"widening": "B"}, 855_578),
    ("resnet110", {"widening": "B"}, 1_730_522),
    ("preresnet110", {"widening": "B"}, 1_730_522),
    ("resnet110", {"widening": "B", "widening_norm": True}, 1_730_714),
    ("resnet164", {"widening": "A"}, 1_661_274),
    ("resnet164", {"widening_norm": True}, 1_704_154),
    ("resnet110", {"shortcut": Shortcut(kind="exclusive_gating", bias=-6.0)}, 1_824_186),
    ("resnet110", {"shortcut": Shortcut(kind="shortcut_only_gating", bias=-6.0)}, 1_824_186),
    # not in the sheet: less the gates of the two width changes, 16·32 + 32 and 32·64 + 64
    ("resnet110", {"shortcut": Shortcut(kind="exclusive_gating", bias=-6.0, gate_widening=False)}, 1_821_530),
    ("resnet110", {"shortcut": Shortcut(kind="conv_1x1")}, 1_822_170),
    ("resnet110", {"shortcut": Shortcut(kind="conv_1x1", norm=True)}, 1_826_202),
    ("resnet110", {"num_classes": 100}, 1_733_812),
    ("preresnet164", {"num_classes": 100}, 1_726_388),
]
DEEP_VARIANTS = [
    ("resnet1202", {"widening": "B"}, 19_423_834),
    ("resnet1202", {"widening": "B", "widening_norm": True}, 19_424_026),
    ("resnet1001", {"widening": "A"}, 10_285_722),
    ("resnet1001", {"widening_norm": True}, 10_328_602),
    ("preresnet1001", {"num_classes": 100}, 10_350_836),
]
# Units per stage (first paper's Table 1; the paper's footnote 3) and the factor of the last layer's width.
IMAGENET_STAGES = {
    18: ((2, 2, 2, 2), 1),
    34: ((3, 4, 6, 3), 1),
    50: ((3, 4, 6, 3), 4),
    101: ((3, 4, 23, 3), 4),
    152: ((3, 8, 36, 3), 4),
    200: ((3, 24, 36, 3), 4),
}


def closed_form(stem: int, kernels: tuple[int, ...], units: tuple[int, ...], classes: int, *, projection: str) -> int:
    """convolution i·o·k², BN 2c, linear i·o + o; every convolution but a projection has one BN of its output's width.

    Pre-activation moves each BN from behind a convolution to before the next; only at the ends and the width changes
    does a BN change its width, and along the chain those sums are the same: what stage s loses stage s+1 gains.
    `stem` is the kernel of the first convolution; `kernels` those of a unit; `projection` is "", "conv" or "conv bn".
    """
    width = 16 if stem == 3 else 64
    expansion = 4 if len(kernels) == 3 else 1
    channels, total = width, 3 * width * stem**2 + 2 * width
    for stage, count in enumerate(units):
        inner = width * 2**stage
        for _ in range(count):
            outer = inner * expansion
            layer_inputs = (channels, *(inner,) * (len(kernels) - 1))
            layer_outputs = (*(inner,) * (len(kernels) - 1), outer)
            for i, o, k in zip(layer_inputs, layer_outputs, kernels, strict=True):
                total += i * o * k**2 + 2 * o
            if channels != outer:
                total += channels * outer * ("conv" in projection) + 2 * outer * ("bn" in projection)
            channels = outer
    return total + channels * classes + classes


def formula(name: str) -> int:
    """What the closed form gives for a name of the catalog."""
    kernels: tuple[int, ...]
    units: tuple[int, ...]
    digits = "".join(letter for letter in name.removesuffix("-1layer") if letter.isdigit())
    depth, family = int(digits), name.removeprefix("cifar-").split(digits, maxsplit=1)[0]
    if depth in IMAGENET_STAGES:
        units, expansion = IMAGENET_STAGES[depth]
        kernels = (1, 3, 1) if expansion == 4 else (3, 3)
        projection = {"plain": "", "resnet": "conv bn", "preresnet": "conv"}[family]
        # unit 1 has no pre-activation of its own where the stem ends in BN, ReLU and pool; the same number of BNs
        return closed_form(7, kernels, units, 1000, projection=projection)
    kernels = (3,) if name.endswith("-1layer") else (1, 3, 1) if depth in (164, 1001) else (3, 3)
    units = ((depth - 2) // (3 * len(kernels)),) * 3
    projection = "conv" if len(kernels) == 3 and family != "plain" else ""
    return closed_form(3, kernels, units, 10, projection=projection)


def assert_count(network: Network, expected: int) -> None:
    with torch.device("meta"):
        module = build(network)
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


def test_every_name_of_the_catalog_has_a_pinned_count() -> None:
    assert set(catalog.names()) == set(COUNTS)


@pytest.mark.parametrize("name", catalog.names())
def test_parameters_of_a_name_are_the_pinned_integer(name: str) -> None:
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_pinned_count_is_what_the_closed_form_gives(name: str) -> None:
    assert COUNTS[name] == formula(name)


@pytest.mark.parametrize(("name", "settings", "expected"), VARIANTS)
def test_parameters_of_the_sheets_variants(name: str, settings: dict[str, object], expected: int) -> None:
    assert_count(catalog.network(name, **settings), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings", "expected"), DEEP_VARIANTS)
def test_parameters_of_the_sheets_deep_variants(name: str, settings: dict[str, object], expected: int) -> None:
    assert_count(catalog.network(name, **settings), expected)


@pytest.mark.parametrize("branch", LAYERS)
@pytest.mark.parametrize("shortcut", ALL_SHORTCUTS)
def test_all_placements_have_the_same_count(branch: str, shortcut: str) -> None:
    """Figure 4: the same components in another order."""
    counts = set()
    for placement in PLACEMENTS:
        with torch.device("meta"):
            module = build(tiny(branch, units=1, placement=placement, shortcut=ALL_SHORTCUTS[shortcut], widening="B"))
        counts.add(sum(parameter.numel() for parameter in module.parameters()))
    assert len(counts) == 1


def test_a_count_that_is_not_the_networks_own_is_noticed() -> None:
    """±0.2%, as haiku has it, would take option B for option A."""
    with pytest.raises(AssertionError):
        assert_count(catalog.network("resnet110"), 1_730_522)


@pytest.mark.parametrize("branch", LAYERS)
def test_depths_are_those_of_the_papers_formulas(branch: str) -> None:
    """3n+2, 6n+2 and 9n+2."""
    assert [depth_of(branch, n) for n in (1, 2)] == [3 * LAYERS[branch] * n + 2 for n in (1, 2)]
