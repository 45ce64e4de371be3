"""Units computed again in the backward pass: the same bits in less memory, and memory counted beforehand."""

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from benchmarks.depth_memory import measured
from cleanpath import assemble, costs, settings
from cleanpath.costs import cost
from cleanpath.data.images import Split
from cleanpath.data.sources import load
from cleanpath.errors import Request, SettingError, Stopped
from cleanpath.experiment import Training
from cleanpath.nn import catalog, resnet
from cleanpath.training.memory import memory_of
from cleanpath.training.ranks import Ranks
from cleanpath.training.recompute import LEAST, Recompute, chains, segments
from tests.helpers import assert_same_run, assert_user_error, here, tiny

DEEP = ("network.depth=50", "network.width=4")
RECOMPUTE = "training.memory=recompute"


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("network.placement=original", "network.widening=B"),
        ("network.branch=bottleneck", "network.depth=74"),
        ("network.shortcut.kind=dropout", "network.shortcut.rate=0.3"),
        ("network.shortcut.kind=exclusive_gating", "network.shortcut.bias=-3"),
        ("training.bn_group=8",),
        ("training.accumulation=4",),
        ("training.average=0.9", "training.label_smoothing=0.1", "training.mixup=0.4"),
        ("training.optimizer=adamw", "training.class_weights=balanced", "training.bn_images=64"),
    ],
    ids=" ".join,
)
def test_a_run_with_recompute_is_the_plain_run_bitwise(tmp_path: Path, changes: tuple[str, ...]) -> None:
    deep = [*DEEP, *changes] if not any(c.startswith("network.depth") for c in changes) else [DEEP[1], *changes]
    plain, again = tiny(*deep, iterations=4), tiny(*deep, RECOMPUTE, iterations=4)
    assert len(chains(resnet.build(again.network))) == 3  # type: ignore[arg-type]
    assemble.run(plain, tmp_path / "plain", threads=1)
    assemble.run(again, tmp_path / "again", threads=1)
    assert_same_run(tmp_path / "plain", tmp_path / "again")


def test_a_run_goes_on_with_the_other_way_and_is_the_same_run(tmp_path: Path) -> None:
    plain, again = tiny(*DEEP, iterations=6), tiny(*DEEP, RECOMPUTE, iterations=6)
    assert settings.digest(plain) == settings.digest(again)
    assemble.run(plain, tmp_path / "whole", threads=1)
    for experiment in (plain, again, plain):
        with pytest.raises(Stopped):
            assemble.run(experiment, tmp_path / "mixed", threads=1, request=Request(15, "stop"), seconds_between=0)
    assemble.run(again, tmp_path / "mixed", threads=1)
    assert_same_run(tmp_path / "whole", tmp_path / "mixed")


