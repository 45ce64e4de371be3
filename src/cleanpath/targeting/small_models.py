"""A transformers architecture by name, built small with random weights, and inputs that pass it.

Steps of `small_configs`, gentlest last, are tried until one builds and runs; what is tried is thrown away and the
network is built afresh.
"""

import contextlib
import inspect
import json
import logging
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.errors import UnknownNameError, UserError
from cleanpath.targeting import small_configs
from cleanpath.targeting.made_inputs import Maker, Named
from cleanpath.targeting.seeded import seeded

# More is not small, whatever the step.
MOST_PARAMETERS = 150_000_000
# Steps after which inputs that leave a modality out are good enough, and inputs that were given are refused.
_PATIENCE = 3
Call = tuple[tuple[Tensor, ...], Named]
Given = Callable[[nn.Module], Call]


def find(name: str) -> tuple[type, type]:
    """Configuration class and model class for a model type, a configuration class or a model class."""
    transformers: Any = import_module("transformers")

    if name in transformers.CONFIG_MAPPING:
        config_class: Any = transformers.CONFIG_MAPPING[name]
        return config_class, model_of(config_class)
    named: Any = getattr(transformers, name, None) if name.isidentifier() else None
    if _is_a(named, transformers.PreTrainedConfig):
        return named, model_of(named)
    if _is_a(named, transformers.PreTrainedModel) and named.config_class is not None:
        return named.config_class, named
    known = set(transformers.CONFIG_MAPPING)
    if name[:1].isupper():
        known |= {one for one in dir(transformers) if one.endswith(("Config", "Model"))}
    raise UnknownNameError("architecture of transformers", name, known)


def model_of(config_class: Any) -> type:
    """The barest model of a configuration class: the library's own base model, else the first that takes it."""
    kind: Any = import_module("transformers").PreTrainedModel
    modeling_auto: Any = import_module("transformers.models.auto.modeling_auto")

    tables = [name for name in dir(modeling_auto) if name.endswith("_MAPPING")]
    for table in ("MODEL_MAPPING", *tables):
        found = getattr(modeling_auto, table).get(config_class, None)
        if found is not None:
            first: type = found[0] if isinstance(found, tuple) else found
            return first
    package, _, own_file = config_class.__module__.rpartition(".")
    files = {own_file.replace("configuration_", "modeling_"): None}
    files |= dict.fromkeys(one.name for one in pkgutil.iter_modules(import_module(package).__path__))
    for home in (f"{package}.{file}" for file in files if file.startswith("modeling_")):
        with contextlib.suppress(ImportError):
            models: list[Any] = [
                one for one in vars(import_module(home)).values() if _is_a(one, kind) and one.__module__ == home
            ]
            own = [one for one in models if one.config_class is config_class and "forward" in vars(one)]
            if own:
                barest: type = min(own, key=lambda one: len(one.__name__))
                return barest
    raise UserError(f"transformers has no model for {config_class.__name__}; name a model class, such as hf:BertModel")


def build(config_class: Any, model_class: Any, *, seed: int, given: Given | None = None) -> tuple[nn.Module, Call, str]:
    """The small network, inputs that pass it, and what was shrunk.

    `given` makes the inputs for a model in place of made-up ones. Raises `UserError` if no step works.
    """
    reasons, best = [], None
    with quiet():
        for number, step in enumerate(small_configs.STEPS):
            if (best is not None or given is not None) and number > _PATIENCE:
                break
            try:
                config = config_class(**small_configs.arguments(config_class, step))
                _refuse_large(model_class, config)
                with seeded(seed):
                    probe = model_class(config)
            except Exception as error:  # noqa: BLE001 (foreign code: the next step is gentler)
                reasons.append(_said(error))
                continue
            call, rank, why = _passing(probe, seed, given)
            reasons.append(why)
            if call is not None and (best is None or rank < best[0]):
                best = rank, step, call
            if call is not None and rank == 0:
                break
        if best is not None:
            _, step, call = best
            with seeded(seed):
                # Afresh: a class may change the configuration that it is given, and a forward its module.
                module = model_class(config_class(**small_configs.arguments(config_class, step)))
            return module, call, f"random weights, small: {small_configs.described(config_class, step)}"
    what = "the inputs given" if given else "made-up inputs"
    refused = UserError(
        f"{model_class.__name__} does not build small and run on {what} ({reasons[0]}); "
        + ("change --input" if given else "write a factory and give path/to/file.py:factory with --input")
    )
    refused.add_note("\n".join(f"{step}: {reason}" for step, reason in zip(small_configs.STEPS, reasons, strict=False)))
    raise refused


