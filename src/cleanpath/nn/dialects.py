"""Weights of our ImageNet networks under the names of torchvision and timm, and back: the same function, renamed.

torchvision   resnet18 to resnet152: the original unit, projections with BN, the stride on the 3×3
              (`resnet50`, widening="B", widening_norm=True, stride_on="middle")
timm          resnetv2_50 to resnetv2_152: full pre-activation, bare projections of the activated signal, the stride on
              the 3×3 (`preresnet50`, widening="B", stride_on="middle")

Deviations: timm puts the stem's BN and ReLU behind the max pooling, as the first unit's own; the paper before it. The
two are one function where no scale of that BN is negative, and only then are weights renamed. timm's resnetv2_18 and
_34 carry the pooled signal itself on the first shortcut, the paper's the activated one: no renaming makes them equal.
"""

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from cleanpath.errors import UserError

Dialect = Literal["torchvision", "timm"]
_STEM_SCALE = "stem.activation.norm.weight"
_HEAD, _TIMM_HEAD = "head.linear.weight", "head.fc.weight"

# Ours, theirs; {n} is a number that stays, {-} one that is greater by one here.
_RULES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "torchvision": (
        ("stem.conv", "conv1"),
        ("stem.activation.norm", "bn1"),
        ("stages.stage{n}.unit{-}.shortcut.{n}", "layer{n}.{-}.downsample.{n}"),
        ("stages.stage{n}.unit{-}.branch.conv{n}", "layer{n}.{-}.conv{n}"),
        ("stages.stage{n}.unit{-}.branch.norm{-}", "layer{n}.{-}.bn{-}"),
        ("head.linear", "fc"),
    ),
    "timm": (
        ("stem.conv", "stem.conv"),
        ("stem.activation.norm", "stages.0.blocks.0.norm1"),
        ("stages.stage{-}.unit{-}.shortcut", "stages.{-}.blocks.{-}.downsample.conv"),
        ("stages.stage{-}.unit1.before.norm", "stages.{-}.blocks.0.norm1"),
        ("stages.stage{-}.unit{-}.branch.conv{n}", "stages.{-}.blocks.{-}.conv{n}"),
        ("stages.stage{-}.unit{-}.branch.norm{n}", "stages.{-}.blocks.{-}.norm{n}"),
        ("head.activation.norm", "norm"),
        ("head.linear", "head.fc"),
    ),
}
_NUMBER = re.compile(r"\{([n-])\}")


def theirs(state: Mapping[str, Tensor], dialect: Dialect) -> dict[str, Tensor]:
    """A state dictionary of ours under their names.

    Raises `UserError` for a name that they have no place for, or a negative scale in the stem (timm).
    """
    _check(state, dialect, _STEM_SCALE)
    found = {_renamed(name, dialect, ours=True): value for name, value in state.items()}
    if _TIMM_HEAD in found and dialect == "timm":
        found[_TIMM_HEAD] = found[_TIMM_HEAD][:, :, None, None]  # their classifier is a convolution
    return found


def ours(state: Mapping[str, Tensor], dialect: Dialect) -> dict[str, Tensor]:
    """A state dictionary of theirs under our names. Raises `UserError` as `theirs` does."""
    _check(state, dialect, "stages.0.blocks.0.norm1.weight")
    found = {_renamed(name, dialect, ours=False): value for name, value in state.items()}
    if found.get(_HEAD) is not None:
        found[_HEAD] = found[_HEAD].flatten(1)
    return found


def _check(state: Mapping[str, Tensor], dialect: Dialect, scale: str) -> None:
    if dialect != "timm":
        return
    if not any(".conv3." in name for name in state):
        raise UserError(
            "timm's networks of two-layer units carry the raw signal on the first shortcut, ours the activated "
            "one; only bottleneck networks (50 to 152) are the same function"
        )
    if scale in state and bool((state[scale] < 0).any()):
        raise UserError(
            f"{int((state[scale] < 0).sum())} scales of the stem's BN are negative; timm's network pools before "
            "that BN and the paper's behind it, and the two then differ"
        )


def _renamed(name: str, dialect: Dialect, *, ours: bool) -> str:
    module, _, leaf = name.rpartition(".")
    for here, there in _RULES[dialect]:
        source, target = (here, there) if ours else (there, here)
        words, kinds = _NUMBER.split(source)[::2], _NUMBER.findall(source)
        found = re.fullmatch(r"(\d+)".join(map(re.escape, words)), module)
        if found is not None:
            step = -1 if ours else 1
            numbers = [int(n) + (step if kind == "-" else 0) for kind, n in zip(kinds, found.groups(), strict=True)]
            parts = _NUMBER.split(target)[::2]
            return "".join(f"{word}{n}" for word, n in zip(parts, [*numbers, ""], strict=True)) + f".{leaf}"
    raise UserError(f"{dialect} has no place for {name}; `cleanpath.nn.dialects` says which networks correspond")
