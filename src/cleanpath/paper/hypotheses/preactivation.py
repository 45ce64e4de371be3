"""H9 to H12: what pre-activation brings besides (Sections 4.2 and 5, the appendix, Tables 3 and 5)."""

from cleanpath.paper.claims import HIGHER, LOWER, NOT_HIGHER, Cell, Claim
from cleanpath.paper.hypotheses.cells import FULL, NOISE, ORIGINAL, against, table2, table3, table5, warmup


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
            comparisons=against(proposed, original),
            refuted_if="the original unit has the lower test error",
            source=source,
        ),
        Claim(
            id=f"H9{letters[1]}",
            hypothesis="H9",
            sentence=f"Full pre-activation ends with a slightly higher training loss than the original unit: {about}.",
            quantity="train_loss",
            direction=HIGHER,
            comparisons=against(proposed, original),
            refuted_if="its training loss is lower as well: then better optimisation explains the lower error",
            source=source,
        ),
    )


PREACTIVATION_CLAIMS = (
    *_regularises("ResNet-110", "CIFAR-10", (table2(FULL), table2(ORIGINAL)), "ab"),
    *_regularises("ResNet-164", "CIFAR-10", (table2(FULL, "ResNet-164"), table2(ORIGINAL, "ResNet-164")), "cd"),
    *_regularises(
        "ResNet-110(1layer)",
        "CIFAR-10",
        (table3("ResNet-110(1layer)", FULL), table3("ResNet-110(1layer)", ORIGINAL)),
        "ef",
    ),
    *_regularises(
        "ResNet-164",
        "CIFAR-100",
        (table3("ResNet-164", FULL, "CIFAR-100"), table3("ResNet-164", ORIGINAL, "CIFAR-100")),
        "gh",
    ),
    Claim(
        id="H10a",
        hypothesis="H10",
        sentence="What convolutions read grows more along a stage in the original than with full pre-activation.",
        quantity="input_growth",
        direction=HIGHER,
        comparisons=against(table2(ORIGINAL), table2(FULL)),
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
        comparisons=against(table2(FULL), table2(ORIGINAL)),
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
        comparisons=against(warmup("without"), warmup("with")),
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
        comparisons=against(table5("ResNet-200", ORIGINAL), table5("ResNet-152", ORIGINAL)),
        refuted_if="its training error is higher: then it does not overfit",
        source="Section 5",
    ),
    Claim(
        id="H12b",
        hypothesis="H12",
        sentence="Yet its validation error is higher.",
        quantity="error",
        direction=HIGHER,
        comparisons=against(table5("ResNet-200", ORIGINAL), table5("ResNet-152", ORIGINAL)),
        refuted_if="its validation error is lower",
        source="Section 5; Table 5",
    ),
    Claim(
        id="H12c",
        hypothesis="H12",
        sentence="Full pre-activation lowers the validation error of ResNet-200.",
        quantity="error",
        direction=LOWER,
        comparisons=against(table5("ResNet-200", FULL), table5("ResNet-200", ORIGINAL)),
        refuted_if="its validation error is higher",
        source="Table 5",
    ),
)
