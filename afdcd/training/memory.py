"""Memory that a training asks for again and again stays its own."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of mallopt's settings in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back; whether it does.

    It maps large blocks anew each time, and the kernel fills every page of them with zeros: up to a quarter
    of a step on a CPU. The process holds its peak to the end. Elsewhere than on glibc nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
