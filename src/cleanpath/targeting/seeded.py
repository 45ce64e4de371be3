"""Random weights from a seed, with every global generator left as it was."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let what is built inside draw from the seed; the processor's generators are restored, others never touched."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 (foreign code draws there)
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002
