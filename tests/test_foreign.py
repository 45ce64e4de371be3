"""Networks that are not the paper's: trained, resumed, loaded, fine-tuned and audited like ours."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import cleanpath
from cleanpath import assemble, networks, settings, single
from cleanpath.data.sources import load as load_images
from cleanpath.errors import Request, RunError, Stopped, UserError
from cleanpath.experiment import Data, Experiment, Foreign, Training
from cleanpath.naming import default_name
from cleanpath.records import Run, Writer
from tests.helpers import assert_same_run, assert_user_error, here, pixels_of, tiny

SOURCE = """
from torch import nn

class Unit(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    def forward(self, x):
        return x + self.branch(x)

class Net(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.stem, self.units = nn.Conv2d(channels, 8, 3), nn.ModuleList(Unit() for _ in range(3))
        self.drop, self.last = nn.Dropout(0.2), nn.Linear(8 * 36, classes)
    def forward(self, x):
        x = self.stem(x)
        for unit in self.units:
            x = unit(x)
        return self.last(self.drop(x.view(len(x), -1)))

def make(in_channels, num_classes):
    return Net(in_channels, num_classes)

def nine():
    return Net(1, 9)

def tuple_in_training(num_classes):
    class Two(Net):
        def forward(self, x):
            y = super().forward(x)
            return (y, y) if self.training else y
    return Two(1, num_classes)

def greedy(depth, num_classes):
    return Net(1, num_classes)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the file, to work in."""
    (tmp_path / "net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def short(target: str, *changes: str) -> Experiment:
    return single.experiment_of(target, [*changes, "training.iterations=6"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["net.py:make", "timm:resnet18"])
def test_a_foreign_network_trains_stops_and_goes_on_bitwise(place: Path, target: str) -> None:
    experiment = short(target, "training.average=0.9")
    assert isinstance(experiment.network, Foreign)
    assert (experiment.network.in_channels, experiment.network.num_classes) == (1, 10)
    assemble.run(experiment, place / "whole", threads=1)
    request = Request()

    class Stop(cleanpath.Callback):
        def stepped(self, progress: object) -> None:  # noqa: ARG002
            request.signal_number = 15

    with pytest.raises(Stopped):
        assemble.run(experiment, place / "stopped", threads=1, callbacks=[Stop()], request=request)
    assemble.run(experiment, place / "stopped", threads=1)
    assert_same_run(place / "whole", place / "stopped")


def test_the_verbs_of_a_finished_run_take_it(place: Path) -> None:  # noqa: ARG001
    words = ("train", "net.py:make", "--set", "training.iterations=40", "--out", "run", "--threads", "1")
    assert here(*words).code == 0
    network = cleanpath.load("run")
    images = load_images(Data()).held_out
    with torch.no_grad():
        error = 100 * float((network(pixels_of(images)).argmax(1) != images.labels).double().mean())
    assert here("evaluate", "run", "--json").json()["error"] == pytest.approx(error)
    assert here("export", "run", "--format", "onnx", "--out", "run.onnx", "--json").json()["largest_difference"] < 1e-4
    assert here("export", "run", "--format", "safetensors", "--json").json()["largest_difference"] == 0
    audited = here("audit", "run", "--json").json()
    assert [unit["name"] for unit in audited["units"]] == ["units.0", "units.1", "units.2"]
    assert here("list", "runs", "--runs", ".", "--json").json()["runs"][0]["status"] == "finished"


def test_a_factory_s_file_is_a_part_of_the_experiment(place: Path) -> None:
    before = short("net.py:make")
    assemble.run(before, place / "run", threads=1)
    (place / "net.py").write_text(SOURCE.replace("range(3)", "range(2)"))
    after = short("net.py:make")
    assert settings.digest(before) != settings.digest(after)
    with pytest.raises(UserError, match=r"net\.py has changed since the experiment was made"):
        cleanpath.load(place / "run")
    (place / "net.py").unlink()
    with pytest.raises(UserError, match=r"no file net\.py; run from the folder that it was given from"):
        cleanpath.load(place / "run")


def test_an_experiment_file_holds_a_foreign_network(place: Path) -> None:
    experiment = short("timm:resnet18", "network.num_classes=10")
    (place / "run.toml").write_text(settings.to_toml(experiment))
    assert single.experiment_of("run.toml", []) == experiment
    assert settings.from_data(settings.to_data(experiment)) == experiment


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("net.py:nine", ("gives 2×9 for 2 images", "2×10 is needed")),
        ("net.py:tuple_in_training", ("gives a tuple in training mode",)),
        ("net.py:greedy", ("needs depth", "called with at most num_classes, in_channels")),
        ("net.py:mke", ("no factory in net.py 'mke'", "make")),
        ("nett.py:make", ("no file nett.py",)),
        ("timm:resnet1", ("no model of timm 'resnet1'", "did you mean")),
        ("timm:vit_tiny_patch16_224", ("does not take images of 1×8×8",)),
        ("torchvision:resnet18", ("takes images of 3 channels, not of 1",)),
        ("hf:bert", ("wrap it in a function",)),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    place: Path, target: str, words: tuple[str, ...]
) -> None:
    assert_user_error(here("train", target), *words)
    assert not (place / "runs").exists()


def test_settings_of_the_paper_s_networks_do_not_go_with_a_foreign_one(place: Path) -> None:  # noqa: ARG001
    answer = here("train", "net.py:make", "--set", "network.depth=20")
    assert_user_error(answer, "network.depth does not go with network.target")


def test_weights_of_elsewhere_get_a_new_last_layer(place: Path) -> None:
    """As torchvision's for 1,000 classes: the body is theirs, the last layer drawn anew, nothing else may differ."""
    thousand = networks.build(Foreign(target="timm:resnet18", in_channels=1, num_classes=1000), seed=5)
    tensors = {n: v.contiguous() for n, v in thousand.state_dict().items() if not n.endswith("num_batches_tracked")}
    save_file(tensors, place / "theirs.safetensors")
    ten = networks.build(Foreign(target="timm:resnet18", in_channels=1, num_classes=10), seed=0)
    fresh = ten.state_dict()["fc.weight"].clone()
    assert "its last layer with weights of its own" in assemble.begin_with(ten, place / "theirs.safetensors")
    assert torch.equal(ten.state_dict()["fc.weight"], fresh)
    assert torch.equal(ten.state_dict()["layer4.1.conv2.weight"], tensors["layer4.1.conv2.weight"])
    save_file({n: v for n, v in tensors.items() if n != "layer1.0.conv1.weight"}, place / "part.safetensors")
    with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight differ"):
        assemble.begin_with(ten, place / "part.safetensors")


def test_a_run_s_folder_has_a_plain_name() -> None:
    foreign = replace(tiny(), network=Foreign(target="nets/mine.py:Net.make", code="0" * 16))
    photos = replace(foreign, data=Data(name="folder:/data/my photos"))
    assert default_name(photos).startswith("mine-Net.make-folder-my-photos-s0-")
    assert default_name(tiny()).startswith("preresnet8-digits-s0-")


def test_callbacks_are_told_in_order_and_the_end_also_of_a_stopped_run(tmp_path: Path) -> None:
    told: list[str] = []

    class Told(cleanpath.Callback):
        def began(self, network: torch.nn.Module, iteration: int) -> None:
            told.append(f"began {type(network).__name__} {iteration}")

        def stepped(self, progress: object) -> None:  # noqa: ARG002
            told.append("step")

        def measured(self, line: object) -> None:
            told.append("error" if "error" in line else "loss")  # type: ignore[operator]

        def ended(self) -> None:
            told.append("ended")

    run = assemble.run(tiny(iterations=2), tmp_path / "run", threads=1, callbacks=[Told()])
    assert told == ["began ResNet 0", "loss", "step", "loss", "error", "step", "ended"]
    assert run.status == "finished"
    told.clear()

    class Breaks(cleanpath.Callback):
        def stepped(self, progress: object) -> None:  # noqa: ARG002
            raise ValueError("my own mistake")

    with pytest.raises(ValueError, match="my own mistake"):
        assemble.run(tiny(iterations=2), tmp_path / "broken", threads=1, callbacks=[Breaks(), Told()])
    assert told[-1] == "ended"
    assert Run(tmp_path / "broken").status == "failed"


def test_tensorboard_holds_what_metrics_hold_also_after_a_stop(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from cleanpath.logs import callbacks

    request = Request()

    class Stop(cleanpath.Callback):
        def __init__(self) -> None:
            self.steps = 0

        def stepped(self, progress: object) -> None:  # noqa: ARG002
            self.steps += 1
            if self.steps == 7:
                request.signal_number = 15

    experiment, folder = tiny(iterations=12), tmp_path / "run"
    logs = callbacks(["tensorboard"], folder)
    with pytest.raises(Stopped):
        assemble.run(experiment, folder, threads=1, callbacks=[*logs, Stop()], request=request)
    run = assemble.run(experiment, folder, threads=1, callbacks=callbacks(["tensorboard"], folder))
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("loss", "lr", "gradient_norm", "error", "test_loss"):
        expected = [(line["iteration"], line[name]) for line in run.metrics() if name in line]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


@pytest.mark.parametrize(
    ("asked", "words"),
    [("wandb", "give tensorboard, or path/to/file.py:factory"), ("net.py:nine", "a cleanpath.Callback is needed")],
)
def test_a_log_that_there_is_not_is_refused(place: Path, asked: str, words: str) -> None:
    assert_user_error(here("train", "preresnet8", "--log", asked), words)
    assert not (place / "runs").exists()


def test_fit_takes_callbacks() -> None:
    losses: list[float] = []

    class Losses(cleanpath.Callback):
        def measured(self, line: object) -> None:
            losses.extend(value for name, value in line.items() if name == "loss")  # type: ignore[attr-defined]

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    cleanpath.fit(model, Training(iterations=5, batch_size=32), callbacks=[Losses()])
    assert len(losses) == 5


def test_what_differs_when_a_run_goes_on_is_said(tmp_path: Path) -> None:
    request, said = Request(15, "stop"), list[str]()
    with pytest.raises(Stopped):
        assemble.run(tiny(), tmp_path / "run", threads=1, request=request)
    assemble.run(tiny(), tmp_path / "run", threads=2, say=said.append)
    assert said[0] == "threads was 1 and is now 2: the run goes on, its last bits may differ"
    environment = Run(tmp_path / "run").environment
    assert (environment["threads"], [part["threads"] for part in environment["earlier"]]) == (2, [1])


def test_a_folder_in_use_is_refused_before_anything_is_said_of_going_on(tmp_path: Path) -> None:
    said = list[str]()
    with pytest.raises(Stopped):
        assemble.run(tiny(), tmp_path / "run", threads=1, request=Request(15, "stop"))
    with Writer(tmp_path / "run", tiny(), {"threads": 1}, resume=True), pytest.raises(RunError, match="being written"):
        assemble.run(tiny(), tmp_path / "run", threads=2, say=said.append)
    assert said == []


def test_layout_and_random_state_of_foreign_networks() -> None:
    state = torch.get_rng_state()
    one, two = (networks.build(Foreign(target="timm:resnet18"), seed=seed) for seed in (0, 0))
    assert torch.equal(torch.get_rng_state(), state)
    weights: list[Tensor] = [next(iter(network.parameters())) for network in (one, two)]
    assert torch.equal(weights[0], weights[1])
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
