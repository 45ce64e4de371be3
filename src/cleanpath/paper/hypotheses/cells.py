"""The cells that claims compare, by the keys of the tables: named here and nowhere else."""

from cleanpath.paper.claims import Cell, Contrast

ORIGINAL, FULL = "original", "full_preactivation"
# Why two rows within half a percentage point are like each other.
NOISE = (
    "single runs of ResNet-110 have a standard deviation of 0.16 (first paper, Table 6), differences of two 0.23; "
    "twice that, rounded up"
)


def table1(row: str) -> Cell:
    """A row of Table 1."""
    return "table1", row, "ResNet-110"


def table2(row: str, network: str = "ResNet-110") -> Cell:
    """A row of Table 2."""
    return "table2", row, network


def table3(network: str, unit: str, data: str = "CIFAR-10") -> Cell:
    """A network of Table 3 with one of its two units."""
    return "table3", f"{network} {unit}", data


def table5(network: str, unit: str) -> Cell:
    """A network of Table 5, tested on one crop of 320."""
    return "table5", f"{network} {unit}", "top-1"


def depth(kind: str, layers: int) -> Cell:
    """A network of the first paper's Table 6 and Figure 6, plain or residual."""
    return "depth", f"{kind}-{layers}", "CIFAR-10"


def gate_bias(b: int) -> Cell:
    """Exclusive gating whose bias starts at b."""
    return "gate_bias", f"exclusive_gating_{b}", "ResNet-110"


def truncation(network: str) -> Cell:
    """The original unit, whose sums are monitored."""
    return "truncation", ORIGINAL, network


def shortcuts(row: str, network: str) -> Cell:
    """A kind of shortcut at a depth, or an option of the first paper's Table 3."""
    return "shortcuts", row, network


def warmup(row: str) -> Cell:
    """The proposed unit trained with the warm-up or without."""
    return "warmup", row, "ResNet-110"


def against(cell: Cell, *others: Cell) -> tuple[Contrast, ...]:
    """The cell less each of the others."""
    return tuple(Contrast(plus=(cell,), minus=(other,)) for other in others)
