"""The kinds beyond the paper as functions of a state dict, written from their references' formulas, slow on purpose."""

import math
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from cleanpath.experiment import Network
from tests.nn.oracle import LAYERS, Oracle, State


class BeyondOracle(Oracle):
    """The logits of a network with any kind, norm and activation."""

    def __init__(self, of: Network, state: State, *, training: bool) -> None:
        super().__init__(of, state, training=training)
        self.kind = of.shortcut.kind
        self.total = 3 * ((of.depth - 2) // (3 * LAYERS[of.branch])) if of.layout == "cifar" else 8
        self.place = 0

    def unit(self, x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        self.place += 1
        return super().unit(x, name, stride, width, outer)

    def prefix(self, name: str) -> str:
        wrapped = {"skip_init", "layer_scale", "weighted_residual", "stochastic_depth", "squeeze_excitation"}
        return f"{name}.branch.0" if self.kind in wrapped else f"{name}.branch"

    def sum(self, x: Tensor, f_of_x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        learnt = self.state.get(f"{name}.branch.1.weight", torch.zeros(()))
        inside = ".0" if self.kind == "deepnorm" and (width != outer or stride == 2) else ""
        h = self.resized(x, f"{name}.shortcut{inside}", stride, width, outer)
        formulas: dict[str, Callable[[], Tensor]] = {
            "identity": lambda: h + f_of_x,
            "skip_init": lambda: h + learnt * f_of_x,
            "layer_scale": lambda: h + learnt * f_of_x,
            "weighted_residual": lambda: h + (learnt + (learnt.clip(-1, 1) - learnt).detach()) * f_of_x,
            "stochastic_depth": lambda: h + self.survival() * f_of_x,
            "squeeze_excitation": lambda: h + self.excitation(f_of_x, f"{name}.branch.1") * f_of_x,
            "highway": lambda: h + self.deep_gate(x, f"{name}.gate.layers", stride) * (f_of_x - h),
            "deepnorm": lambda: float(self.total) ** 0.25 * h + f_of_x,
        }
        return formulas[self.kind]()

    def survival(self) -> float | Tensor:
        assert self.of.shortcut.rate is not None
        p = 1 - self.place / self.total * self.of.shortcut.rate
        inverted = self.of.shortcut.inverted
        if not self.training:
            return 1.0 if inverted else p
        b = torch.empty((), dtype=torch.float64).bernoulli_(p)
        return b / p if inverted else b

    def excitation(self, x: Tensor, name: str) -> Tensor:
        z = x.flatten(2).mean(dim=2)
        for layer, function in (("squeeze", self.act), ("excite", lambda v: 1 / (1 + torch.exp(-v)))):
            z = function(z @ self.state[f"{name}.{layer}.weight"].T + self.state[f"{name}.{layer}.bias"])
        return z[:, :, None, None]

    def deep_gate(self, x: Tensor, name: str, stride: int) -> Tensor:
        layers = LAYERS[self.of.branch]
        for layer in range(1, layers + 1):
            x = self.conv(x, f"{name}.conv{layer}", stride=stride if layer == 1 else 1)
            x = self.bn(x, f"{name}.norm{layer + 1}")
            if layer < layers:
                x = self.act(x)
        return 1 / (1 + torch.exp(-x))

    def resized(self, x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        if self.of.widening != "D" or (width == outer and stride == 1):
            return super().resized(x, name, stride, width, outer)
        n, c, rows, columns = x.shape
        x = x.reshape(n, c, rows // 2, 2, columns // 2, 2).mean(dim=(3, 5))
        h = self.conv(x, f"{name}.1", stride=1)
        return self.bn(h, f"{name}.2") if self.of.widening_norm else h

    def act(self, x: Tensor) -> Tensor:
        if self.of.activation == "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return x / (1 + torch.exp(-x)) if self.of.activation == "silu" else x * (x > 0)

    def bn(self, x: Tensor, name: str) -> Tensor:
        if self.of.normalisation == "batch":
            return super().bn(x, name)
        if self.of.normalisation == "none":
            return x
        channels = x.shape[1]
        groups = channels // 2 if self.of.normalisation == "group" else 1
        parts = []
        for part in x.chunk(groups, dim=1):
            centred = part - part.mean(dim=(1, 2, 3), keepdim=True)
            parts.append(centred / torch.sqrt((centred**2).mean(dim=(1, 2, 3), keepdim=True) + 1e-5))
        gamma, beta = (self.state[f"{name}.{leaf}"][None, :, None, None] for leaf in ("weight", "bias"))
        return torch.cat(parts, dim=1) * gamma + beta


class FixupOracle(BeyondOracle):
    """Scalars everywhere, no norm; the order of the biases is that of the layers."""

    def stem(self, x: Tensor) -> Tensor:
        x = self.conv(x, "stem.conv", stride=1)
        return self.act(x + self.state["stem.activation.bias1.bias"]) if self.letter == "a" else x

    def unit(self, x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        changes, first = width != outer or stride == 2, name == "stages.stage1.unit1"
        numbers = count(1)

        def bias(where: str = "branch") -> Tensor:
            return self.state[f"{name}.{where}.bias{next(numbers)}.bias"]

        activated = self.letter == "a"
        if self.letter == "e" and (first or changes):
            x = self.act(x + self.state[f"{name}.before{'.0' if changes else ''}.bias1.bias"])
            activated = True
        if changes:  # both paths read x + b
            x = x + self.state[f"{name}.before.bias" if self.letter == "a" else f"{name}.before.1.bias"]
            next(numbers)
        f = x
        for layer in range(1, LAYERS[self.of.branch] + 1):
            if layer > 1 or not activated:
                f = self.act(f + bias())
            if layer > 1 or not changes:
                f = f + bias()
            f = self.conv(f, f"{name}.branch.conv{layer}", stride=stride if layer == 1 else 1)
        f = self.state[f"{name}.branch.scale.weight"] * f
        h = self.resized(x, f"{name}.shortcut", stride, width, outer)
        return h + f if self.letter == "e" else self.act(h + f + self.state[f"{name}.branch.bias.bias"])

    def end(self, x: Tensor) -> Tensor:
        return self.act(x + self.state["head.activation.bias1.bias"]) if self.letter == "e" else x

    def classify(self, x: Tensor) -> Tensor:
        return super().classify(x + self.state["head.bias.bias"])


class StreamsOracle(BeyondOracle):
    """Streams as a list: what a unit reads, writes and mixes is written out stream by stream."""

    def enter(self, x: Tensor) -> Tensor:
        assert self.of.shortcut.streams is not None
        return torch.stack([x] * self.of.shortcut.streams)

    def leave(self, x: Tensor) -> Tensor:
        return torch.stack(list(x)).sum(dim=0)

    def unit(self, x: Tensor, name: str, stride: int, width: int, outer: int) -> Tensor:
        n, changes, first = len(x), width != outer or stride == 2, name == "stages.stage1.unit1"
        shared = first or changes
        if shared:
            x = self.together(x, lambda y: self.lead(y, f"{name}.before.module.norm"))
        read, write, mix = (self.matrix(f"{name}.{at}") for at in ("branch.read", "branch.write", self.mix_at(changes)))
        f = self.branch(sum(read[j] * x[j] for j in range(n)), name, stride, activated=shared)  # type: ignore[arg-type]
        h = self.together(x, lambda y: self.resized(y, f"{name}.shortcut.0.module", stride, width, outer))
        y = torch.stack([sum(mix[i, j] * h[j] for j in range(n)) + write[i] * f for i in range(n)])
        return self.together(y, lambda z: self.after(z, f"{name}"))

    def after(self, y: Tensor, name: str) -> Tensor:
        return super().after(y, name) if self.letter != "b" else self.act(self.bn(y, f"{name}.after.module.norm"))

    def together(self, x: Tensor, function: object) -> Tensor:
        """All streams as one batch."""
        assert callable(function)
        return torch.stack(function(torch.cat(list(x))).chunk(len(x)))

    def prefix(self, name: str) -> str:
        return f"{name}.branch.layers"

    def mix_at(self, changes: bool) -> str:  # noqa: FBT001
        return "shortcut.1" if changes else "shortcut"

    def matrix(self, name: str) -> Tensor:
        w = self.state[f"{name}.weight"]
        if self.kind == "hyper_connections":
            return w
        if w.dim() == 1:
            return 1 / (1 + torch.exp(-w)) * (2 if name.endswith("write") else 1)
        h = torch.exp(w)
        for _ in range(20):
            h = torch.stack([column / column.sum() for column in h.T]).T
            h = torch.stack([row / row.sum() for row in h])
        return h


def oracle_of(of: Network, state: State, *, training: bool) -> BeyondOracle:
    """The oracle for a network's kind."""
    if of.shortcut.kind == "fixup":
        return FixupOracle(of, state, training=training)
    return (StreamsOracle if of.shortcut.streams else BeyondOracle)(of, state, training=training)
