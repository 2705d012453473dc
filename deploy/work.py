"""How much a network does in a call, and what share that is of what the machine does at best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.config import Config

if TYPE_CHECKING:
    from deploy.macs import Macs


class Peak(Config):
    """1e9 operations a second, a multiplication and an addition counted as two; null where there is no way.

    Attributes:
        threads: CPU threads they were measured on.
        gflops: precision -> the best.
        by: precision -> engine and graph that reached it.
    """

    threads: int
    gflops: dict[str, float | None]
    by: dict[str, str | None]


class Work(Config):
    """The work of one model.

    Attributes:
        gmacs: 1e9 multiply-accumulates of a call.
        effective_gflops: 1e9 operations of a call, without the taps that fall into the padding.
        gflops_per_second: these over the engine's own time, or over the whole call where that is not known.
        precision: that the engine computes in.
        share: of the machine's measured peak in that precision; null where there is none. Up to 1, but for
            the noise of two measurements, and where an engine does better than those the peak was taken from.
    """

    gmacs: float
    effective_gflops: float
    gflops_per_second: float
    precision: str
    share: float | None


def of(macs: Macs, milliseconds: float, precision: str, peak: float | None) -> Work:
    """The work of a model whose call of these multiply-accumulates takes so long; `peak` in GFLOP/s."""
    pace = macs.effective_gflops / milliseconds * 1e3
    return Work(
        gmacs=macs.gmacs,
        effective_gflops=macs.effective_gflops,
        gflops_per_second=round(pace, 3),
        precision=precision,
        share=round(pace / peak, 4) if peak else None,
    )
