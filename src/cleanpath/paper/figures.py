"""The figures that are drawings of units: which network's units each panel shows. Nothing of them is trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from cleanpath.experiment import Network
from cleanpath.nn import catalog
from cleanpath.paper.rows import BN_AFTER, FULL, TABLE_1, TABLE_2

_NETWORK = "resnet110"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel: its letter, its caption, and the network any of whose units that keep the width is drawn."""

    letter: str
    caption: str
    network: Network
    asymmetric: bool = False
    """Whether its activation after the sum feeds F alone, equation (9)."""


def _panels(recipe: str, *rows: tuple[str, str]) -> tuple[Panel, ...]:
    table = {"table1": TABLE_1, "table2": TABLE_2}[recipe]
    return tuple(
        Panel(
            letter=letter,
            caption=caption,
            network=catalog.network(_NETWORK, **table.row(key).choice),
        )
        for letter, (key, caption) in zip("abcdef", rows, strict=False)
    )


_AFTER = catalog.network(_NETWORK, **BN_AFTER.choice)
DRAWINGS: Mapping[str, tuple[Panel, ...]] = {
    "figure1": _panels("table2", ("original", "original"), ("full_preactivation", "proposed")),
    "figure2": _panels(
        "table1",
        ("original", "original"),
        ("constant_half_half", "constant scaling"),
        ("exclusive_gating_-6", "exclusive gating"),
        ("shortcut_only_gating_-6", "shortcut-only gating"),
        ("conv_1x1", "convolutional shortcut"),
        ("dropout", "dropout shortcut"),
    ),
    "figure4": _panels(
        "table2",
        ("original", "original"),
        ("bn_after_addition", "BN after addition"),
        ("relu_before_addition", "ReLU before addition"),
        ("relu_only_preactivation", "ReLU-only pre-activation"),
        ("full_preactivation", "full pre-activation"),
    ),
    # (b) has the modules of (a), and (c) is the same function as (b).
    "figure5": (
        Panel(letter="a", caption="activation on both paths", network=_AFTER),
        Panel(letter="b", caption="activation on F alone, equation (9)", network=_AFTER, asymmetric=True),
        Panel(letter="c", caption="the same as pre-activation", network=catalog.network(_NETWORK, **FULL.choice)),
    ),
}
"""Figure 1 is drawn on its left and has curves on its right."""
