"""Memory that a process keeps between the steps of the transform.

A step takes maps of some ten megabytes and frees them. By itself, glibc gives memory of this size back to Linux and
takes it anew, and each page of it is then cleared and looked up again: with SFace that was a fifth of a step. Nothing
else depends on it, least of all the images.
"""

from __future__ import annotations

import ctypes
import os
import sys

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""The variable by which torch asks for pages of 2 MB for large tensors; it is read at the first tensor."""
_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": (-3, 256 << 20), "MALLOC_TRIM_THRESHOLD_": (-1, 1 << 30)}
"""glibc's variables; the numbers of the same settings in ``malloc.h``, and bytes: what is larger, one map or the free
memory at the end of the heap, goes back to the system as before."""


def keep() -> bool:
    """Have this process keep what is freed, and take it in large pages; to be called before torch is imported.

    ``pmt`` does so. It concerns the whole process, so the library leaves it to whoever owns that. A variable of the
    environment that says otherwise is left as it is.

    Returns:
        Whether the settings were taken; they are glibc's, and other systems go without.
    """
    os.environ.setdefault(LARGE_PAGES, "1")
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    asked = [mallopt(number, size) for name, (number, size) in _SETTINGS.items() if name not in os.environ]
    return all(asked)
