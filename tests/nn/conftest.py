"""Networks of few channels, whose gradients are computed here without the training loop."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def plain_kernels() -> Iterator[None]:
    """The kernels that `cleanpath.kernels` keeps away in training and audit: see there."""
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        yield
        return
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None, fp32_precision=None):
        yield
