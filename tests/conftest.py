"""Tests in several processes share the cores: one thread each, theirs and of what they start."""

import os
import tempfile

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; 2 threads on each of 2 cores take 8 times

# What is kept for later commands is not kept in the home of who tests; the folder goes when the tests end.
_CACHE = tempfile.TemporaryDirectory(prefix="cleanpath-tests-")
os.environ["CLEANPATH_CACHE"] = _CACHE.name

settings.register_profile("untimed", deadline=None)  # time is never asserted on: machines are shared
settings.load_profile("untimed")
