"""Units beyond the paper: the oracle, laws of the identity, counts in closed form, starts, words, the audit."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import cleanpath
from cleanpath.errors import SettingError
from cleanpath.experiment import Network, Shortcut, Training
from cleanpath.nn import catalog
from cleanpath.nn.layers import group_norm
from cleanpath.nn.resnet import ResNet, build
from cleanpath.nn.summary import summarise
from cleanpath.training import optimizers
from tests.nn.beyond_oracle import oracle_of
from tests.nn.networks import (
    BEYOND,
    LAYERS,
    SHORTCUTS,
    SUBSTITUTES,
    assert_bitwise,
    assert_close,
    built,
    gradients,
    images,
    residual_units,
    signal,
    silence,
    tiny,
)

MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
every_kind = pytest.mark.parametrize("name", BEYOND)


def lively(of: Network) -> ResNet:
    """The network with every parameter drawn anew, so that no scalar is 0 or 1 and no layer silent."""
    network = built(of)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.numel() == 1 or parameter.max() == parameter.min():
                parameter.normal_(0, 0.8, generator=generator)
            elif "read" in name or "write" in name or parameter.shape[:1] == parameter.shape[1:]:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def assert_same_as_oracle(of: Network, *, training: bool, size: int = 8) -> None:
    network = lively(of).train(training)
    x = images(of, size=size)
    learnt = dict(network.named_parameters())
    state = {n: t.detach().clone().requires_grad_(n in learnt) for n, t in network.state_dict().items()}
    torch.manual_seed(3)
    expected = oracle_of(of, state, training=training)(x)
    torch.manual_seed(3)
    logits = network(x)
    scale = float(expected.detach().abs().max())
    assert scale > 1e-3
    assert_close(logits, expected, atol=1e-11 * max(1.0, scale))
    theirs = torch.autograd.grad(loss_of(expected), [state[name] for name in learnt])
    for ours, other in zip(gradients(network, loss_of(logits)), theirs, strict=True):
        assert_close(ours, other, atol=1e-10 * max(1.0, float(other.abs().max())))
    # Equal streams do not tell how they are mixed, a narrow squeeze may be silent, and a unit dropped.
    assert sum(bool(other.any()) for other in theirs) >= (0.3 if of.shortcut.rate else 0.8) * len(learnt)
    for name, buffer in network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert_close(buffer, state[name].detach(), atol=1e-11 * max(1.0, scale))


def loss_of(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


# ---- against the formulas


@MODES
@every_kind
def test_network_of_a_kind_equals_the_oracle(name: str, *, training: bool) -> None:
    assert_same_as_oracle(BEYOND[name], training=training)


@pytest.mark.parametrize("placement", ["original", "full_preactivation"])
@pytest.mark.parametrize("name", SUBSTITUTES)
def test_network_with_a_substitute_equals_the_oracle(name: str, placement: str) -> None:
    assert_same_as_oracle(replace(tiny(placement=placement), **SUBSTITUTES[name]), training=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("skip_init", {"shortcut": Shortcut(kind="identity")}),
        ("stochastic_depth", {"shortcut": Shortcut(kind="stochastic_depth", rate=0.4)}),
        ("deepnorm", {"shortcut": Shortcut(kind="identity")}),
        ("fixup", {"activation": "gelu"}),
        ("hyper_connections", {"shortcut": Shortcut(kind="manifold_hyper_connections", streams=3)}),
    ],
)
def test_oracle_notices_another_function(name: str, change: dict[str, Any]) -> None:
    of = BEYOND[name]
    state = lively(of).state_dict()
    x = images(of)
    one = oracle_of(of, state, training=False)(x)
    if change.get("shortcut") == Shortcut(kind="identity"):
        state = {key.replace("branch.0.", "branch.").replace("shortcut.0.", "shortcut."): t for key, t in state.items()}
    assert not torch.allclose(one, oracle_of(replace(of, **change), state, training=False)(x))


# ---- laws of the identity


@MODES
@pytest.mark.parametrize("kind", ["skip_init", "weighted_residual", "layer_scale"])
@pytest.mark.parametrize("placement", ["relu_before_addition", "full_preactivation"])
def test_unit_whose_scale_is_zero_returns_its_input_bitwise(placement: str, kind: str, *, training: bool) -> None:
    network = built(tiny(placement=placement, shortcut=Shortcut(kind=kind, start=0.0))).train(training)
    assert_units_are_identities(network)


@pytest.mark.parametrize("placement", ["relu_before_addition", "full_preactivation"])
def test_unit_that_is_dropped_returns_its_input_bitwise(placement: str) -> None:
    network = built(tiny(placement=placement, shortcut=Shortcut(kind="stochastic_depth", rate=0.5)))
    for unit in residual_units(network).values():
        unit.branch.get_submodule("1").p = 0.0  # type: ignore[assignment]
    assert_units_are_identities(network.train())


@MODES
def test_fixup_unit_without_activation_behind_it_starts_as_the_identity(*, training: bool) -> None:
    torch.manual_seed(0)
    network = build(BEYOND["fixup, preactivation"]).double().train(training)
    assert_units_are_identities(network)


@pytest.mark.parametrize("name", ["squeeze_excitation, wide", "hyper_connections", "skip_init, start"])
def test_unit_with_a_silent_branch_returns_its_input_bitwise(name: str) -> None:
    network = built(BEYOND[name])
    for unit in residual_units(network).values():
        silence(unit)
    assert_units_are_identities(network)


def assert_units_are_identities(network: ResNet) -> None:
    """Those that neither widen nor hold the first activation; on signals of either sign."""
    found = 0
    for name, unit in residual_units(network).items():
        if name.endswith("unit1"):
            continue
        generator = torch.Generator().manual_seed(5)
        shape = (3, input_channels(unit), 4, 4)
        x = torch.randn(shape, dtype=torch.float64, generator=generator)
        assert_bitwise(unit(x), x)
        found += 1
    assert found == 3


def input_channels(unit: nn.Module) -> int:
    channels = next(m for m in unit.modules() if isinstance(m, nn.Conv2d)).in_channels
    streams = getattr(unit.get_submodule("shortcut"), "weight", torch.empty(1))
    return channels * len(streams)


def test_weight_beyond_its_interval_counts_as_its_end_and_still_learns() -> None:
    unit = residual_units(built(BEYOND["weighted_residual"]))["stages.stage1.unit2"]
    weight = unit.branch.get_parameter("1.weight")
    x = signal(unit)
    branch = unit.branch.get_submodule("0")(x).detach()
    for value, counted in ((0.5, 0.5), (1.7, 1.0), (-3.0, -1.0)):
        with torch.no_grad():
            weight.fill_(value)
        y = unit(x)
        assert_close(y, x + counted * branch)
        (gradient,) = torch.autograd.grad(y.sum(), weight)
        assert_close(gradient, branch.sum())


# ---- chance


def test_survival_falls_linearly_to_that_of_the_last_unit() -> None:
    network = build(catalog.network("resnet110", shortcut=Shortcut(kind="stochastic_depth", rate=0.5)))
    found = [float(unit.get_submodule("branch.1").p) for unit in network.units().values()]  # type: ignore[arg-type]
    assert found == pytest.approx([1 - index / 54 * 0.5 for index in range(1, 55)])
    assert found[-1] == 0.5


@pytest.mark.parametrize("inverted", [False, True])
def test_mean_over_training_is_what_the_test_computes(*, inverted: bool) -> None:
    of = tiny(units=1, shortcut=Shortcut(kind="stochastic_depth", rate=0.6, inverted=inverted))
    survival = build(of).get_submodule("stages.stage2.unit1.branch.1")
    x = torch.ones(2, 3, 4, 4)
    torch.manual_seed(0)
    drawn = torch.stack([survival(x) for _ in range(4000)])
    assert {len(d.unique()) for d in drawn} == {1}  # one draw for the whole batch
    kept = float((drawn[:, 0, 0, 0, 0] > 0).float().mean())
    assert kept == pytest.approx(0.6, abs=0.03)
    assert float(drawn.mean()) == pytest.approx(float(survival.eval()(x).mean()), abs=0.05)


# ---- counts


def plain_count(of: Network) -> int:
    return count(replace(of, shortcut=Shortcut()))


def count(of: Network) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(of).parameters())


def units_of(of: Network) -> list[catalog.UnitShape]:
    return [shape for stage in catalog.stages(of) for shape in stage]


def extra(of: Network) -> int:
    """What the formulas add to the same network with an identity shortcut."""
    shapes, n = units_of(of), of.shortcut.streams or 0
    wide = [shape.out_channels for shape in shapes]
    narrow = [max(1, c // (of.shortcut.reduction or 16)) for c in wide]
    added = {
        "skip_init": len(shapes),
        "weighted_residual": len(shapes),
        "layer_scale": sum(wide),
        "stochastic_depth": 0,
        "deepnorm": 0,
        "squeeze_excitation": sum(2 * c * r + c + r for c, r in zip(wide, narrow, strict=True)),
        "highway": sum(layers_count(shape) for shape in shapes),
        "hyper_connections": len(shapes) * (n * n + 2 * n),
        "manifold_hyper_connections": len(shapes) * (n * n + 2 * n),
        "fixup": scalars(of),
    }
    return added[of.shortcut.kind]


def layers_count(shape: catalog.UnitShape) -> int:
    """Convolutions and a BN behind each."""
    inside, total = shape.in_channels, 0
    for layer in shape.layers:
        total += inside * layer.channels * layer.kernel**2 + 2 * layer.channels
        inside = layer.channels
    return total


def scalars(of: Network) -> int:
    """A bias for every convolution but the first, every activation and the classifier; a factor for every unit."""
    units, layers = len(units_of(of)), LAYERS[of.branch]
    activations = units * layers + 1  # stem and between and after; or lead, between and head
    return units * layers + activations + 1 + units


@every_kind
def test_count_is_the_closed_form(name: str) -> None:
    of = BEYOND[name]
    assert count(of) == plain_count(of) + extra(of)


@pytest.mark.parametrize("kind", ["skip_init", "squeeze_excitation", "fixup"])
def test_count_at_110_layers(kind: str) -> None:
    """1,727,962 with option A (tests/nn/test_counts.py); without BN 8,096 fewer: 2·(16 + 18·2·(16 + 32 + 64))."""
    norm = "none" if kind == "fixup" else "batch"
    of = catalog.network("resnet110", shortcut=Shortcut(kind=kind), normalisation=norm)
    added = {"skip_init": 54, "squeeze_excitation": 18 * (49 + 162 + 580), "fixup": 108 + 109 + 1 + 54 - 8096}
    assert count(of) == 1_727_962 + added[kind]


def test_count_without_norms_and_with_others() -> None:
    of = tiny(units=1)
    convolutions = sum(m.weight.numel() for m in build(of).modules() if isinstance(m, nn.Conv2d))
    assert count(replace(of, normalisation="none")) == convolutions + 16 * 10 + 10
    assert count(replace(of, normalisation="group")) == count(replace(of, normalisation="layer")) == count(of)
    assert count(replace(of, activation="gelu")) == count(of)


def test_option_d_has_the_count_of_option_b() -> None:
    for name in ("preresnet164", "resnet50", "resnet20"):
        b, d = (catalog.network(name, widening=widening) for widening in "BD")
        assert count(b) == count(d)


# ---- starts


def test_fixup_starts_as_its_paper_says() -> None:
    torch.manual_seed(0)
    of = catalog.network("resnet56", shortcut=Shortcut(kind="fixup"), normalisation="none")
    network = build(of)
    assert not network(torch.randn(2, 3, 8, 8)).any()  # the classifier is 0
    factor = 27 ** (-1 / 2)
    ratios = []
    for unit in network.units().values():
        first, last = (unit.get_parameter(f"branch.conv{n}.weight") for n in (1, 2))
        assert not last.any()
        ratios.append(float(first.detach().std()) / (factor * math.sqrt(2 / (9 * len(first)))))
    assert sum(ratios) / 27 == pytest.approx(1, abs=0.01)
    scalars_at_start = {n: float(p.detach()) for n, p in network.named_parameters() if not p.dim()}
    assert {n for n, v in scalars_at_start.items() if v == 1} == {n for n in scalars_at_start if "scale" in n}
    assert {v for n, v in scalars_at_start.items() if "scale" not in n} == {0.0}
    three = build(catalog.network("cifar-resnet56-bottleneck", shortcut=of.shortcut, normalisation="none", width=32))
    middle = three.get_parameter("stages.stage3.unit2.branch.conv2.weight").detach()
    assert float(middle.std()) == pytest.approx(18 ** (-1 / 4) * math.sqrt(2 / (9 * 128)), rel=0.02)


def test_fixup_of_one_layer_units_starts_with_zero_layers() -> None:
    of = tiny("one_layer", shortcut=Shortcut(kind="fixup"), normalisation="none")
    assert not any(u.get_parameter("branch.conv1.weight").any() for u in build(of).units().values())


def test_deepnorm_starts_as_its_paper_says() -> None:
    of = catalog.network(
        "resnet56", shortcut=Shortcut(kind="deepnorm"), placement="post_norm", normalisation="layer", width=64
    )
    torch.manual_seed(0)
    deep = build(of)
    torch.manual_seed(0)
    plain = build(replace(of, shortcut=Shortcut()))
    alpha, beta = 27 ** (1 / 4), (4 * 27) ** (-1 / 4)  # (2N)^(1/4) and (8N)^(−1/4) with 2N = 27
    for name, unit in deep.units().items():
        scale = unit.get_submodule("shortcut" if not name.endswith(("2.unit1", "3.unit1")) else "shortcut.1")
        assert scale.factor == pytest.approx(alpha)
        for layer in ("conv1", "conv2"):
            ours, theirs = (
                network.get_parameter(f"{name}.branch.{layer}.weight").detach() for network in (deep, plain)
            )
            torch.testing.assert_close(ours, beta * theirs)


@pytest.mark.parametrize("kind", ["skip_init", "weighted_residual"])
def test_learnt_scalars_start_at_nothing_or_where_they_are_told(kind: str) -> None:
    for start, found in ((None, 0.0), (0.25, 0.25)):
        network = build(tiny(shortcut=Shortcut(kind=kind, start=start)))
        assert {float(u.get_parameter("branch.1.weight").detach()) for u in network.units().values()} == {found}


@pytest.mark.parametrize("name", [name for name in BEYOND if "wide" not in name and "start" not in name])
def test_gradients_at_110_layers_are_finite_at_the_start(name: str) -> None:
    of = (
        replace(BEYOND[name], depth=110, width=4)
        if LAYERS[BEYOND[name].branch] == 2
        else replace(BEYOND[name], depth=110)
    )
    torch.manual_seed(0)
    network = build(of)
    loss = loss_of(network(images(of, dtype=torch.float32)))
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


# ---- a choice reaches every part


@pytest.mark.parametrize("shortcut", [*SHORTCUTS, "squeeze_excitation", "highway"])
@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
def test_norm_and_activation_reach_every_part(layout: str, shortcut: str) -> None:
    setting = SHORTCUTS[shortcut] if shortcut in SHORTCUTS else BEYOND[shortcut].shortcut
    of = tiny(shortcut=setting, widening="B", widening_norm=True, placement="bn_after_addition")
    if layout == "imagenet":
        of = replace(of, depth=18, layout="imagenet")
    with torch.device("meta"):
        before, after = build(of), build(replace(of, normalisation="layer", activation="silu"))
    kinds = {nn.BatchNorm2d: nn.GroupNorm, nn.ReLU: nn.SiLU}
    expected = [kinds.get(type(m), type(m)) for m in before.modules()]
    assert [type(m) for m in after.modules()] == expected
    assert nn.GroupNorm in expected
    assert nn.SiLU in expected


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (4, 2), (6, 3), (14, 7), (16, 8), (32, 16), (64, 32), (256, 32), (96, 32)]
)
def test_groups_are_32_or_have_two_channels(channels: int, groups: int) -> None:
    norm = group_norm(channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "preresnet20", "cifar-preresnet29-bottleneck", "cifar-preresnet11-1layer"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("preresnet50", "preresnet164", "cifar-preresnet110-1layer", "resnet1202")
        ),
    ],
)
@pytest.mark.parametrize("kind", sorted({row.shortcut.kind for row in BEYOND.values()}))
def test_kind_builds_at_names_of_the_catalog(kind: str, name: str) -> None:
    row = next(of for of in BEYOND.values() if of.shortcut.kind == kind)
    placement = row.placement if kind == "deepnorm" else catalog.network(name).placement
    of = catalog.network(name, shortcut=row.shortcut, normalisation=row.normalisation, placement=placement)
    with torch.device("meta"):
        network = build(of)
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, of.num_classes)
    assert len(network.units()) == len(units_of(of))


@pytest.mark.parametrize(("size", "left"), [(8, 2), (33, 9)])
def test_option_d_passes_any_size_and_averages_what_it_halves(size: int, left: int) -> None:
    network = build(tiny(widening="D"))
    assert network.stages(network.stem(torch.randn(2, 3, size, size))).shape[-1] == left
    pool = network.get_submodule("stages.stage2.unit1.shortcut.0")
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    assert_close(pool(x)[0, 0], torch.tensor([[2.0, 3.5], [6.5, 8.0]]))  # the last windows are cut off at the edge


# ---- words, depth, audit


def test_every_kind_is_described_in_words_of_its_own() -> None:
    rows = {**{n: tiny(shortcut=s) for n, s in SHORTCUTS.items()}, **BEYOND}
    told: dict[tuple[str, ...], str] = {}
    for name, of in rows.items():
        unit = summarise(of, 8).units[1]
        words = (unit.h, unit.branch, unit.f)
        assert words not in told, f"{name} is described as {told.get(words)}"
        told[words] = name


@every_kind
def test_depth_counts_neither_gates_nor_squeezes(name: str) -> None:
    assert summarise(BEYOND[name], 8).depth == BEYOND[name].depth


@pytest.mark.parametrize(
    ("name", "h", "branch"),
    [
        ("skip_init", "identity", "conv3×3 ReLU conv3×3 ×α"),
        ("layer_scale", "identity", "BN ReLU conv3×3 BN ReLU conv3×3 ×γ per channel"),
        ("stochastic_depth", "identity", "conv3×3 BN ReLU conv3×3 BN ×b, P(b=1) = 0.833"),
        ("squeeze_excitation", "identity", "conv3×3 BN ReLU conv3×3 BN ×σ(SE 4→1)"),
        ("highway", "(1−g)·x, g = σ(conv3×3 BN ReLU conv3×3 BN)", "g·(conv3×3 BN ReLU conv3×3 BN ReLU)"),
        ("fixup", "identity", "+b conv3×3 +b ReLU +b conv3×3 ×a +b"),
        ("deepnorm", "×1.56508", "conv3×3 ReLU conv3×3"),
        ("hyper_connections", "3×3 mix of streams", "read of 3 streams BN ReLU conv3×3 BN ReLU conv3×3 written to 3"),
    ],
)
def test_unit_in_words(name: str, h: str, branch: str) -> None:
    unit = summarise(BEYOND[name], 8).units[1]
    assert (unit.h, unit.branch) == (h, branch)


# h of units that keep the width, h where it changes, f: as the audit names them.
AUDITED = {
    "skip_init": ("identity", "identity_pad", "relu"),
    "layer_scale": ("identity", "identity_pad", "nothing"),
    "weighted_residual": ("identity", "identity_pad", "nothing"),
    "stochastic_depth": ("identity", "identity_pad", "relu"),
    "squeeze_excitation": ("identity", "identity_pad", "relu"),
    "fixup": ("identity", "identity_pad", "relu"),
    "fixup, preactivation": ("identity", "identity_pad", "nothing"),
    "deepnorm": ("scaling", "scaling", "normalisation"),
    "hyper_connections": ("projection", "projection", "nothing"),
    "manifold_hyper_connections": ("projection", "projection", "nothing"),
}


@pytest.mark.parametrize("name", AUDITED)
def test_audit_finds_the_units_of_a_kind(name: str) -> None:
    of = BEYOND[name]
    profile = cleanpath.audit(lively(of).float().eval(), images(of, dtype=torch.float32))
    assert [unit.name for unit in profile.units] == list(build(of).units())
    h, widening, f = AUDITED[name]
    wide = [shape.changes_width for shape in units_of(of)]
    assert [unit.h.kind for unit in profile.units] == [widening if changes else h for changes in wide]
    assert {unit.f.kind for unit in profile.units} == {f}
    if name == "deepnorm":
        assert {unit.h.scale for unit in profile.units} == {6**0.25}


def test_audit_finds_the_gates_of_highway_units_that_keep_the_width() -> None:
    """A gated projection is a product of layers on both sides of the sum; such units are not told as residual."""
    of = BEYOND["highway"]
    profile = cleanpath.audit(lively(of).float().eval(), images(of, dtype=torch.float32))
    assert [unit.name for unit in profile.units] == [
        n for n, s in zip(build(of).units(), units_of(of), strict=True) if not s.changes_width
    ]
    assert {(unit.h.kind, unit.f.kind) for unit in profile.units} == {("gate", "nothing")}
    assert profile.not_seen


def test_audit_measures_the_mix_of_streams_as_the_identity_that_it_starts_as() -> None:
    of = BEYOND["hyper_connections"]
    torch.manual_seed(0)
    profile = cleanpath.audit(build(of).eval(), images(of, dtype=torch.float32))
    kept = [u for u, s in zip(profile.units, units_of(of), strict=True) if not s.changes_width]
    assert [unit.measurements.shortcut_gain for unit in kept] == pytest.approx([1.0] * 4)


# ---- refusals


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (tiny(shortcut=Shortcut(kind="fixup")), "set network.normalisation=none"),
        (tiny(shortcut=Shortcut(kind="deepnorm")), "set network.placement=post_norm"),
        (tiny(shortcut=Shortcut(kind="deepnorm"), placement="post_norm", normalisation="none"), "has no norm there"),
        (tiny(shortcut=Shortcut(kind="highway", bias=-1.0), normalisation="none"), "has its bias in its last norm"),
    ],
)
def test_kind_without_what_it_needs_is_refused(of: Network, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        build(of)


# ---- weight decay


@pytest.mark.parametrize("name", ["highway", "exclusive_gating", "exclusive_gating, norm", "shortcut_only_gating"])
def test_decay_leaves_out_the_biases_of_gates_and_nothing_else(name: str) -> None:
    of = BEYOND[name] if name in BEYOND else tiny(shortcut=SHORTCUTS[name])
    network = build(of)
    optimizer = optimizers.optimizer_of(network, Training(iterations=1, decay_on="all_but_gate_bias"))
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decays) == set(network.parameters())
    free = [n for n, p in network.named_parameters() if decays[p] == 0]
    assert len(free) == len(network.units())
    assert all("gate" in n and n.endswith(".bias") for n in free)
    assert {float(network.get_parameter(n).detach().max()) for n in free} == {-1.0}
    assert {decays[p] for n, p in network.named_parameters() if n not in free} == {1e-4}


def test_decay_without_gates_is_refused() -> None:
    training = Training(iterations=1, decay_on="all_but_gate_bias")
    with pytest.raises(SettingError, match="this one has none, use all"):
        optimizers.check(build(tiny()), training)
    optimizers.check(build(BEYOND["highway"]), training)


def test_bias_that_is_free_of_decay_stays_where_decay_alone_would_move_it() -> None:
    for decay_on, left in (("all", 6 * (1 - 0.1 * 0.01) ** 100), ("all_but_gate_bias", 6.0)):
        network = build(tiny(shortcut=Shortcut(kind="highway", bias=-6.0), placement="relu_before_addition"))
        training = Training(iterations=1, decay_on=decay_on, weight_decay=0.01, momentum=0.0, lr=0.1)
        optimizer = optimizers.optimizer_of(network, training)
        for _ in range(100):
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        biases = optimizers.gate_biases(network)
        assert {round(float(b.detach().mean()), 4) for b in biases} == {-round(left, 4)}
