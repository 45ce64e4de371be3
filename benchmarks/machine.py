"""What a figure was measured on."""

import os
import platform

import torch

from cleanpath.machine import processor


def machine() -> str:
    """Processor, instruction set, cores and versions in one line."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{processor()} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores, {versions}"
