"""The claims of the paper (Sections 1, 3, 4 and 5), and of the first one where this one builds on it, as data.

Cells are named by the functions at the top and nowhere else. H1 to H13 are the hypotheses of the paper; H14 to H16 are
what it takes over: degradation with depth, and what depth brings.
"""

from cleanpath.errors import UnknownNameError
from cleanpath.paper.claims import EQUAL, HIGHER, LOWER, NOT_HIGHER, Cell, Claim, Contrast, Order

ORIGINAL, FULL = "original", "full_preactivation"
# Table 1 without the row that is not the paper's.
SHORTCUTS = (
    *("constant_0_1", "constant_half_1", "constant_half_half"),
    *("exclusive_gating_0", "exclusive_gating_-6", "exclusive_gating_-7"),
    *("shortcut_only_gating_0", "shortcut_only_gating_-6", "conv_1x1", "dropout"),
)
FAILING = ("constant_0_1", "constant_half_1", "exclusive_gating_0", "dropout")
NOISE = (
    "single runs of ResNet-110 have a standard deviation of 0.16 (first paper, Table 6), differences of two 0.23; "
    "twice that, rounded up"
)


def _table1(row: str) -> Cell:
    return "table1", row, "ResNet-110"


def _table2(row: str, network: str = "ResNet-110") -> Cell:
    return "table2", row, network


def _table3(network: str, unit: str, data: str = "CIFAR-10") -> Cell:
    return "table3", f"{network} {unit}", data


def _table5(network: str, unit: str) -> Cell:
    return "table5", f"{network} {unit}", "top-1"


def _depth(kind: str, layers: int) -> Cell:
    return "depth", f"{kind}-{layers}", "CIFAR-10"


def _bias(bias: int) -> Cell:
    return "gate_bias", f"exclusive_gating_{bias}", "ResNet-110"


def _truncation(network: str) -> Cell:
    return "truncation", ORIGINAL, network


def _shortcuts(row: str, network: str) -> Cell:
    return "shortcuts", row, network


def _warmup(row: str) -> Cell:
    return "warmup", row, "ResNet-110"


def _against(cell: Cell, *others: Cell) -> tuple[Contrast, ...]:
    """The cell less each of the others."""
    return tuple(Contrast(plus=(cell,), minus=(other,)) for other in others)


def _regularises(network: str, data: str, cells: tuple[Cell, Cell], letters: str) -> tuple[Claim, Claim]:
    """H9 for one network: the test error is lower and the training loss is higher."""
    proposed, original = cells
    about = f"{network} on {data}"
    source = "Section 4.2; Table 3; Figure 6, right"
    return (
        Claim(
            id=f"H9{letters[0]}",
            hypothesis="H9",
            sentence=f"Full pre-activation has a lower test error than the original unit: {about}.",
            quantity="error",
            direction=LOWER,
            comparisons=_against(proposed, original),
            refuted_if="the original unit has the lower test error",
            source=source,
        ),
        Claim(
            id=f"H9{letters[1]}",
            hypothesis="H9",
            sentence=f"Full pre-activation ends with a slightly higher training loss than the original unit: {about}.",
            quantity="train_loss",
            direction=HIGHER,
            comparisons=_against(proposed, original),
            refuted_if="its training loss is lower as well: then better optimisation explains the lower error",
            source=source,
        ),
    )


