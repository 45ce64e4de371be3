"""Whether a user's own units do in a network what their places ask for."""

import math

import torch
from torch import Tensor, nn

from cleanpath.errors import SettingError
from cleanpath.experiment import Network
from cleanpath.nn import catalog, own
from cleanpath.nn.resnet import ResNet


def check_units(of: Network, built: ResNet, images: Tensor) -> None:
    """Raise `SettingError` for a unit that gives another shape than its place asks for, or writes into its input."""
    shapes = [shape for stage in catalog.stages(of) for shape in stage]
    handles, begun = [], list[str]()
    for (name, unit), shape in zip(built.units().items(), shapes, strict=True):
        check = _Check(name, shape, begun)
        handles += [unit.register_forward_pre_hook(check.before), unit.register_forward_hook(check.behind)]
    try:
        built(images)
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(f"unit {begun[-1]} failed: {own.told(error)}") from error
    finally:
        for handle in handles:
            handle.remove()


class _Check:
    """Looks at one unit's input before, and at its input and output behind."""

    def __init__(self, name: str, shape: catalog.UnitShape, begun: list[str]) -> None:
        self._name, self._shape, self._begun, self._given = name, shape, begun, torch.empty(0)

    def before(self, unit: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG002
        """What goes in."""
        self._begun.append(self._name)
        self._given = inputs[0].detach().clone()

    def behind(self, unit: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:  # noqa: ARG002
        """What came of it."""
        given, shape = self._given, self._shape
        asked = (len(given), shape.out_channels, *(math.ceil(side / shape.stride) for side in given.shape[2:]))
        if not isinstance(output, Tensor) or tuple(output.shape) != asked:
            found = _times(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise SettingError(
                f"unit {self._name} makes {found} of {_times(given.shape)}; its place asks for {_times(asked)}, "
                "that is N×out_channels×⌈H/stride⌉×⌈W/stride⌉"
            )
        if not torch.equal(inputs[0], given):
            raise SettingError(
                f"unit {self._name} writes into its input, which changes h unseen; leave out inplace=True"
            )


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
