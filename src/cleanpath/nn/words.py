"""A module in the paper's words."""

from torch import nn

_WORDS: dict[type[nn.Module], str] = {nn.Identity: "identity", nn.BatchNorm2d: "BN", nn.ReLU: "ReLU"}


def describe(module: nn.Module) -> str:
    """conv3×3, BN, ReLU, ×0.5, …; `identity` for a module that does nothing.

    A module with a method `in_words` speaks for itself, others by their class.
    """
    speak = getattr(module, "in_words", None)
    if callable(speak):
        return str(speak())
    if isinstance(module, nn.Sequential):
        return " ".join(describe(part) for part in module) or "identity"
    return _layer(module) or _WORDS.get(type(module), type(module).__name__)


def _layer(module: nn.Module) -> str:
    """A layer with its numbers; empty for one that has none."""
    match module:
        case nn.Conv2d(kernel_size=(kernel, _), stride=(stride, _)):
            return f"conv{kernel}×{kernel}" + (f"/{stride}" if stride != 1 else "")
        case nn.AvgPool2d(kernel_size=side, stride=stride):
            return f"avgpool{side}×{side}/{stride}"
        case nn.GroupNorm(num_groups=groups):
            return "LN" if groups == 1 else f"GN{groups}"
        case nn.Dropout(p=rate):
            return f"dropout {rate:g} (inverted)"
        case _:
            return ""


def gated(words: str, gate: nn.Module) -> str:
    """What a gate leaves of a shortcut, and what the gate is."""
    left = "(1−g)·x" if words == "identity" else f"(1−g)·({words})"
    return f"{left}, g = {describe(gate)}"