SHORTCUT_CLAIMS = (
    Claim(
        id="H1a",
        hypothesis="H1",
        sentence="The identity shortcut ends with the lowest training loss of all shortcuts of Table 1.",
        quantity="train_loss",
        direction=LOWER,
        comparisons=_against(_table1(ORIGINAL), *map(_table1, SHORTCUTS)),
        refuted_if="another shortcut ends with a lower training loss",
        source="Section 1; Figure 3",
    ),
    Claim(
        id="H1b",
        hypothesis="H1",
        sentence="The identity shortcut reduces the training loss fastest, against all shortcuts of Figure 3.",
        quantity="area",
        direction=LOWER,
        comparisons=_against(
            _table1(ORIGINAL),
            *map(_table1, ("constant_half_half", "exclusive_gating_-6", "shortcut_only_gating_0", "conv_1x1")),
        ),
        refuted_if="another shortcut has a lower mean training loss over the run",
        source="Section 1; Figure 3",
    ),
    Claim(
        id="H1c",
        hypothesis="H1",
        sentence="The identity shortcut has the lowest test error of all shortcuts of Table 1.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_table1(ORIGINAL), *map(_table1, SHORTCUTS)),
        refuted_if="another shortcut has a lower test error",
        source="Table 1",
    ),
    Claim(
        id="H1d",
        hypothesis="H1",
        sentence="The shortcuts that fail in Table 1 (0 and 1, 0.5 and 1, exclusive gating at 0, dropout) end worse.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_table1(ORIGINAL), *map(_table1, FAILING)),
        refuted_if="one of them has a lower test error than the identity",
        source="Table 1",
    ),
    Claim(
        id="H2a",
        hypothesis="H2",
        sentence="Shortcut-only gating at b = 0 contains the identity, yet its training loss is higher.",
        quantity="train_loss",
        direction=HIGHER,
        comparisons=_against(_table1("shortcut_only_gating_0"), _table1(ORIGINAL)),
        refuted_if="its training loss is lower: then what harms is not optimisation",
        source="Section 3.2; Figure 3 (c)",
    ),
    Claim(
        id="H2b",
        hypothesis="H2",
        sentence="The 1×1 convolution on the shortcut contains the identity, yet its training loss is higher.",
        quantity="train_loss",
        direction=HIGHER,
        comparisons=_against(_table1("conv_1x1"), _table1(ORIGINAL)),
        refuted_if="its training loss is lower: then what harms is not optimisation",
        source="Section 3.2; Figure 3 (d)",
    ),
    Claim(
        id="H2c",
        hypothesis="H2",
        sentence="What a 1×1 convolution on the shortcut costs in test error grows from ResNet-32 to ResNet-110.",
        quantity="error",
        direction=HIGHER,
        comparisons=(
            Contrast(
                plus=(_shortcuts("conv_1x1", "ResNet-110"), _shortcuts(ORIGINAL, "ResNet-32")),
                minus=(_shortcuts(ORIGINAL, "ResNet-110"), _shortcuts("conv_1x1", "ResNet-32")),
                name="cost of the 1×1 shortcut at ResNet-110 against ResNet-32",
            ),
        ),
        refuted_if="the cost shrinks with depth",
        source="Section 3.1, 1×1 convolutional shortcut",
    ),
    Claim(
        id="H3a",
        hypothesis="H3",
        sentence="Exclusive gating is far better at b = −6 than at 0.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_table1("exclusive_gating_-6"), _table1("exclusive_gating_0")),
        refuted_if="its error is lower at 0",
        source="Table 1; Section 3.1",
    ),
    Claim(
        id="H3b",
        hypothesis="H3",
        sentence="Exclusive gating is worse again at b = −7, since g near 0 suppresses F.",
        quantity="error",
        direction=HIGHER,
        comparisons=_against(_table1("exclusive_gating_-7"), _table1("exclusive_gating_-6")),
        refuted_if="its error is lower at −7",
        source="Table 1; Section 3.1",
    ),
    Claim(
        id="H3c",
        hypothesis="H3",
        sentence="Of the biases from 0 to −6, exclusive gating is best at −6.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_bias(-6), *(_bias(bias) for bias in (0, -1, -2, -3, -4, -5))),
        refuted_if="one of 0 to −5 has a lower error",
        source="Table 1, where 0 to −5 fail",
    ),
    Claim(
        id="H3d",
        hypothesis="H3",
        sentence="The test error of exclusive gating falls step by step as b goes from 0 to −6.",
        quantity="error",
        direction=LOWER,
        comparisons=(
            Order(order=tuple(_bias(b) for b in (0, -1, -2, -3, -4, -5, -6)), name="error from b = 0 to −6"),
        ),
        refuted_if="it rises with −b, or does not depend on it",
        source="Section 3.1; equation (8), whose product is (1 − σ(b))^54 at the start",
        decisive=False,
    ),
    Claim(
        id="H3e",
        hypothesis="H3",
        sentence="Shortcut-only gating is better at b = −6, where the shortcut is nearly an identity, than at 0.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_table1("shortcut_only_gating_-6"), _table1("shortcut_only_gating_0")),
        refuted_if="its error is lower at 0",
        source="Table 1; Section 3.1",
    ),
)

