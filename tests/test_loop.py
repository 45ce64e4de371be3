"""The loop against bare PyTorch, its determinism, and what it leaves as it was."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cleanpath import assemble, costs, settings
from cleanpath.data.images import Images, Split, order
from cleanpath.data.memory import InMemory
from cleanpath.data.sources import load
from cleanpath.errors import SettingError, UnknownNameError
from cleanpath.experiment import Data, Experiment, Training
from cleanpath.nn import resnet
from cleanpath.records import Run
from cleanpath.training import loop
from cleanpath.training.evaluation import evaluate
from cleanpath.training.progress import Callback, Progress, Stepped
from tests.helpers import assert_same_run, measured, network_of, nothing_written, tiny

Lines = list[dict[str, Any]]


class Kept(Callback):
    """Keeps the lines of a run."""

    def __init__(self) -> None:
        self.lines: Lines = []

    def measured(self, line: Any) -> None:
        self.lines.append(dict(line))


def bare(network: nn.Module, images: Images, *, iterations: int, size: int, seed: int) -> Lines:
    """The paper's recipe in plain PyTorch, written without a look at ours: Nesterov, warm-up, two steps of the rate."""
    count = len(images.train.labels)
    epochs = [np.random.default_rng([seed, e]).permutation(count) for e in range(iterations * size // count + 1)]
    stream = torch.from_numpy(np.concatenate(epochs))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    lines: Lines = []
    for i in range(iterations):
        lr = 0.05 * 0.1 if i < 3 else 0.05 * 0.1 ** ((i >= iterations * 0.5) + (i >= iterations * 0.75))
        optimizer.param_groups[0]["lr"] = lr
        chosen = stream[i * size : (i + 1) * size]
        network.train()
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images.train.plain(chosen)), images.train.labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        lines.append({"iteration": i + 1, "lr": lr, "loss": loss.item()})
        if (i + 1) * size // count > i * size // count or i + 1 == iterations:
            network.eval()
            with torch.no_grad():
                logits = network(images.held_out.plain(torch.arange(len(images.held_out.labels))))
            wrong = int((logits.argmax(1) != images.held_out.labels).sum())
            lines.append({"iteration": i + 1, "error": 100 * wrong / len(logits)})
    return lines


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads here as in the run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PARITY = tiny("training.nesterov=true", "training.warmup=3", "training.batch_size=200", iterations=16, seed=5)


@pytest.mark.usefixtures("one_thread")
def test_loop_is_bare_pytorch_bitwise(tmp_path: Path) -> None:
    torch.manual_seed(PARITY.seed)
    network = resnet.build(network_of(PARITY)).to(memory_format=torch.channels_last)
    expected = bare(network, load(PARITY.data), iterations=16, size=200, seed=PARITY.seed)
    run = assemble.run(PARITY, tmp_path / "run", threads=1, kernels="plain")
    found = [{key: line[key] for key in ("iteration", "lr", "loss", "error") if key in line} for line in run.metrics()]
    assert found == expected
    from safetensors.torch import load_file

    weights = load_file(run.weights)
    assert set(weights) == set(network.state_dict())
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


def test_loss_falls_and_the_error_with_it(tmp_path: Path) -> None:
    run = assemble.run(tiny("training.batch_size=64", iterations=80), tmp_path / "run", threads=1)
    assert run.result is not None
    assert run.result["train_loss"] < 1.5
    assert run.result["error"] < 60


def test_result_says_how_the_last_iteration_stands(tmp_path: Path) -> None:
    run = assemble.run(tiny(), tmp_path / "run", threads=1)
    lines = list(run.metrics())
    result = run.result
    assert result is not None
    assert (result["status"], result["iterations"]) == ("finished", 6)
    assert (result["error"], result["test_loss"]) == (lines[-1]["error"], lines[-1]["test_loss"])
    import hashlib

    assert result["weights_sha256"] == hashlib.sha256(run.weights.read_bytes()).hexdigest()


def test_every_epoch_is_evaluated_and_so_is_the_last_iteration(tmp_path: Path) -> None:
    run = assemble.run(tiny("training.batch_size=500", iterations=9), tmp_path / "run", threads=1)
    evaluated = [line for line in run.metrics() if "error" in line]
    # 1,297 images in batches of 500: epochs end within iterations 3, 6 and 8.
    assert [line["iteration"] for line in evaluated] == [3, 6, 8, 9]
    assert [line["epoch"] for line in evaluated] == [500 * i / 1297 for i in (3, 6, 8, 9)]


SCRIPT = """
import sys
from collections.abc import Iterator
from pathlib import Path
from cleanpath import assemble, settings
assemble.run(settings.read(Path(sys.argv[1])), Path(sys.argv[2]), threads=1)
"""


def test_same_experiment_gives_the_same_files_in_another_process(tmp_path: Path) -> None:
    """Other process, other hash seed, other state of the generators: same metrics and weights, byte for byte."""
    dropout = ["network.shortcut.kind=dropout", "network.shortcut.rate=0.5"]
    experiment = tiny(*dropout, iterations=10)
    (tmp_path / "experiment.toml").write_text(settings.to_toml(experiment))
    torch.manual_seed(12345)
    random.seed(6)
    mine = assemble.run(experiment, tmp_path / "here", threads=1)
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "experiment.toml"), str(tmp_path / "there")],
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert_same_run(mine.folder, tmp_path / "there")


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    one, other = (assemble.run(tiny(seed=seed), tmp_path / f"{seed}", threads=1) for seed in (0, 1))
    assert one.weights.read_bytes() != other.weights.read_bytes()
    assert [line.get("loss") for line in measured(one.folder)] != [line.get("loss") for line in measured(other.folder)]


