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
from cleanpath.repair.symbols import DRAWS, FACTORIES, TENSOR, holds_tensors

_OF_MODULES = frozenset(vars(nn.Module())) | {"forward"}
_MADE_BY_FX = ("_tensor_constant", "_param_constant")
_LOADING = (
    *("_load_from_state_dict", "_save_to_state_dict", "get_extra_state", "set_extra_state"),
    *("state_dict", "load_state_dict", "train", "eval"),
)
"""Methods by which a module saves, loads or changes its mode, which what replaces it would not have."""
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"),
    *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_COLLECTING = "transformers.utils.output_capturing"
"""The module of hooks by which transformers' networks hand on their hidden states: the graph holds what they do."""
_SHAPES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "shape", "ndim"})
_TRAITS = frozenset(
    {"dtype", "device", "layout", "requires_grad", "get_device", "is_contiguous", "stride", "names", "element_size"}
    | {
        name
        for name in dir(Tensor)
        if name.startswith("is_") and name not in {"is_nonzero", "is_set_to", "is_same_size"}
    }
)
"""What a tensor is whatever numbers it holds."""

_CHANCE = "it draws random numbers that decide in Python (where they leave layers out, set that rate to 0)"

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

        def causal(mask: Any, *more: Any) -> Any:
            if isinstance(mask, Proxy) and more[:1] == (None,):
                return self.create_proxy("call_function", detect, (mask, *more), {})
            return detect(mask, *more)

        def checked(kind: Any, condition: Any, message: Any) -> None:
            check(kind, bool(condition), message)

        def drawn(draw: Any) -> Any:
            def symbol(*args: Any, **kwargs: Any) -> Any:
                return (
                    draw(*args, **kwargs) if self.evaluating else self.create_proxy("call_function", draw, args, kwargs)
                )

            return symbol

        check = torch._check_with  # noqa: SLF001
        self._drawn, detect = generators(), transformer._detect_is_causal_mask  # noqa: SLF001
        torch.amp.autocast.__enter__ = enter  # type: ignore[method-assign]
        Function.apply = classmethod(apply)
        setattr(transformer, "_detect_is_causal_mask", causal)  # noqa: B010 (typed otherwise)
        setattr(torch, "_check_with", checked)  # noqa: B010 (typed otherwise)
        for name, draw in DRAWS.items():
            setattr(torch, name, drawn(draw))
        try:
            with slow_attention():
                yield
        finally:
            for name, draw in DRAWS.items():
                setattr(torch, name, draw)
            torch.amp.autocast.__enter__ = entered  # type: ignore[method-assign]
            Function.apply = applied
            transformer._detect_is_causal_mask = detect  # noqa: SLF001
            torch._check_with = check  # noqa: SLF001

    def check_draws(self) -> None:
        """Fail if random numbers were drawn since the last node: they would be constants."""
        if not same_generators(self._drawn, generators()):
            raise GuardError(_CHANCE)

    def check_mode(self, node: Node) -> None:
        """Fail if gradients are off: the graph would have them."""
        before, self._drawn = self._drawn, generators()
        node.meta["draws"] = not same_generators(before, self._drawn)
        read = any(_is_floating(one.meta.get("value")) for one in node.all_input_nodes)
        if not torch.is_grad_enabled() and read and _is_floating(node.meta.get("value")):
            raise GuardError("it turns gradients off")


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def decided_by_shapes(node: Node) -> bool:
    """Whether a value that decides in Python comes from the shape of a tensor, and not from constants alone.

    Raises `GuardError` where the numbers in a tensor, or chance, have a part in it.
    """
    seen, waiting, shaped = set[Node](), [node], False
    numbers = isinstance(node.meta.get("value"), Tensor | bool | int | float)
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        named = str(one.args[1]) if one.target is getattr and len(one.args) > 1 else str(one.target)
        named = getattr(one.target, "__name__", named) if one.target is not getattr else named
        shaped |= named in _SHAPES
        if one.meta.get("draws"):
            raise GuardError(_CHANCE)
        if named in _SHAPES | _TRAITS:
            continue
        tensors = one.op == "placeholder" and holds_tensors(one.meta.get("value"))
        if numbers and (one.op in {"get_attr", "call_module"} or tensors):
            raise GuardError("a number that comes from values decides in Python")
        waiting += one.all_input_nodes
    return shaped


def asks_for_finite(node: Node) -> bool:
    """Whether a condition is that numbers are finite: where it fails, a network is lost anyway."""
    name = str(getattr(node.target, "__name__", node.target))
    if name in {"any", "all", "not_", "logical_not"} and node.all_input_nodes:
        return all(map(asks_for_finite, node.all_input_nodes))
    return name in {"isnan", "isinf", "isfinite"}


@contextmanager
def slow_attention() -> Iterator[None]:
    """Torch's layers of transformers add in the open, in evaluation too: the same up to rounding, as in training."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
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
    """The method of a user's class by which a module keeps its state or mode, if it has one."""
    for name in _LOADING:
        if not getattr(type(module), name).__module__.startswith(("torch.", "transformers.modeling_utils")):
            return name
    return None


def hooked(module: nn.Module) -> list[str]:
    """The names of a module and those inside that have hooks of any kind, but for those that are read with them."""

    def has(one: nn.Module) -> bool:
        hooks = [hook for kind in _HOOKS for hook in (getattr(one, kind, None) or {}).values()]
        return any(not str(getattr(hook, "__module__", "")).startswith(_COLLECTING) for hook in hooks)

    return [name for name, one in module.named_modules() if has(one)]


def uncheckable(value: Any) -> bool:
    """Whether a generated line cannot compare an input with this value."""
    if isinstance(value, tuple | list | torch.Size):
        return any(map(uncheckable, value))
    if isinstance(value, Mapping):
        return any(map(uncheckable, (*value.keys(), *value.values())))
    return not (
        value is None or value is TENSOR or isinstance(value, bool | int | float | str | torch.dtype | torch.device)
    )