class Counted(nn.Module):
    """Counts its passes, and how many tensors they give."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes = nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x + torch.tanh(self.inner(x))


def test_every_unit_passes_twice_and_statistics_move_once() -> None:
    network = nn.Sequential(*(nn.Sequential(*(Counted() for _ in range(6)), nn.BatchNorm1d(8)) for _ in range(2)))
    recompute, x = Recompute(network), torch.randn(16, 8)
    with recompute():
        network(x).sum().backward()
    assert [unit.passes for unit in network.modules() if isinstance(unit, Counted)] == [2] * 12
    assert [int(v) for name, v in network.named_buffers() if name.endswith("num_batches_tracked")] == [1, 1]
    network.zero_grad()
    network(x).sum().backward()
    assert [unit.passes for unit in network.modules() if isinstance(unit, Counted)] == [3] * 12, (
        "afterwards all is plain"
    )


def test_weights_get_gradients_where_the_input_asks_for_none() -> None:
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6)), nn.Linear(8, 8)),
        torch.randn(4, 8),
    )
    network(x).square().sum().backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    with Recompute(network)():
        network(x).square().sum().backward()
    found = [p.grad for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))  # type: ignore[arg-type]


def test_freed_blocks_of_the_size_of_the_largest_signal_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int | None] = []
    monkeypatch.setattr("cleanpath.training.recompute.keep_what_is_freed", lambda *, below: told.append(below))
    units = (nn.Sequential(nn.Linear(width, after), nn.ReLU()) for width, after in ((64, 64), (64, 4096), (4096, 8)))
    recompute = Recompute(nn.Sequential(*units))
    for _ in range(2):
        with recompute():
            recompute._network(torch.randn(128, 64)).sum().backward()
    assert told == [1 << 20, 128 * 4096 * 4]


def test_the_callers_random_state_goes_on_as_if_nothing_was_drawn_twice() -> None:
    network = nn.Sequential(*(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(100), nn.ReLU()) for _ in range(8)))
    states: list[tuple[Tensor, ...]] = []
    for context in (nullcontext(), Recompute(network)()):
        torch.manual_seed(3)
        x = torch.ones(3, 100, requires_grad=True)
        with context:
            y = network(x)
            y.sum().backward()
        assert x.grad is not None
        states.append((torch.get_rng_state(), y.detach(), x.grad))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


@given(count=st.integers(1, 400))
@hypothesis_settings(deadline=None, max_examples=60)
def test_segments_are_neighbours_of_nearly_the_same_size_near_the_square_root(count: int) -> None:
    members: list[nn.Module] = [nn.Identity() for _ in range(count)]
    found = segments(members)
    assert [one for part in found for one in part] == members
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= 1
    assert abs(max(sizes) - math.sqrt(count / 2)) <= 1.5


def test_chains_are_found_in_any_network() -> None:
    ours = chains(resnet.build(catalog.network("preresnet110")))
    assert [len(chain) for chain in ours] == [18, 18, 18]
    theirs = import_module("torchvision").models.resnet50()
    assert [len(chain) for chain in chains(theirs)] == [3, 4, 6, 3]
    assert chains(nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))) == [], "layers are no units"
    units = nn.Sequential(*(Counted() for _ in range(LEAST)))
    assert chains(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), units)) == [units]
    assert [len(chain) for chain in chains(resnet.build(catalog.network("preresnet20")))] == [3, 3, 3]


def kept(network: nn.Module, x: Tensor, *, again: bool) -> int:
    """Bytes that are reachable between forward and backward: an oracle that asks autograd's own hooks."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with Recompute(network)() if again else nullcontext(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        found = network(x)
    del found
    return sum(held.values())


def test_between_the_passes_a_sixth_is_kept() -> None:
    network = resnet.build(catalog.network("preresnet110", width=8)).train()
    x = torch.randn(8, 3, 32, 32)
    assert kept(network, x, again=True) < kept(network, x, again=False) / 6


@pytest.mark.parametrize("placement", ["original", "full_preactivation"])
def test_counted_memory_is_that_of_the_saved_tensors(placement: str) -> None:
    network = resnet.build(catalog.network("preresnet56", width=8, placement=placement)).train()
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    x = torch.randn(4, 3, 32, 32)
    counted = memory_of(network, x[:2], Training(epochs=1))
    expected = kept(network, x, again=False) / 4
    assert counted.plain == pytest.approx(expected, rel=0.2)
    assert counted.recompute < counted.plain / 3
    weights = sum(p.numel() * 4 for p in network.parameters())
    assert counted.fixed == 3 * weights  # with gradients and velocities
    for name, value in resnet.build(catalog.network("preresnet56", width=8, placement=placement)).named_buffers():
        assert torch.equal(value, buffers[name])


