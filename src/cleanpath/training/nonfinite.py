"""Where a value that is not finite appears first: a search after the fact, on the batch that showed it."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cleanpath.training.ranks import ALONE, Ranks, first


def first_non_finite(
    network: nn.Module, images: Tensor, loss_of: Callable[[Tensor], Tensor], ranks: Ranks = ALONE
) -> str:
    """The first place, in the order of computation, whose value is not finite, on the first rank that finds one.

    Looks at the images, the parameters, the output of every unit and leaf module going forward, then at the
    gradients of those outputs going backward. The caller restores the state of the random generator beforehand.
    """

    def agreed(here: str | None) -> str | None:
        return first(ranks.gathered(here))

    if there := agreed(None if images.isfinite().all() else "the images of the batch"):
        return there
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"parameter {name}"
    found: list[str] = []
    with _watched(network, found):
        loss = loss_of(network(images))
        if there := agreed(next(iter(found), None if loss.isfinite() else "the loss")):
            return there
        loss.backward()  # type: ignore[no-untyped-call]
    return agreed(next(iter(found), None)) or "the sum over all gradients"


@contextmanager
def _watched(network: nn.Module, found: list[str]) -> Iterator[None]:
    find = getattr(network, "units", None)
    units: set[str] = set(find()) if inspect.ismethod(find) else set()
    leaves = {n for n, m in network.named_modules() if not any(m.children()) and not isinstance(m, nn.Identity)}
    watched = {n: m for n, m in network.named_modules() if n in units or n in leaves}
    handles = [m.register_forward_hook(_hook(_label(name, units), found)) for name, m in watched.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _label(name: str, units: set[str]) -> str:
    for unit in units:
        if name == unit:
            return f"the sum of unit {unit}"
        if name.startswith(f"{unit}."):
            return f"unit {unit} ({name.removeprefix(f'{unit}.')})"
    return f"module {name}"


def _hook(label: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def on_gradient(gradient: Tensor) -> None:
        if not gradient.isfinite().all():
            found.append(f"the gradient of {label}")

    def on_output(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        if not isinstance(output, Tensor):
            return
        if not output.isfinite().all():
            found.append(label)
        elif torch.is_grad_enabled() and output.requires_grad:
            output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    return on_output
