"""Numbers and names as a reader sees them: one way each."""

from __future__ import annotations

from pipeline.results import ALONE, TEACHER, Network

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


def figures(value: float | None, unit: str = "") -> str:
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


def label(network: Network, *, several_seeds: bool, several_students: bool) -> str:
    """A network's short name: its role, and student and seed where a run has several."""
    if network.recipe == TEACHER:
        return "teacher"
    name = "student alone" if network.recipe == ALONE else f"distilled: {network.recipe}"
    if several_students:
        name += f" ({network.student})"
    return f"{name}, seed {network.seed}" if several_seeds else name
