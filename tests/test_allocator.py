"""Freed memory stays with a process or goes back, as it was asked last; each in a process of its own."""

import platform
import subprocess
import sys

import pytest

SOURCE = """
from cleanpath.allocator import hand_back, keep_what_is_freed
from cleanpath.machine import resident_memory
{calls}
before = resident_memory()
block = b"x" * {size}
pinned = b"x" * 100_000  # lies behind it if both are in the heap
del block
print(resident_memory() - before)
"""
KEEP, SPARE, SPARE_MORE = (f"keep_what_is_freed({below})" for below in ("", "below=16_000_000", "below=2_000_000"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize(
    ("calls", "size", "stays"),
    [
        ([KEEP], 100_000_000, True),
        ([SPARE], 100_000_000, False),
        ([KEEP, SPARE], 100_000_000, False),
        ([SPARE, KEEP], 100_000_000, True),
        pytest.param([KEEP], 2_400_000_000, True, marks=pytest.mark.slow),
        ([KEEP, "hand_back()"], 100_000_000, False),
        ([SPARE, "hand_back()"], 10_000_000, False),
        ([SPARE], 10_000_000, True),
        ([SPARE_MORE], 10_000_000, False),
        ([SPARE_MORE, SPARE], 10_000_000, True),
        ([SPARE, SPARE_MORE], 10_000_000, False),
    ],
)
def test_a_block_stays_or_goes_back_by_its_size(calls: list[str], size: int, stays: bool) -> None:  # noqa: FBT001
    script = SOURCE.format(calls="\n".join(calls), size=size)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert (int(done.stdout) > size / 2) == stays


FIT = """
import torch
from torch import nn
import cleanpath
from cleanpath.experiment import Data, Training
from cleanpath.machine import resident_memory
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
cleanpath.fit(model, Training(iterations=2, batch_size=32), Data())
before = resident_memory()
block = b"x" * 100_000_000
del block
print(resident_memory() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_after_a_training_memory_goes_back_again() -> None:
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, encoding="utf-8", check=True)
    assert int(done.stdout) < 50_000_000
