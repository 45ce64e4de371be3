"""What a forward does that no graph shows: random numbers, modes, backwards and a state of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.fx import Node, Proxy, Tracer

from cleanpath.auditing.patient import generators, restore_generators

_OF_MODULES = frozenset(vars(nn.Module())) | {"forward"}
_MADE_BY_FX = ("_tensor_constant", "_param_constant")
_LOADING = ("_load_from_state_dict", "_save_to_state_dict", "get_extra_state", "set_extra_state")
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"),
    *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_SHAPES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "shape", "ndim"})

Kept = dict[str, dict[str, Any]]
"""Plain attributes of modules, by the name of the module and their own."""


class GuardError(Exception):
    """What would be lost in a graph."""


class GuardedTracer(Tracer):
    """Fails where a forward does what would be lost; `evaluating` while the value of a node is computed."""

    evaluating = False
    _drawn: dict[str, Any]

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Let entering autocast and calling a function with a backward of its own fail, and watch the generators."""
        entered, applied = torch.amp.autocast.__enter__, vars(Function)["apply"]

        def enter(mode: Any) -> Any:
            if not self.evaluating:
                raise GuardError("it enters autocast")
            return entered(mode)  # type: ignore[no-untyped-call]

        def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.evaluating and any(isinstance(one, Proxy) for one in (*args, *kwargs.values())):
                raise GuardError(f"{kind.__name__} has a backward of its own")
            return applied.__func__(kind, *args, **kwargs)

        self._drawn = generators()
        torch.amp.autocast.__enter__ = enter  # type: ignore[method-assign]
        Function.apply = classmethod(apply)
        try:
            yield
        finally:
            torch.amp.autocast.__enter__ = entered  # type: ignore[method-assign]
            Function.apply = applied

    def check_draws(self) -> None:
        """Fail if random numbers were drawn since the last node: they would be constants."""
        if not same_generators(self._drawn, generators()):
            raise GuardError("it draws random numbers that decide in Python")

    def check_mode(self, node: Node) -> None:
        """Fail if gradients are off: the graph would have them."""
        self._drawn = generators()
        read = any(_is_floating(one.meta.get("value")) for one in node.all_input_nodes)
        if not torch.is_grad_enabled() and read and _is_floating(node.meta.get("value")):
            raise GuardError("it turns gradients off")


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def from_shape(node: Node) -> bool:
    """Whether a value that is no tensor comes from the shape of one."""
    seen, waiting = set[Node](), [node]
    while waiting:
        one = waiting.pop()
        if one in seen or isinstance(one.meta.get("value"), Tensor):
            continue
        seen.add(one)
        named = str(one.args[1]) if one.target is getattr and len(one.args) > 1 else str(one.target)
        if named in _SHAPES:
            return True
        waiting += one.all_input_nodes
    return False


@contextmanager
def kept_generators() -> Iterator[None]:
    """The caller's random generators go on as if nothing had been drawn."""
    states = generators()
    try:
        yield
    finally:
        restore_generators(states)


def same_generators(here: Any, there: Any) -> bool:
    """Whether the states of random generators are the same."""
    if isinstance(here, Tensor):
        return torch.equal(here, there)
    if isinstance(here, Mapping):
        return here.keys() == there.keys() and all(same_generators(here[key], there[key]) for key in here)
    if isinstance(here, list | tuple) and not isinstance(here[0], int):
        return len(here) == len(there) and all(map(same_generators, here, there))
    return bool(here.tobytes() == there.tobytes() if hasattr(here, "tobytes") else here == there)


def attributes_of(module: nn.Module) -> Kept:
    """The plain attributes of a module and those inside, as they are now."""
    return {
        name: {
            key: _copied(value)
            for key, value in vars(one).items()
            if key not in _OF_MODULES and not key.startswith(_MADE_BY_FX)
        }
        for name, one in module.named_modules()
    }


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, dict):
        return tuple(value.items())
    return frozenset(value) if isinstance(value, set) else value


def changed_attribute(before: Kept, after: Kept) -> tuple[str, str] | None:
    """The first module, and its attribute, that is not what it was."""
    for name, attributes in after.items():
        earlier = before.get(name, {})
        for key in (*attributes, *earlier):
            if key not in earlier or key not in attributes or not _unchanged(earlier[key], attributes[key]):
                return name, key
    return None


def _unchanged(here: Any, there: Any) -> bool:
    if here is there:
        return True
    if type(here) is not type(there) or isinstance(here, Proxy):
        return False
    if isinstance(here, Tensor):
        return here.shape == there.shape and torch.equal(here.nan_to_num(), there.nan_to_num())
    if type(here) is tuple:
        return len(here) == len(there) and all(map(_unchanged, here, there))
    try:
        return bool(here == there)
    except Exception:  # noqa: BLE001 (of any class)
        return False


def loads_in_its_own_way(module: nn.Module) -> str | None:
    """The method of a user's class by which a module saves or loads its state, if it has one."""
    for name in _LOADING:
        if not getattr(type(module), name).__module__.startswith("torch."):
            return name
    return None


def hooked(module: nn.Module) -> list[str]:
    """The names of a module and those inside that have hooks of any kind."""
    return [name for name, one in module.named_modules() if any(getattr(one, kind, None) for kind in _HOOKS)]


def uncheckable(value: Any) -> bool:
    """Whether a generated line cannot compare an input with this value."""
    if isinstance(value, tuple | list | torch.Size):
        return any(map(uncheckable, value))
    if isinstance(value, Mapping):
        return any(map(uncheckable, (*value.keys(), *value.values())))
    return not (value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device))
