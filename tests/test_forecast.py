"""What a forecast measures and says, and that asking changes nothing."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import cleanpath
from benchmarks.fingerprint import differences, fingerprint
from cleanpath.data.sources import load
from cleanpath.errors import UserError
from cleanpath.forecasting.foresee import measured
from cleanpath.forecasting.judging import judged
from cleanpath.forecasting.likeness import agreement, alignment, apart, cosine, of_outputs, repeated, rows_of
from cleanpath.forecasting.probing import taken, twin
from cleanpath.forecasting.rule import Rule
from cleanpath.forecasting.values import (
    CANNOT_SAY,
    FAILS,
    OUTCOMES,
    STARTS_SLOWLY,
    STEPS,
    TRAINS,
    Forecast,
    Measured,
    Steps,
)

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def batches() -> Batches:
    train = load(cleanpath.Data()).train
    return [(train.plain(torch.arange(at, at + 64)), train.labels[at : at + 64]) for at in range(0, 640, 64)]


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def built(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return cleanpath.build(name, in_channels=1, **settings)


def plain(name: str) -> nn.Module:
    return built(name, shortcut=cleanpath.Shortcut(kind="scaling", scale=0.0))


def stepped(**changes: Any) -> Steps:
    usual: dict[str, Any] = {"losses": (2.3,) * STEPS, "gradient_norms": (5.0,) * STEPS, "moved": 0.05}
    return Steps(**{**usual, "apart": (0.5,) * STEPS, "agreement": (0.3,) * STEPS, **changes})


def given(**changes: Any) -> Measured:
    usual: dict[str, Any] = {"rate": 0.1, "optimizer": "SGD", "classes": 10, "units": 54, "gradient_ratio": 1.0}
    usual |= {"gradient_norm": 5.0, "memory": 0.5, "alike": 0.7, "steps": stepped()}
    return Measured(**{**usual, **changes})


def state_of(optimizer: torch.optim.Optimizer) -> str:
    groups = [{k: v if k != "params" else [*map(id, v)] for k, v in g.items()} for g in optimizer.param_groups]
    state = {
        id(p): {k: v.tolist() if isinstance(v, Tensor) else v for k, v in held.items()}
        for p, held in optimizer.state.items()
    }
    return repr((groups, state, [*vars(optimizer)]))


class Noisy(nn.Module):
    """Units with dropout and BN, some weights frozen, a hook of somebody's, gradients of earlier steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.3))
        self.head = nn.Linear(8, 10)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.stem(x)
        x = x + self.branch(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def used(batches: Batches) -> tuple[Noisy, torch.optim.Optimizer]:
    """A model and an optimizer that have a past."""
    torch.manual_seed(1)
    model = Noisy()
    groups: list[dict[str, Any]] = [{"params": model.stem.parameters()}, {"params": model.head.parameters(), "lr": 0.3}]
    optimizer = torch.optim.AdamW(groups)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.register_step_post_hook(lambda *_: pytest.fail("a hook of the user's was called"))
    model.head.register_forward_hook(lambda *_: None)
    cross_entropy(model(batches[0][0]), batches[0][1]).backward()  # type: ignore[no-untyped-call]
    optimizer._optimizer_step_post_hooks, kept = (
        type(optimizer._optimizer_step_post_hooks)(),
        (optimizer._optimizer_step_post_hooks),
    )
    optimizer.step()
    optimizer._optimizer_step_post_hooks = kept
    model.branch[1].weight.requires_grad_(False)  # noqa: FBT003
    model.branch.eval()
    return model, optimizer


@pytest.mark.parametrize("mode", [True, False])
def test_all_is_as_before_bit_for_bit(batches: Batches, mode: bool) -> None:  # noqa: FBT001
    model, optimizer = used(batches)
    model.train(mode)
    before, state = fingerprint(model, batches), state_of(optimizer)
    found = cleanpath.forecast(model, batches, optimizer=optimizer)
    assert differences(before, fingerprint(model, batches)) == []
    assert state_of(optimizer) == state
    assert found.measured is not None
    assert found.measured.steps.moved > 0


@pytest.mark.parametrize("at", ["loss", "forward", "step"])
def test_all_is_as_before_after_an_exception(batches: Batches, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = used(batches)
    calls = 0

    def fault(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if at == "loss":
            fault()
        return cross_entropy(output, target)

    if at == "forward":
        model.stem.register_forward_hook(fault)
    if at == "step":
        real = torch.optim.AdamW.step

        def step(self: torch.optim.AdamW) -> None:
            real(self)
            fault()

        monkeypatch.setattr(torch.optim.AdamW, "step", step)
    before, state = fingerprint(model, batches), state_of(optimizer)
    with pytest.raises(KeyboardInterrupt):
        cleanpath.forecast(model, batches, optimizer=optimizer, loss=loss)
    after = fingerprint(model, batches)
    assert differences(before, after) == []
    assert state_of(optimizer) == state


def test_the_steps_are_those_that_training_would_make(batches: Batches) -> None:
    model = built("cifar-resnet8-2layer")
    found = measured(model, batches, optimizer=sgd(model))
    losses, norms, outputs = [], [], []
    optimizer = sgd(model)
    start = torch.cat([p.detach().flatten().double() for p in model.parameters()])
    for x, y in batches:
        optimizer.zero_grad()
        output = model(x)
        outputs.append(output.detach())
        loss = cross_entropy(output, y)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        norms.append(
            torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None]).norm().item()
        )
        optimizer.step()
    end = torch.cat([p.detach().flatten().double() for p in model.parameters()])
    assert found.steps.losses == tuple(losses)
    assert found.steps.gradient_norms == pytest.approx(norms, rel=1e-6)
    assert found.steps.moved == pytest.approx(float((end - start).norm() / start.norm()), rel=1e-6)
    assert found.gradient_norm == pytest.approx(norms[0], rel=1e-6)
    spreads = [float((z - z.mean(0)).double().norm() / z.double().norm()) for z in outputs]
    assert found.steps.apart == pytest.approx(spreads, rel=1e-5)
    known = [agreement(z.double(), one_hot(y).double()) for z, (_, y) in zip(outputs, batches, strict=True)]
    assert found.steps.agreement == pytest.approx(known, rel=1e-3, abs=1e-5)
    assert (found.units, found.classes, found.rate, found.optimizer) == (3, 10, 0.1, "SGD")


def test_an_optimizer_with_a_past_goes_on_from_it(batches: Batches) -> None:
    model = built("cifar-resnet8-2layer")
    optimizer = sgd(model, lr=1e-6)
    for x, y in batches[:3]:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fresh = measured(model, batches, optimizer=sgd(model, lr=1e-6)).steps.moved
    assert measured(model, batches, optimizer=optimizer).steps.moved > 1.3 * fresh


def test_weights_of_another_model_are_not_stepped(batches: Batches) -> None:
    model, other = Noisy(), nn.Linear(3, 3)
    before = other.weight.detach().clone()
    other.weight.grad = torch.ones_like(other.weight)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    cleanpath.forecast(model, batches, optimizer=optimizer)
    assert torch.equal(other.weight, before)


def test_a_twin_shares_weights_and_nothing_else() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model.weight.grad, model.bias.grad = torch.ones(2, 2), torch.ones(2)
    optimizer.step()
    other = twin(optimizer)
    assert other.param_groups[0]["params"][0] is model.weight
    assert other.state[model.weight]["exp_avg"] is not optimizer.state[model.weight]["exp_avg"]
    assert torch.equal(other.state[model.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    other.param_groups[0]["lr"] = 5.0
    assert optimizer.param_groups[0]["lr"] == 1e-3


def slow_alignment(inputs: Tensor, features: Tensor) -> float:
    """The same from its definition, pair by pair."""
    n = len(inputs)
    center = torch.eye(n).double() - 1 / n
    grams = []
    for rows in (inputs.double(), features.double()):
        gram = torch.tensor([[sum(a * b for a, b in zip(r, s, strict=True)) for s in rows] for r in rows])
        grams.append(center @ gram.double() @ center)
    one, other = grams
    return float((one * other).sum() / (one.pow(2).sum() * other.pow(2).sum()).sqrt())


def test_alignment_is_its_definition_and_one_for_a_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, 5, generator=generator).double() for _ in range(2))
    assert alignment(x, y) == pytest.approx(slow_alignment(x, y), rel=1e-9)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator).double())
    assert alignment(x, 3 * x @ rotation + 7) == pytest.approx(1.0)
    assert alignment(x, y) < 0.9


