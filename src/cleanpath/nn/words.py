"""A module in the paper's words."""

from torch import nn

_WORDS = {nn.Identity: "identity", nn.BatchNorm2d: "BN", nn.ReLU: "ReLU"}


def describe(module: nn.Module) -> str:
    """conv3×3, BN, ReLU, ×0.5, …; `identity` for a module that does nothing.

    A module with a method `in_words` speaks for itself, others by their class.
    """
    speak = getattr(module, "in_words", None)
    if callable(speak):
        return str(speak())
    if isinstance(module, nn.Sequential):
        return " ".join(describe(part) for part in module) or "identity"
    if isinstance(module, nn.Conv2d):
        kernel, stride = module.kernel_size[0], module.stride[0]
        return f"conv{kernel}×{kernel}" + (f"/{stride}" if stride != 1 else "")
    if isinstance(module, nn.Dropout):
        return f"dropout {module.p:g} (inverted)"
    if isinstance(module, nn.AvgPool2d):
        return f"avgpool{module.kernel_size}×{module.kernel_size}/{module.stride}"
    if isinstance(module, nn.GroupNorm):
        return "LN" if module.num_groups == 1 else f"GN{module.num_groups}"
    return _WORDS.get(type(module), type(module).__name__)


def gated(words: str, gate: nn.Module) -> str:
    """What a gate leaves of a shortcut, and what the gate is."""
    left = "(1−g)·x" if words == "identity" else f"(1−g)·({words})"
    return f"{left}, g = {describe(gate)}"
