"""What a forward does that no graph shows: random numbers, modes, backwards and a state of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.fx import Node, Proxy, Tracer
from torch.nn.modules import transformer

from cleanpath.auditing.patient import generators, restore_generators
from cleanpath.repair.symbols import FACTORIES, TENSOR, holds_tensors

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

    def __init__(self) -> None:
        super().__init__(autowrap_functions=FACTORIES)
        self._autowrap_search.append(torch)

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

        def causal(mask: Any, is_causal: bool | None = None, size: Any = None) -> Any:
            if isinstance(mask, Proxy) and is_causal is None:
                return self.create_proxy("call_function", detect, (mask, is_causal, size), {})
            return detect(mask, is_causal, size)

        self._drawn, detect = generators(), transformer._detect_is_causal_mask  # noqa: SLF001
        torch.amp.autocast.__enter__ = enter  # type: ignore[method-assign]
        Function.apply = classmethod(apply)
        transformer._detect_is_causal_mask = causal  # noqa: SLF001
        try:
            with slow_attention():
                yield
        finally:
            torch.amp.autocast.__enter__ = entered  # type: ignore[method-assign]
            Function.apply = applied
            transformer._detect_is_causal_mask = detect  # noqa: SLF001

    def check_draws(self) -> None:
        """Fail if random numbers were drawn since the last node: they would be constants."""
        if not same_generators(self._drawn, generators()):
            raise GuardError("it draws random numbers that decide in Python")

    def check_mode(self, node: Node) -> None:
        """Fail if gradients are off: the graph would have them."""
        before, self._drawn = self._drawn, generators()
        node.meta["draws"] = not same_generators(before, self._drawn)
        read = any(_is_floating(one.meta.get("value")) for one in node.all_input_nodes)
        if not torch.is_grad_enabled() and read and _is_floating(node.meta.get("value")):
            raise GuardError("it turns gradients off")


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def decided_by_shapes(node: Node) -> bool | None:
    """Whether a value comes from the shape of a tensor; None if the numbers in one, or chance, have a part in it."""
    seen, waiting, shaped, data = set[Node](), [node], False, False
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        named = str(one.args[1]) if one.target is getattr and len(one.args) > 1 else str(one.target)
        if named in _SHAPES:
            shaped = True
            continue
        if one.op in {"get_attr", "call_module"} or one.meta.get("draws"):
            data = True
        elif one.op == "placeholder":
            data |= holds_tensors(one.meta.get("value"))
        else:
            waiting += one.all_input_nodes
    if isinstance(node.meta.get("value"), Tensor):
        return None if data else shaped
    return shaped


@contextmanager
def slow_attention() -> Iterator[None]:
    """Torch's layers of transformers add in the open, in evaluation too: the same up to rounding, as in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # noqa: FBT003 (torch has it so)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
    return not (value is None or value is TENSOR or isinstance(value, bool | int | float | str | torch.dtype | torch.device))
