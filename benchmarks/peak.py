"""What one core of this machine can do at most, in 1e9 multiply-accumulates a second; what a process held."""

from __future__ import annotations

import ctypes
import time
from functools import cache
from pathlib import Path

SIDE, TURNS = 1024, 7


@cache
def peak() -> float:
    """The best of some float32 products, by CPU time; shares of it may be above 1 in half types."""
    import torch  # here, since `held` is for processes without it, too

    from afdcd.losses.product import product

    torch.set_num_threads(1)
    left, right = torch.randn(2, SIDE, SIDE).unbind()
    best = float("inf")
    for _ in range(TURNS):
        start = time.process_time()
        product(left, right)
        best = min(best, time.process_time() - start)
    return SIDE**3 / 1e9 / best


def held() -> float:
    """MiB that this process held at most; ru_maxrss would begin with what the parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def begin_anew() -> None:
    """Give freed memory back; what `held` gives begins with what is left."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(f"{peak():.1f} GMAC/s")
