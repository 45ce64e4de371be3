"""The paper's networks as one function of a state dict, written from its text and slow on purpose.

Nothing of the package is used but the values of the specification and the names in the state dict, which this pins.
Letters are those of Figure 4: (a) original … (e) full pre-activation; (p) is a norm behind the sum and no other. In
training the running statistics of `state` are updated in place, so give it clones.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from cleanpath.experiment import Network

State = dict[str, Tensor]
LETTERS = {
    "original": "a",
    "bn_after_addition": "b",
    "relu_before_addition": "c",
    "relu_only_preactivation": "d",
    "full_preactivation": "e",
    "post_norm": "p",
}
LAYERS = {"one_layer": 1, "two_layer": 2, "bottleneck": 3}
IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Oracle:
    """The logits of a network for a state."""

    def __init__(self, of: Network, state: State, *, training: bool) -> None:
        self.of, self.state, self.training = of, state, training
        self.letter = LETTERS[of.placement]
        self.lead_in_stem = of.layout == "imagenet"

    def __call__(self, x: Tensor) -> Tensor:
        of = self.of
        layers = LAYERS[of.branch]
        per_stage = IMAGENET[of.depth] if of.layout == "imagenet" else ((of.depth - 2) // (3 * layers),) * 3
        x = self.enter(self.stem(x))
        width = of.width
        for stage, count in enumerate(per_stage, start=1):
            for unit in range(1, count + 1):
                outer = of.width * 2 ** (stage - 1) * (4 if layers == 3 else 1)
                stride = 2 if unit == 1 and stage > 1 else 1
                x = self.unit(x, f"stages.stage{stage}.unit{unit}", stride, width, outer)
                width = outer
        return self.classify(self.end(self.leave(x)).mean(dim=(2, 3)))

    def act(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def enter(self, x: Tensor) -> Tensor:
        """What follows the stem."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """What follows the last unit."""
        return x

    def end(self, x: Tensor) -> Tensor:
        if self.letter == "d":
            return self.act(x)
        return self.act(self.bn(x, "head.activation.norm")) if self.letter == "e" else x

    def classify(self, x: Tensor) -> Tensor:
        return F.linear(x, self.state["head.linear.weight"], self.state["head.linear.bias"])

    def stem(self, x: Tensor) -> Tensor:
        large = self.of.layout == "imagenet"
        x = self.conv(x, "stem.conv", stride=2 if large else 1)
        if self.letter in "abcp":
            x = self.act(self.bn(x, "stem.activation.norm"))
        elif self.letter == "d":
            x = self.bn(x, "stem.activation.norm" if large else "stem.activation")
        if not large:
            return x
        # the first unit's activation, before the pool
        if self.letter == "d":
            x = self.act(x)
        if self.letter == "e":
            x = self.act(self.bn(x, "stem.activation.norm"))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def unit(self, x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        """Equations (1) and (2) with the h, F and f of the tables."""
        first = name == "stages.stage1.unit1"
        changes = width != outer or stride == 2
        activated = first and self.lead_in_stem
        if not activated and (first or (changes and self.of.widening_input == "activated")):
            x = self.lead(x, f"{name}.before" if self.letter == "d" else f"{name}.before.norm")
            activated = True
        f_of_x = self.branch(x, name, stride, activated=activated)
        return self.after(self.sum(x, f_of_x, name, stride, width, outer), name)

    def after(self, y: Tensor, name: str) -> Tensor:
        if self.letter == "a":
            return self.act(y)
        if self.letter == "b":
            return self.act(self.bn(y, f"{name}.after.norm"))
        return self.bn(y, f"{name}.after") if self.letter == "p" else y

    def lead(self, x: Tensor, norm: str) -> Tensor:
        if self.letter == "d":
            return self.act(x)
        return self.act(self.bn(x, norm)) if self.letter == "e" else x

    def branch(self, x: Tensor, name: str, stride: int, *, activated: bool) -> Tensor:
        layers, prefix = LAYERS[self.of.branch], self.prefix(name)
        strided = 2 if layers == 3 and self.of.stride_on == "middle" else 1
        for layer in range(1, layers + 1):
            if layer > 1:
                x = self.act(x if self.letter == "p" else self.bn(x, f"{prefix}.norm{layer}"))
            elif not activated:
                x = self.lead(x, f"{prefix}.norm1")
            x = self.conv(x, f"{prefix}.conv{layer}", stride=stride if layer == strided else 1)
        if self.letter in "acd":
            x = self.bn(x, f"{prefix}.norm{layers + 1}")
        return self.act(x) if self.letter == "c" else x

    def prefix(self, name: str) -> str:
        """Where the layers of F are in the state."""
        return f"{name}.branch.0" if self.of.shortcut.branch_scale is not None else f"{name}.branch"

    def sum(self, x: Tensor, f_of_x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        """Table 1: what stands on the shortcut, and on F."""
        setting = self.of.shortcut
        if not setting.gate_widening and (width != outer or stride == 2):
            return self.resized(x, f"{name}.shortcut", stride, width, outer) + f_of_x
        kind, on_branch = setting.kind, 1 if setting.branch_scale is None else setting.branch_scale
        inside = {"scaling": ".0", "dropout": ".0", "shortcut_only_gating": ".shortcut"}.get(kind, "")
        if kind == "none":
            return f_of_x
        if kind == "conv_1x1":
            h = self.conv(x, f"{name}.shortcut.0" if setting.norm else f"{name}.shortcut", stride=stride)
            return f_of_x + (self.bn(h, f"{name}.shortcut.1") if setting.norm else h)
        h = self.resized(x, f"{name}.shortcut{inside}", stride, width, outer)
        if kind == "exclusive_gating":
            g = self.gate(x, f"{name}.gate", stride)
            return (1 - g) * h + g * f_of_x
        if kind == "shortcut_only_gating":
            h = (1 - self.gate(x, f"{name}.shortcut.gate", stride)) * h
        elif kind == "scaling":
            assert setting.scale is not None
            h = setting.scale * h
        elif kind == "dropout":
            h = self.dropout(h)
        else:
            assert kind in ("identity", "branch_scaling")
        return h + on_branch * f_of_x

    def resized(self, x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        """x, or options A and B where its size changes."""
        if width == outer and stride == 1:
            return x
        if self.of.widening == "B":
            h = self.conv(x, f"{name}.0" if self.of.widening_norm else name, stride=stride)
            return self.bn(h, f"{name}.1") if self.of.widening_norm else h
        padded = x.new_zeros(x.shape[0], outer, *x[0, 0, ::stride, ::stride].shape)
        start = (outer - width) // 2 if self.of.padding == "both" else 0
        padded[:, start : start + width] = x[:, :, ::stride, ::stride]
        return padded

    def gate(self, x: Tensor, name: str, stride: int) -> Tensor:
        """g(x) = 1 / (1 + exp(−(W_g x + b_g)))."""
        g = self.conv(x, f"{name}.conv", stride=stride)
        if self.of.shortcut.norm:
            g = self.bn(g, f"{name}.norm")
        return 1 / (1 + torch.exp(-g))

    def dropout(self, x: Tensor) -> Tensor:
        """Draws as torch does: one Bernoulli variable per entry, in order."""
        rate, inverted = self.of.shortcut.rate, self.of.shortcut.inverted
        assert rate is not None
        keep = 1 - rate
        if not self.training:
            return x if inverted else keep * x
        kept = torch.bernoulli(torch.full_like(x, keep))
        return x * kept / keep if inverted else x * kept

    def conv(self, x: Tensor, name: str, *, stride: int) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)

    def bn(self, x: Tensor, name: str) -> Tensor:
        """(x − mean) / √(variance + 1e-5) · γ + β over the batch, or over the running statistics."""
        gamma, beta = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            count = x.numel() // x.shape[1]
            now = x.mean(dim=(0, 2, 3))
            spread = ((x - now[None, :, None, None]) ** 2).mean(dim=(0, 2, 3))
            mean.mul_(0.9).add_(0.1 * now.detach())
            variance.mul_(0.9).add_(0.1 * spread.detach() * count / (count - 1))
            mean, variance = now, spread
        scale = gamma / torch.sqrt(variance + 1e-5)
        return (x - mean[None, :, None, None]) * scale[None, :, None, None] + beta[None, :, None, None]
