"""The asymmetric form of a post-activation network: equation (9), Figure 5(b)."""

from torch import Tensor, nn

from cleanpath.errors import SettingError
from cleanpath.nn.resnet import ResNet
from cleanpath.nn.unit import ResidualUnit


class Asymmetric(nn.Module):
    """A network whose activation after the sum feeds F only: x_{l+1} = h(x_l) + F(f(x_l)), equation (9) with f̂ = f.

    It holds the modules of a network with an activation after the addition, and is the same function as the
    pre-activation network with these parameters. The stem's activation feeds both paths of unit 1, and f of the last
    unit the head. Where the width changes, f feeds both paths too if `shared` (the authors' code), else F only.
    (N, in_channels, H, W) to (N, num_classes).

    Raises `SettingError` for a network with units of another form.
    """

    def __init__(self, network: ResNet, *, shared: bool = True) -> None:
        super().__init__()
        others = [name for name, unit in network.units().items() if type(unit) is not ResidualUnit]
        if others:
            raise SettingError(f"unit {others[0]} is not h(x) + F(x) with f behind it; the asymmetric form needs that")
        self.network, self.shared = network, shared

    def forward(self, images: Tensor) -> Tensor:
        x = activated = self.network.stem(images)
        for index, unit in enumerate(self.network.units().values()):
            assert isinstance(unit, ResidualUnit)
            widens = not isinstance(unit.shortcut, nn.Identity)
            onto_shortcut = activated if index == 0 or (widens and self.shared) else x
            x = unit.shortcut(onto_shortcut) + unit.branch(activated)
            activated = unit.after(x)
        logits: Tensor = self.network.head(activated)
        return logits
