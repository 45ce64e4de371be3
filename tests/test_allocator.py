"""Freed memory stays with a process or goes back, as it was asked last; each in a process of its own."""

import platform
import subprocess
import sys

import pytest

SOURCE = """
from cleanpath.allocator import keep_what_is_freed
from cleanpath.machine import resident_memory
{calls}
before = resident_memory()
block = b"x" * 100_000_000
del block
print(resident_memory() - before)
"""
KEEP, SPARE = "keep_what_is_freed()", "keep_what_is_freed(sparing=True)"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize(
    ("calls", "stays"), [([KEEP], True), ([SPARE], False), ([KEEP, SPARE], False), ([SPARE, KEEP], True)]
)
def test_a_large_block_stays_or_goes_back(calls: list[str], stays: bool) -> None:  # noqa: FBT001
    script = SOURCE.format(calls="\n".join(calls))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert (int(done.stdout) > 50_000_000) == stays


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
