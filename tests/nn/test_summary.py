"""Depth, multiply-adds, shapes and words of a network, as `cleanpath show` prints them."""

import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Network
from cleanpath.nn import catalog
from cleanpath.nn.resnet import build
from cleanpath.nn.summary import summarise
from cleanpath.nn.summary_values import Summary, UnitSummary, to_data
from tests.nn.networks import BRANCHES, SHORTCUTS, depth_of, on_meta, tiny
from tests.nn.trace import weighted_layers

# The sheet's section 4, 32×32, the stride on a bottleneck's first layer, in millions as printed.
MILLIONS = {"resnet20": "40.6", "resnet56": "125.5", "resnet110": "252.9", "preresnet164": "244.5"}
DEEP_MILLIONS = {"preresnet1001": "1487.8", "resnet1202": "2829"}
# First paper, Table 1: 1.8, 3.6, 3.8, 7.6 and 11.3 · 10⁹, of which it counts convolutions, at two digits.
BILLIONS = {"resnet18": 1.8, "resnet34": 3.6, "resnet50": 3.8, "resnet101": 7.6, "resnet152": 11.3}


def multiply_adds(kernels: tuple[int, ...], units: int, *, size: int, projections: bool) -> int:
    """A network for small images, in closed form: Σ k²·i·o·positions of the output, and the classifier's."""
    channels, total = 16, 9 * 3 * 16 * size**2
    for stage in range(3):
        inner, side = 16 * 2**stage, size // 2**stage
        outer = inner * (4 if len(kernels) == 3 else 1)
        for _ in range(units):
            widths = (channels, *(inner,) * (len(kernels) - 1), outer)
            total += sum(k**2 * i * o for k, i, o in zip(kernels, widths[:-1], widths[1:], strict=True)) * side**2
            total += channels * outer * side**2 * (projections and channels != outer)
            channels = outer
    return total + channels * 10


def assert_printed(macs: int, printed: str) -> None:
    """The number to the digits of the sheet."""
    digits = len(printed.partition(".")[2])
    assert f"{macs / 1e6:.{digits}f}" == printed


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.endswith(("1001", "1202"))) for name in catalog.names()]
)
def test_weighted_layers_on_the_longest_path_are_the_depth_in_the_name(name: str) -> None:
    """Counted on the traced computation; projections and gates are not on that path."""
    digits = "".join(letter for letter in name.removesuffix("-1layer") if letter.isdigit())
    assert weighted_layers(on_meta(name)) == int(digits)


@pytest.mark.parametrize("name", ["resnet20", "plain20", "preresnet50", "resnet18", "cifar-preresnet110-1layer"])
def test_summary_has_the_depth_and_the_parameters_of_the_network(name: str) -> None:
    summary = summarise(catalog.network(name), 32)
    assert summary.depth == weighted_layers(on_meta(name))
    assert summary.parameters == sum(parameter.numel() for parameter in on_meta(name).parameters())
    assert [unit.name for unit in summary.units] == list(on_meta(name).units())


@pytest.mark.parametrize(
    ("branch", "shortcut"),
    [*((branch, "identity") for branch in BRANCHES), *(("bottleneck", shortcut) for shortcut in SHORTCUTS)],
)
def test_depth_of_a_summary_is_the_longest_path_with_any_shortcut(branch: str, shortcut: str) -> None:
    of = tiny(branch, shortcut=SHORTCUTS[shortcut], widening="B")
    assert summarise(of, 8).depth == weighted_layers(build(of)) == depth_of(branch)


@pytest.mark.parametrize("name", MILLIONS)
def test_multiply_adds_are_the_sheets(name: str) -> None:
    assert_printed(summarise(catalog.network(name), 32).macs, MILLIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP_MILLIONS)
def test_multiply_adds_of_the_deepest_are_the_sheets(name: str) -> None:
    assert_printed(summarise(catalog.network(name), 32).macs, DEEP_MILLIONS[name])


@pytest.mark.parametrize("name", BILLIONS)
def test_multiply_adds_on_imagenet_are_the_first_papers(name: str) -> None:
    """It prints two digits and leaves some out: within 3%."""
    assert summarise(catalog.network(name, widening_norm=False), 224).macs / 1e9 == pytest.approx(
        BILLIONS[name], rel=0.03
    )


