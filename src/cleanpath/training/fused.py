"""Which kernels a network is trained and tested on: torch's, or ours where it has norm, ReLU and convolution.

Ours (`cleanpath.fast`) join BN, ReLU and the convolution behind them, or what there is of these, where they stand one
after another in an `nn.Sequential`. They are for steps and tests on the processor in fp32 whose signals are laid out
in channels_last; all else is computed by torch's: other layers, what is in eval mode and asks for gradients, and, for
as long as it lasts, whatever somebody watches by a hook or by one of torch's modes, so that who watches sees every
operation. So are layers that stand beside units in a row that `recompute.py` would cut into segments: a run may go on
with the other value of training.memory, and its bits are the same.

By what a training asks for:

    memory=recompute            ours, in both computations of a unit: the bits of a run without it
    bn_group, several processes torch's: statistics over other images than a kernel of ours sees
    precision other than fp32   torch's
    compile                     torch's: compiled units have their operations joined already
    a GPU                       torch's
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack, _len_torch_function_stack  # type: ignore[attr-defined]
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _len_torch_dispatch_stack  # type: ignore[attr-defined]

from cleanpath.errors import SettingError
from cleanpath.experiment import Training
from cleanpath.fast.joined import Applied, can_convolve, can_take, is_open, joined, window_of
from cleanpath.fast.library import NoLibraryError, library
from cleanpath.training.recompute import chains
from cleanpath.training.watched import hooks_of

AUTO, FUSED = "auto", "fused"


@dataclass(frozen=True)
class Kernels:
    """What networks are trained and tested on: decided once, and the same to a run's end."""

    digest: str = ""
    """Of the library of ours; empty for torch's own."""

    def __str__(self) -> str:
        """As a run records it: `plain`, or `fused` and the digest."""
        return f"{FUSED} {self.digest}" if self.digest else "plain"

    def of(self, network: nn.Module) -> Callable[[], AbstractContextManager[None]]:
        """What has the steps and tests of a network run on them, each while it lasts."""
        return Fused(network) if self.digest else nullcontext

    def fitting(self, network: nn.Module) -> "Kernels":
        """These, or torch's for a network with none of the layers of ours: its bits are the same on every machine."""
        return self if self.digest and Fused(network).groups else PLAIN


PLAIN = Kernels()


def chosen(asked: str, training: Training, device: torch.device, *, threads: int, processes: int = 1) -> Kernels:
    """What a training runs on. `asked` is `auto`, `plain` or `fused`.

    Raises `SettingError` where `fused` cannot be had.
    """
    if asked not in (AUTO, str(PLAIN), FUSED):
        raise SettingError(f"no kernels '{asked}'; give auto, plain or fused")
    if asked == str(PLAIN):
        return PLAIN
    try:
        _check(training, device, processes)
        return Kernels(library(threads).digest)
    except NoLibraryError as error:
        if asked == FUSED:
            raise SettingError(f"no fused kernels: {error}; or take --kernels plain") from None
        return PLAIN


def _check(training: Training, device: torch.device, processes: int) -> None:
    asked = {
        f"device {device}": device.type != "cpu",
        f"training.precision={training.precision}": training.precision != "fp32",
        "training.compile": training.compile,
        "training.bn_group": training.bn_group is not None,
        f"{processes} processes": processes > 1,
    }
    if words := next((words for words, is_asked in asked.items() if is_asked), None):
        raise NoLibraryError(f"they do not go with {words}")


class Fused:
    """Has the steps and tests of a network run on our kernels where these have its layers."""

    def __init__(self, network: nn.Module) -> None:
        cut = chains(network)
        plain = (module for module in network.modules() if _is_plain(module, nn.Sequential) and module not in cut)
        rows = {module: _parts(module) for module in plain}
        self._rows = {row: parts for row, parts in rows.items() if any(isinstance(each, Group) for each in parts)}
        self._members = {row: _members(row) for row in self._rows}
        self._kind = _sequential(self._rows)

    @property
    def groups(self) -> int:
        """How many places there are for our kernels."""
        return sum(isinstance(each, Group) for parts in self._rows.values() for each in parts)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """For one step, forward and backward, or one test, in which weights and statistics stay as they are."""
        try:
            for row, before in self._members.items():
                if (now := _members(row)) != before:  # somebody put in another layer, or another forward pass
                    self._rows[row], self._members[row] = _parts(row), now
                row.__class__ = self._kind
            yield
        finally:
            for row, parts in self._rows.items():
                row.__class__ = nn.Sequential
                for part in parts:
                    if isinstance(part, Group):
                        part.forget()