PLACEMENT_CLAIMS = (
    Claim(
        id="H4a",
        hypothesis="H4",
        sentence="BN after the addition slows the fall of the training loss at the beginning.",
        quantity="early_loss",
        direction=HIGHER,
        comparisons=_against(_table2("bn_after_addition"), _table2(ORIGINAL)),
        refuted_if="there is no lag: its early training loss is lower",
        source="Section 4.1; Figure 6, left",
    ),
    Claim(
        id="H4b",
        hypothesis="H4",
        sentence="BN after the addition has a higher test error than the original, with both networks.",
        quantity="error",
        direction=HIGHER,
        comparisons=tuple(
            contrast
            for network in ("ResNet-110", "ResNet-164")
            for contrast in _against(_table2("bn_after_addition", network), _table2(ORIGINAL, network))
        ),
        refuted_if="its error is lower with one of them",
        source="Table 2",
    ),
    Claim(
        id="H5a",
        hypothesis="H5",
        sentence="ReLU before the addition has a higher test error than the original, with both networks.",
        quantity="error",
        direction=HIGHER,
        comparisons=tuple(
            contrast
            for network in ("ResNet-110", "ResNet-164")
            for contrast in _against(_table2("relu_before_addition", network), _table2(ORIGINAL, network))
        ),
        refuted_if="its error is lower with one of them, though the signal only grows",
        source="Section 4.1; Table 2",
    ),
    Claim(
        id="H5b",
        hypothesis="H5",
        sentence="With ReLU before the addition F is never negative, so the signal grows more than in the original.",
        quantity="scale_growth",
        direction=HIGHER,
        comparisons=_against(_table2("relu_before_addition"), _table2(ORIGINAL)),
        refuted_if="the signal grows less",
        source="Section 4.1",
    ),
    *(
        Claim(
            id=f"H6{letter}",
            hypothesis="H6",
            sentence=f"ReLU-only pre-activation is like the baseline, with {network}.",
            quantity="error",
            direction=EQUAL,
            comparisons=_against(_table2("relu_only_preactivation", network), _table2(ORIGINAL, network)),
            margin=0.5,
            why_margin=NOISE,
            refuted_if="their errors differ by more than the margin",
            source="Section 4.1; Table 2",
        )
        for letter, network in (("a", "ResNet-110"), ("b", "ResNet-164"))
    ),
    Claim(
        id="H7a",
        hypothesis="H7",
        sentence="With 1001 layers the original's training loss falls very slowly at first; the proposed one's falls fast.",
        quantity="early_loss",
        direction=HIGHER,
        comparisons=_against(_table3("ResNet-1001", ORIGINAL), _table3("ResNet-1001", FULL)),
        refuted_if="the original keeps pace",
        source="Section 4.2; Figure 1",
    ),
    Claim(
        id="H7b",
        hypothesis="H7",
        sentence="With 1001 layers the proposed unit ends with a lower training loss than the original.",
        quantity="train_loss",
        direction=LOWER,
        comparisons=_against(_table3("ResNet-1001", FULL), _table3("ResNet-1001", ORIGINAL)),
        refuted_if="the original ends lower",
        source="Section 4.2; Figure 1",
    ),
    Claim(
        id="H7c",
        hypothesis="H7",
        sentence="The proposed unit with 1001 layers ends with the lowest training loss of all models.",
        quantity="train_loss",
        direction=LOWER,
        comparisons=_against(
            _table3("ResNet-1001", FULL),
            *(_table3(network, unit) for network in ("ResNet-110", "ResNet-164") for unit in (ORIGINAL, FULL)),
        ),
        refuted_if="a shallower model ends lower",
        source="Section 4.2",
    ),
    Claim(
        id="H7d",
        hypothesis="H7",
        sentence="With 1001 layers the proposed unit has a lower test error than the original.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_table3("ResNet-1001", FULL), _table3("ResNet-1001", ORIGINAL)),
        refuted_if="the original has the lower test error",
        source="Table 3; Figure 1",
    ),
    Claim(
        id="H8a",
        hypothesis="H8",
        sentence="In the original unit the sums y are negative more often with 1001 layers than with 164.",
        quantity="negative_share",
        direction=HIGHER,
        comparisons=_against(_truncation("ResNet-1001"), _truncation("ResNet-164")),
        refuted_if="the share of negative sums is smaller in the deep network",
        source="Section 4.2, by monitoring the responses; no numbers printed",
    ),
    Claim(
        id="H8b",
        hypothesis="H8",
        sentence="In the original unit the ReLU after the addition takes away more with 1001 layers than with 164.",
        quantity="truncated",
        direction=HIGHER,
        comparisons=_against(_truncation("ResNet-1001"), _truncation("ResNet-164")),
        refuted_if="less is truncated in the deep network",
        source="Section 4.2; equation (4) with f = ReLU",
    ),
)

