"""What glibc does with memory that a step frees: kept for the next step, not handed back to the system page by page."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_USUAL = {_M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 128 << 10, _M_MMAP_THRESHOLD: 128 << 10, _M_MMAP_MAX: 65_536}
_NEVER = -1
"""As a threshold of trimming: a number of its largest, 2**31 − 1, would hand back all of a heap that is larger."""
_MOST_IN_HEAP, _AHEAD = 32 << 20, 64 << 20
"""In bytes: the most that glibc takes for `below`, and what the heap grows by."""


def keep_what_is_freed(*, below: int | None = None) -> None:
    """Tell glibc; where there is another allocator nothing is told.

    `below`: blocks of so many bytes and more still go back, which costs time and saves the gaps between them.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        if below is not None:
            mallopt(_M_MMAP_THRESHOLD, min(below, _MOST_IN_HEAP))
            for parameter in (_M_TOP_PAD, _M_MMAP_MAX):  # an earlier run of the process may have set them
                mallopt(parameter, _USUAL[parameter])
        else:
            mallopt(_M_TOP_PAD, _AHEAD)
            mallopt(_M_MMAP_MAX, 0)


def hand_back() -> None:
    """Give what is free back to the system, and have glibc do so again, as it begins.

    By itself it would also raise its thresholds to what a process frees, which no setting brings back.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for parameter, usual in _USUAL.items():
            libc.mallopt(parameter, usual)
        libc.malloc_trim(0)
