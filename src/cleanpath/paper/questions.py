"""What is asked beside the paper's tables: of depth, shortcuts, responses, gates, truncation, and units beyond it."""

from cleanpath.experiment import Shortcut
from cleanpath.paper.parts import ITERATION, LAYER, RANK, UNIT, Overlay, Part, Recipe
from cleanpath.paper.rows import (
    CIFAR_10,
    CONV_1X1,
    FULL,
    ORIGINAL,
    RESNET_110,
    RESNET_164,
    TABLE_1,
    gated,
)

BIASES = tuple(range(0, -11, -1))


def _of_depth(kind: str, depth: int) -> Part:
    """A network of the first paper's Table 6 and Figure 6."""
    choice = {"shortcut": Shortcut(kind="none")} if kind == "plain" else {}
    key = f"{kind}-{depth}"
    beside = "ResNet-110" if depth > 110 else f"plain-{depth}"
    return Part(key=key, network=f"ResNet-{depth}", recipe="first_paper", choice=choice, reference=beside)


_SHALLOW = (20, 32, 44, 56, 110)
DEPTH = Recipe(
    name="depth",
    rows=(
        *(_of_depth("plain", depth) for depth in _SHALLOW),
        *(_of_depth("ResNet", depth) for depth in (*_SHALLOW, 1202)),
    ),
    columns=(CIFAR_10,),
    overlays=tuple(
        Overlay(caption=caption, cells=tuple((f"{kind}-{depth}", CIFAR_10.key) for depth in depths))
        for caption, kind, depths in (
            ("left: plain networks", "plain", _SHALLOW),
            ("middle: residual networks", "ResNet", _SHALLOW),
            ("right: 110 and 1202 layers", "ResNet", (110, 1202)),
        )
    ),
)

_WATCHED = tuple(_of_depth(kind, depth) for kind in ("plain", "ResNet") for depth in (20, 56, 110))
RESPONSES = Recipe(
    name="responses",
    rows=_WATCHED,
    columns=(Part(key="CIFAR-10", data="CIFAR-10", quantity="response"),),
    overlays=tuple(
        Overlay(caption=caption, cells=tuple((row.key, "CIFAR-10") for row in _WATCHED), across=across)
        for caption, across in (("top: layers in their order", LAYER), ("bottom: layers by their response", RANK))
    ),
)

_OPTIONS = (
    Part(key="option_A", label="option A: zero padding", choice={"widening": "A"}),
    Part(key="option_B", label="option B: projection where the width changes", choice={"widening": "B"}),
    Part(key="option_C", label="option C: projection in every unit", choice=CONV_1X1.choice),
)
_OF_UNITS = (TABLE_1.row("original"), CONV_1X1)
_IMAGENET = {
    "network": "ResNet-34",
    "data": "ImageNet",
    "augment": "scale",
    "recipe": "first_paper_imagenet",
    "view": "ten",
}

SHORTCUTS = Recipe(
    name="shortcuts",
    rows=(*_OPTIONS, *_OF_UNITS),
    columns=(
        Part(key="ResNet-32", network="ResNet-32", data="CIFAR-10"),
        RESNET_110,
        Part(key="ResNet-34", quantity="error", **_IMAGENET),  # type: ignore[arg-type]
        Part(key="ResNet-34 top-5", quantity="top5_error", **_IMAGENET),  # type: ignore[arg-type]
    ),
    absent=frozenset(
        {
            *((row.key, column) for row in _OPTIONS for column in ("ResNet-32", "ResNet-110")),
            *((row.key, column) for row in _OF_UNITS for column in ("ResNet-34", "ResNet-34 top-5")),
        }
    ),
    varies_unit=True,
)

GATE_BIAS = Recipe(
    name="gate_bias",
    rows=tuple(gated(kind, bias) for kind in ("exclusive_gating", "shortcut_only_gating") for bias in BIASES),
    columns=(RESNET_110,),
)

TRUNCATION = Recipe(
    name="truncation",
    rows=(
        Part(key="original", label="share of negative sums y", quantity="negative_share"),
        Part(key="original_gap", label="Σ max(0, −y) over a stage's units", quantity="truncated"),
    ),
    columns=(RESNET_164, Part(key="ResNet-1001", network="ResNet-1001", data="CIFAR-10")),
    overlays=tuple(
        Overlay(
            caption=f"{words}, {when}", cells=tuple((key, f"ResNet-{depth}") for depth in (164, 1001)), across=across
        )
        for key, words in (("original", "share of negative sums"), ("original_gap", "what the ReLU takes away"))
        for when, across in (("over the training", ITERATION), ("at its end, over the units", UNIT))
    ),
)

WARMUP = Recipe(
    name="warmup",
    rows=(
        Part(key="with", label="full pre-activation with the warm-up", choice=FULL.choice),
        Part(
            key="without",
            label="full pre-activation without warm-up",
            choice=FULL.choice,
            training={"warmup": 0},
        ),
    ),
    columns=(RESNET_110,),
)


def _beyond(key: str, label: str, note: str, placement: str, **others: object) -> Part:
    """A row beyond the paper: a unit of others, in the placement that is its own."""
    choice: dict[str, object] = {"placement": placement}
    kind = others.pop("shortcut", None)
    if kind is not None:
        choice["shortcut"] = kind
    training = others.pop("training", {})
    return Part(key=key, label=label, note=note, choice={**choice, **others}, training=training)  # type: ignore[arg-type]


_CLEAN, _POST, _NO_RELU = "full_preactivation", "original", "relu_before_addition"

