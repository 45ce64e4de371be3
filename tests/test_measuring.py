"""Measuring a run: against an oracle without hooks, in closed form, and without a trace in the patient."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cleanpath import assemble, measures, measuring, networks
from cleanpath.auditing.profile import Profile
from cleanpath.errors import RunError
from cleanpath.experiment import Network, Shortcut
from cleanpath.measures import Wish
from cleanpath.nn.resnet import ResNet, build
from cleanpath.nn.unit import ResidualUnit
from cleanpath.records import Run, Writer
from tests.helpers import assert_same_run, nothing_written, tiny

IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(placement: str = "original", depth: int = 14, **settings: object) -> ResNet:
    """A network of two units a stage, 4 channels wide."""
    torch.manual_seed(0)
    return build(
        Network(depth=depth, branch="two_layer", placement=placement, width=4, in_channels=1, **settings)  # type: ignore[arg-type]
    )


def by_hand(of: ResNet, images: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    """x, y and the output of every unit, from the units' parts one after the other."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    of.train()
    with torch.no_grad():
        x = of.stem(images)
        for name, unit in of.units().items():
            assert isinstance(unit, ResidualUnit)
            shared = unit.before(x)
            y = unit.shortcut(shared) + unit.branch(shared)
            found[name] = {"shared": shared, "y": y, "read": x}
            x = found[name]["x"] = unit.after(y)
    return found


@pytest.mark.parametrize(
    "placement", ["original", "bn_after_addition", "relu_before_addition", "relu_only_preactivation"]
)
def test_numbers_of_the_sums_are_those_of_units_run_by_hand(placement: str) -> None:
    seen = by_hand(network(placement), IMAGES)
    found = measuring.signals(network(placement), IMAGES)
    assert list(found.negative_share) == list(seen)
    for name, one in seen.items():
        assert found.negative_share[name] == pytest.approx(float((one["y"] < 0).double().mean()), abs=1e-6)
        assert found.gap[name] == pytest.approx(float((-one["y"]).clamp(min=0).mean()), rel=1e-4, abs=1e-7)
        assert found.output_rms[name] == pytest.approx(float(one["x"].square().mean().sqrt()), rel=1e-4)
    stages = [[one for name, one in seen.items() if name.startswith(f"stages.stage{n}.")] for n in (1, 2, 3)]
    numbers = found.numbers()
    shares = [float((one["y"] < 0).double().mean()) for one in seen.values()]
    assert numbers["negative_share"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)
    gaps = [sum(float((-one["y"]).clamp(min=0).mean()) for one in stage) for stage in stages]
    assert numbers["truncated"] == pytest.approx(sum(gaps) / 3, rel=1e-4, abs=1e-7)
    of_signal = [float((-one["y"]).clamp(min=0).mean() / one["read"].square().mean().sqrt()) for one in seen.values()]
    assert numbers["truncated_share"] == pytest.approx(sum(of_signal) / len(seen), rel=1e-4, abs=1e-7)
    growth = [float(stage[-1]["x"].norm() / stage[0]["x"].norm()) for stage in stages]
    assert numbers["scale_growth"] == pytest.approx(sum(growth) / 3, rel=1e-4)
    if placement == "relu_before_addition":
        assert (numbers["negative_share"], numbers["truncated"]) == (0.0, 0.0)
    else:
        assert numbers["truncated"] > 0


def test_what_a_relu_takes_of_the_signal_grows_neither_with_units_nor_with_the_signal() -> None:
    found = measuring.Signals()
    for units, scale in ((2, 1.0), (8, 1.0), (8, 100.0)):
        names = [f"stages.stage1.unit{unit}" for unit in range(units)]
        found.gap, found.input_rms = (dict.fromkeys(names, value * scale) for value in (0.1, 2.0))
        assert found.numbers()["truncated_share"] == pytest.approx(0.05)
        assert found.numbers()["truncated"] == pytest.approx(0.1 * units * scale)


def test_convolutions_of_the_original_read_the_signal_and_those_of_full_preactivation_a_normalised_one() -> None:
    original, full = (measuring.signals(network(p), IMAGES) for p in ("original", "full_preactivation"))
    for name, rms in original.read_rms.items():
        stage, unit = name.rsplit(".unit", 1)
        if unit == "2":
            assert rms == pytest.approx(original.output_rms[f"{stage}.unit1"], rel=1e-4)
    # Half of a normalised signal passes the ReLU: the mean square of it is 1/2 where it is symmetric.
    assert all(0.5 < rms < 1.0 for rms in full.read_rms.values())


def test_what_a_relu_takes_away_adds_up_over_a_stage() -> None:
    """With F = −8 in all units every signal is shut off in the first, and y = −8 in each that follows."""
    of = network()
    for unit in of.units().values():
        norm = list(unit.get_submodule("branch").children())[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, -8.0)
    found = measuring.signals(of, IMAGES)
    later = [name for name in found.gap if not name.startswith("stages.stage1.")]
    assert [found.gap[name] for name in later] == [8.0] * 4
    assert {found.negative_share[name] for name in later} == {1.0}
    # Two units a stage; the zero channels of option A are of the same y.
    assert found.numbers()["truncated"] == pytest.approx((found.gap["stages.stage1.unit1"] + 8 + 16 + 16) / 3)


