"""How the weights start: He et al. 2015, as the paper's appendix says and its authors' Torch code does it."""

import math

from torch import nn


def initialise(network: nn.Module) -> None:
    """Convolutions normal with std √(2 / (k²·n_out)), BN at γ = 1 and β = 0, the classifier's bias 0.

    Draws from torch's global generator. A gate's bias keeps its start. A module with a method `initialise` of its own
    has that called last.

    Deviations: the paper names the method only; fan-out and the classifier's weights (uniform in ±1/√n_in, torch's
    own) follow the authors' Torch code.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in network.modules():
        own = getattr(module, "initialise", None)
        if callable(own):
            own()