def from_folder(folder: Path, seed: int, model_class: Any = None) -> nn.Module:
    """The network of a local folder with a config.json, at its real size, without its weights."""
    transformers: Any = import_module("transformers")

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no config.json; give a folder saved by save_pretrained")
    try:
        data = json.loads(path.read_bytes())
        model_type = data["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no configuration of transformers ({_said(error)})") from None
    if model_type not in transformers.CONFIG_MAPPING:
        raise UnknownNameError("model type", str(model_type), transformers.CONFIG_MAPPING)
    config_class: Any = transformers.CONFIG_MAPPING[model_type]
    if model_class is None:
        named = getattr(transformers, str((data.get("architectures") or [""])[0]), None)
        model_class = named if isinstance(named, type) else model_of(config_class)
    return full(config_class, model_class, seed, data)


def full(config_class: Any, model_class: Any, seed: int, data: Any = None) -> nn.Module:
    """The network of a configuration at its real size, for real weights."""
    try:
        with quiet(), seeded(seed):
            module: nn.Module = model_class(config_class(**(data or {})))
    except Exception as error:
        raise UserError(f"{model_class.__name__} cannot be built: {_said(error)}") from error
    return module


def inputs(module: nn.Module, seed: int) -> Call | None:
    """Inputs that pass a module with a transformers configuration; None if none are found."""
    with quiet():
        return _passing(module, seed, None)[0]


def _refuse_large(model_class: Any, config: Any) -> None:
    """Refuse what is too large before it takes memory; what the meta device cannot build is not counted."""
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in model_class(config).parameters())
    except Exception:  # noqa: BLE001 (foreign code; the real build follows)
        return
    if count > MOST_PARAMETERS:
        raise OverflowError(f"{count / 1e6:.0f} million parameters")


def _passing(model: Any, seed: int, given: Given | None) -> tuple[Call | None, int, str]:
    """The first inputs that a model takes, how much they leave out (0: nothing), and why the first were refused.

    In evaluation mode and without gradients.
    """
    reason = "no input is known for its forward"
    training = {one: one.training for one in model.modules()}
    model.eval()
    try:
        for number, (rank, (arguments, keywords)) in enumerate(_calls(model, seed, given)):
            try:
                with torch.no_grad(), seeded(seed):
                    copies = {name: value.clone() for name, value in keywords.items()}
                    output = model(*(value.clone() for value in arguments), **copies)
            except Exception as error:  # noqa: BLE001 (foreign code: the next inputs may fit)
                reason = _said(error) if number == 0 else reason
                continue
            if has_floats(output):
                return (arguments, keywords), rank, reason
            reason = "its output holds no floating tensor"
    except Exception as error:  # noqa: BLE001 (a configuration whose fields mean something else)
        reason = _said(error)
    finally:
        for one, flag in training.items():
            one.training = flag
    return None, 0, reason


def _calls(model: Any, seed: int, given: Given | None) -> Iterator[tuple[int, Call]]:
    if given is not None:
        yield 0, given(model)
        return
    for rank, named in Maker(model, model.config, torch.Generator().manual_seed(seed)).combinations():
        yield rank, ((), named)


def has_floats(value: Any) -> bool:
    """Whether there is a floating tensor anywhere in an output."""
    if isinstance(value, Tensor):
        return value.is_floating_point() and value.numel() > 0
    if isinstance(value, dict):
        return any(has_floats(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(has_floats(part) for part in value)
    return hasattr(value, "__dict__") and any(has_floats(part) for part in vars(value).values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a foreign library from writing warnings and reaching for the network."""
    library: Any = import_module("transformers.utils.logging")
    before, offline = library.get_verbosity(), os.environ.get("HF_HUB_OFFLINE")
    library.set_verbosity(logging.CRITICAL)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(before)
        if offline is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = offline


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


def _said(error: BaseException) -> str:
    """One line of what an exception says."""
    text = " ".join(str(error).split())
    short = text if len(text) <= 160 else f"{text[:157]}..."
    return f"{type(error).__name__}: {short}" if short else type(error).__name__


def takes_inputs(module: nn.Module) -> bool:
    """Whether a module declares its inputs the way transformers does."""
    return hasattr(getattr(module, "config", None), "model_type") and "main_input_name" in {
        name for one in inspect.getmro(type(module)) for name in vars(one)
    }
