"""BN over groups of a batch, as on several cards, and the same over several processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cleanpath.errors import SettingError
from cleanpath.experiment import Training
from cleanpath.training.ranks import ALONE, Ranks


class BnGroups:
    """Has every BN of a network take its statistics in training over `bn_group` images, or over the micro-batch.

    The running statistics follow all groups one after another, wherever they are: n processes come to those of one.
    Without `bn_group` several processes take the statistics over the micro-batch together (synchronised BN).

    Deviations: cards keep the running statistics of the first one's groups.
    """

    def __init__(self, network: nn.Module, training: Training, ranks: Ranks = ALONE) -> None:
        self._ranks, self._share = ranks, ranks.share(training)
        self._micro, self._size = training.batch_size // training.accumulation, training.bn_group
        self._norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._before: tuple[list[_BatchNorm], Tensor, Tensor] | None = None
        self._classes: dict[type[_BatchNorm], type[_BatchNorm]] = {}
        kinds = {type(norm) for norm in self._norms}
        if self._size is not None:
            self._classes = {kind: _in_groups(kind, self._size) for kind in kinds}
        elif ranks.count > 1:
            _check_plain(self._norms)
            self._classes = {kind: _kind(kind, self._together) for kind in kinds}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """For one step, in which each BN is of a class that has this forward pass.

        A class and not an attribute: compiled units are alike then, and are compiled once.
        """
        before = {norm: type(norm) for norm in self._norms if self._classes}
        for norm, kind in before.items():
            norm.__class__ = self._classes[kind]
        try:
            yield
        finally:
            for norm, kind in before.items():
                norm.__class__ = kind

    def remember(self) -> None:
        """Before a micro-batch passes, on each of several ranks."""
        moving = [norm for norm in self._norms if norm.training and norm.running_mean is not None]
        if self._ranks.count == 1 or self._size is None or not moving:
            return
        if any(norm.momentum is None for norm in moving):
            raise SettingError("a BN with momentum=None cannot be trained by several processes; give it a momentum")
        counts = torch.stack([norm.num_batches_tracked for norm in moving])  # type: ignore[misc]
        self._before = moving, _running(moving), counts

    def agree(self) -> None:
        """Behind the way back of a micro-batch, for which BN keeps its statistics: those of all ranks."""
        if self._before is None:
            return
        assert self._size is not None
        moving, before, counts = self._before
        moved = torch.stack([norm.num_batches_tracked for norm in moving]) - counts  # type: ignore[misc]
        kept = torch.cat(
            [
                torch.full((2 * n.num_features,), 1 - (n.momentum or 0.0), dtype=before.dtype, device=before.device)
                for n in moving
            ]
        )
        every = self._micro // self._size
        own, behind = len(self._share) // self._size, every - self._share.stop // self._size
        if not all(int(number) in (0, own) for number in moved):
            raise SettingError(
                "a BN is used more than once in a pass, and its running statistics cannot be those of one process; "
                "leave training.bn_group out, or train with one process"
            )
        used = torch.cat(
            [
                torch.full((2 * n.num_features,), bool(m), device=before.device)
                for n, m in zip(moving, moved, strict=True)
            ]
        )
        # One after another: r ← kept·r + (1 − kept)·s for each group's s. What this rank's groups add is what is left
        # without r, shrunk by the groups behind.
        added = (_running(moving) - kept.pow(own) * before) * kept.pow(behind)
        found = torch.where(used, kept.pow(every) * before + self._ranks.total(added), before)
        _set_running(moving, found)
        for norm, count, number in zip(moving, counts, moved, strict=True):
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.copy_(count + (every if number else 0))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _together(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        """Synchronised BN: mean and variance over the micro-batch of all ranks."""
        if not norm.training:
            return _BatchNorm.forward(norm, x)
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        given, x = x.dtype, x if x.dtype == torch.float64 else x.float()
        # What is not images (positions, time) has the same length on every rank.
        count = x.numel() // x.shape[1] * self._micro / len(self._share)
        mean = self._ranks.total(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = self._ranks.total(centred.square().sum(dims)) / count
        if norm.running_mean is not None and norm.running_var is not None:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.add_(1)
            weight = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), weight)
            norm.running_var.lerp_((variance.detach() * count / (count - 1)).to(norm.running_var.dtype), weight)
        y = centred * torch.rsqrt(variance + norm.eps).view(shape)
        if norm.weight is not None:
            y = y * norm.weight.view(shape) + norm.bias.view(shape)
        return y.to(given)


def _in_groups(kind: type[_BatchNorm], size: int) -> type[_BatchNorm]:
    def forward(norm: _BatchNorm, x: Tensor) -> Tensor:
        if not norm.training or len(x) <= size:
            return kind.forward(norm, x)
        return torch.cat([kind.forward(norm, part) for part in torch.split(x, size)])

    return _kind(kind, forward)


def _kind(kind: type[_BatchNorm], forward: Callable[[_BatchNorm, Tensor], Tensor]) -> type[_BatchNorm]:
    def passed(norm: _BatchNorm, x: Tensor) -> Tensor:  # a bound method would not be given the norm
        return forward(norm, x)

    return type(kind.__name__, (kind,), {"forward": passed})


def _check_plain(norms: list[_BatchNorm]) -> None:
    """Raise `SettingError` for a BN with a forward pass of its own, as timm's with an activation in it."""
    for norm in norms:
        if type(norm).forward is not _BatchNorm.forward:
            raise SettingError(
                f"several processes cannot take the statistics of a {type(norm).__name__} together; "
                "set training.bn_group to the images over which each takes its own"
            )


def _running(norms: list[_BatchNorm]) -> Tensor:
    return torch.cat([t for n in norms for t in (n.running_mean, n.running_var) if t is not None])


def _set_running(norms: list[_BatchNorm], values: Tensor) -> None:
    start = 0
    for norm in norms:
        for buffer in (norm.running_mean, norm.running_var):
            assert buffer is not None
            buffer.copy_(values[start : start + len(buffer)])
            start += len(buffer)
