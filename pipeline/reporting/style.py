"""One look for every figure: colours follow the role of a model, shapes the precision of a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import matplotlib

matplotlib.use("svg")  # no display is needed, and none must be asked for
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e4e7eb"
TEACHER = "#52606d"
ALONE = "#d98a1f"
_RECIPES = (
    *("#3a6fc4", "#0f8f7e", "#a4508b", "#c2453d", "#5f8f2f", "#7a5cc7", "#b07c4f", "#2f8fb0"),
    *("#e377a8", "#1f3a7a", "#a9b01f", "#7a1f2b", "#63c29b", "#c79bdb", "#0b4f3c", "#7fb2e5"),
)
_MARKERS = {"fp32": "o", "fp16": "D", "bf16": "^", "int8": "s"}


def recipe_colours(recipes: list[str]) -> dict[str, str]:
    """A colour for `teacher`, for `alone` and for each recipe, in the order of params.yaml."""
    distilled = [recipe for recipe in recipes if recipe not in ("teacher", "alone")]
    colours = {recipe: _RECIPES[i % len(_RECIPES)] for i, recipe in enumerate(distilled)}
    return {"teacher": TEACHER, "alone": ALONE, **colours}


def marker(precision: str) -> str:
    """The marker of a precision, the same in every figure."""
    return _MARKERS.get(precision, "P")


@contextmanager
def figure(
    width: float, height: float, columns: int = 1, rows: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of rows x columns axes, row by row, in the report's style; width and height in inches."""
    settings: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "report",  # element ids must not change from run to run
    }
    with plt.rc_context(settings):
        made, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
        yield made, list(axes.flat)
        plt.close(made)


def to_svg(made: Figure) -> str:
    """The figure as an SVG element, without XML prologue and without a date."""
    buffer = StringIO()
    made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