@pytest.mark.parametrize("kind", ["identity", "none"])
@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_response_behind_a_bn_is_its_gamma(kind: str, gamma: float) -> None:
    of = network(shortcut=Shortcut(kind=kind))
    for module in of.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, gamma)
    found = measuring.signals(of, IMAGES)
    # The stem and two layers in each of six units.
    assert len(found.responses) == 13
    assert list(found.responses.values()) == pytest.approx([gamma] * 13, rel=1e-2)
    assert found.numbers()["response"] == pytest.approx(gamma, rel=1e-2)


def test_plain_networks_have_no_sums_and_others_networks_nothing() -> None:
    found = measuring.signals(network(shortcut=Shortcut(kind="none")), IMAGES).numbers()
    assert set(found) == {"scale_growth", "response"}
    assert measuring.signals(nn.Conv2d(1, 1, 1), IMAGES).numbers() == {}


def test_full_preactivation_has_no_bn_behind_the_layer_whose_output_is_added() -> None:
    found = measuring.signals(network("full_preactivation"), IMAGES).responses
    assert all(name.endswith("conv1") for name in found if name != "stem")


@pytest.mark.parametrize("mode", ["training", "eval"])
@pytest.mark.parametrize("kind", ["identity", "dropout"])
def test_network_is_afterwards_as_before(mode: str, kind: str) -> None:
    of = network(shortcut=Shortcut(kind=kind, rate=None if kind == "identity" else 0.5))
    of.train(mode == "training")
    of.head.eval()
    flags = {name: module.training for name, module in of.named_modules()}
    state = {name: value.clone() for name, value in of.state_dict().items()}
    draw = torch.get_rng_state()
    first = measuring.signals(of, IMAGES).numbers()
    assert torch.equal(torch.get_rng_state(), draw)
    assert {name: module.training for name, module in of.named_modules()} == flags
    assert all(torch.equal(value, state[name]) for name, value in of.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in of.modules())
    assert measuring.signals(of, IMAGES).numbers() == first


def test_network_is_as_before_also_after_an_exception() -> None:
    of = network()
    state = {name: value.clone() for name, value in of.state_dict().items()}
    with pytest.raises(RuntimeError):
        measuring.signals(of, IMAGES[:, :, :0])
    assert all(torch.equal(value, state[name]) for name, value in of.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in of.modules())


def test_images_are_64_of_those_held_out_and_always_the_same() -> None:
    images = measuring.looked_at(tiny().data)
    assert images.shape == (64, 1, 8, 8)
    assert torch.equal(images, measuring.looked_at(replace(tiny().data, augment="none")))


def test_unit_of_the_asymmetric_form_begins_behind_the_activation_that_feeds_f_alone() -> None:
    of = Network(depth=14, branch="two_layer", placement="bn_after_addition", width=4, in_channels=1)
    after, none = measuring.typical_unit(of)
    asymmetric, above = measuring.typical_unit(of, asymmetric=True)
    before, _ = measuring.typical_unit(replace(of, placement="full_preactivation"))
    assert (none, above) == (0, 2)
    assert asymmetric.branch.operations == before.branch.operations
    assert (asymmetric.branch.operations[:above], after.f.kind) == (("BN", "ReLU"), "normalisation+relu")
    assert asymmetric.branch.operations[above:] == after.branch.operations
    assert asymmetric.clean
    assert not after.clean
    # Its first norm is that behind the sum of the unit above.
    assert "unit1.after" in asymmetric.branch.layers[0]


# A run.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the original unit, watched at its moments."""
    experiment = tiny("network.placement=original", iterations=40)
    folder = tmp_path_factory.mktemp("measured") / "run"
    return assemble.run(experiment, folder, threads=1, callbacks=[measuring.Moments(folder, experiment.data)])


def test_run_that_is_measured_on_its_way_is_the_run_that_it_would_have_been(run: Run, tmp_path: Path) -> None:
    alone = assemble.run(run.experiment, tmp_path / "alone", threads=1)
    assert_same_run(alone.folder, run.folder)


def test_run_is_measured_at_its_start_and_its_end(run: Run) -> None:
    assert measures.wanting(run, Wish(profiles=True))
    assert measures.numbers(run) == {}
    measuring.measure(run, Wish(profiles=True))
    assert not measures.wanting(run, Wish(profiles=True))
    images = measuring.looked_at(run.experiment.data)
    torch.manual_seed(run.experiment.seed)
    fresh = networks.build(run.experiment.network, seed=0)
    told = json.loads((run.folder / "measured.json").read_text())
    assert told["start"] == measuring.signals(fresh, images).numbers()
    assert told["end"] == measures.numbers(run) != told["start"]
    start, end = (Profile.load(run.folder / name) for name in measures.PROFILES)
    assert start.network.fresh
    assert not end.network.fresh
    assert [unit.name for unit in start.units] == [unit.name for unit in end.units]
    shares = [unit.measurements.negative_share or 0.0 for unit in end.units]
    assert sum(shares) / len(shares) == pytest.approx(told["end"]["negative_share"], abs=1e-3)


