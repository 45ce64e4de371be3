"""A kernel of torch that damages memory is not used where it would."""

import pytest
import torch
from torch import nn

from cleanpath import build
from cleanpath.kernels import sound


@pytest.mark.parametrize(
    ("network", "struck"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1, stride=(1, 2)), True),
        (nn.Sequential(nn.Sequential(nn.Conv2d(7, 8, 1, stride=2))), True),
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, stride=2), False),
        (nn.Linear(4, 8), False),
        (build("preresnet8", width=4, widening="B"), True),
        (build("preresnet8", width=4), False),
        (build("preresnet164"), False),
        (build("preresnet50"), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_only_narrow_strided_1x1_convolutions_on_avx2_are_kept_away(
    network: nn.Module,
    struck: bool,  # noqa: FBT001
    capability: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert torch._C._get_mkldnn_enabled()
    with sound(network):
        assert torch._C._get_mkldnn_enabled() == (not (struck and capability == "AVX2"))
    assert torch._C._get_mkldnn_enabled()
