"""OpenVINO's runtime, made so that signals stay safe on processors with AMX."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import openvino as ov


class _Stack(ctypes.Structure):
    """The C library's `stack_t`, as Linux has it."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]  # noqa: RUF012


@cache
def core() -> ov.Core:
    """The runtime of this process, which lives until its end.

    On processors with AMX each runtime gives the thread that loads its CPU plugin a stack for signals, and
    takes it away with itself. Of two that end in the wrong order, or one that ends in another thread, a
    stack stays in use that is freed, and the next signal kills the process (OpenVINO 2026.4).
    """
    return ov.Core()


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread back its stack for signals at the end, for code that makes runtimes of its own."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "sigaltstack"):
        yield
        return
    before = _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
