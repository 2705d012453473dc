"""How a training's processes end: with the one that started them, and with which exit code."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
LOST_PEER = os.EX_TEMPFAIL
"""Exit code of a training process that fails only because another one did."""


def end_with_parent(parent: int | None = None) -> None:
    """Have Linux send SIGTERM to this process when its parent dies; the request outlives exec.

    Elsewhere than on Linux nothing happens.

    Args:
        parent: the process that started this one, which may have died meanwhile; None takes whichever
            process is the parent now.

    Raises:
        SystemExit: the parent is dead already.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(128 + signal.SIGTERM)
