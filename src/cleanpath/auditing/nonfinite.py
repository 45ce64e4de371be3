"""Where the first number that is not finite comes from."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from cleanpath.auditing.passes import Observer
from cleanpath.auditing.record import tensors_in


def first_non_finite(observer: Observer, batch: object, seed: int, gradient_norm: float | None) -> str | None:
    """The batch or a parameter, else the first operation whose result is not finite though all it read is.

    A mask of −∞ for a softmax is none. Buffers are not counted as read: BN in training mode only writes them, and a
    step that failed has left its own numbers there.
    """
    watcher = _Watcher(observer)
    seen = observer.run(batch, seed, lambda: watcher)
    if not all(map(_finite, seen.leaves)):
        return "the batch"
    broken = (name for name, parameter in observer.parts.parameters.items() if not _finite(parameter))
    found = next((f"the parameter {name}" for name in broken), watcher.found)
    if found is None and gradient_norm is not None and not math.isfinite(gradient_norm):
        return "a gradient: all values on the way forward are finite"
    return found


class _Watcher:
    """Looks at every result of one pass."""

    def __init__(self, observer: Observer) -> None:
        self.found: str | None = None
        self._observer = observer
        self._buffers = {id(buffer) for buffer in observer.parts.buffers}

    def __call__(
        self, _ordinal: int, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[[Any], None] | None:
        if self.found is not None or name in WRITES or not any(t.requires_grad for t in tensors_in((args, kwargs))):
            return None
        if not all(_finite(tensor) for tensor in tensors_in((args, kwargs)) if id(tensor) not in self._buffers):
            return None

        def after(result: Any) -> None:
            if not all(_finite(tensor) for tensor in tensors_in(result)):
                self.found = f"{name} in {self._observer.running or '(root)'}"

        return after


WRITES = frozenset({"masked_fill", "where", "fill", "full_like", "empty_like", "new_empty", "empty"})


def _finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(tensor.isfinite().all())