def test_order_of_images_comes_from_the_seed_and_not_from_torch_s_generator() -> None:
    """So that dropout cannot move it."""
    seen: list[Tensor] = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.detach().clone())
            return super().forward(x)

    images = load(Data())
    for state in (1, 2):
        order.cache_clear()
        torch.manual_seed(state)
        network = nn.Sequential(nn.Flatten(), Spy(64, 10))
        loop.train(network, images, Training(iterations=3), seed=4)
    assert all(torch.equal(one, other) for one, other in zip(seen[:3], seen[3:], strict=True))


def test_foreign_network_trains() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    kept = Kept()
    result = loop.train(network, load(Data()), Training(iterations=60, lr=0.05), seed=0, callbacks=[kept])
    lines = kept.lines
    assert result["train_loss"] < lines[0]["loss"] / 2
    assert result["error"] < 30


def test_gradient_norm_is_that_of_all_gradients(tmp_path: Path) -> None:
    first = assemble.run(PARITY, tmp_path / "run", threads=1).metrics()[0]
    torch.manual_seed(PARITY.seed)
    network = resnet.build(network_of(PARITY))
    images = load(PARITY.data)
    chosen = torch.from_numpy(np.random.default_rng([PARITY.seed, 0]).permutation(1297)[:200])
    functional.cross_entropy(network(images.train.plain(chosen)), images.train.labels[chosen]).backward()  # type: ignore[no-untyped-call]
    squares = sum(float((p.grad.double() ** 2).sum()) for p in network.parameters() if p.grad is not None)
    assert first["gradient_norm"] == pytest.approx(math.sqrt(squares), rel=1e-4)


def test_long_run_records_means_of_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = [line["loss"] for line in assemble.run(PARITY, tmp_path / "each", threads=1).metrics() if "loss" in line]
    monkeypatch.setattr(loop, "MOST_LINES", 3)
    few = [line for line in assemble.run(PARITY, tmp_path / "few", threads=1).metrics() if "loss" in line]
    assert [line["iteration"] for line in few] == [6, 12, 16]
    groups = (each[:6], each[6:12], each[12:])
    assert [line["loss"] for line in few] == [sum(group) / len(group) for group in groups]


