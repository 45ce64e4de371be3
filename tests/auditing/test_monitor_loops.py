"""The monitor inside the loops of others: Lightning, transformers' Trainer, accelerate."""

# mypy: disable-error-code="no-any-return, no-untyped-call, misc"
# torch types the call of a module as Any; the packages are typed in part.

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import pytest
import pytorch_lightning as lightning
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import cleanpath
from cleanpath.auditing.monitoring import Monitor

STEPS = 6
Loop = Callable[[nn.Module, AbstractContextManager[Any], Path], Any]


class Images(Dataset[dict[str, Tensor]]):
    """Random images with labels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(4 * STEPS, 3, 8, 8, generator=generator)
        self.labels = torch.randint(10, (4 * STEPS,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class Lit(lightning.LightningModule):
    """A module of Lightning whose network is `net`; two batches make a step."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["inputs"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], _index: int) -> None:
        self.net(batch["inputs"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def with_lightning(net: nn.Module, watched: AbstractContextManager[Any], folder: Path) -> Any:
    """Three optimizer steps of two batches, gradients clipped, a validation before and after."""
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with watched as monitor:
        trainer.fit(Lit(net), DataLoader(Images(), 4), DataLoader(Images(), 8))
    return monitor


def with_accelerate(net: nn.Module, watched: AbstractContextManager[Any], _folder: Path) -> Any:
    """bfloat16, two batches for a step, gradients clipped."""
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    prepared, optimizer, loader = accelerator.prepare(net, optimizer, DataLoader(Images(), 4))
    with watched as monitor:
        for batch in loader:
            with accelerator.accumulate(prepared):
                loss = nn.functional.cross_entropy(prepared(batch["inputs"]), batch["labels"])
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(prepared.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    return monitor


def weights(net: nn.Module) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in net.state_dict().items()}


def twice(loop: Loop, net: nn.Module, folder: Path, every: int) -> tuple[nn.Module, Monitor]:
    """The loop without and with a monitor from one start: both must end at the same weights, and not at the start."""
    start, watched = weights(net), copy.deepcopy(net)
    for model, context in ((net, nullcontext()), (watched, cleanpath.monitor(watched, every=every))):
        lightning.seed_everything(1, verbose=False)
        monitor = loop(model, context, folder)
    assert weights(net) == weights(watched)
    assert weights(net) != start
    assert not watched._forward_hooks
    assert not watched._forward_pre_hooks
    return watched, monitor


def complete(monitor: Monitor, steps: list[int], units: int) -> None:
    assert sorted(monitor.profiles) == steps
    for profile in monitor.profiles.values():
        assert len(profile.units) == units
        assert profile.network.gradient_norm
        for unit in profile.units:
            found = unit.measurements
            assert None not in (found.forward_gain, found.gradient_rms, found.backward_gain, found.direct_gain)
        assert profile.not_seen == ()


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_lightning(tmp_path: Path) -> None:
    _, monitor = twice(with_lightning, cleanpath.build("preresnet20", width=4), tmp_path, every=4)
    complete(monitor, [0, 4], 9)


def test_accelerate(tmp_path: Path) -> None:
    _, monitor = twice(with_accelerate, cleanpath.build("resnet20", width=4), tmp_path, every=5)
    complete(monitor, [0, 5], 9)


class Sentences(Dataset[dict[str, Tensor]]):
    """Random token ids that a language model is to predict."""

    def __init__(self) -> None:
        self.ids = torch.randint(40, (4 * STEPS, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_trainer_of_transformers(checkpointed: bool, tmp_path: Path) -> None:  # noqa: FBT001
    def loop(net: nn.Module, watched: AbstractContextManager[Any], folder: Path) -> Any:
        settings = transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model=net, args=settings, train_dataset=Sentences())
        with watched as monitor:
            trainer.train()
        return monitor

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    )
    net = transformers.GPT2LMHeadModel(config)
    if checkpointed:
        net.gradient_checkpointing_enable({"use_reentrant": False})
    _, monitor = twice(loop, net, tmp_path, every=2)
    complete(monitor, [0, 2, 4], 4)
    assert all(profile.network.loss for profile in monitor.profiles.values())