def test_agreement_is_nothing_by_chance_whatever_the_size_and_one_for_a_rotation() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int, wide: int) -> Tensor:
        return torch.randn(count, wide, generator=generator).double()

    for count in (8, 64):
        pairs = [(drawn(count, 10), drawn(count, 10)) for _ in range(200)]
        assert sum(agreement(*pair) for pair in pairs) / 200 == pytest.approx(0.0, abs=0.05)
        assert sum(alignment(*pair) for pair in pairs) / 200 > 0.1  # which counts an image beside itself
    x = drawn(64, 5)
    rotation, _ = torch.linalg.qr(drawn(5, 5))
    assert agreement(x, 3 * x @ rotation + 7) == pytest.approx(1.0)
    labels = torch.arange(64) % 4
    assert agreement(one_hot(labels).double() + 0.1 * drawn(64, 4), rows_of(labels)) > 0.9


def test_outputs_are_apart_by_what_they_differ_in_beside_their_size() -> None:
    assert apart(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(math.sqrt(0.5))
    assert apart(torch.tensor([[3.0, 4.0]] * 5)) == 0.0
    assert of_outputs(torch.ones(7, 2), torch.zeros(7)) == (None, None)  # too few
    assert of_outputs(torch.full((9, 2), math.nan), torch.zeros(9)) == (None, None)
    assert of_outputs(torch.ones(9, 2, 3), "words") == (0.0, None)


def test_what_repeats_is_the_share_of_the_signal() -> None:
    generator = torch.Generator().manual_seed(0)
    signal, noise, other = (torch.randn(4000, 3, generator=generator) for _ in range(3))
    assert repeated(signal, signal) == 1.0
    # Equal parts of signal and noise: half of the variance comes again.
    assert repeated(signal + noise, signal + other) == pytest.approx(0.5, abs=0.03)
    assert repeated(noise, other) == pytest.approx(0.0, abs=0.03)


def test_cosine_is_the_mean_over_pairs() -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    pairs = [float(torch.cosine_similarity(a, b, dim=0)) for i, a in enumerate(rows) for b in rows[:i]]
    assert cosine(rows) == pytest.approx(sum(pairs) / len(pairs))


def test_a_plain_network_of_110_layers_fails_and_a_healthy_one_of_20_trains(batches: Batches) -> None:
    network = plain("resnet110")
    found = cleanpath.forecast(network, batches, optimizer=sgd(network))
    assert found.outcome == FAILS
    assert found.probabilities[FAILS] > 0.8
    assert {change.what for change in found.changes} & {"depth", "CP101", "CP102"}
    network = built("preresnet20")
    found = cleanpath.forecast(network, batches, optimizer=sgd(network, lr=0.05))
    assert found.outcome == TRAINS
    assert sum(found.probabilities.values()) == pytest.approx(1.0)


def test_forecast_is_the_same_twice(batches: Batches) -> None:
    model, optimizer = used(batches)
    first = cleanpath.forecast(model, batches, optimizer=optimizer)
    torch.rand(5)
    assert cleanpath.forecast(model, batches, optimizer=optimizer) == first


def test_one_batch_is_enough(batches: Batches) -> None:
    model = built("cifar-resnet8-2layer")
    found = cleanpath.forecast(model, batches[:1], optimizer=sgd(model))
    assert found.measured is not None
    assert found.measured.steps.losses[-1] < found.measured.steps.losses[0]  # the one batch, ten times
    assert len(taken(iter(batches[:3]))) == STEPS


def test_a_loader_is_asked_for_no_more_than_is_needed(batches: Batches) -> None:
    asked = []

    def loader() -> Any:
        for at in range(1000):
            asked.append(at)
            yield batches[at % 10]

    model = built("cifar-resnet8-2layer")
    cleanpath.forecast(model, loader(), optimizer=sgd(model))
    assert len(asked) == STEPS


def test_a_loss_that_is_not_finite_fails_without_a_rule(batches: Batches) -> None:
    model = built("cifar-resnet8-2layer")
    broken = [(x * math.nan, y) for x, y in batches]
    found = cleanpath.forecast(model, broken, optimizer=sgd(model))
    assert found.outcome == FAILS
    assert found.probabilities == {}
    assert "loss is nan at the start" in found.reasons[0]
    found = cleanpath.forecast(model, batches, optimizer=sgd(model, lr=1e30))
    assert found.outcome == FAILS
    assert "after" in found.reasons[0]


def test_a_network_without_units_gets_an_answer(batches: Batches) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    found = cleanpath.forecast(model, batches, optimizer=sgd(model))
    assert found.measured is not None
    assert found.measured.units == 0
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    assert "depth" not in {change.what for change in found.changes}


class Texts(nn.Module):
    """Whole numbers in, named logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.embed(ids).mean(1))}


def test_inputs_may_be_named_whole_numbers() -> None:
    torch.manual_seed(0)
    model = Texts()
    texts = [({"ids": torch.randint(50, (32, 12))}, torch.randint(4, (32,)))]
    found = cleanpath.forecast(model, texts, optimizer=sgd(model))
    assert found.measured is not None
    assert found.measured.memory is not None
    assert 0.3 < found.measured.memory <= 1.0


def other_loss(output: Tensor, _: Tensor) -> Any:
    return output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 3}, "needs a torch.nn.Module"),
        ({"batches": torch.zeros(3)}, "pairs"),
        ({"batches": [torch.zeros(3)]}, "is a pair"),
        ({"batches": [(torch.zeros(64, 1, 8, 8), torch.zeros(64), 3)]}, "is a pair"),
        ({"batches": []}, "no batch"),
        ({"loss": other_loss}, "one number"),
        ({"loss": lambda *_: 3}, "one number"),
        ({"batches": [(torch.zeros(64, 7), torch.arange(64) % 10)]}, "forward pass raised"),
        ({"optimizer": sgd(nn.Linear(1, 1))}, "holds none"),
        ({"model": nn.Sequential(nn.LazyLinear(10))}, "lazy"),
    ],
)
def test_bad_input_is_told(batches: Batches, changes: dict[str, Any], message: str) -> None:
    model = Noisy()
    asked: dict[str, Any] = {"model": model, "batches": batches, "optimizer": sgd(model), **changes}
    with pytest.raises(UserError, match=message):
        cleanpath.forecast(**asked)


def test_optimizers_and_models_that_make_no_step_are_told(batches: Batches) -> None:
    model = Noisy()
    with pytest.raises(UserError, match="closure"):
        cleanpath.forecast(model, batches, optimizer=torch.optim.LBFGS(model.parameters()))
    optimizer = sgd(model.requires_grad_(False))  # noqa: FBT003
    with pytest.raises(UserError, match="depend"):
        cleanpath.forecast(model, batches, optimizer=optimizer)


def test_the_document_is_plain_and_complete() -> None:
    found = judged(given())
    data = json.loads(found.to_json())
    assert (data["schema"], data["version"]) == ("cleanpath.forecast", 1)
    assert {*data["probabilities"]} == {*OUTCOMES}
    assert data["measured"]["steps"]["moved"] == 0.05
    assert data["words"] == str(found)
    nan = judged(given(steps=Steps(losses=(math.nan,), gradient_norms=(), moved=0.0), gradient_norm=None))
    assert json.loads(nan.to_json())["measured"]["steps"]["losses"] == ["nan"]


def test_what_was_not_measured_gives_no_answer() -> None:
    found = judged(given(memory=None))
    assert found.outcome == CANNOT_SAY
    assert "memory" in found.reasons[0] or "forgotten" in found.reasons[0]


def test_what_is_far_from_all_cells_is_doubted() -> None:
    assert judged(given()).doubts == ()
    far = stepped(moved=1e9)
    assert any("above" in doubt for doubt in judged(given(steps=far)).doubts)
    assert any("cross-entropy" in doubt for doubt in judged(given(classes=None)).doubts)


def rule_of(**weights: float) -> Rule:
    bounds: dict[str, Any] = {
        "slow_from": 4.0,
        "fails_from": 0.0,
        "unsure": (0.3, 0.7),
        "slow_weights": {"unlearnt": 1.0},
    }
    usual = {"forgotten": 0.4, "moved": -1.3, "unlearnt": 0.8, "merged": 1.0, "vanished": 0.0, "unrelated": 0.0}
    lowest = {"forgotten": 0.0, "moved": -2.0, "unlearnt": 0.45, "merged": 1.0, "vanished": 0.0, "unrelated": 0.0}
    highest = {"forgotten": 1.3, "moved": 5.0, "unlearnt": 1.05, "merged": 3.0, "vanished": 3.0, "unrelated": 0.4}
    return Rule(weights=weights, usual=usual, lowest=lowest, highest=highest, **bounds)


def at(moved: float, rate: float = 0.1) -> Measured:
    return given(rate=rate, steps=stepped(moved=moved))


def test_the_rate_that_is_named_is_the_highest_at_which_the_answer_changes() -> None:
    rule = rule_of(moved=4.0)
    found = judged(at(10.0), rule)
    assert found.outcome == FAILS
    (rate,) = (change.to for change in found.changes if change.what == "rate")
    assert rate is not None
    # 4 log10(10 rate / 0.1) = log(0.3 / 0.7), rounded to one figure.
    assert rate == pytest.approx(0.0061, rel=0.2)
    assert judged(at(10.0 * rate / 0.1, rate), rule).probabilities[FAILS] <= 0.3
    assert f"{rate:g} in place of 0.1" in str(found)
    # Where no rate among those that are known would do, none is named.
    assert "rate" not in [change.what for change in judged(at(10.0), rule_of(moved=0.1, unlearnt=9)).changes]


def test_the_units_that_are_named_are_the_most_with_which_the_answer_changes() -> None:
    found = judged(given(memory=0.1, units=54), rule_of(forgotten=10.0, moved=1e-9, unlearnt=-5.0))
    # forgotten is 1, less in proportion: 10 share - 5 = log(0.3 / 0.7).
    assert found.outcome == FAILS
    (units,) = (change.to for change in found.changes if change.what == "depth")
    assert units == math.floor(54 * (5 + math.log(0.3 / 0.7)) / 10)


def test_a_lower_rate_is_taken_to_leave_outputs_as_far_apart_as_at_the_start() -> None:
    def named(first: float) -> set[str]:
        steps = stepped(moved=10.0, apart=(first,) + (1e-4,) * (STEPS - 1))
        return {
            change.what for change in judged(given(steps=steps), rule_of(moved=4.0, merged=8.0, unlearnt=-4.0)).changes
        }

    assert "rate" in named(0.5)
    assert "rate" not in named(1e-4)  # one for all before the first step: no rate mends that


def test_outputs_that_are_one_for_all_images_speak_for_failing() -> None:
    apart, one = (judged(given(steps=stepped(apart=(0.5,) * 7 + (far,) * 3))) for far in (0.5, 1e-4))
    assert apart.probabilities[FAILS] < 0.3
    assert one.probabilities[FAILS] > 0.7
    assert "how far the outputs of different inputs are apart after 10 steps: 0.001 or less of their size" in str(one)
    # One odd batch of the last three says nothing.
    assert judged(given(steps=stepped(apart=(0.5,) * 9 + (1e-4,)))).probabilities == apart.probabilities


def test_slow_starts_are_told_by_outputs_that_do_not_go_with_the_targets_yet() -> None:
    quick, slow = (judged(given(steps=stepped(apart=(0.1,) * STEPS, agreement=(way,) * STEPS))) for way in (0.4, 0.0))
    assert quick.probabilities[FAILS] == slow.probabilities[FAILS]
    assert quick.outcome == TRAINS
    assert slow.outcome == STARTS_SLOWLY
    assert "lie to each other as the targets do" in str(slow)
    unknown = judged(given(steps=stepped(agreement=())))
    assert sum(unknown.probabilities.values()) == pytest.approx(1.0)
    assert any("'unrelated' was not measured" in doubt for doubt in unknown.doubts)


def test_probabilities_sum_to_one_and_are_one_half_at_the_bounds() -> None:
    rule = rule_of(moved=1.0)
    for moved in (-20.0, 0.0, 20.0, 2000.0, -2000.0):
        chances = rule.probabilities({"moved": moved, "unlearnt": 4.0})
        assert sum(chances.values()) == pytest.approx(1.0)
        assert all(0.0 <= chance <= 1.0 for chance in chances.values())
        assert chances[STARTS_SLOWLY] == pytest.approx(chances[TRAINS])
    assert rule.probabilities({"moved": 0.0, "unlearnt": 9.0})[FAILS] == 0.5


def test_the_line_before_a_run_has_the_three_probabilities() -> None:
    found = judged(given())
    line = found.line
    for name, chance in found.probabilities.items():
        assert f"{name} {chance:.0%}" in line
    assert line.endswith(found.reasons[0])
    assert Forecast(outcome=CANNOT_SAY).line == CANNOT_SAY


def test_the_answer_in_words_names_measurements_and_units() -> None:
    text = str(Forecast(outcome=CANNOT_SAY))
    assert text == "forecast: cannot say"
    told = str(judged(given(memory=0.02, gradient_norm=1e5), rule_of(forgotten=6.0)))
    assert "features keep" in told
    assert "usually" in told


def test_a_lower_rate_is_named_only_where_steps_are_long() -> None:
    """A small network that learnt slowly failed at the rate that was named for it, and trained at the given one."""

    def named(moved: float) -> set[str]:
        steps = stepped(moved=moved)
        return {
            change.what for change in judged(given(memory=0.1, steps=steps), rule_of(forgotten=6.0, moved=4.0)).changes
        }

    assert "rate" in named(0.2)
    assert "rate" not in named(0.05)
