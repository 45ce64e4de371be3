"""Memory for time: of a chain of units only some inputs are kept, and the rest is computed again on the way back.

With n units whose inputs take b bytes and whose insides take a, segments of k units keep (n/k)·b + k·a, which is least
for k = √(n·b/a) (Chen et al. 2016). A unit of the paper keeps about twice its input on our own kernels: k = √(n/2).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _NormBase

from cleanpath import devices
from cleanpath.allocator import keep_what_is_freed
from cleanpath.errors import SettingError

_SMALL = 1 << 20
"""Bytes of a block that stays with the process in the first step, before the size of the signals is known."""

LEAST = 2
"""Members that are made of modules themselves, as units are, from which on a chain is cut into segments."""
_INSIDE = 2.0
"""What a unit keeps, in sizes of its input: a over b in the first lines. Of two layers on our own kernels; on torch's
it is more, and segments somewhat shorter would keep less."""

Run = Callable[[Sequence[nn.Module], Tensor], Tensor]


class Recompute:
    """Has a network compute the segments of its chains again in the backward pass; the same bits.

    BN's running statistics move once, in the first computation; random numbers are drawn again as they were.

    The first computation records no graph. Torch's own `checkpoint` records one without its tensors, whose small nodes
    lie among the large blocks; glibc then seldom gives a freed block to a request of the same size, and a process holds
    several times what is in use.

    On the processor freed blocks stay with the process (`allocator.py`), but for those of the size of the largest
    signal, between which gaps would be left: in the first step all but small ones go back, then that size is known.
    """

    def __init__(self, network: nn.Module) -> None:
        check(network)
        self._network, self._on_processor = network, devices.of(network).type == "cpu"
        self._largest, self._told = 0, False
        self._reading = set[tuple[nn.Module, ...]]()
        if self._on_processor:
            keep_what_is_freed(below=_SMALL)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """For one step: forward, and backward."""
        with in_segments(self._network, self._run):
            yield
        if self._on_processor and not self._told:
            keep_what_is_freed(below=max(_SMALL, self._largest))
            self._told = True

    def _run(self, members: Sequence[nn.Module], x: Tensor) -> Tensor:
        # Without an argument that asks for a gradient the function's parameters would get none.
        anchor = torch.empty(0, requires_grad=True)
        given = _Segment.apply(x, anchor, members, self._reading)
        found: Tensor = given[0] if isinstance(given, tuple) else given
        self._largest = max(self._largest, x.nbytes, found.nbytes)
        return found


class _Segment(Function):
    """Modules one after another, with only the input kept.

    Modules that write into their input, as an in-place ReLU in front does, give what it becomes as a second result, as
    they do where all is kept, and have a copy kept. Which do is known after a pass: `reading` has those that do not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        anchor: Tensor,  # noqa: ARG004
        members: Sequence[nn.Module],
        reading: set[tuple[nn.Module, ...]],
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.members, ctx.random = members, devices.random_state(x.device)
        ctx.autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        ctx.set_materialize_grads(False)
        buffers, reads, version = _Buffers(members), tuple(members) in reading, x._version  # noqa: SLF001
        kept = x if reads else x.clone()
        y = through(members, x)
        ctx.writes, ctx.buffers = x._version != version, buffers.moved()  # noqa: SLF001
        if not ctx.writes:
            reading.add(tuple(members))
            ctx.save_for_backward(x)
            return y
        learns = ctx.needs_input_grad[0]
        if reads or (learns and x._is_view()):  # noqa: SLF001
            raise SettingError(_written(members, "now, and did not before" if reads else "a view of something else"))
        ctx.save_for_backward(kept)
        if learns:
            ctx.mark_dirty(x)
        return (y, x) if learns and y is not x else y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("what is computed again has no second derivative; train with training.memory=plain")
        (kept,) = ctx.saved_tensors
        x = kept.detach().requires_grad_(ctx.needs_input_grad[0])
        enabled, dtype = ctx.autocast
        autocast = torch.autocast(x.device.type, dtype, enabled=enabled)
        with torch.enable_grad(), devices.forked(x.device), _on_copies(ctx.members, ctx.buffers), autocast:
            devices.set_random_state(ctx.random, x.device)
            given = x.clone() if ctx.writes else x
            y = through(ctx.members, given)
        # Nothing learns where neither the input nor a member does.
        both = [(one, dy) for one, dy in zip((y, given), gradients, strict=False) if dy is not None]
        if both := [(one, dy) for one, dy in both if one.requires_grad]:
            torch.autograd.backward([one for one, _ in both], [dy for _, dy in both])
        return x.grad, None, None, None


