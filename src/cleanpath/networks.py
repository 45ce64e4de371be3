"""The network of an experiment: the paper's, another library's, or one that a user's file makes."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.errors import SettingError, UserError
from cleanpath.experiment import Foreign, Network
from cleanpath.nn import own, resnet
from cleanpath.targeting import factories, vision_models

_LIBRARIES = {"timm": vision_models.timm_model, "torchvision": vision_models.torchvision_model}


def build(of: Network | Foreign, *, seed: int) -> nn.Module:
    """The network with its weights at their start, laid out as it trains.

    The paper's draw from torch's global generator, which the caller has seeded; foreign ones from the seed alone.
    Raises `UserError` for what cannot be built.
    """
    if isinstance(of, Network):
        return resnet.build(of).to(memory_format=torch.channels_last)
    kind, _, name = of.target.rpartition(":")
    settings = {"num_classes": of.num_classes, "in_channels": of.in_channels}
    if kind in _LIBRARIES:
        module, _ = _LIBRARIES[kind](name, seed, **settings)
        # A user's own module may flatten by `view`, which only torch's usual layout allows.
        module = module.to(memory_format=torch.channels_last)
    else:
        if code_of(of.target) != of.code:
            raise UserError(f"{kind} has changed since the experiment was made; put it back, or train anew")
        module, _ = factories.build(kind, name, seed, **settings)
    return module


def foreign(target: str) -> Foreign | None:
    """What a target on the command line stands for if it is no name of the catalog. Raises `UserError`."""
    kind, colon, _ = target.rpartition(":")
    if kind in _LIBRARIES:
        return Foreign(target=target)
    if kind == "hf":
        raise UserError(f"{target}: its outputs are no logits; wrap it in a function: path/to/file.py:factory")
    if not colon:
        return None
    return Foreign(target=target, code=code_of(target))


def code_of(target: str) -> str:
    """The digest of the code of a factory's file; empty for libraries. Raises `UserError` if there is none."""
    path = Path(target.rpartition(":")[0])
    if path.suffix != ".py":
        return ""
    if not path.is_file():
        raise UserError(f"no file {path}; run from the folder that it was given from, or give path/to/file.py:factory")
    return own.digest(path.read_bytes())


def check_logits(network: nn.Module, few: Tensor, classes: int, *, training: bool = False) -> None:
    """Raise `SettingError` unless the network takes these images and gives logits of so many classes.

    In training mode the network's running averages move; its flags are as before afterwards.
    """
    flags = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits: Any = network.train(training)(few)
    except Exception as error:  # noqa: BLE001 (foreign code may fail in any way)
        said = f"{' '.join(str(error).split())[:200] or type(error).__name__}{own.place(error)}"
        size = "×".join(map(str, few.shape[1:]))
        raise SettingError(f"the network does not take images of {size}: {said}") from None
    finally:
        for module, flag in flags.items():
            module.training = flag
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(few), classes):
        found = "×".join(map(str, logits.shape)) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        mode = "in training mode " if training else ""
        raise SettingError(
            f"the network gives {found} {mode}for {len(few)} images; {len(few)}×{classes} is needed, logits of "
            f"{classes} classes"
        )
