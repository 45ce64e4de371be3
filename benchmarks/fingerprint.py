"""What a module and its process are at this moment, bit for bit. Knows nothing of the audit.

    before = fingerprint(model, batch)
    ...
    differences(before, fingerprint(model, batch))  # ["buffer norm.running_mean", "process torch generator"]

A tensor is its numbers as bytes, its address, its flags, its hooks and its gradient; a module is whatever it holds,
down to the values of the containers and of the plain objects among its attributes.
"""

import hashlib
import random
import warnings
from collections import deque
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.nn.parameter import is_lazy

Fingerprint = dict[str, Any]

_DEPTH = 3
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
    "_global_buffer_registration_hooks",
)


def fingerprint(model: nn.Module, batch: object = None) -> Fingerprint:
    """Everything about a module, the batch and the process that an audit could disturb, by name."""
    look = _Look()
    found: Fingerprint = {f"process {name}": value for name, value in _process().items()}
    found |= {f"parameter {n}": look.at(p) for n, p in model.named_parameters(remove_duplicate=False)}
    found |= {f"buffer {n}": look.at(b) for n, b in model.named_buffers(remove_duplicate=False)}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"training {name}"] = module.training
        found[f"class {name}"] = (id(module), type(module).__qualname__)
        for attribute, value in vars(module).items():
            found[f"attribute {name}.{attribute}"] = look.at(value)
    found["batch"] = look.at(batch)
    return found


def differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """The names of what changed, appeared or went away; empty if nothing did."""
    missing = object()
    return [name for name in {**before, **after} if before.get(name, missing) != after.get(name, missing)]


class _Look:
    """Values as something that can be compared; every tensor is read once."""

    def __init__(self) -> None:
        self._read: dict[int, Any] = {}

    def at(self, value: Any, depth: int = _DEPTH) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._read:
                self._read[id(value)] = self._tensor(value)
            return self._read[id(value)]
        if isinstance(value, _PLAIN):
            return type(value).__name__, repr(value)
        if depth == 0 or isinstance(value, nn.Module | FunctionType | MethodType | type):
            return type(value).__name__, id(value)
        if isinstance(value, list | tuple | deque):
            return type(value).__name__, [self.at(part, depth - 1) for part in value]
        if isinstance(value, set | frozenset):
            return type(value).__name__, sorted(str(self.at(part, depth - 1)) for part in value)
        own = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
        return type(value).__name__, id(value), [(str(self.at(k, 1)), self.at(v, depth - 1)) for k, v in own.items()]

    def _tensor(self, tensor: Tensor) -> Any:
        if is_lazy(tensor):
            return "lazy", id(tensor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the gradient of what is no leaf
            gradient = None if tensor.grad is None else self._tensor(tensor.grad)
        flags = tensor.requires_grad, tensor.is_leaf, tuple(tensor.shape), tensor.dtype, tensor.device, tensor.layout
        hooks = [self.at(getattr(tensor, name, None), 2) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")]
        return type(tensor).__name__, *flags, *_bits(tensor.detach()), hooks, gradient


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor's numbers stand, and what they are."""
    if tensor.is_meta:
        return ("meta",)
    if tensor.is_quantized:
        return str(tensor.qscheme()), *_bits(tensor.int_repr())
    if tensor.layout is torch.sparse_coo:
        return *_bits(tensor._indices()), *_bits(tensor._values())  # noqa: SLF001
    if tensor.layout is not torch.strided:
        return (repr(tensor),)
    flat = tensor.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor.data_ptr(), tensor.stride(), hashlib.sha256(flat.data).hexdigest()


def _process() -> dict[str, Any]:
    """What all modules of a process share."""
    modes: Any = torch.overrides
    attention: Any = torch.backends.cuda
    found: dict[str, Any] = {
        "torch generator": _bits(torch.get_rng_state())[-1],
        "python generator": random.getstate(),
        "numpy generator": repr(np.random.get_state(legacy=False)),  # noqa: NPY002 (which models draw from)
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "function modes": [id(mode) for mode in modes._get_current_function_mode_stack()],  # noqa: SLF001
        "dispatch modes": torch._C._len_torch_dispatch_stack(),  # noqa: SLF001
        "fused attention": (
            attention.flash_sdp_enabled(),
            attention.mem_efficient_sdp_enabled(),
            attention.math_sdp_enabled(),
        ),
        "fused transformer": torch.backends.mha.get_fastpath_enabled(),
        "script optimisation": torch._C._get_graph_executor_optimize(),  # noqa: SLF001
        "warnings": [str(one) for one in warnings.filters],
    }
    found |= {hooks: list(getattr(all_modules, hooks, {}).items()) for hooks in _GLOBAL_HOOKS}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda generators"] = [_bits(state)[-1] for state in torch.cuda.get_rng_state_all()]
    return found
