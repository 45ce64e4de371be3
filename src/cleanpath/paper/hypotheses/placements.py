"""H4 to H8: what stands after the addition (Sections 4.1 and 4.2, Table 2, Figures 1 and 6)."""

from cleanpath.paper.claims import EQUAL, HIGHER, LOWER, Claim
from cleanpath.paper.hypotheses.cells import FULL, NOISE, ORIGINAL, against, table2, table3, truncation

PLACEMENT_CLAIMS = (
    Claim(
        id="H4a",
        hypothesis="H4",
        sentence="BN after the addition slows the fall of the training loss at the beginning.",
        quantity="early_loss",
        direction=HIGHER,
        comparisons=against(table2("bn_after_addition"), table2(ORIGINAL)),
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
            for contrast in against(table2("bn_after_addition", network), table2(ORIGINAL, network))
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
            for contrast in against(table2("relu_before_addition", network), table2(ORIGINAL, network))
        ),
        refuted_if="its error is lower with one of them, though the signal only grows",
        source="Section 4.1; Table 2",
    ),
    Claim(
        id="H5b",
        hypothesis="H5",
        sentence="With ReLU before the addition the signal grows more than in the original.",
        quantity="scale_growth",
        direction=HIGHER,
        comparisons=against(table2("relu_before_addition"), table2(ORIGINAL)),
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
            comparisons=against(table2("relu_only_preactivation", network), table2(ORIGINAL, network)),
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
        sentence="With 1001 layers the original's training loss falls slowly at first, the proposed unit's fast.",
        quantity="early_loss",
        direction=HIGHER,
        comparisons=against(table3("ResNet-1001", ORIGINAL), table3("ResNet-1001", FULL)),
        refuted_if="the original keeps pace",
        source="Section 4.2; Figure 1",
    ),
    Claim(
        id="H7b",
        hypothesis="H7",
        sentence="With 1001 layers the proposed unit ends with a lower training loss than the original.",
        quantity="train_loss",
        direction=LOWER,
        comparisons=against(table3("ResNet-1001", FULL), table3("ResNet-1001", ORIGINAL)),
        refuted_if="the original ends lower",
        source="Section 4.2; Figure 1",
    ),
    Claim(
        id="H7c",
        hypothesis="H7",
        sentence="The proposed unit with 1001 layers ends with the lowest training loss of all models.",
        quantity="train_loss",
        direction=LOWER,
        comparisons=against(
            table3("ResNet-1001", FULL),
            *(table3(network, unit) for network in ("ResNet-110", "ResNet-164") for unit in (ORIGINAL, FULL)),
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
        comparisons=against(table3("ResNet-1001", FULL), table3("ResNet-1001", ORIGINAL)),
        refuted_if="the original has the lower test error",
        source="Table 3; Figure 1",
    ),
    Claim(
        id="H8a",
        hypothesis="H8",
        sentence="In the original unit the sums y are negative more often with 1001 layers than with 164.",
        quantity="negative_share",
        direction=HIGHER,
        comparisons=against(truncation("ResNet-1001"), truncation("ResNet-164")),
        refuted_if="the share of negative sums is smaller in the deep network",
        source="Section 4.2, by monitoring the responses; no numbers printed",
    ),
    Claim(
        id="H8b",
        hypothesis="H8",
        sentence="In an original unit the ReLU takes away more of the signal with 1001 layers than with 164.",
        quantity="truncated_share",
        direction=HIGHER,
        comparisons=against(truncation("ResNet-1001"), truncation("ResNet-164")),
        refuted_if="less of the signal is truncated in a unit of the deep network",
        source="Section 4.2; equation (4) with f = ReLU",
    ),
)
