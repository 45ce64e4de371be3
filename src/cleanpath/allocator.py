"""What glibc does with memory that a step frees: kept for the next step, not handed back to the system page by page."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_USUAL = {_M_TRIM_THRESHOLD: 128 << 10, _M_TOP_PAD: 128 << 10, _M_MMAP_MAX: 65_536}
_MOST, _MOST_IN_HEAP, _AHEAD = 2**31 - 1, 32 << 20, 64 << 20
"""In bytes: whatever is freed at the end of the heap, the most that glibc takes for `below`, and what it grows by."""


def keep_what_is_freed(*, below: int | None = None) -> None:
    """Tell glibc; where there is another allocator nothing is told.

    `below`: blocks of so many bytes and more still go back, which costs time and saves the gaps between them.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _MOST)
        if below is not None:
            # Setting the first one stops glibc from raising the second by itself.
            mallopt(_M_MMAP_THRESHOLD, min(below, _MOST_IN_HEAP))
            for parameter in (_M_TOP_PAD, _M_MMAP_MAX):  # an earlier run of the process may have set them
                mallopt(parameter, _USUAL[parameter])
        else:
            mallopt(_M_TOP_PAD, _AHEAD)
            mallopt(_M_MMAP_MAX, 0)


def hand_back() -> None:
    """Give what is free back to the system, and let glibc go on as it does by itself."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for parameter, usual in _USUAL.items():
            libc.mallopt(parameter, usual)
        libc.malloc_trim(0)
