"""ResNet-110 tested: on our own kernels beside a plain network in eager NCHW, one image and 256 at a time.

    python -m benchmarks.inference

The pre-activation network for 32×32 images, all cores, fp32, in eval mode without gradients; both sides have the same
weights and give the same logits to rounding. The plain one is that of benchmarks/plain_networks.py.
"""

import torch
from torch import Tensor, nn

from benchmarks.figures import Figure, alternated, ratio, tell
from benchmarks.plain_networks import twin
from cleanpath.grid.local import cores
from cleanpath.training.fused import Fused

ROUNDS, CASES = 7, {1: 30, 256: 2}
"""Images at a time, and how many times in a round."""
_AGREES = 1e-4


def measure() -> list[Figure]:
    """A figure for each number of images."""
    torch.set_num_threads(cores())
    ours, plain = (network.eval() for network in twin("preresnet110"))
    fused = Fused(ours.to(memory_format=torch.channels_last))
    found = []
    for images, times in CASES.items():
        x = torch.randn(images, 3, 32, 32)
        laid_out = x.contiguous(memory_format=torch.channels_last)

        def quick(x: Tensor = laid_out, times: int = times) -> Tensor:
            with torch.inference_mode(), fused():
                return _last(ours, x, times)

        def usual(x: Tensor = x, times: int = times) -> Tensor:
            with torch.inference_mode():
                return _last(plain, x, times)

        apart = float((quick() - usual()).norm() / usual().norm())
        assert apart < _AGREES, f"other logits, {apart:.1e} apart"
        took = alternated({"ours": quick, "plain": usual}, ROUNDS)
        what = f"ResNet-110 tested, {images} image{'s' if images > 1 else ''} at a time ({times} times)"
        found.append(ratio(f"{what}, beside the plain network", took["ours"], took["plain"], f"test-{images}"))
    return found


def _last(network: nn.Module, x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        logits: Tensor = network(x)
    return logits


if __name__ == "__main__":
    tell(measure, __doc__)
