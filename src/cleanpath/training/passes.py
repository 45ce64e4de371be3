"""How the two passes of a step are made: kernels, precision, BN's groups, memory, compilation, and with other ranks."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cleanpath import devices
from cleanpath.allocator import keep_what_is_freed
from cleanpath.errors import SettingError
from cleanpath.experiment import Training
from cleanpath.kernels import sound
from cleanpath.training.fused import PLAIN, Kernels
from cleanpath.training.grouped import BnGroups
from cleanpath.training.ranks import ALONE, Ranks
from cleanpath.training.recompute import Recompute

_COMPILED = {"recompile_limit": 100, "fail_on_recompile_limit_hit": True}
"""Units of one class share their code, and each width, stride and mode is compiled for itself; else torch would go back
to plain passes without a word."""

_NAMED = 3
"""Weights without a gradient that a message names; "…" stands for the others."""

_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the second until torch 2.13
    if name in inspect.signature(DistributedDataParallel).parameters
)


class Passes:
    """The passes of a network as its training says; outside a step the network is the plain one.

    On the processor the process keeps what it frees from now on (`allocator.py`): else a step's memory goes back to the
    system and is had anew, a page at a time. Where units are computed again, `Recompute` says which blocks it keeps.

    Raises `SettingError` or `RunError` for a network that several ranks cannot train together.
    """

    def __init__(
        self, network: nn.Module, training: Training, ranks: Ranks = ALONE, *, kernels: Kernels = PLAIN
    ) -> None:
        ranks.same("weights and buffers", _outline(network))
        self.network, self.ranks, self.device = network, ranks, devices.of(network)
        self.parts = training.accumulation
        if self.device.type == "cpu" and training.memory != "recompute":
            keep_what_is_freed()
        self._groups = BnGroups(network, training, ranks)
        self._saving = Recompute(network) if training.memory == "recompute" else nullcontext
        self._kernels = kernels.of(network)
        self._bf16 = training.precision == "bf16"
        self._compiled = _compiled(network) if training.compile else {}
        self._run, self._ddp = network, None
        if ranks.count > 1:
            # Every rank has its own buffers: `BnGroups` brings the running statistics together.
            options: dict[str, Any] = {_BUFFERS: False}
            self._run = self._ddp = DistributedDataParallel(network, **options)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """For one step: forward and backward."""
        with ExitStack() as stack:
            stack.enter_context(sound(self.network))
            stack.enter_context(self._groups())
            stack.enter_context(self._saving())
            stack.enter_context(self._kernels())
            if self._compiled:
                stack.enter_context(_forwards(self._compiled))
                stack.enter_context(torch._dynamo.config.patch(_COMPILED))  # noqa: SLF001
            yield

    def forward(self, images: Tensor, *, last: bool) -> Tensor:
        """The logits of a micro-batch in fp32; the `last` one's backward pass brings the ranks' gradients together."""
        apart = nullcontext() if self._ddp is None or last else self._ddp.no_sync()
        self._groups.remember()
        with apart, self._autocast():
            try:
                logits: Tensor = self._run(images)
            except RuntimeError as error:
                if "finished reduction in the prior iteration" in str(error):
                    raise _without_gradient("some weights get no gradient from some micro-batches") from None
                raise
        return logits.float() if self._bf16 else logits

    def backward(self, loss: Tensor) -> None:
        """The way back of what `forward` gave.

        Raises `SettingError` on a rank whose weights do not all get a gradient: the ranks' would not come together.
        """
        loss.backward()  # type: ignore[no-untyped-call]
        if self._ddp is not None:
            learning = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
            if idle := [name for name, p in learning.items() if p.grad is None]:
                named = ", ".join(idle[:_NAMED]) + (", …" if len(idle) > _NAMED else "")
                raise _without_gradient(f"{len(idle)} of {len(learning)} weights get no gradient: {named}")
        self._groups.agree()

    @contextmanager
    def plain(self) -> Iterator[None]:
        """For another look at a micro-batch: the same precision and groups, not compiled."""
        stance: Any = torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()
        with stance, self._autocast():
            yield

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()


def _without_gradient(what: str) -> SettingError:
    return SettingError(f"{what}; several processes would wait for it: freeze such weights with requires_grad_(False)")


def _outline(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _compiled(network: nn.Module) -> dict[nn.Module, Any]:
    # What earlier runs of this process compiled counts against the limit too, and torch keeps it while it lives.
    torch.compiler.reset()
    # A step's shapes do not change, and torch 2.14 stumbles over widths that it takes for variable.
    return {unit: torch.compile(unit.forward, dynamic=False) for unit in _units(network)}


def _units(network: nn.Module) -> list[nn.Module]:
    """What is compiled by itself: units, so that equal ones are compiled once; else the network."""
    find = getattr(network, "units", None)
    found: Mapping[str, nn.Module] = find() if callable(find) else {}
    return [*found.values()] or [network]


@contextmanager
def _forwards(of: Mapping[nn.Module, Any]) -> Iterator[None]:
    for module, forward in of.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in of:
            del module.forward  # what the class has comes back
