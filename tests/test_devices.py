"""Devices by name, and what is refused where there is no GPU; what holds on one is in test_gpu.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cleanpath
from cleanpath import costs, devices, settings
from cleanpath.data.sources import load
from cleanpath.errors import SettingError, UserError
from cleanpath.experiment import Training
from cleanpath.grid import local, plan
from cleanpath.naming import default_name
from cleanpath.training.passes import Passes
from tests.helpers import assert_user_error, here, tiny

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "auto:1", "", "cuda:-1"])
def test_a_name_that_is_none_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(SettingError, match="give auto, cpu, cuda or cuda:N"):
        devices.chosen(name)


def test_the_processor_is_always_there() -> None:
    assert devices.chosen("cpu") == devices.CPU
    assert devices.described(devices.CPU) == {}
    assert devices.peak_memory(devices.CPU) == {}


@no_gpu
def test_without_a_gpu_auto_is_the_processor_and_cuda_is_refused(tmp_path: Path) -> None:
    assert devices.chosen("auto") == devices.CPU
    run = tmp_path / "run"
    words = ["train", "preresnet8", "--set", "training.epochs=1", "--out", str(run)]
    assert_user_error(here(*words, "--device", "cuda"), "sees 0 GPUs", "cleanpath doctor")
    assert_user_error(here(*words, "--set", "training.precision=tf32"), "tf32", "bf16")
    assert not run.exists()


@no_gpu
@pytest.mark.parametrize("words", [(), ("--dry-run",)], ids=str)
def test_a_grid_on_a_gpu_that_is_not_there_writes_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    places = ["--runs", str(tmp_path / "runs"), "--page", str(tmp_path / "page.html")]
    asked = ["reproduce", "table1", "--seeds", "1", *words, *places]
    assert_user_error(here(*asked, "--device", "cuda"), "sees 0 GPUs")
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_is_trained_alone_is_checked_too() -> None:
    with pytest.raises(SettingError, match="tf32"):
        cleanpath.fit(torch.nn.Linear(64, 10), Training(epochs=1, precision="tf32"))


def test_a_random_state_comes_back() -> None:
    torch.manual_seed(3)
    state = devices.random_state(devices.CPU)
    drawn = torch.rand(4)
    with devices.forked(devices.CPU):
        devices.set_random_state(state, devices.CPU)
        assert torch.equal(torch.rand(4), drawn)
    assert not torch.equal(torch.rand(4), drawn)


def test_a_state_with_a_gpus_behind_it_sets_the_processors() -> None:
    torch.manual_seed(3)
    state = torch.cat([devices.random_state(devices.CPU), torch.arange(16, dtype=torch.uint8)])
    drawn = torch.rand(4)
    devices.set_random_state(state, devices.CPU)
    assert torch.equal(torch.rand(4), drawn)


def test_a_network_is_where_its_weights_are() -> None:
    assert devices.of(torch.nn.ReLU()) == devices.CPU
    assert devices.of(torch.nn.Linear(1, 1, device="meta")).type == "meta"
    assert Passes(torch.nn.Linear(1, 1), Training(epochs=1)).device == devices.CPU


def test_a_run_s_name_says_that_it_was_on_a_gpu() -> None:
    experiment = tiny()
    usual = default_name(experiment, threads=4)
    assert default_name(experiment, threads=4, gpu=True) == f"{usual.removesuffix('-t4')}-gpu"


def test_memory_is_counted_against_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(devices, "free_memory", lambda _: 3_000_000_000)
    experiment = settings.override(tiny(), ["network.width=64", "training.batch_size=1024"])
    found = costs.cost(experiment, device=gpu)
    images = load(experiment.data)
    pixels = images.train.pixels.nbytes + images.held_out.pixels.nbytes  # type: ignore[attr-defined]
    elsewhere = costs.cost(experiment)
    assert (found.free, found.memory) == (3_000_000_000, found.needed)
    assert found.needed == elsewhere.needed + pixels
    monkeypatch.setattr(devices, "free_memory", lambda _: 100_000_000)
    with pytest.raises(UserError, match=r"GB are free on the GPU; (what fits|nothing fits)"):
        costs.told(costs.cost(experiment, device=gpu))


@no_gpu
def test_a_grid_on_whatever_there_is_has_the_processor_s_workers(tmp_path: Path) -> None:
    assert local.devices_of("auto") == ("cpu",)
    assert local.check_cells([plan.cell(tiny(), tmp_path)]) == ("cpu",) * local.cores()
    with pytest.raises(SettingError, match="sees 0 GPUs"):
        local.devices_of("cuda:1")


@pytest.mark.parametrize(
    ("free", "cores", "expected"),
    [
        ((10.0, 10.0), 16, (0, 1, 0, 1, 0, 1)),
        ((3.5, 1.2), 16, (0, 1, 0, 0)),
        ((0.1, 0.1), 16, (0, 1)),
        ((10.0, 10.0), 4, (0, 1, 0, 1)),
        ((2.5,), 16, (0, 0)),
    ],
)
def test_gpus_hold_as_many_runs_as_fit_into_their_memory_and_no_more_than_three(
    free: tuple[float, ...], cores: int, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`free` is in units of what the larger of the two runs needs; a GPU has one run at least."""
    small, large = (settings.override(tiny(), [f"training.batch_size={size}"]) for size in (8, 64))
    of_these = {small: 1_000, large: 1_000_000}
    monkeypatch.setattr(costs, "cost", lambda one, **_: SimpleNamespace(needed=of_these[one]))
    monkeypatch.setattr(devices, "chosen", torch.device)
    monkeypatch.setattr(devices, "free_memory", lambda device: int(free[device.index] * 1_000_000))
    monkeypatch.setattr(local, "cores", lambda: cores)
    found = local._on_gpus((small, large), [f"cuda:{at}" for at in range(len(free))])
    assert found == tuple(f"cuda:{at}" for at in expected)


def test_a_grid_shares_all_gpus_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for name, expected in (("cuda", [0, 1, 2]), ("auto", [0, 1, 2]), ("cuda:1", [1])):
        assert devices.shared(name) == [torch.device("cuda", at) for at in expected]
    assert devices.shared("cpu") == [devices.CPU]