def unit(width: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), *more, nn.ReLU())


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(3, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.conv(x).relu()
        return found


def stepped(network: nn.Module, x: Tensor, *, again: bool) -> dict[str, Tensor]:
    """Gradients and buffers after one pass there and back."""
    network.train()
    torch.manual_seed(3)
    with Recompute(network)() if again else nullcontext():
        network(x).square().mean().backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return {**grads, **{name: buffer.clone() for name, buffer in network.named_buffers()}}


def assert_same_again(build: Callable[[], nn.Module]) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        found.append(stepped(build(), x, again=again))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_frozen_segments_are_passed() -> None:
    def build() -> nn.Sequential:
        network = nn.Sequential(*(unit(3, nn.BatchNorm2d(3)) for _ in range(9)))
        network[:6].requires_grad_(requires_grad=False)
        return network

    assert len(segments(list(build()))[0]) <= 6
    assert_same_again(build)


@pytest.mark.parametrize("name", ["instance norm", "spectral norm"])
def test_buffers_move_once_whatever_they_belong_to(name: str) -> None:
    def one() -> nn.Module:
        if name == "instance norm":
            return unit(3, nn.InstanceNorm2d(3, track_running_stats=True))
        # The power iteration moves its buffers in every pass, and the pass depends on them.
        return Spectral()

    assert_same_again(lambda: nn.Sequential(*(one() for _ in range(6))))


def test_a_chain_may_stand_at_two_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.here = nn.Sequential(*(unit(3, nn.BatchNorm2d(3)) for _ in range(4)))
            self.there = nn.ModuleList([self.here])

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.here(self.there[0](x))
            return found

    assert len(chains(Twice())) == 1
    assert_same_again(Twice)


def test_memory_grows_with_the_batch_and_the_largest_one_fits() -> None:
    network = resnet.build(catalog.network("preresnet56", width=8))
    plain, again = Training(epochs=1, batch_size=64), Training(epochs=1, batch_size=64, memory="recompute")
    counted = memory_of(network, torch.randn(2, 3, 32, 32), plain)
    assert counted.of(plain) - counted.fixed == pytest.approx(64 * counted.plain)
    assert counted.of(again) < counted.of(plain)
    largest = counted.largest_batch(plain, 10**9, images=10**6)
    assert counted.fixed + largest * counted.plain <= 10**9 < counted.fixed + (largest + 1) * counted.plain
    assert counted.largest_batch(again, 10**9, images=10**6) > 3 * largest
    assert counted.largest_batch(plain, 1000, images=10**6) == 0
    assert counted.largest_batch(plain, 10**9, images=50) == 50
    # Whole groups of BN and whole micro-batches, for every process.
    parts = replace(plain, accumulation=2, bn_group=16)
    found = counted.largest_batch(parts, 10**9, images=10**6, processes=3)
    assert found == largest // 16 * 16 * 2 * 3
    assert len(Ranks(2, 3).share(replace(parts, batch_size=found))) <= largest
    assert counted.largest_batch(parts, 10**13, images=1000) == 992


def test_the_table_of_depths_can_be_measured() -> None:
    threads = torch.get_num_threads()
    try:
        found = measured("preresnet20", "recompute")
    finally:
        torch.set_num_threads(threads)
    assert found["units"] == 9
    assert found["seconds"] > 0


def test_dry_run_prints_memory_disk_and_the_largest_batch() -> None:
    found = here("train", "preresnet20", "--dry-run", "--json", "--set", "training.epochs=1").json()
    assert found["disk"] > 2 * 3 * 4 * 269_434
    assert found["largest_batch"] == {"plain": 1297, "recompute": 1297}  # all that there are
    words = here("train", "preresnet20", "--dry-run", "--set", "training.epochs=1").out
    assert "MB on disk" in words
    assert "with training.memory=recompute" in words


def test_a_dry_run_looks_at_few_images_and_needs_no_class_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tiny("training.class_weights=balanced", "training.batch_size=16", iterations=200)
    images = load(experiment.data)
    # As in a folder that is read class by class: the first images have one class.
    train = Looked(images.train, images.train.labels.sort().indices.repeat(3))
    held_out = Looked(images.held_out, torch.arange(500).repeat(8))
    monkeypatch.setattr(costs, "load", lambda _: replace(images, train=train, held_out=held_out))
    seconds = costs.measure(experiment, threads=1).seconds
    assert seconds > 0
    assert held_out.seen <= 520  # 512 are tested
    assert train.seen <= 2 * 6 * 16  # five steps, and the test on what they drew from


class Looked:
    """A split of some images of another, which counts how many are asked for."""

    def __init__(self, split: Split, chosen: Tensor) -> None:
        self.split, self.chosen, self.seen = split, chosen, 0

    @property
    def labels(self) -> Tensor:
        return self.split.labels[self.chosen]

    def plain(self, indices: Tensor) -> Tensor:
        self.seen += len(indices)
        return self.split.plain(self.chosen[indices])

    def drawn(self, indices: Tensor, epochs: Tensor, seed: int) -> Tensor:
        self.seen += len(indices)
        return self.split.drawn(self.chosen[indices], epochs, seed)

    def on(self, device: torch.device) -> "Looked":
        assert device.type == "cpu"
        return self


def test_a_run_that_cannot_fit_is_refused_with_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "free_memory", lambda: 700_000_000)
    words = ("train", "preresnet164", "--set", "training.batch_size=1024", "--out", str(tmp_path / "run"))
    assert_user_error(here(*words), "GB are free; what fits: training.batch_size=", "training.memory=recompute")
    assert not (tmp_path / "run").exists()
    plan = here(*words, "--dry-run", "--json").json()
    assert plan["seconds"] is None
    assert "not tried" in here(*words, "--dry-run").out


