"""What a finished run is good for: its network again, its errors against slow oracles, its files read by others."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_digits
from torch.nn import functional

import cleanpath
from cleanpath import assemble, trained
from cleanpath.data.sources import load as load_images
from cleanpath.errors import RunError
from cleanpath.experiment import Data
from tests.helpers import assert_user_error, here, network_of, nothing_written, pixels_of, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt something."""
    return assemble.run(tiny(iterations=80), tmp_path_factory.mktemp("runs") / "run", threads=1).folder


@pytest.fixture(scope="module")
def logits(run: Path) -> torch.Tensor:
    with torch.no_grad():
        return cleanpath.load(run)(pixels_of(load_images(Data()).held_out))  # type: ignore[no-any-return]


def test_the_network_of_a_run_gives_the_error_that_the_run_recorded(run: Path, logits: torch.Tensor) -> None:
    labels = load_images(Data()).held_out.labels
    recorded = cleanpath.Run(run).result or {}
    assert 100 * float((logits.argmax(1) != labels).double().mean()) == pytest.approx(recorded["error"])
    assert not cleanpath.load(str(run)).training


def test_evaluation_counts_what_a_loop_counts(run: Path, logits: torch.Tensor) -> None:
    labels = load_images(Data()).held_out.labels
    found = trained.evaluation(trained.trained(run))
    confusion = np.zeros((10, 10), int)
    for guess, label in zip(logits.argmax(1).tolist(), labels.tolist(), strict=True):
        confusion[label, guess] += 1
    assert found["confusion"] == confusion.tolist()
    assert found["error"] == pytest.approx(100 - 100 * np.trace(confusion) / 500)
    assert found["class_errors"] == pytest.approx([100 * (1 - row[at] / row.sum()) for at, row in enumerate(confusion)])
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
    assert found["interval"][0] < found["error"] < found["interval"][1]


