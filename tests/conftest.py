"""Tests in several processes share the cores: one thread each, theirs and of what they start."""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; 2 threads on each of 2 cores take 8 times

settings.register_profile("untimed", deadline=None)  # time is never asserted on: machines are shared
settings.load_profile("untimed")
