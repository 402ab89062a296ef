"""Keep freed memory in the process: what one training step frees the next one needs again."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# The parameters of mallopt(3), glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_SIZES = (1 << 30, 1 << 25)  # bytes; glibc before 2.35 takes no mapping threshold above 32 MB


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed blocks below 1 GB rather than return them to the system.

    By default glibc returns the top of the heap as soon as it is free. If a step's activations happen to be
    there, every step loses its memory and maps it again, zeroed, page by page: thousands of page faults,
    which scripts/bench/allocator.py measures. The price is that the process does not shrink between the peaks
    of its memory. On systems other than Linux with glibc nothing is done.

    Returns:
        Whether glibc accepted the settings.

    Example:
        >>> keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
        True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _SIZES)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _SIZES[0]))