class Group:
    """BN, ReLU and convolution, or what there is of them, as one operation if all is as it needs it."""

    def __init__(self, norm: nn.BatchNorm2d | None, relu: nn.ReLU | None, conv: nn.Conv2d | None) -> None:
        self.norm, self.relu, self.conv = norm, relu, conv
        self.members = [each for each in (norm, relu, conv) if each is not None]
        self._window = None if conv is None else window_of(conv)
        self._channels = norm.num_features if norm is not None else conv.in_channels if conv is not None else 0
        self._fits = conv is None or self._channels == conv.in_channels
        self._kinds, self._looks = [type(each) for each in self.members], _looks(conv)
        self._hooks = hooks_of(self.members)
        self._applied: Applied | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if not (self._is_ours() and can_take(x, self._window, channels=self._channels)):
            for member in self.members:
                x = member(x)
            return x
        if self.members[0].training:
            return joined(x, self.norm, self.conv, self._window, relu=self.relu is not None)
        if self._applied is None:
            self._applied = Applied(self.norm, self.conv, self._window, relu=self.relu is not None)
        return self._applied(x)

    def forget(self) -> None:
        """Weights and statistics may change now."""
        self._applied = None

    def _is_ours(self) -> bool:
        """Whether our kernels do here what the modules would, and nobody looks at these one by one."""
        if any(self._hooks) or _is_looked_at() or torch.is_autocast_enabled("cpu") or not self._as_built():
            return False
        norm, training = self.norm, self.members[0].training
        if not training and torch.is_grad_enabled():
            return False
        return norm is None or (norm.momentum is not None if training else norm.running_mean is not None)

    def _as_built(self) -> bool:
        """Whether the layers still look as they did, and our kernels can read all values where these lie."""
        norm, conv = self.norm, self.conv
        if not self._fits or [type(each) for each in self.members] != self._kinds or _looks(conv) != self._looks:
            return False  # a BN that groups or ranks have made another is none of ours
        if conv is not None and not is_open(conv.weight):
            return False
        return norm is None or _is_open(norm, self._channels)


def _looks(conv: nn.Conv2d | None) -> tuple[object, ...]:
    """How a convolution sees its input."""
    if conv is None:
        return ()
    settings = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return *settings, conv.bias is None, conv.weight.shape


def _is_open(norm: nn.BatchNorm2d, channels: int) -> bool:
    """Whether weights and statistics are one number after another, one for each channel; both statistics or none."""
    values = norm.weight, norm.bias, norm.running_mean, norm.running_var
    count = norm.num_batches_tracked
    return (
        all(each is None or (is_open(each) and each.shape == (channels,) and each.is_contiguous()) for each in values)
        and (norm.running_mean is None) == (norm.running_var is None)
        and (count is None or (count.dtype == torch.int64 and count.is_cpu))
    )


def _is_looked_at() -> bool:
    """Whether torch does more with an operation now than to carry it out: a mode, a derivative forward, a `vmap`.

    A default device, which is a mode too, only says where tensors begin.
    """
    if _len_torch_dispatch_stack() or _are_functorch_transforms_active() or forward_ad._current_level >= 0:  # noqa: SLF001
        return True
    if not _len_torch_function_stack():
        return False
    return any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _sequential(rows: Mapping[nn.Module, Sequence[Callable[[Tensor], Tensor]]]) -> type[nn.Sequential]:
    """A class and not an attribute, as for the groups of BN: the modules stay what they are."""

    def forward(self: nn.Sequential, x: Tensor) -> Tensor:
        parts = rows.get(self)
        if parts is None:  # a slice or a copy, which is made of the same class
            return cast(Tensor, nn.Sequential.forward(self, x))  # type: ignore[no-untyped-call]
        for part in parts:
            x = part(x)
        return x

    def reduced(self: nn.Sequential, protocol: Any) -> tuple[Any, ...]:
        found: Any = nn.Sequential.__reduce_ex__(self, protocol)
        return nn.Sequential, (), *found[2:]  # what is copied or pickled within a step is a plain one

    return type("Sequential", (nn.Sequential,), {"forward": forward, "__reduce_ex__": reduced})


def _parts(row: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """The modules of a row, with what our kernels have joined."""
    # Not `children`, which leave out a module that stands there again.
    found, waiting = list[Callable[[Tensor], Tensor]](), [each for each in row._modules.values() if each is not None]  # noqa: SLF001
    while waiting:
        norm = waiting.pop(0) if _is_plain(waiting[0], nn.BatchNorm2d) else None
        relu = waiting.pop(0) if norm is not None and waiting and _is_plain(waiting[0], nn.ReLU) else None
        ours = waiting and _is_plain(waiting[0], nn.Conv2d) and can_convolve(waiting[0])  # type: ignore[arg-type]
        if norm is not None or ours:
            found.append(Group(norm, relu, waiting.pop(0) if ours else None))  # type: ignore[arg-type]
        else:
            found.append(waiting.pop(0))
    return found


def _members(row: nn.Module) -> list[tuple[nn.Module | None, bool]]:
    """What a row is made of, and which of that has a forward pass of its own."""
    return [(each, "forward" in vars(each)) for each in row._modules.values()]  # noqa: SLF001


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of torch's class itself, with the forward pass of that."""
    return type(module) is kind and "forward" not in vars(module)
