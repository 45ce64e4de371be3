"""The search for cyclic garbage, put off while many objects are made that stay; never imports torch."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No search meanwhile: a network's graph, or ten thousand runs, would start one over all objects many times."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