@pytest.mark.parametrize(
    ("wrong", "count", "low", "high"),
    [(0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (5, 10, 0.236593, 0.763407), (1, 50, 0.003539, 0.104954)],
)
def test_wilson_s_interval_solves_its_equation(wrong: int, count: int, low: float, high: float) -> None:
    found = trained.wilson(wrong, count)
    assert found == pytest.approx((low, high), abs=1e-5)
    for bound in found:
        if 0 < bound < 1:
            assert (wrong / count - bound) ** 2 == pytest.approx(1.96**2 * bound * (1 - bound) / count, rel=1e-3)


def test_calibration_is_that_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 4, generator=generator) * 2, torch.randint(0, 4, (300,), generator=generator)
    bins: dict[int, list[tuple[float, int]]] = {}
    for row, label in zip(logits.softmax(1).tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bins.setdefault(min(14, math.floor(confidence * 15)), []).append(
            (confidence, int(row.index(confidence) == label))
        )
    expected = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins.values()) / 300
    assert trained.calibration_error(logits, labels) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some digits as files of several formats, and one that is no image."""
    folder = tmp_path_factory.mktemp("files")
    pixels, labels = load_digits(return_X_y=True)
    for at, suffix in enumerate(("png", "bmp", "tiff", "png", "png", "png")):
        image = Image.fromarray(np.rint(pixels[at].reshape(8, 8) * 255 / 16).astype(np.uint8))
        (image if at != 3 else image.convert("RGBA")).save(folder / f"{at}-is-{labels[at]}.{suffix}")
    (folder / "z.png").write_bytes(b"no image")
    return folder


def test_predictions_are_those_of_the_network(run: Path, files: Path) -> None:
    found = trained.trained(run)
    answers = list(trained.predictions(found, trained.image_files([files]), 10))
    pixels = torch.from_numpy(load_digits(return_X_y=True)[0][:6].astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    with torch.no_grad():
        shares = found.network(pixels - found.preparation.mean).softmax(1)
    for answer, row in zip(answers, shares, strict=False):
        told = {each["name"]: each["probability"] for each in answer["classes"]}
        assert [told[str(digit)] for digit in range(10)] == pytest.approx(row.tolist(), abs=0.03)
    assert answers[6]["broken"] == "not an image"


def test_predict_prints_names_and_probabilities_and_fails_on_what_is_no_image(run: Path, files: Path) -> None:
    outcome = here("predict", str(run), str(files), "--top", "2")
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert len(lines) == 7
    assert lines[0].count("%") == 2
    assert lines[-1].endswith("z.png: not an image")
    good = here("predict", str(run), str(files / "0-is-0.png"), "--json")
    assert good.code == 0
    assert good.json()["predictions"][0]["classes"][0]["name"] == "0"


def test_evaluate_prints_the_error_first_and_draws(run: Path, tmp_path: Path) -> None:
    for name in ("confusion.svg", "confusion.png"):
        outcome = here("evaluate", str(run), "--picture", str(tmp_path / name))
        assert outcome.code == 0, outcome.err
        assert ": error " in outcome.out.splitlines()[0]
        assert (tmp_path / name).stat().st_size > 1000
    assert_user_error(here("evaluate", str(run), "--picture", "a.gif"), "neither .svg nor .png")


@pytest.mark.filterwarnings("ignore")  # torch's own exporters warn of themselves
@pytest.mark.parametrize(("placement", "left"), [("original", 0), ("full_preactivation", 4), ("bn_after_addition", 3)])
def test_norms_right_behind_a_convolution_are_folded_and_no_others(tmp_path: Path, placement: str, left: int) -> None:
    """Of three units: none reads a sum in the original; with full pre-activation each first one does, and the last."""
    run = assemble.run(tiny(f"network.placement={placement}", iterations=30), tmp_path / "run", threads=1).folder
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in cleanpath.load(run).modules())
    found = here("export", str(run), "--format", "torch-export", "--out", str(tmp_path / "f.pt2"), "--json").json()
    assert (found["norms_folded"], found["norms_left"]) == (norms - left, left)
    assert found["largest_difference"] < 1e-4
    plain = here("export", str(run), "--format", "safetensors", "--out", str(tmp_path / "f.safetensors"), "--json")
    assert (plain.json()["norms_folded"], plain.json()["norms_left"]) == (0, norms)


@pytest.mark.parametrize("form", ["safetensors", "onnx", "torch-export"])
@pytest.mark.filterwarnings("ignore")  # torch's own exporters warn of themselves
def test_an_exported_file_gives_the_same_logits_to_others(
    run: Path, tmp_path: Path, form: str, logits: torch.Tensor
) -> None:
    target = tmp_path / f"net.{form}"
    outcome = here("export", str(run), "--format", form, "--out", str(target), "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json()["largest_difference"] < 1e-4
    x = pixels_of(load_images(Data()).held_out)[:3]
    words, found = _opened(form, target, x)
    assert json.loads(words["classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(words["preparation"]) == {"side": 8, "channels": 1, "border": 0.0}
    assert len(json.loads(words["mean"])) == 64
    if found is not None:
        assert np.abs(found - logits[:3].numpy()).max() < 1e-4
    assert_user_error(here("export", str(run), "--format", form, "--out", str(target)), "is there already")


def _opened(form: str, target: Path, x: torch.Tensor) -> tuple[dict[str, str], Any]:
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(target))
        return session.get_modelmeta().custom_metadata_map, session.run(None, {"images": x.numpy()})[0]
    if form == "torch-export":
        extra = dict.fromkeys(("classes.json", "preparation.json", "mean.json"), "")
        found = torch.export.load(target, extra_files=extra).module()(x)
        return {key.removesuffix(".json"): value for key, value in extra.items()}, found.detach().numpy()
    with safe_open(str(target), framework="pt") as file:
        return file.metadata(), None


def test_runs_that_have_no_weights_are_refused(run: Path, tmp_path: Path) -> None:
    from cleanpath.records import Writer

    with Writer(tmp_path / "begun", tiny(), {}):
        pass
    for verb in (("evaluate",), ("export", "--format", "onnx"), ("predict", str(run))):
        assert_user_error(here(verb[0], str(tmp_path / "begun"), *verb[1:]), "is interrupted and has no final weights")
    with nothing_written(tmp_path):
        assert_user_error(here("evaluate", str(tmp_path / "none")), "is not a run")


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    run = assemble.run(tiny(), tmp_path / "run", threads=1)
    data = bytearray(run.weights.read_bytes())
    data[-5] ^= 1
    run.weights.write_bytes(bytes(data))
    with pytest.raises(RunError, match="its SHA-256 is not the one that the run recorded"):
        cleanpath.load(run)


def test_data_with_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("cats", "dogs"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / kind / "0.png")
    outcome = here("evaluate", str(run), "--data", f"folder:{tmp_path}")
    assert_user_error(outcome, "has the classes cats, dogs, the run learnt 0, 1, 2 and 7 more")


def test_fine_tuning_begins_with_the_weights_of_a_run_and_a_head_of_its_own(tmp_path: Path) -> None:
    """Two classes of digits as a folder: the body is the run's, and moves at a tenth of the rate."""
    pixels, labels = load_digits(return_X_y=True)
    for at in range(300):
        if labels[at] < 2:
            image = Image.fromarray(np.rint(pixels[at].reshape(8, 8) * 255 / 16).astype(np.uint8))
            (tmp_path / "photos" / f"is {labels[at]}").mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "photos" / f"is {labels[at]}" / f"{at}.png")
    rgb = assemble.run(tiny("network.in_channels=1", iterations=3), tmp_path / "other", threads=1).folder
    words = (
        "train",
        "preresnet8",
        "--data",
        f"folder:{tmp_path / 'photos'}",
        "--set",
        "network.width=4",
        "--threads",
        "1",
    )
    short = ("--set", "training.iterations=4", "--set", "training.batch_size=16", "--set", "training.body_factor=0.1")
    assert_user_error(here(*words, *short, "--init", str(rgb), "--out", str(tmp_path / "wrong")), "stem.conv.weight")
    colour = here(*words, *short, "--out", str(tmp_path / "colour"), "--json")
    assert colour.code == 0, colour.err
    tuned = here(
        *words, *short, "--seed", "1", "--init", str(tmp_path / "colour"), "--out", str(tmp_path / "tuned"), "--json"
    )
    assert tuned.code == 0, tuned.err
    assert tuned.json()["experiment"]["init"] == (colour.json()["result"]["weights_sha256"])[:16]
    assert "begins with" in tuned.err
    assert_user_error(here(*words, *short, "--init", str(tmp_path / "none")), "there are no weights")


def test_a_lower_rate_for_the_body_leaves_the_head_its_own() -> None:
    from cleanpath.nn import resnet
    from cleanpath.training.optimizers import optimizer_of

    experiment = tiny("training.body_factor=0.1")
    network = resnet.build(network_of(experiment))
    optimizer = optimizer_of(network, experiment.training)
    factors = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: factors[id(p)] for name, p in network.named_parameters()}
    assert {name for name, factor in named.items() if factor == 1} == {"head.linear.weight", "head.linear.bias"}
    assert {factor for name, factor in named.items() if not name.startswith("head.linear")} == {0.1}
