"""Numbers and names as a reader sees them: one way each."""

from __future__ import annotations

NOTHING = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in 0..1 as percent."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}"


def points(difference: float | None) -> str:
    """A difference of shares as signed points."""
    if difference is None:
        return NOTHING
    shown = round(100 * difference, 2)
    return "0.00" if shown == 0 else f"{shown:+.2f}"


def short(value: float | None, unit: str = "") -> str:
    """Three figures that matter, and a unit."""
    if value is None:
        return NOTHING
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}{unit}"


def count(value: float) -> str:
    """A large number with k or M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"