def test_watcher_sees_every_step(tmp_path: Path) -> None:
    seen: list[Progress] = []
    assemble.run(tiny(), tmp_path / "run", threads=1, callbacks=[Stepped(seen.append)])
    assert [(step.iteration, step.total) for step in seen] == [(i, 6) for i in range(1, 7)]
    assert all(step.images_per_second > 0 for step in seen)
    assert math.isnan(seen[0].error)
    assert 0 <= seen[-1].error <= 100


def mixed() -> nn.Module:
    """A network with some parts in training mode and some not, and one below an evaluated parent."""
    network = resnet.build(network_of(tiny()))
    network.train()
    network.get_submodule("stages.stage1").eval()
    network.get_submodule("stages.stage1.unit1.branch").train()
    return network


def evaluated(network: nn.Module, split: Split) -> tuple[float, float]:
    found = evaluate(network, split)
    assert found is not None
    return found


def test_evaluation_restores_the_training_flag_of_every_module() -> None:
    network, images = mixed(), load(Data())
    before = {name: module.training for name, module in network.named_modules()}
    assert len(set(before.values())) == 2
    evaluated(network, images.held_out)
    assert {name: module.training for name, module in network.named_modules()} == before


def test_evaluation_restores_the_flags_after_an_exception_too() -> None:
    network = mixed()
    before = {name: module.training for name, module in network.named_modules()}
    with pytest.raises(RuntimeError):
        evaluated(network, InMemory(pixels=torch.zeros(2, 3, 8, 8), labels=torch.zeros(2, dtype=torch.int64)))
    assert {name: module.training for name, module in network.named_modules()} == before


def test_evaluation_changes_no_number_and_is_in_eval_mode() -> None:
    network, images = mixed(), load(Data())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    error, loss = evaluated(network, images.held_out)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with torch.no_grad():
        logits = network.eval()(images.held_out.plain(torch.arange(len(images.held_out.labels))))
    wrong = (logits.argmax(1) != images.held_out.labels).double().mean()
    assert error == pytest.approx(100 * float(wrong), abs=1e-9)
    assert loss == pytest.approx(float(functional.cross_entropy(logits, images.held_out.labels)), rel=1e-5)


def test_evaluation_counts_images_beyond_a_whole_batch() -> None:
    """Logits that are wrong for the last image of 501 only: 1 of 501."""
    labels = torch.zeros(501, dtype=torch.int64)
    images = torch.zeros(501, 2)
    images[:, 0] = 1
    images[500] = torch.tensor([0.0, 1.0])
    error, _ = evaluated(nn.Identity(), InMemory(pixels=images, labels=labels))
    assert error == pytest.approx(100 / 501)


def surroundings() -> tuple[bytes, int, object, bytes, torch.dtype, bool]:
    """What a run must leave as it was."""
    return (
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tobytes(),  # noqa: NPY002
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )


def test_run_leaves_generators_and_threads_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(77)
    before = surroundings()
    assemble.run(tiny(), tmp_path / "run", threads=before[1] + 1)
    assert surroundings() == before


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_run_leaves_generators_and_threads_as_they_were_after_an_exception(
    tmp_path: Path, error: BaseException
) -> None:
    torch.manual_seed(77)
    before = surroundings()

    def on_step(progress: Progress) -> None:
        if progress.iteration == 2:
            raise error

    with pytest.raises(type(error)):
        assemble.run(tiny(), tmp_path / "run", threads=before[1] + 1, callbacks=[Stepped(on_step)])
    assert surroundings() == before


def test_run_leaves_generators_and_threads_as_they_were_after_a_refusal(tmp_path: Path) -> None:
    torch.manual_seed(77)
    before = surroundings()
    (tmp_path / "run").write_text("mine")
    with pytest.raises(Exception, match="is a file"):
        assemble.run(tiny(), tmp_path / "run", threads=before[1] + 1)
    assert surroundings() == before