PREACTIVATION_CLAIMS = (
    *_regularises("ResNet-110", "CIFAR-10", (_table2(FULL), _table2(ORIGINAL)), "ab"),
    *_regularises("ResNet-164", "CIFAR-10", (_table2(FULL, "ResNet-164"), _table2(ORIGINAL, "ResNet-164")), "cd"),
    *_regularises(
        "ResNet-110(1layer)",
        "CIFAR-10",
        (_table3("ResNet-110(1layer)", FULL), _table3("ResNet-110(1layer)", ORIGINAL)),
        "ef",
    ),
    *_regularises(
        "ResNet-164",
        "CIFAR-100",
        (_table3("ResNet-164", FULL, "CIFAR-100"), _table3("ResNet-164", ORIGINAL, "CIFAR-100")),
        "gh",
    ),
    Claim(
        id="H10a",
        hypothesis="H10",
        sentence="What convolutions read keeps its scale along a stage with full pre-activation, and grows in the original.",
        quantity="input_growth",
        direction=HIGHER,
        comparisons=_against(_table2(ORIGINAL), _table2(FULL)),
        refuted_if="it grows more with pre-activation",
        source="Section 4.2: the merged signal of the original is not normalised",
        decisive=False,
    ),
    Claim(
        id="H10b",
        hypothesis="H10",
        sentence="Full pre-activation regularises: its test error is closer to its training error.",
        quantity="generalisation_gap",
        direction=LOWER,
        comparisons=_against(_table2(FULL), _table2(ORIGINAL)),
        refuted_if="its gap is larger",
        source='Section 4.2, "presumably"',
        decisive=False,
    ),
    Claim(
        id="H11a",
        hypothesis="H11",
        sentence="The proposed unit does not need the warm-up.",
        quantity="error",
        direction=NOT_HIGHER,
        comparisons=_against(_warmup("without"), _warmup("with")),
        margin=0.5,
        why_margin=NOISE,
        refuted_if="without it the error is higher by more than the margin, or runs diverge",
        source="Appendix",
    ),
    Claim(
        id="H12a",
        hypothesis="H12",
        sentence="The original ResNet-200 has a lower training error on ImageNet than the original ResNet-152.",
        quantity="train_error",
        direction=LOWER,
        comparisons=_against(_table5("ResNet-200", ORIGINAL), _table5("ResNet-152", ORIGINAL)),
        refuted_if="its training error is higher: then it does not overfit",
        source="Section 5",
    ),
    Claim(
        id="H12b",
        hypothesis="H12",
        sentence="Yet its validation error is higher.",
        quantity="error",
        direction=HIGHER,
        comparisons=_against(_table5("ResNet-200", ORIGINAL), _table5("ResNet-152", ORIGINAL)),
        refuted_if="its validation error is lower",
        source="Section 5; Table 5",
    ),
    Claim(
        id="H12c",
        hypothesis="H12",
        sentence="Full pre-activation lowers the validation error of ResNet-200.",
        quantity="error",
        direction=LOWER,
        comparisons=_against(_table5("ResNet-200", FULL), _table5("ResNet-200", ORIGINAL)),
        refuted_if="its validation error is higher",
        source="Table 5",
    ),
)

