"""What the C library does with memory that is freed, on the CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Has this process keep the host memory that it frees, for its next tensors; whether that could be arranged.

    glibc maps large blocks one by one and returns them to the kernel when they are freed. Every large result then comes
    in fresh pages, which the kernel zeroes one at a time as they are written: often longer than the operation takes.
    Kept, memory is as warm as a GPU's behind torch's caching allocator. The price is that the process never gets
    smaller: it holds as much as it once used at most.

    It holds for the whole process and all libraries in it, from now on, so a library should not call it; a program may,
    once, before it makes large tensors. The commands of `visgen-fast` do. Without glibc nothing changes, and the result
    is False. Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