def test_a_large_run_says_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(costs, "_TOLD_FROM", 1.0)
    monkeypatch.chdir(tmp_path)
    outcome = here("train", "preresnet8", "--set", "training.iterations=1", "--out", "run")
    assert re.search(r"run: takes about \d\.\d GB of memory", outcome.err)


def test_counting_leaves_random_numbers_as_they_were() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    cost(tiny())
    assert torch.equal(before, torch.get_rng_state())


def test_non_finite_values_are_found_inside_segments(tmp_path: Path) -> None:
    reasons = []
    for way in ("plain", "recompute"):
        experiment = tiny(*DEEP, "training.lr=1e20", f"training.memory={way}", iterations=20)
        reasons.append((assemble.run(experiment, tmp_path / way, threads=1).result or {})["reason"])
    assert reasons[0] == reasons[1]


def test_a_network_without_units_to_compute_again_is_refused(tmp_path: Path) -> None:
    words = ("train", "preresnet8", "--set", RECOMPUTE, "--out", str(tmp_path / "run"))
    assert_user_error(here(*words), "needs an nn.Sequential of at least 2 units")
    assert not (tmp_path / "run").exists()


def test_fit_takes_it_for_any_module() -> None:
    results = []
    for way in ("plain", "recompute"):
        torch.manual_seed(0)
        body = [nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()) for _ in range(6)]
        model = nn.Sequential(nn.Flatten(), *body, nn.Linear(64, 10))
        training = Training(iterations=5, batch_size=32, memory=way)
        results.append(assemble.fit(model, training)["train_loss"])
    assert results[0] == results[1]


class Shifting(nn.Module):
    """Writes into the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x.sub_(0.5).div_(0.25))
        return found


class Doubling(nn.Module):
    """Gives its input back, twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.part(x.mul_(2))
        return found


class Beside(nn.Module):
    """A chain that begins in place, beside another way from what it has written."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Sequential(*(headed_in_place() for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.units(x) + 2 * x
        return found


def headed_in_place() -> nn.Sequential:
    return nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(Shifting(), *(unit(3, nn.BatchNorm2d(3)) for _ in range(5))),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(*(headed_in_place() for _ in range(6)))),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Beside()),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(*(Doubling() for _ in range(4)))),
    ],
    ids=["images", "inner units", "what is written is used", "nothing else"],
)
def test_what_units_write_into_their_input_counts_once(build: Callable[[], nn.Module]) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = list[dict[str, Tensor]]()
    for again in (False, True):
        torch.manual_seed(0)
        network = build().train()
        recompute = Recompute(network) if again else nullcontext
        for _ in range(2):  # the second step knows who writes
            with recompute():
                network(images.clone()).square().sum().backward()
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_who_writes_at_times_or_into_a_view_is_named() -> None:
    class AtTimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.act(x)
            return found

    first = AtTimes()
    network = nn.Sequential(nn.Linear(3, 3), nn.Sequential(first, AtTimes()))
    recompute, x = Recompute(network), torch.randn(2, 3)
    with recompute():
        network(x).sum().backward()
    first.act.inplace = True
    with recompute(), pytest.raises(SettingError, match="AtTimes writes into its input, now, and did not before;"):
        network(x)
    viewed = nn.Sequential(nn.Linear(3, 3), nn.Flatten(0), network[1])
    with Recompute(viewed)(), pytest.raises(SettingError, match=r"a view of something else; give it x\.clone\(\)"):
        viewed(x)