DEPTH_CLAIMS = (
    Claim(
        id="H13a",
        hypothesis="H13",
        sentence="ResNet-1202 has a higher test error than ResNet-110.",
        quantity="error",
        direction=HIGHER,
        comparisons=_against(_depth("ResNet", 1202), _depth("ResNet", 110)),
        refuted_if="its test error is lower, as in two other recipes (6.18 against 6.32 in one)",
        source="first paper, Section 4.2 and Table 6; Table 4",
    ),
    Claim(
        id="H13b",
        hypothesis="H13",
        sentence="ResNet-1202 has no higher training error than ResNet-110.",
        quantity="train_error",
        direction=NOT_HIGHER,
        comparisons=_against(_depth("ResNet", 1202), _depth("ResNet", 110)),
        margin=0.1,
        why_margin="the first paper prints below 0.1% for ResNet-1202 and calls that of ResNet-110 similar",
        refuted_if="its training error is higher by more than the margin: then it is optimisation that fails",
        source="first paper, Section 4.2",
    ),
    Claim(
        id="H14a",
        hypothesis="H14",
        sentence="The training error of plain networks rises with depth, 20 to 56 layers: degradation.",
        quantity="train_error",
        direction=HIGHER,
        comparisons=(Order(order=tuple(_depth("plain", n) for n in (20, 32, 44, 56)), name="plain, 20 to 56 layers"),),
        refuted_if="it falls with depth",
        source="first paper, Figures 1 and 6",
    ),
    Claim(
        id="H14b",
        hypothesis="H14",
        sentence="The test error of residual networks falls with depth, 20 to 110 layers.",
        quantity="error",
        direction=LOWER,
        comparisons=(
            Order(order=tuple(_depth("ResNet", n) for n in (20, 32, 44, 56, 110)), name="ResNet, 20 to 110 layers"),
        ),
        refuted_if="it rises with depth",
        source="first paper, Table 6 and Figure 6",
    ),
    Claim(
        id="H14c",
        hypothesis="H14",
        sentence="With 56 layers a plain network has a higher training error than a residual one.",
        quantity="train_error",
        direction=HIGHER,
        comparisons=_against(_depth("plain", 56), _depth("ResNet", 56)),
        refuted_if="its training error is lower",
        source="first paper, Figure 6",
    ),
    *(
        Claim(
            id=f"H15{letter}",
            hypothesis="H15",
            sentence=f"From 164 to 1001 layers the test error {way} with {words}, on {data}.",
            quantity="error",
            direction=direction,
            comparisons=_against(_table3("ResNet-1001", unit, data), _table3("ResNet-164", unit, data)),
            refuted_if="it goes the other way",
            source="Table 3",
        )
        for letter, way, words, unit, direction, data in (
            ("a", "rises", "the original unit", ORIGINAL, HIGHER, "CIFAR-10"),
            ("b", "falls", "full pre-activation", FULL, LOWER, "CIFAR-10"),
            ("c", "rises", "the original unit", ORIGINAL, HIGHER, "CIFAR-100"),
            ("d", "falls", "full pre-activation", FULL, LOWER, "CIFAR-100"),
        )
    ),
    Claim(
        id="H16a",
        hypothesis="H16",
        sentence="With ResNet-34 the validation error falls from shortcut option A to B to C.",
        quantity="error",
        direction=LOWER,
        comparisons=(
            Order(
                order=tuple(_shortcuts(f"option_{option}", "ResNet-34") for option in "ABC"),
                name="options A, B, C",
            ),
        ),
        refuted_if="it rises from A to C",
        source="first paper, Table 3",
    ),
)

CLAIMS: tuple[Claim, ...] = (*SHORTCUT_CLAIMS, *PLACEMENT_CLAIMS, *PREACTIVATION_CLAIMS, *DEPTH_CLAIMS)

# What each hypothesis is about, in a few words.
HYPOTHESES = {
    "H1": "identity shortcuts are best",
    "H2": "gates and 1×1 convolutions fail by optimisation",
    "H3": "gates depend on their bias",
    "H4": "BN after the addition impedes",
    "H5": "ReLU before the addition harms",
    "H6": "ReLU-only pre-activation changes nothing",
    "H7": "1001 layers need clean paths",
    "H8": "why: the ReLU truncates more in deep networks",
    "H9": "pre-activation regularises",
    "H10": "why: BN before every convolution",
    "H11": "no warm-up is needed",
    "H12": "ResNet-200 overfits on ImageNet",
    "H13": "ResNet-1202 overfits on CIFAR-10",
    "H14": "plain networks degrade with depth, residual ones do not",
    "H15": "depth pays with pre-activation only",
    "H16": "projections help a little",
}


def claim_of(identifier: str) -> Claim:
    """The claim of that name. Raises `UnknownNameError` with the nearest."""
    by_id = {claim.id: claim for claim in CLAIMS}
    if identifier not in by_id:
        raise UnknownNameError("claim", identifier, by_id)
    return by_id[identifier]
