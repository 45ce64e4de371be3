"""The residual unit, equations (1) and (2); the file to read first."""

from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """One residual unit: y = h(x) + F(x), then f(y); equations (1) and (2).

    h is `shortcut`, F is `branch`, f is `after`. `before` is the pre-activation that both paths share in the
    first unit and where the width changes (appendix), else an identity. The path is clean if `before`, `shortcut`
    and `after` are identities. (N, C, H, W) to (N, C', H', W').

    No part may write into its input: an in-place ReLU heading `branch` would change h unseen.
    """

    def __init__(self, *, before: nn.Module, shortcut: nn.Module, branch: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.shortcut, self.branch, self.after = before, shortcut, branch, after

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y = self.shortcut(x) + self.branch(x)
        return self.after(y)


class ExclusivelyGatedUnit(ResidualUnit):
    """y = (1 − g(x)) ⊙ h(x) + g(x) ⊙ F(x), then f(y); exclusive gating, Section 3.1 and Figure 2(c).

    One gate serves both paths: the unit owns it and evaluates it once. (N, C, H, W) to (N, C', H', W').
    """

    def __init__(
        self, *, before: nn.Module, gate: nn.Module, shortcut: nn.Module, branch: nn.Module, after: nn.Module
    ) -> None:
        super().__init__(before=before, shortcut=shortcut, branch=branch, after=after)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        g = self.gate(x)
        y = (1 - g) * self.shortcut(x) + g * self.branch(x)
        return self.after(y)


class PlainUnit(nn.Module):
    """y = F(x), then f(y): the same layers without a shortcut, as in the first paper's plain networks.

    (N, C, H, W) to (N, C', H', W').
    """

    def __init__(self, *, before: nn.Module, branch: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.branch, self.after = before, branch, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(self.before(x))
        return self.after(y)
