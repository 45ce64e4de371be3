"""Whether somebody watches modules or weights by hooks, who is to see what a step does."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules import module as of_all_modules

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


def hooks_of(modules: Sequence[nn.Module]) -> list[Mapping[int, Any]]:
    """Where the hooks of modules are put: looked up once, since looking takes longer than a kernel."""
    own = [vars(module)[name] for module in modules for name in _HOOKS]
    return own + [getattr(of_all_modules, name) for name in _GLOBAL_HOOKS]


def is_watched(hooks: Sequence[Mapping[int, Any]], weights: Sequence[nn.Parameter]) -> bool:
    """Whether somebody is told of a module or a weight while a step is made."""
    return any(hooks) or any(w._backward_hooks or w._post_accumulate_grad_hooks for w in weights)  # noqa: SLF001
