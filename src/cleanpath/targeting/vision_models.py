"""Networks of timm and torchvision by name, with images of the least size that they pass.

Sizes are tried on the meta device, where a network costs neither memory nor time.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.errors import UnknownNameError, UserError
from cleanpath.machine import free_memory
from cleanpath.targeting.seeded import seeded

BATCH = 2
_SMALL = (64, 128)
Shape = tuple[int, ...]
Inputs = tuple[Any, ...]


def timm_model(
    name: str, seed: int, *, num_classes: int | None = None, in_channels: int | None = None
) -> tuple[nn.Module, Iterator[Inputs]]:
    """A network of timm with random weights, and inputs that its default configuration allows, smallest first."""
    timm: Any = import_module("timm")

    if not timm.is_model(name):
        raise UnknownNameError("model of timm", name, timm.list_models())
    asked = {
        key: value for key, value in (("num_classes", num_classes), ("in_chans", in_channels)) if value is not None
    }
    module = _built(lambda: timm.create_model(name, pretrained=False, **asked), f"timm:{name}", seed)
    return module, declared(module, seed) or iter(())


def torchvision_model(
    name: str, seed: int, *, num_classes: int | None = None, in_channels: int | None = None
) -> tuple[nn.Module, Iterator[Inputs]]:
    """A network of torchvision with random weights, and inputs that it may take, smallest first.

    All of them take three channels. Raises `UserError` for others.
    """
    if in_channels not in {None, 3}:
        raise UserError(
            f"torchvision:{name} takes images of 3 channels, not of {in_channels}; timm:{name} may take them"
        )
    models: Any = import_module("torchvision").models

    if name not in models.list_models():
        raise UnknownNameError("model of torchvision", name, models.list_models())
    settings: dict[str, Any] = {"weights": None} | ({} if num_classes is None else {"num_classes": num_classes})
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        settings["weights_backbone"] = None
    module = _built(lambda: models.get_model(name, **settings), f"torchvision:{name}", seed)
    return module, _torchvision_inputs(name, seed)


def declared(module: nn.Module, seed: int) -> Iterator[Inputs] | None:
    """Images as a module's default configuration (timm's form) declares them; None if it has none."""
    declaration = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not isinstance(declaration, Mapping) or not declaration.get("input_size"):
        return None
    channels, *sides = declaration["input_size"]
    sizes: list[Shape] = []
    if not declaration.get("fixed_input_size"):
        least = declaration.get("min_input_size")
        sizes = [tuple(least[1:])] if least else [(side, side) for side in _SMALL]
    sizes = [size for size in sizes if all(a <= b for a, b in zip(size, sides, strict=True))]
    return _images([(BATCH, channels, *size) for size in [*sizes, tuple(sides)]], seed)


def first_passing(module: nn.Module, candidates: Iterable[Inputs], said: str) -> Inputs:
    """The first inputs that pass a network, tried on the meta device; on the processor if none passes there."""
    tried = list(candidates)
    reason = "nothing declares its inputs"
    for device in ("meta", "cpu"):
        with _copied(module, device) as twin:
            for inputs in tried if twin is not None else ():
                try:
                    with torch.no_grad(), torch.device(device), seeded(0):
                        twin(*_moved(inputs, device))
                except Exception as error:  # noqa: BLE001 (foreign code: the next size may fit)
                    reason = " ".join(str(error).split())[:200] or type(error).__name__
                else:
                    return inputs
    raise UserError(f"{said} passes no inputs that were tried ({reason}); say them: --input 1x3x224x224")


def check(module: nn.Module, inputs: Inputs, keywords: Mapping[str, Tensor], said: str) -> None:
    """Raise if a network refuses the user's inputs; one that cannot run on the meta device is not asked."""
    with _copied(module, "meta") as twin:
        if twin is None:
            return
        try:
            with torch.no_grad(), torch.device("meta"):
                twin(*_moved(inputs, "meta"), **{name: value.to("meta") for name, value in keywords.items()})
        except NotImplementedError:
            return
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
            shapes = ", ".join("×".join(map(str, one.shape)) for one in [*inputs, *keywords.values()])
            text = " ".join(str(error).split())[:200] or type(error).__name__
            if "meta" in text or ".item()" in text:
                return
            raise UserError(f"{said} does not take {shapes}: {text}") from None


def _built(build: Callable[[], nn.Module], said: str, seed: int) -> nn.Module:
    """Build a network, after a look at its size on the meta device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed = 0
        try:
            with torch.device("meta"), seeded(seed):
                shadow = build()
            needed = sum(value.numel() * value.element_size() for value in shadow.state_dict().values())
        except Exception:  # noqa: BLE001, S110 (foreign code that the meta device cannot build is not sized)
            pass
        free = free_memory()
        if free is not None and needed > free:
            raise UserError(f"{said} needs {needed / 2**30:.1f} GiB for its weights; {free / 2**30:.1f} GiB are free")
        try:
            with seeded(seed):
                return build()
        except Exception as error:
            raise UserError(f"{said} cannot be built: {' '.join(str(error).split())[:200]}") from error


def _torchvision_inputs(name: str, seed: int) -> Iterator[Inputs]:
    """Images, clips, a list of images, a pair of images: a name does not say which one its network takes."""
    models: Any = import_module("torchvision").models

    side, least = 224, 1
    try:
        default = models.get_model_weights(name)["DEFAULT"]
        least = max(default.meta.get("min_size", (1,)))
        crop = getattr(default.transforms(), "crop_size", [side])
        side = crop if isinstance(crop, int) else max(crop)
    except (ValueError, KeyError, AttributeError):
        pass  # no weights, no declaration
    sizes = [*(size for size in _SMALL if least <= size < side), side]
    yield from _images([(BATCH, 3, size, size) for size in sizes], seed)
    yield from _images([(BATCH, 3, frames, size, size) for frames, size in ((4, 32), (8, 112), (16, 224))], seed)
    for (clip,) in _images([(3, 128, 128)], seed):
        yield ([clip],)
    for (pair,) in _images([(2, 1, 3, 128, 128)], seed):
        yield (pair[0], pair[1])


def _images(shapes: Iterable[Shape], seed: int) -> Iterator[Inputs]:
    for shape in shapes:
        yield (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)),)


@contextmanager
def _copied(module: nn.Module, device: str) -> Iterator[Any]:
    """A copy to try things on, in evaluation mode; None if there can be none."""
    try:
        # A deep copy to meta takes no memory: every tensor is replaced by its shadow while it is copied.
        memo: dict[int, Any] = {}
        if device == "meta":
            for value in [*module.parameters(), *module.buffers()]:
                shadow = value.detach().to("meta")
                memo[id(value)] = (
                    nn.Parameter(shadow, value.requires_grad) if isinstance(value, nn.Parameter) else shadow
                )
        copied = copy.deepcopy(module, memo).eval()
    except Exception:  # noqa: BLE001 (foreign code may refuse to be copied)
        copied = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield copied


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return type(value)(_moved(part, device) for part in value)
