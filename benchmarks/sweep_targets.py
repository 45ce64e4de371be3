"""What the sweep audits: the smallest variant of each family of timm and torchvision, and every transformers type.

    python -m benchmarks.sweep_targets          write results/audit-sweep-targets.txt

Variants are sized on the meta device, which takes minutes for timm's 1,371 networks; so the list is kept.
"""

import inspect
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import timm
import torch
import torchvision
from torch import nn
from transformers.models.auto import configuration_auto

from benchmarks.recorded import FOLDER

LIST = FOLDER / "audit-sweep-targets.txt"
MOST_PARAMETERS = 100_000_000
_TYPES: dict[str, str] = vars(configuration_auto)["CONFIG_MAPPING_NAMES"]


def main() -> None:
    """Write the list, in an order in which every beginning is a fair sample."""
    found = [*timm_targets(), *torchvision_targets(), *transformers_targets()]
    LIST.write_text("".join(f"{target}\n" for target in sorted(found, key=_shuffled)), encoding="utf-8")
    print(f"{len(found)} targets in {LIST}")


def _shuffled(target: str) -> int:
    return zlib.crc32(target.encode())


def timm_targets() -> Iterator[str]:
    """The smallest variant of each of timm's model modules."""
    for module in timm.list_modules():
        names = timm.list_models(module=module, exclude_filters="test_*")  # those are no one's networks
        yield from _smallest("timm", names, lambda name: timm.create_model(name, pretrained=False))


def torchvision_targets() -> Iterator[str]:
    """The smallest variant of each file of torchvision's models."""
    families = defaultdict[str, list[str]](list)
    for name in torchvision.models.list_models():
        families[torchvision.models.get_model_builder(name).__module__].append(name)
    for names in families.values():
        yield from _smallest("torchvision", names, _of_torchvision)


def transformers_targets() -> Iterator[str]:
    """One type per configuration class of transformers; which of them build small, the sweep finds out."""
    met = set[str]()
    for kind, configuration in _TYPES.items():
        if configuration not in met:
            met.add(configuration)
            yield f"hf:{kind}"


def _of_torchvision(name: str) -> nn.Module:
    settings: dict[str, None] = {"weights": None}
    if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters:
        settings["weights_backbone"] = None
    model: nn.Module = torchvision.models.get_model(name, **settings)
    return model


def _smallest(library: str, names: Iterable[str], build: Callable[[str], nn.Module]) -> Iterator[str]:
    sizes = {name: size for name in names if (size := _parameters(build, name)) is not None}
    least = min(sizes, key=lambda name: (sizes[name], name), default=None)
    if least is not None and sizes[least] <= MOST_PARAMETERS:
        yield f"{library}:{least}"


def _parameters(build: Callable[[str], nn.Module], name: str) -> int | None:
    """The size of a network that takes no memory; None where the meta device cannot build it."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(parameter.numel() for parameter in build(name).parameters())
    except Exception:  # noqa: BLE001 (foreign code)
        return None


if __name__ == "__main__":
    main()
