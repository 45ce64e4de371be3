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
    return _WORDS.get(type(module), type(module).__name__)


def gated(words: str) -> str:
    """What a gate leaves of a shortcut."""
    return "(1−g)·x" if words == "identity" else f"(1−g)·({words})"