_TWO_LAYER = (
    _beyond(
        "highway",
        "highway, its author's network",
        "y = (1 − g)⊙x + g⊙F(x), g as deep as F, b = −6, width 14: R. K. Srivastava's re-comparison, January 2025; "
        "trained as the other rows, not as there",
        _NO_RELU,
        shortcut=Shortcut(kind="highway", bias=-6.0),
        widening="B",
        width=14,
    ),
    _beyond(
        "highway_matched",
        "highway, with the parameters of the original",
        "the same at full width, F's and the gate's inner layers half as wide: as many parameters as the original",
        _NO_RELU,
        shortcut=Shortcut(kind="highway", bias=-6.0),
        widening="B",
        inner=0.5,
    ),
    _beyond(
        "exclusive_gating_-6_free",
        "exclusive gating, b = −6, without weight decay on b",
        "Table 1's row with b left out of the weight decay, which alone takes it from −6 to −0.25 in 32,000 iterations",
        _POST,
        shortcut=Shortcut(kind="exclusive_gating", bias=-6.0, gate_widening=False),
        training={"decay_on": "all_but_gate_bias"},
    ),
    _beyond(
        "rezero",
        "ReZero",
        "y = x + αF(x), α = 0 at the start: Bachlechner et al. 2020",
        _CLEAN,
        shortcut=Shortcut(kind="skip_init"),
    ),
    _beyond(
        "skip_init",
        "SkipInit, without BN",
        "y = x + αF(x), α = 0 at the start, no normalisation: De and Smith 2020",
        _CLEAN,
        shortcut=Shortcut(kind="skip_init"),
        normalisation="none",
    ),
    _beyond(
        "fixup",
        "Fixup, without BN",
        "y = x + aF(x) + b, F's last layer 0, its others × L^(−1/(2m−2)): Zhang, Dauphin and Ma 2019",
        _POST,
        shortcut=Shortcut(kind="fixup"),
        normalisation="none",
    ),
    _beyond(
        "layer_scale",
        "LayerScale",
        "y = x + diag(γ)F(x), γ = 10⁻⁶ at the start: Touvron et al. 2021, its value beyond 24 layers",
        _CLEAN,
        shortcut=Shortcut(kind="layer_scale", start=1e-6),
    ),
    _beyond(
        "weighted_residual",
        "weighted residuals",
        "y = x + λF(x), λ in [−1, 1] and 0 at the start, no ReLU after the sum: Shen and Zeng 2016",
        _NO_RELU,
        shortcut=Shortcut(kind="weighted_residual"),
    ),
    _beyond(
        "stochastic_depth",
        "stochastic depth",
        "y = x + b·F(x), b from Bernoulli(1 − l/(2L)): Huang et al. 2016; drops F where Table 1's last row drops h",
        _POST,
        shortcut=Shortcut(kind="stochastic_depth", rate=0.5),
    ),
    _beyond(
        "squeeze_excitation",
        "squeeze-and-excitation",
        "y = x + s(F(x))⊙F(x), one factor per channel: Hu, Shen and Sun 2018",
        _POST,
        shortcut=Shortcut(kind="squeeze_excitation"),
    ),
    _beyond(
        "deepnorm",
        "DeepNorm",
        "y = LN(αx + F(x)), α = (2N)^(1/4), F × (8N)^(−1/4) at the start: Wang et al. 2022",
        "post_norm",
        shortcut=Shortcut(kind="deepnorm"),
        normalisation="layer",
    ),
    _beyond(
        "group_norm",
        "group normalisation in place of BN",
        "Wu and He 2018; the original unit",
        _POST,
        normalisation="group",
    ),
    _beyond(
        "layer_norm",
        "layer normalisation in place of BN",
        "Ba, Kiros and Hinton 2016; the original unit",
        _POST,
        normalisation="layer",
    ),
    *(
        _beyond(
            name.lower(),
            f"{name} in place of ReLU",
            f"{reference}; full pre-activation",
            _CLEAN,
            activation=name.lower(),
        )
        for name, reference in (("GELU", "Hendrycks and Gimpel 2016"), ("SiLU", "Elfwing, Uchibe and Doya 2017"))
    ),
    _beyond(
        "hyper_connections",
        "hyper-connections, 4 streams",
        "X' = H_res X + H_postᵀF(H_pre X), learnt and static: Zhu et al. 2024",
        _CLEAN,
        shortcut=Shortcut(kind="hyper_connections", streams=4),
    ),
    _beyond(
        "manifold_hyper_connections",
        "hyper-connections, 4 streams, doubly stochastic",
        "the same with H_res doubly stochastic by 20 Sinkhorn–Knopp steps: Xie et al. 2025",
        _CLEAN,
        shortcut=Shortcut(kind="manifold_hyper_connections", streams=4),
    ),
)
_BOTTLENECK = (
    _beyond(
        "resnet_b",
        "ResNet-B: stride on the 3×3",
        "the bottleneck's stride on its second layer: He, T. et al. 2019, after torchvision and the Torch code",
        _POST,
        stride_on="middle",
    ),
    _beyond(
        "resnet_d",
        "ResNet-D: and pooling before the projection",
        "ResNet-B with average pooling before the 1×1 projection: He, T. et al. 2019",
        _POST,
        stride_on="middle",
        widening="D",
    ),
)

BEYOND = Recipe(
    name="beyond",
    rows=(ORIGINAL, FULL, *_TWO_LAYER, *_BOTTLENECK),
    columns=(RESNET_110, RESNET_164),
    absent=frozenset(
        {
            *((row.key, "ResNet-164") for row in _TWO_LAYER),
            *((row.key, "ResNet-110") for row in _BOTTLENECK),
            ("full_preactivation", "ResNet-164"),
        }
    ),
    varies_unit=True,
)