def test_lines_go_from_the_start_over_the_moments_to_the_end(run: Run) -> None:
    measuring.measure(run, Wish())
    found = measures.lines(run)
    assert [at for at, _ in found["negative_share"]] == [0, 1, 2, 5, 10, 20, 30, 40]
    assert found["truncated"][-1][1] == measures.numbers(run)["truncated"]
    assert [at for at, _ in found["response"]] == list(range(1, 8))
    shares = found[measures.by_unit("negative_share")]
    assert [at for at, _ in shares] == [1, 2, 3]
    assert sum(share for _, share in shares) / 3 == pytest.approx(measures.numbers(run)["negative_share"])
    gaps = [gap for _, gap in found[measures.by_unit("truncated")]]
    assert sum(gaps) / 3 == pytest.approx(measures.numbers(run)["truncated"])  # one unit a stage
    assert sum(value for _, value in found["response"]) / 7 == pytest.approx(measures.numbers(run)["response"])


def test_moments_survive_a_stop_and_are_those_of_an_undisturbed_run(run: Run, tmp_path: Path) -> None:
    moments = json.loads((run.folder / "moments.json").read_text())["points"]
    folder = tmp_path / "again"
    folder.mkdir()
    # What an earlier try left beyond the place from which the run goes on is measured again.
    left = {"version": 1, "points": [{"iteration": at, "negative_share": 9.0} for at in (1, 2, 5)]}
    (folder / "moments.json").write_text(json.dumps(left))
    watched = measuring.Moments(folder, run.experiment.data)
    watched.began(network(), 2)
    assert [point["iteration"] for point in watched._points] == [1, 2]
    watched.began(network(), 0)
    assert watched._points == []
    assert [point["iteration"] for point in moments] == [1, 2, 5, 10, 20, 30]


def test_what_is_of_other_weights_is_made_again(run: Run) -> None:
    measuring.measure(run, Wish(profiles=True))
    with nothing_written(run.folder):
        assert not measures.wanting(run, Wish(profiles=True))
    path = run.folder / "measured.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "weights_sha256": "of others"}))
    assert measures.wanting(run, Wish())
    assert measures.numbers(run) == {}
    assert measures.lines(run) == {}
    measuring.measure(run, Wish())
    assert measures.numbers(run) == told["end"]
    # The audits were of the others too.
    assert measures.wanting(run, Wish(profiles=True))


def test_run_that_was_measured_when_there_were_fewer_numbers_is_measured_again(run: Run) -> None:
    measuring.measure(run, Wish())
    assert not measures.wanting(run, Wish())
    path = run.folder / measures.MEASURED
    path.write_text(path.read_text().replace(f'"numbers": {measures.NUMBERS}', '"numbers": 1'))
    assert measures.wanting(run, Wish())
    measuring.measure(run, Wish())
    assert not measures.wanting(run, Wish())


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99}', ""])
def test_file_that_cannot_be_read_counts_as_missing(content: str, run: Run) -> None:
    measuring.measure(run, Wish())
    (run.folder / "measured.json").write_text(content)
    assert measures.wanting(run, Wish())
    assert measures.numbers(run) == {}
    measuring.measure(run, Wish())
    assert not measures.wanting(run, Wish())


def test_view_of_the_test_images_is_evaluated_once(run: Run) -> None:
    assert measures.evaluated(run, "middle") == {}
    assert measures.wanting(run, Wish(views=("middle",)))
    measuring.measure(run, Wish(views=("middle",)))
    found = measures.evaluated(run, "middle")
    assert found["error"] == pytest.approx((run.result or {})["error"])
    assert not measures.wanting(run, Wish(views=("middle",)))


def test_run_that_has_not_finished_is_not_measured(tmp_path: Path) -> None:
    with Writer(tmp_path / "run", tiny(), {}):
        pass
    assert not measures.wanting(Run(tmp_path / "run"), Wish(profiles=True))
    with pytest.raises(RunError):
        measuring.measure(Run(tmp_path / "run"), Wish())


def test_numbers_that_are_not_finite_are_left_out() -> None:
    of = network()
    with torch.no_grad():
        for parameter in of.stem.parameters():
            parameter.fill_(math.nan)
    assert all(map(math.isfinite, measuring.signals(of, IMAGES).numbers().values()))


def test_wishes_add_up() -> None:
    both = Wish(views=("large",)).together(Wish(profiles=True, views=("large", "ten")))
    assert both == Wish(profiles=True, views=("large", "ten"))
