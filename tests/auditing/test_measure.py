"""Every measured number against a slow hook-free measurement, a closed form, and a measurement with one sign wrong."""

# mypy: disable-error-code="no-any-return, operator"
# torch types the call of a module as Any, and its sub-modules as "Tensor or Module".

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cleanpath.auditing.examine import audit
from cleanpath.auditing.profile import Profile
from tests.auditing.oracles import Gate, OracleNet, OracleUnit, Times, jacobian_defect, measure, rms

WIDTH, BATCH = 5, 4
SHORTCUTS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "half": lambda: Times(0.5),
    "minus": lambda: Times(-1.0),
    "gate": lambda: Gate(WIDTH, -1.0),
    "projection": lambda: nn.Linear(WIDTH, WIDTH),
}
AFTERS: dict[str, Callable[[], nn.Module]] = {
    "nothing": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "norm": lambda: nn.LayerNorm(WIDTH),
}
BRANCHES: dict[str, Callable[[], nn.Module]] = {
    "post": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)),
    "pre": lambda: nn.Sequential(nn.LayerNorm(WIDTH), nn.SiLU(), nn.Linear(WIDTH, 7), nn.Linear(7, WIDTH)),
    "batch": lambda: nn.Sequential(nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, WIDTH)),
}
CHECKED = (
    "input_rms",
    "output_rms",
    "forward_gain",
    "branch_share",
    "cosine",
    "backward_gain",
    "gradient_rms",
    "direct_gain",
    "negative_share",
)
SHUT = [("gate", "post", "relu"), ("half", "post", "relu"), ("minus", "post", "relu"), ("gate", "post", "relu")]
"""With seed 4 every ReLU after the third sum is shut: what follows is zero, and ratios have no value."""


def network(plan: list[tuple[str, str, str]], dtype: torch.dtype, seed: int) -> OracleNet:
    torch.manual_seed(seed)
    units = [OracleUnit(SHORTCUTS[h](), BRANCHES[branch](), AFTERS[f]()) for h, branch, f in plan]
    return OracleNet(nn.Linear(3, WIDTH), units, nn.Linear(WIDTH, 2)).to(dtype)


