"""TARGET on the command line: what it names, which inputs come with it, and what is refused and how."""

import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cleanpath import targets
from cleanpath.errors import RunError, UnknownNameError, UserError
from cleanpath.targeting import weights
from cleanpath.targets import Target, resolve


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "made.py"
    path.write_text("from torch import nn\n\ndef network():\n    return nn.Linear(4, 3)\n", encoding="utf-8")
    return path


def forward(target: Target) -> Any:
    """The output of a target's module on its inputs, with nothing of it changed."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return target.module.eval()(*target.arguments, **target.keywords)


# --- catalog and runs


def test_a_name_of_the_catalog_gives_the_network_and_images_of_its_size() -> None:
    target = resolve("preresnet20")
    assert (target.name, target.arguments[0].shape, target.keywords) == ("preresnet20", (2, 3, 32, 32), {})
    assert target.module.training
    assert forward(target).shape == (2, 10)


def test_the_same_seed_gives_the_same_weights_and_inputs_and_another_seed_others() -> None:
    one, same, other = resolve("resnet8", seed=1), resolve("resnet8", seed=1), resolve("resnet8", seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), same.module.parameters(), strict=True))
    assert torch.equal(one.arguments[0], same.arguments[0])
    assert not torch.equal(one.arguments[0], other.arguments[0])
    assert not torch.equal(next(one.module.parameters()), next(other.module.parameters()))


def test_global_random_states_are_as_before() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    resolve("resnet8")
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        resolve("preresnet2O")


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run \(no experiment\.json\)"):
        resolve(str(tmp_path))
    with pytest.raises(UserError, match="no run folder"):
        resolve(str(tmp_path / "gone"))


def test_a_run_gives_its_weights_and_images_of_its_data(tmp_path: Path) -> None:
    from cleanpath.assemble import run
    from cleanpath.experiment import Data, Experiment, Training
    from cleanpath.nn import catalog

    network = catalog.network("preresnet8", in_channels=1, num_classes=10, width=4)
    experiment = Experiment(network=network, data=Data(), training=Training(iterations=1, batch_size=8))
    done = run(experiment, tmp_path / "run", threads=1)
    target = resolve(str(done.folder))
    held = weights.read(done.weights)
    assert all(torch.equal(value, held[name]) for name, value in target.module.state_dict().items())
    assert target.arguments[0].shape == (8, 1, 8, 8)
    assert "weights of weights.safetensors" in target.note

    content = bytearray(done.weights.read_bytes())
    content[-1] ^= 1
    done.weights.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        resolve(str(done.folder))


# --- --input


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("2x3x8x8", torch.float32, (2, 3, 8, 8)),
        ("1×4", torch.float32, (1, 4)),
        ("int64:1x5", torch.int64, (1, 5)),
        ("float64:4", torch.float64, (4,)),
        ("bfloat16:4", torch.bfloat16, (4,)),
        ("bool:1x2", torch.bool, (1, 2)),
        ("complex64:2x2", torch.complex64, (2, 2)),
    ],
)
def test_an_input_has_the_sizes_and_the_dtype_that_were_asked(
    factory: Path, text: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    target = resolve(f"{factory}:network", inputs=[text])
    assert (target.arguments[0].dtype, tuple(target.arguments[0].shape)) == (dtype, shape)


def test_named_inputs_are_keywords_in_any_number(factory: Path) -> None:
    target = resolve(f"{factory}:network", inputs=["1x4", "mask=bool:1x4", "ids=int64:1x4"])
    assert len(target.arguments) == 1
    assert set(target.keywords) == {"mask", "ids"}


@pytest.mark.parametrize("text", ["", "3by4", "1x", "x3", "int64", "1,3,8", "-1x3", "int64:", "a-b=1x3", "1.5x2"])
def test_a_wrong_input_is_answered_with_an_example(factory: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"--input 2x3x224x224"):
        resolve(f"{factory}:network", inputs=[text])


@pytest.mark.parametrize(
    ("text", "said"),
    [("int63:1x2", "no dtype 'int63'"), ("0x3", "at least 1"), ("99999x99999x99", "at most"), ("object:3", "no dtype")],
)
def test_an_input_that_cannot_be_is_refused(factory: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(f"{factory}:network", inputs=[text])


def test_an_input_that_the_network_does_not_take_is_refused_early() -> None:
    with pytest.raises(UserError, match=r"preresnet20 does not take 1×1×32×32"):
        resolve("preresnet20", inputs=["1x1x32x32"])


# --- libraries


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda _: None)
    for target in ("timm:resnet18", "torchvision:resnet18", "hf:bert"):
        with pytest.raises(UserError, match=r"pip install 'cleanpath\[models\]'"):
            resolve(target)


def test_timm_images_are_as_small_as_the_declaration_allows() -> None:
    pytest.importorskip("timm")
    assert resolve("timm:resnet18").arguments[0].shape == (2, 3, 64, 64)
    fixed = resolve("timm:vit_tiny_patch16_224")
    assert fixed.arguments[0].shape == (2, 3, 224, 224)
    with pytest.raises(UserError, match=r"does not take 1×3×64×64: Input height"):
        resolve("timm:vit_tiny_patch16_224", inputs=["1x3x64x64"])
    with pytest.raises(UnknownNameError, match="did you mean resnet18"):
        resolve("timm:resnet_18")


def test_a_timm_network_in_a_file_declares_its_images(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "mine.py"
    path.write_text("import timm\ndef net():\n    return timm.create_model('resnet10t')\n", encoding="utf-8")
    assert resolve(f"{path}:net").arguments[0].shape[:2] == (2, 3)


def test_torchvision_takes_images_clips_or_pairs() -> None:
    pytest.importorskip("torchvision")
    assert resolve("torchvision:squeezenet1_1").arguments[0].shape == (2, 3, 64, 64)
    assert resolve("torchvision:mc3_18").arguments[0].dim() == 5
    with pytest.raises(UnknownNameError, match="did you mean"):
        resolve("torchvision:resnet-18")


@pytest.mark.parametrize("name", ["bert", "BertConfig", "BertModel"])
def test_transformers_are_built_small_by_any_of_their_names(name: str) -> None:
    transformers: ModuleType = pytest.importorskip("transformers")
    target = resolve(f"hf:{name}")
    assert isinstance(target.module, transformers.BertModel)
    assert target.module.config.num_hidden_layers == 4
    ids = target.keywords["input_ids"]
    assert ids.dtype is torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < target.module.config.vocab_size
    assert sum(parameter.numel() for parameter in target.module.parameters()) < 1_000_000
    assert "small: widths ÷16, at most 4 layers, vocabulary 512" in target.note


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("t5", {"input_ids", "decoder_input_ids"}),
        ("whisper", {"input_features", "decoder_input_ids"}),
        ("vit", {"pixel_values"}),
        ("clip", {"input_ids", "pixel_values"}),
        ("wav2vec2", {"input_values"}),
        ("llava", {"input_ids", "pixel_values"}),
        ("mixtral", {"input_ids"}),
    ],
)
def test_transformers_get_what_their_configuration_declares(name: str, keys: set[str]) -> None:
    pytest.importorskip("transformers")
    target = resolve(f"hf:{name}")
    assert set(target.keywords) == keys
    forward(target)


def test_transformers_names_and_inputs_that_are_wrong_are_answered() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UnknownNameError, match="did you mean bert"):
        resolve("hf:bertt")
    with pytest.raises(UnknownNameError, match="BertModel"):
        resolve("hf:BertModle")
    target = resolve("hf:bert", inputs=["input_ids=int64:2x5"])
    assert target.keywords["input_ids"].shape == (2, 5)
    with pytest.raises(UserError, match="does not build small and run on the inputs given"):
        resolve("hf:bert", inputs=["nonsense=1x5"])


def test_a_saved_folder_of_transformers_is_taken_at_its_real_size(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small: Any = resolve("hf:bert", seed=3).module
    small.config.architectures = ["BertModel"]
    small.config.save_pretrained(tmp_path)
    save_file({name: value.contiguous() for name, value in small.state_dict().items()}, tmp_path / "model.safetensors")
    target = resolve(f"hf:{tmp_path}")
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in target.module.state_dict().items())
    assert "input_ids" in target.keywords


def test_no_library_is_imported_for_a_name_of_the_catalog() -> None:
    code = "import sys; from cleanpath.targets import resolve; resolve('resnet8')"
    code += "; print([*{'timm', 'transformers'} & {*sys.modules}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
