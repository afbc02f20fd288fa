"""Memory that a process keeps between the steps of the transform.

A step takes maps of some ten megabytes and frees them. By itself, glibc gives memory of this size back to Linux and
takes it anew, and each page of it is then cleared and looked up again. Nothing else depends on it, least of all the
images.
"""

from __future__ import annotations

import ctypes
import os
import sys

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""The variable by which torch asks for pages of 2 MB for large tensors; it is read at the first tensor."""
_LARGEST, _LARGEST_OF_OLD = 256 << 20, 32 << 20
"""Bytes of what is kept: what is larger goes back to the system as before. Older versions of glibc take no more than
the second."""
_FREE = 1 << 30
"""Bytes of free memory at the end of the heap up to which it is kept."""
_VARIABLES = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As in ``malloc.h``."""


def keep() -> bool:
    """Have this process keep what is freed, and take it in large pages; to be called before torch is imported.

    ``pmt`` does so. It concerns the whole process, so the library leaves it to whoever owns that. Where the
    environment sets one of glibc's variables of these settings, or torch's, it has its way.

    Returns:
        Whether the settings were taken; they are glibc's, and other systems go without.
    """
    os.environ.setdefault(LARGE_PAGES, "1")
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or _VARIABLES & os.environ.keys():
        return False
    # Without the first the second would do harm: glibc then no longer raises the size by itself.
    taken = mallopt(_M_MMAP_THRESHOLD, _LARGEST) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    return bool(taken and mallopt(_M_TRIM_THRESHOLD, _FREE))