def batch(dtype: torch.dtype, seed: int = 0, *, size: int = BATCH) -> Tensor:
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weights(dtype: torch.dtype) -> Tensor:
    return torch.randn(BATCH, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def audited(net: nn.Module, x: Tensor) -> Profile:
    return audit(net, x, loss=lambda output: (weights(x.dtype) * output).sum())


plans = st.lists(
    st.tuples(st.sampled_from(sorted(SHORTCUTS)), st.sampled_from(sorted(BRANCHES)), st.sampled_from(sorted(AFTERS))),
    min_size=2,  # in a lone unit nothing tells f from what the head begins with
    max_size=4,
)


def disagreements(plan: list[tuple[str, str, str]], dtype: torch.dtype, seed: int, tolerance: float) -> list[str]:
    net, x = network(plan, dtype, seed), batch(dtype, seed)
    truths, profile = measure(net, x, weights(dtype)), audited(net, x)
    assert len(profile.units) == len(plan)
    return [
        f"{unit.name} {key}: {getattr(unit.measurements, key)} is not {truth.numbers[key]}"
        for unit, truth in zip(profile.units, truths, strict=True)
        for key in truth.numbers
        if getattr(unit.measurements, key) != pytest.approx(truth.numbers[key], rel=tolerance, abs=tolerance)
    ]


def fixed_after(plan: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The same f in all units, as f is what all sums of a stage have; else it belongs to the trunk."""
    return [(h, branch, plan[0][2]) for h, branch, _ in plan]


@settings(max_examples=25, deadline=None, derandomize=True)
@example(plan=SHUT, seed=4)
@given(plan=plans, seed=st.integers(0, 99))
def test_random_networks_agree_with_the_oracle_in_double_precision(plan: list[tuple[str, str, str]], seed: int) -> None:
    assert disagreements(fixed_after(plan), torch.float64, seed, 1e-10) == []


@settings(max_examples=10, deadline=None, derandomize=True)
@example(plan=SHUT, seed=4)
@given(plan=plans, seed=st.integers(0, 99))
def test_random_networks_agree_with_the_oracle_in_single_precision(plan: list[tuple[str, str, str]], seed: int) -> None:
    assert disagreements(fixed_after(plan), torch.float32, seed, 1e-4) == []


class Zero(nn.Module):
    """0 · W x: a weighted branch that adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * 0.0


def chain(factors: list[float], after: Callable[[], nn.Module] = nn.Identity) -> OracleNet:
    units = [OracleUnit(nn.Identity() if f == 1 else Times(f), Zero(), after()) for f in factors]
    return OracleNet(nn.Linear(3, WIDTH), units, nn.Linear(WIDTH, 2)).double()


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_a_chain_of_scalings_has_the_gains_of_equation_8(factor: float) -> None:
    profile = audited(chain([factor] * 6), batch(torch.float64))
    for unit in profile.units:
        found = unit.measurements
        assert (unit.h.kind, unit.h.scale) == ("scaling", factor)
        assert found.shortcut_defect == pytest.approx(abs(1 - factor), abs=1e-12)
        for gain in (found.forward_gain, found.backward_gain, found.direct_gain):
            assert gain == pytest.approx(factor, rel=1e-10)
    assert profile.path_gain(0, 5) == pytest.approx(factor**6, rel=1e-10)
    gains = profile.path_gains()
    assert all(
        gains[low][high] == pytest.approx(factor ** (high - low + 1)) for low in range(6) for high in range(low, 6)
    )


def test_planted_factors_are_found_where_they_were_planted() -> None:
    factors = [1.0, 0.25, 1.0, 3.0, -0.5]
    profile = audited(chain(factors), batch(torch.float64))
    assert [unit.measurements.direct_gain for unit in profile.units] == pytest.approx([abs(f) for f in factors])
    assert [unit.h.scale for unit in profile.units] == [None, 0.25, None, 3.0, -0.5]


def test_an_identity_unit_without_branch_has_gains_of_exactly_one() -> None:
    profile = audited(chain([1.0] * 3), batch(torch.float64))
    for unit in profile.units:
        found = unit.measurements
        assert (found.forward_gain, found.backward_gain, found.direct_gain) == (1.0, 1.0, 1.0)
        assert (found.branch_share, found.shortcut_defect, found.after_defect) == (0.0, 0.0, 0.0)
        assert found.cosine is None


class Gaussian(nn.Module):
    """One unit with F = 0 and f = ReLU on its input as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(1000, 1000, bias=False)
        nn.init.zeros_(self.branch.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def test_relu_of_a_gaussian_has_its_closed_forms() -> None:
    x = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0))
    (unit,) = audit(Gaussian(), x).units
    found, tolerance = unit.measurements, 5 / math.sqrt(x.numel())
    assert unit.f.kind == "relu"
    assert found.forward_gain == pytest.approx(math.sqrt(0.5), abs=tolerance)
    assert found.negative_share == pytest.approx(0.5, abs=tolerance)
    assert found.after_defect == pytest.approx(math.sqrt(0.5), abs=tolerance)
    assert found.direct_gain == pytest.approx(math.sqrt(0.5), abs=tolerance)


def test_the_sign_of_the_negative_share_matters() -> None:
    """Negative control: the share of positive entries is another number."""
    x = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0)) + 1
    (unit,) = audit(Gaussian(), x).units
    normal = 0.5 * (1 + math.erf(-1 / math.sqrt(2)))
    assert unit.measurements.negative_share == pytest.approx(normal, abs=0.01)
    assert unit.measurements.negative_share != pytest.approx(1 - normal, abs=0.1)


@pytest.mark.parametrize("bias", [0.0, -6.0])
def test_a_gate_that_sees_nothing_scales_by_its_bias(bias: float) -> None:
    net = OracleNet(nn.Linear(3, WIDTH), [OracleUnit(Gate(WIDTH, bias), Zero(), nn.Identity())], nn.Linear(WIDTH, 2))
    nn.init.zeros_(net.units[0].get_parameter("shortcut.linear.weight"))
    (unit,) = audited(net.double(), batch(torch.float64)).units
    gain = 1 - 1 / (1 + math.exp(-bias))
    assert unit.h.kind == "gate"
    assert unit.measurements.direct_gain == pytest.approx(gain, rel=1e-10)
    assert unit.measurements.forward_gain == pytest.approx(gain, rel=1e-10)
    assert unit.measurements.shortcut_defect == pytest.approx(1 - gain, rel=1e-9)
    assert unit.measurements.saturated_gate_share == (1.0 if bias == -6.0 else 0.0)


@pytest.mark.parametrize("shortcut", ["projection", "gate"])
def test_the_defect_is_the_distance_of_the_jacobian_from_the_identity(shortcut: str) -> None:
    """One random v estimates ‖J − I‖ / √n; the mean of many draws must come close."""
    torch.manual_seed(0)
    net = network([(shortcut, "post", "nothing")], torch.float64, 0)
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (unit,) = audit(net, x).units
    expected = jacobian_defect(net.units[0].get_submodule("shortcut"), net.stem(x[:40]).detach())
    assert unit.measurements.shortcut_defect == pytest.approx(expected, rel=0.15)


def test_dead_relus_are_counted_by_channel() -> None:
    net = network([("identity", "post", "nothing")], torch.float64, 0)
    with torch.no_grad():
        net.units[0].get_parameter("branch.0.bias")[:2] = -1e6
    (unit,) = audited(net, batch(torch.float64)).units
    with torch.no_grad():
        hidden = net.units[0].get_submodule("branch.0")(net.stem(batch(torch.float64)))
    dead = sum(all(value <= 0 for value in column) for column in hidden.T.tolist())
    assert dead >= 2
    assert unit.measurements.dead_relu_share == dead / WIDTH


def test_dead_relus_after_a_convolution_are_counted_by_map() -> None:
    branch = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    with torch.no_grad():
        branch[0].bias[:6] = torch.tensor([-1e6] * 2 + [1e6] * 4)
        branch[0].bias[6:] = 1e6
    (unit,) = audit(OracleUnit(nn.Identity(), branch, nn.Identity()), torch.randn(2, 4, 6, 6)).units
    assert unit.measurements.dead_relu_share == 0.25


class InPlace(nn.Module):
    """relu_(out += x): what stands in memory is overwritten twice."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.first, self.last, self.in_place = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), in_place

    def forward(self, x: Tensor) -> Tensor:
        if not self.in_place:
            return torch.relu(self.last(torch.relu(self.first(x))) + x)
        out = self.last(torch.relu_(self.first(x)))
        out += x
        return torch.relu_(out)


def test_operations_in_place_change_no_number_by_one_bit() -> None:
    profiles = []
    for in_place in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, WIDTH), *(InPlace(in_place=in_place) for _ in range(3)))
        profiles.append(audit(net, batch(torch.float32)))
    assert [u.measurements for u in profiles[0].units] == [u.measurements for u in profiles[1].units]
    assert len(profiles[0].units) == 3