def test_measuring_leaves_threads_and_generator_as_they_were() -> None:
    torch.manual_seed(77)
    before = surroundings()
    tried = costs.measure(tiny(iterations=100), threads=before[1] + 1)
    assert surroundings()[1] == before[1]
    assert tried.seconds > 0
    assert tried.memory > 1e6


def test_measuring_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(77)
    before = surroundings()
    costs.measure(tiny(iterations=100), threads=1)
    assert surroundings() == before


def test_crash_is_recorded_with_its_reason_and_the_next_try_ends_the_same(tmp_path: Path) -> None:
    def on_step(progress: Progress) -> None:
        if progress.iteration == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        assemble.run(tiny(), tmp_path / "run", threads=1, callbacks=[Stepped(on_step)])
    run = Run(tmp_path / "run")
    assert (run.status, run.failure) == ("failed", "RuntimeError: out of memory")
    assemble.run(tiny(), tmp_path / "run", threads=1)
    assert_same_run(run.folder, assemble.run(tiny(), tmp_path / "calm", threads=1).folder)
    assert run.status == "finished"


def test_interrupted_run_ends_the_same(tmp_path: Path) -> None:
    def on_step(progress: Progress) -> None:
        if progress.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble.run(tiny(), tmp_path / "run", threads=1, callbacks=[Stepped(on_step)])
    assert Run(tmp_path / "run").status == "interrupted"
    assemble.run(tiny(), tmp_path / "run", threads=1)
    assert_same_run(tmp_path / "run", assemble.run(tiny(), tmp_path / "calm", threads=1).folder)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (["training.batch_size=1298"], SettingError),
        (["training.warmup=6"], SettingError),
        (["network.in_channels=3"], SettingError),
        (["network.num_classes=9"], SettingError),
        (["network.depth=9"], SettingError),
        (["network.placement=preact"], UnknownNameError),
        (["network.shortcut.kind=gate"], UnknownNameError),
        (["network.shortcut.kind=scaling"], SettingError),
        (["network.shortcut.rate=0.5"], SettingError),
        (["data.name=cifar11"], UnknownNameError),
        (["network.layout=imagenet", "network.depth=18"], SettingError),
    ],
)
def test_experiment_that_cannot_run_is_refused_before_anything_is_written(
    tmp_path: Path, changes: list[str], error: type[Exception]
) -> None:
    experiment: Experiment = tiny(*changes)
    with nothing_written(tmp_path), pytest.raises(error):
        assemble.run(experiment, tmp_path / "run", threads=1)


def test_environment_says_what_the_numbers_may_depend_on(tmp_path: Path) -> None:
    run = assemble.run(tiny(), tmp_path / "run", threads=1)
    assert run.environment["threads"] == 1
    assert run.environment["torch"] == torch.__version__.split("+")[0] or run.environment["torch"] == torch.__version__
    assert set(run.environment) >= {"cleanpath", "python", "numpy", "cores", "processor", "system", "instructions"}
    assert json.loads((run.folder / "environment.json").read_text()) == run.environment


def test_any_module_is_fitted_in_place_and_learns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    result = assemble.fit(model, Training(epochs=4, batch_size=32, schedule="cosine"))
    assert result["error"] < 15
    images = load(Data())
    wrong = (model(images.held_out.plain(torch.arange(500))).argmax(1) != images.held_out.labels).double().mean()
    assert 100 * float(wrong) == pytest.approx(result["error"])


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (nn.Linear(3, 10), r"does not take images of 1×8×8"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 9)),
            r"gives 2×9 for 2 images; 2×10 is needed, logits of 10",
        ),
    ],
)
def test_a_module_that_does_not_fit_the_data_is_refused_before_training(model: nn.Module, answer: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SettingError, match=answer):
        assemble.fit(model, Training(epochs=1, batch_size=32))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