def _written(members: Sequence[nn.Module], what: str) -> str:
    kinds = ", ".join(dict.fromkeys(type(member).__name__ for member in members))
    return (
        f"training.memory=recompute: one of the modules {kinds} writes into its input, {what}; "
        "give it x.clone(), or inplace=False, or train with training.memory=plain"
    )


@contextmanager
def in_segments(network: nn.Module, run: Run) -> Iterator[None]:
    """While it lasts, `run` runs the segments of every chain."""
    found = chains(network)
    for chain in found:
        chain.forward = partial(_forward, segments(list(chain)), run)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for chain in found:
            del chain.forward  # what the class has comes back


def chains(network: nn.Module) -> list[nn.Sequential]:
    """The outermost `nn.Sequential`s of enough units; one with such a member, as of stages, is looked into.

    A unit is whatever is made of modules itself.
    """
    found, waiting = list[nn.Sequential](), [network]
    while waiting:
        module = waiting.pop(0)
        members = list(module.children())
        units = [member for member in members if any(True for _ in member.children())]
        if module in found:
            continue  # it stands at two places
        if isinstance(module, nn.Sequential) and len(units) >= LEAST and not any(map(_of_units, units)):
            found.append(module)
        else:
            waiting = [*members, *waiting]
    return found


def _of_units(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and any(any(True for _ in member.children()) for member in module)


def check(network: nn.Module) -> None:
    """Raise `SettingError` if there is nothing that could be computed again."""
    if not chains(network):
        raise SettingError(
            f"training.memory=recompute needs an nn.Sequential of at least {LEAST} units, and the network has none; "
            "leave it out, or put its units into one"
        )


def segments(members: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Neighbours in groups whose sizes differ by one at most."""
    count = math.ceil(len(members) / max(1, round(math.sqrt(len(members) / _INSIDE))))
    ends = [len(members) * number // count for number in range(count + 1)]
    return [list(members[start:end]) for start, end in pairwise(ends)]


def through(members: Sequence[nn.Module], x: Tensor) -> Tensor:
    """One after another."""
    for member in members:
        x = member(x)
    return x


def _forward(parts: Sequence[Sequence[nn.Module]], run: Run, x: Tensor) -> Tensor:
    for part in parts:
        x = run(part, x)
    return x


def _named(members: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for member in members:
        for module in member.modules():
            for name, buffer in module.named_buffers(recurse=False):
                yield module, name, buffer


class _Buffers:
    """What the buffers of modules held before a pass: of those on which the pass depends and which it moves.

    Running statistics are moved as well, and no pass in training mode looks at them.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self._members = members
        self._before = {
            (module, name): buffer.clone()
            for module, name, buffer in _named(members)
            if not isinstance(module, _NormBase)
        }

    def moved(self) -> Mapping[tuple[nn.Module, str], Tensor]:
        """Those that are another now, as of a spectral norm's power iteration."""
        now = {(module, name): buffer for module, name, buffer in _named(self._members)}
        return {key: before for key, before in self._before.items() if not torch.equal(before, now[key])}


@contextmanager
def _on_copies(members: Sequence[nn.Module], before: Mapping[tuple[nn.Module, str], Tensor]) -> Iterator[None]:
    """Let a pass write into copies of the buffers, which are dropped: they have moved in the first computation."""
    found = list(_named(members))
    for module, name, buffer in found:
        setattr(module, name, before.get((module, name), buffer).clone())
    try:
        yield
    finally:
        for module, name, buffer in found:
            setattr(module, name, buffer)