def test_the_gradient_norm_and_the_loss_are_those_of_a_plain_backward_pass() -> None:
    net, x = network([("identity", "batch", "relu")] * 2, torch.float64, 3), batch(torch.float64)
    profile = audited(net, x)
    loss = (weights(torch.float64) * net(x)).sum()
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    total = math.sqrt(sum(rms(g) ** 2 * g.numel() for g in gradients))
    assert profile.network.gradient_norm == pytest.approx(total, rel=1e-10)
    assert profile.network.loss == pytest.approx(loss.item(), rel=1e-10)
    assert profile.network.gradient_profile == tuple(u.measurements.gradient_rms for u in profile.units)


def test_bfloat16_is_measured_in_float32() -> None:
    """A sum of 2^16 ones in bfloat16 stops at 256; the rms must still be 1."""
    unit = OracleUnit(nn.Identity(), Zero(), nn.Identity()).bfloat16()
    (row,) = audit(unit, torch.ones(2**14, WIDTH, dtype=torch.bfloat16)).units
    assert row.measurements.input_rms == pytest.approx(1.0, rel=1e-6)


def test_draws_of_a_dropout_mask_have_a_spread_and_batches_a_mean() -> None:
    torch.manual_seed(0)
    net = OracleNet(nn.Linear(3, WIDTH), [OracleUnit(nn.Dropout(0.5), Zero(), nn.Identity())], nn.Linear(WIDTH, 2))
    x = batch(torch.float32)
    one, many = audit(net, x), audit(net, x, draws=200, further_batches=[batch(torch.float32, 7)])
    assert one.units[0].h.kind == "dropout"
    assert (one.network.draws, many.network.draws) == (1, 400)
    assert one.units[0].spread.forward_gain is None
    assert many.units[0].spread.forward_gain is not None
    assert many.units[0].spread.forward_gain > 0.05
    assert many.units[0].measurements.forward_gain == pytest.approx(math.sqrt(2), rel=0.1)
    quiet = audit(net.eval(), x, draws=3).units[0]
    assert quiet.h.kind == "identity"
    assert quiet.spread.forward_gain == pytest.approx(0.0, abs=1e-9)