@pytest.mark.parametrize(
    ("name", "kernels", "units", "projections"),
    [
        ("resnet20", (3, 3), 3, False),
        ("preresnet56", (3, 3), 9, False),
        ("cifar-resnet110-1layer", (3,), 36, False),
        ("preresnet164", (1, 3, 1), 18, True),
        ("plain164", (1, 3, 1), 18, False),
    ],
)
@pytest.mark.parametrize("size", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_multiply_adds_are_what_the_closed_form_gives(
    name: str, kernels: tuple[int, ...], units: int, size: int, *, projections: bool
) -> None:
    expected = multiply_adds(kernels, units, size=size, projections=projections)
    assert summarise(catalog.network(name), size).macs == expected


def test_closed_form_gives_the_sheets_numbers() -> None:
    for name, kernels, units in (("resnet20", (3, 3), 3), ("resnet56", (3, 3), 9), ("resnet110", (3, 3), 18)):
        assert_printed(multiply_adds(kernels, units, size=32, projections=False), MILLIONS[name])
    assert_printed(multiply_adds((1, 3, 1), 18, size=32, projections=True), MILLIONS["preresnet164"])
    assert_printed(multiply_adds((1, 3, 1), 111, size=32, projections=True), DEEP_MILLIONS["preresnet1001"])
    assert_printed(multiply_adds((3, 3), 200, size=32, projections=False), DEEP_MILLIONS["resnet1202"])


def test_stride_on_the_middle_layer_costs_more() -> None:
    """The first layer then runs on the larger map; two widenings of ResNet-164."""
    first, middle = (
        summarise(catalog.network("preresnet164", stride_on=where), 32).macs for where in ("first", "middle")
    )
    assert middle - first == 64 * 32 * (32**2 - 16**2) + 128 * 64 * (16**2 - 8**2)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("placement", ["original", "full_preactivation"])
def test_units_sum_to_the_total(placement: str, shortcut: str) -> None:
    """With stem and head, in parameters and in multiply-adds."""
    of = tiny(units=1, placement=placement, shortcut=SHORTCUTS[shortcut])
    summary, network = summarise(of, 8), build(of)
    ends = [*network.stem.parameters(), *network.head.parameters()]
    assert summary.parameters - sum(unit.parameters for unit in summary.units) == sum(p.numel() for p in ends)
    assert summary.macs - sum(unit.macs for unit in summary.units) == 9 * 3 * 4 * 8**2 + 16 * 10


def test_shapes_go_from_unit_to_unit() -> None:
    units = summarise(catalog.network("preresnet164"), 32).units
    assert (units[0].input, units[-1].output) == ((16, 32, 32), (256, 8, 8))
    assert {unit.output for unit in units} == {(64, 32, 32), (128, 16, 16), (256, 8, 8)}
    for before, behind in pairwise(units):
        assert before.output == behind.input


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ("original", ("identity", "identity", "conv3×3 BN ReLU conv3×3 BN", "ReLU")),
        ("bn_after_addition", ("identity", "identity", "conv3×3 BN ReLU conv3×3", "BN ReLU")),
        ("relu_before_addition", ("identity", "identity", "conv3×3 BN ReLU conv3×3 BN ReLU", "identity")),
        ("relu_only_preactivation", ("identity", "identity", "ReLU conv3×3 BN ReLU conv3×3 BN", "identity")),
        ("full_preactivation", ("identity", "identity", "BN ReLU conv3×3 BN ReLU conv3×3", "identity")),
    ],
)
def test_a_unit_is_described_in_the_papers_words(placement: str, words: tuple[str, ...]) -> None:
    unit = unit_of(summarise(tiny(placement=placement), 8), "stages.stage1.unit2")
    assert (unit.before, unit.h, unit.branch, unit.f) == words


def test_two_shortcuts_are_described_in_two_ways() -> None:
    described = {}
    for name, setting in SHORTCUTS.items():
        unit = unit_of(summarise(tiny(shortcut=setting), 8), "stages.stage1.unit2")
        described[name] = (unit.h, unit.branch)
    twice = [name for name, words in described.items() if list(described.values()).count(words) > 1]
    assert twice == []


def test_shared_preactivation_is_named_where_it_stands() -> None:
    shared = [
        unit.name for unit in summarise(tiny(placement="full_preactivation"), 8).units if unit.before == "BN ReLU"
    ]
    assert shared == [f"stages.stage{number}.unit1" for number in (1, 2, 3)]


def unit_of(summary: Summary, name: str) -> UnitSummary:
    (found,) = (unit for unit in summary.units if unit.name == name)
    return found


def test_summary_is_plain_data() -> None:
    of = catalog.network("preresnet20")
    data = json.loads(json.dumps(to_data(summarise(of, 32), "preresnet20")))
    assert (data["name"], data["parameters"], data["depth"]) == ("preresnet20", 269_722, 20)
    assert len(data["units"]) == 9
    assert data["units"][3]["output"] == [32, 16, 16]


def test_summary_takes_no_memory_and_no_random_numbers() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    summarise(catalog.network("resnet20"), 32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [0, -1])
def test_images_without_pixels_are_refused(size: int) -> None:
    with pytest.raises(SettingError):
        summarise(tiny(), size)


def test_one_pixel_is_enough() -> None:
    """Every layer keeps at least one position."""
    assert summarise(tiny(), 1).units[-1].output == (16, 1, 1)
    assert summarise(Network(depth=18, branch="two_layer", placement="original", layout="imagenet"), 1).depth == 18
    assert isinstance(build(tiny()), nn.Module)
