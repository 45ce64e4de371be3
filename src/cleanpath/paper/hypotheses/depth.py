"""H13 to H16: what depth brings, most of it from the first paper, on which this one builds."""

from cleanpath.paper.claims import HIGHER, LOWER, NOT_HIGHER, Claim, Order
from cleanpath.paper.hypotheses.cells import FULL, ORIGINAL, against, depth, shortcuts, table3

DEPTH_CLAIMS = (
    Claim(
        id="H13a",
        hypothesis="H13",
        sentence="ResNet-1202 has a higher test error than ResNet-110.",
        quantity="error",
        direction=HIGHER,
        comparisons=against(depth("ResNet", 1202), depth("ResNet", 110)),
        refuted_if="its test error is lower, as in two other recipes (6.18 against 6.32 in one)",
        source="first paper, Section 4.2 and Table 6; Table 4",
    ),
    Claim(
        id="H13b",
        hypothesis="H13",
        sentence="ResNet-1202 has no higher training error than ResNet-110.",
        quantity="train_error",
        direction=NOT_HIGHER,
        comparisons=against(depth("ResNet", 1202), depth("ResNet", 110)),
        margin=0.1,
        why_margin="the first paper prints below 0.1% for ResNet-1202 and calls that of ResNet-110 similar",
        refuted_if="its training error is higher by more than the margin: then it is optimisation that fails",
        source="first paper, Section 4.2",
    ),
    Claim(
        id="H14a",
        hypothesis="H14",
        sentence="The training error of plain networks tends to rise with depth, 20 to 56 layers: degradation.",
        quantity="train_error",
        direction=HIGHER,
        comparisons=(Order(order=tuple(depth("plain", n) for n in (20, 32, 44, 56)), name="plain, 20 to 56 layers"),),
        refuted_if="it tends to fall with depth",
        source="first paper, Figures 1 and 6",
    ),
    Claim(
        id="H14b",
        hypothesis="H14",
        sentence="The test error of residual networks tends to fall with depth, 20 to 110 layers.",
        quantity="error",
        direction=LOWER,
        comparisons=(
            Order(order=tuple(depth("ResNet", n) for n in (20, 32, 44, 56, 110)), name="ResNet, 20 to 110 layers"),
        ),
        refuted_if="it tends to rise with depth",
        source="first paper, Table 6 and Figure 6",
    ),
    Claim(
        id="H14c",
        hypothesis="H14",
        sentence="With 56 layers a plain network has a higher training error than a residual one.",
        quantity="train_error",
        direction=HIGHER,
        comparisons=against(depth("plain", 56), depth("ResNet", 56)),
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
            comparisons=against(table3("ResNet-1001", unit, data), table3("ResNet-164", unit, data)),
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
        sentence="With ResNet-34 the validation error tends to fall from shortcut option A over B to C.",
        quantity="error",
        direction=LOWER,
        comparisons=(
            Order(
                order=tuple(shortcuts(f"option_{option}", "ResNet-34") for option in "ABC"),
                name="options A, B, C",
            ),
        ),
        refuted_if="it tends to rise from A to C",
        source="first paper, Table 3",
    ),
)