class Explodes(nn.Module):
    """log of a negative number in the second unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + torch.log(-self.second(x).abs() - 1)


def test_the_first_place_that_is_not_finite_is_named() -> None:
    net = nn.Sequential(nn.Linear(3, WIDTH), Explodes())
    assert audit(net, batch(torch.float32)).network.first_non_finite == "log in 1"
    healthy = network([("identity", "post", "nothing")], torch.float32, 0)
    assert audit(healthy, batch(torch.float32)).network.first_non_finite is None


def test_a_batch_or_a_parameter_that_is_not_finite_is_named_itself() -> None:
    net, x = network([("identity", "post", "nothing")] * 2, torch.float32, 0), batch(torch.float32)
    broken = x.clone()
    broken[0, 0] = float("nan")
    assert audit(net, broken).network.first_non_finite == "the batch"
    weight = net.units[1].get_submodule("branch").get_parameter("0.weight")
    with torch.no_grad():
        weight[0, 0] = float("inf")
    found = audit(net, x)
    assert found.network.first_non_finite == "the parameter units.1.branch.0.weight"
    assert found.verdict.startswith("not finite: ")


class Masked(nn.Module):
    """Attention with a mask of −∞: infinite scores that are meant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        scores = (x @ x.T).masked_fill(torch.eye(len(x), dtype=torch.bool), float("-inf"))
        return x + scores.softmax(-1) @ self.layer(x)


def test_a_mask_of_minus_infinity_is_no_fault() -> None:
    assert audit(nn.Sequential(nn.Linear(3, WIDTH), Masked()), batch(torch.float32)).network.first_non_finite is None


@pytest.mark.parametrize("key", CHECKED)
def test_a_wrong_sign_or_factor_would_be_noticed(key: str) -> None:
    """Negative control: against an oracle whose networks differ by one sign, every number but the counts disagrees."""
    plan = [("half", "post", "relu"), ("identity", "pre", "relu")]
    net, x = network(plan, torch.float64, 5), batch(torch.float64, 5)
    profile = audited(net, x)
    for unit in net.units:
        unit.branch = nn.Sequential(unit.get_submodule("branch"), Times(-1.0))
        unit.shortcut = nn.Sequential(unit.get_submodule("shortcut"), Times(1.5))
    wrong = measure(net, 1.1 * x, weights(torch.float64))
    pairs = [(getattr(u.measurements, key), t.numbers[key]) for u, t in zip(profile.units, wrong, strict=True)]
    assert any(found != pytest.approx(other, rel=1e-6) for found, other in pairs)
