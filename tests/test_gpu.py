"""What holds on a GPU: the same laws as on the processor. Skipped where there is none (CI has none)."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cleanpath
from cleanpath import assemble, devices, settings, trained
from cleanpath.errors import NonFiniteError, Request, SettingError, Stopped, UserError
from cleanpath.experiment import Experiment, Training
from cleanpath.records import Run
from cleanpath.training.graph import Graph
from cleanpath.training.losses import Batch
from cleanpath.training.progress import Progress, Stepped
from tests.helpers import measured, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
CUDA = torch.device("cuda", 0)
WAYS: Sequence[tuple[str, ...]] = (
    (),
    ("training.optimizer=caffe_sgd", "training.bn_group=8"),
    ("training.optimizer=adamw", "training.lr=0.002", "training.fused=true"),
    ("network.shortcut.kind=dropout", "network.shortcut.rate=0.2"),
    ("network.shortcut.kind=stochastic_depth", "network.shortcut.rate=0.5", "training.average=0.9"),
    ("training.precision=tf32",),
    ("training.precision=bf16",),
    ("training.clip=0.5", "training.label_smoothing=0.1", "training.class_weights=balanced"),
)


def run(folder: Path, experiment: Experiment, *, stop: int | None = None, device: torch.device = CUDA) -> list[str]:
    """Train on the GPU, stopped after this iteration and started again; what was said."""
    said, request = list[str](), Request()

    def on_step(progress: Progress) -> None:
        if progress.iteration == stop:
            request.signal_number = int(signal.SIGTERM)

    if stop is not None:
        watched = [Stepped(on_step)]
        with pytest.raises(Stopped):
            assemble.run(experiment, folder, threads=1, callbacks=watched, request=request, device=device)
    assemble.run(experiment, folder, threads=1, say=said.append, device=device)
    return said


def assert_same(one: Path, other: Path) -> None:
    assert measured(one) == measured(other)
    assert Run(one).weights.read_bytes() == Run(other).weights.read_bytes()


@pytest.mark.parametrize("changes", WAYS, ids=" ".join)
def test_a_replayed_step_is_the_ordinary_one_bit_for_bit(
    tmp_path: Path, changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = list[Graph]()
    before = Graph._record

    def record(graph: Graph, drawn: Batch) -> None:
        recorded.append(graph)
        before(graph, drawn)

    monkeypatch.setattr(Graph, "_record", record)
    run(tmp_path / "replayed", tiny(*changes, iterations=12))
    assert len(recorded) == 1
    run(tmp_path / "ordinary", tiny(*changes, "training.graph=false", iterations=12))
    assert len(recorded) == 1
    assert_same(tmp_path / "replayed", tmp_path / "ordinary")


@pytest.mark.parametrize("changes", WAYS, ids=" ".join)
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path, changes: tuple[str, ...]) -> None:
    experiment = tiny(*changes, iterations=14)
    run(tmp_path / "whole", experiment)
    run(tmp_path / "stopped", experiment, stop=6)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_recomputed_units_are_the_same_bits(tmp_path: Path) -> None:
    changes = ("network.shortcut.kind=dropout", "network.shortcut.rate=0.2")
    run(tmp_path / "plain", tiny("network.depth=20", *changes, iterations=8))
    run(tmp_path / "recomputed", tiny("network.depth=20", *changes, "training.memory=recompute", iterations=8))
    assert_same(tmp_path / "plain", tmp_path / "recomputed")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 0.01), ("bf16", 0.05)])
def test_the_first_loss_and_gradient_are_the_processors(tmp_path: Path, precision: str, tolerance: float) -> None:
    run(tmp_path / "cpu", tiny(iterations=2), device=devices.CPU)
    run(tmp_path / "gpu", tiny(f"training.precision={precision}", iterations=2))
    first = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("cpu", "gpu")]
    for quantity in ("loss", "gradient_norm"):
        assert first[1][quantity] == pytest.approx(first[0][quantity], rel=tolerance)
    assert Run(tmp_path / "gpu").environment["device"] == torch.cuda.get_device_name(0)
    assert (Run(tmp_path / "gpu").result or {})["gpu_memory"] > 0


def test_a_run_that_goes_on_elsewhere_says_so(tmp_path: Path) -> None:
    experiment = tiny(iterations=8)
    request = Request(signal_number=int(signal.SIGTERM))
    with pytest.raises(Stopped):
        assemble.run(experiment, tmp_path / "run", threads=1, request=request, device=CUDA)
    said = run(tmp_path / "run", experiment, device=devices.CPU)
    assert any(line.startswith("device was ") and "is now cpu" in line for line in said)
    assert Run(tmp_path / "run").status == "finished"


def test_a_value_that_is_not_finite_is_named_and_the_weights_before_it_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "run", tiny("training.lr=1e30", "training.warmup=0", iterations=20))
    found = Run(tmp_path / "run")
    assert found.status == "diverged"
    assert found.post_mortem.is_file()


def test_a_replayed_step_names_the_place_too() -> None:
    class Late(nn.Module):
        __module__ = "cleanpath.tests"

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.count = nn.Parameter(torch.zeros(()), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(1)
            return torch.where(self.count > 8, torch.inf, self.head(x.flatten(1)))

    with pytest.raises(NonFiniteError, match="the loss"):
        cleanpath.fit(Late().to(CUDA), Training(iterations=30, batch_size=32, lr=0.01))


def test_a_run_is_tested_where_one_says(tmp_path: Path) -> None:
    run(tmp_path / "run", tiny(iterations=20))
    found = trained.trained(tmp_path / "run")
    errors = [trained.evaluation(found.on(device))["error"] for device in (devices.CPU, CUDA)]
    assert errors[0] == pytest.approx(errors[1], abs=0.4)
    assert errors[1] == pytest.approx((Run(tmp_path / "run").result or {})["error"], abs=1e-9)


def test_fp32_is_not_quietly_tf32() -> None:
    torch.manual_seed(0)
    network = cleanpath.build("preresnet20").eval()
    images = torch.randn(8, 3, 32, 32)
    exact = network.double()(images.double())
    network = network.float().to(CUDA)
    found = dict[bool, float]()
    for tf32 in (False, True):
        with torch.no_grad(), devices.exact(CUDA, tf32=tf32):
            found[tf32] = float((network(images.to(CUDA)).cpu().double() - exact).norm() / exact.norm())
    assert found[False] < 1e-5
    assert found[True] > 10 * found[False]


def test_an_audit_and_a_monitor_see_what_they_see_on_the_processor() -> None:
    torch.manual_seed(0)
    network, images = cleanpath.build("preresnet20", in_channels=1), torch.randn(16, 1, 16, 16)
    profiles = [cleanpath.audit(network.to(device), images.to(device)) for device in (devices.CPU, CUDA)]
    for here, there in zip(*(profile.units for profile in profiles), strict=True):
        assert (here.name, here.h, here.f) == (there.name, there.h, there.f)
        assert here.measurements.backward_gain == pytest.approx(there.measurements.backward_gain, rel=1e-3)


def test_a_watched_network_is_trained_by_ordinary_steps_to_the_same_bits() -> None:
    def trained_by(*, watched: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        network = cleanpath.build("preresnet8", in_channels=1).to(CUDA)
        training = Training(iterations=12, batch_size=32)
        if not watched:
            cleanpath.fit(network, training)
            return {name: value.cpu() for name, value in network.state_dict().items()}
        with cleanpath.monitor(network, every=4) as seen:
            cleanpath.fit(network, training)
        assert len(seen.profiles) == 3
        return {name: value.cpu() for name, value in network.state_dict().items()}

    one, other = trained_by(watched=False), trained_by(watched=True)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_out_of_memory_is_a_sentence(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    large = settings.override(tiny(iterations=2), ["network.width=64", "training.batch_size=512"])
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    request.addfinalizer(lambda: torch.cuda.set_per_process_memory_fraction(1.0))
    with pytest.raises(UserError, match="memory"):
        assemble.run(large, tmp_path / "run", threads=1, device=CUDA)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="sees"):
        devices.chosen("cuda:99")
