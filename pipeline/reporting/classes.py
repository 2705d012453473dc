"""IoU of each class, as SVG: bars for a few models, a table of colours for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from pipeline.reporting.style import INK, figure, to_svg

MOST_BARS = 5
"""Models; more bars than these at each class are thinner than what they differ by."""
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#8fd0c6", "#0b6b5e"])
_DARK = 72
"""Percent, from which on a cell's number is white."""


class Series(NamedTuple):
    """One model: its IoU of each class in 0..1, None for a class that the split has not."""

    label: str
    colour: str
    iou: Sequence[float | None]

    def percent(self) -> list[float]:
        """IoU in percent, NaN for an absent class."""
        return [np.nan if value is None else 100 * value for value in self.iou]


def class_figure(classes: Sequence[str], series: Sequence[Series]) -> str:
    """IoU of each class and model."""
    return bars(classes, series) if len(series) <= MOST_BARS else table(classes, series)


def bars(classes: Sequence[str], series: Sequence[Series]) -> str:
    """A bar a model at each class; absent classes have none."""
    with figure(9.6, 3.2) as (made, (axes,)):
        width = 0.8 / max(1, len(series))
        positions = np.arange(len(classes))
        for i, model in enumerate(series):
            places = positions + (i - (len(series) - 1) / 2) * width
            axes.bar(places, model.percent(), width * 0.92, color=model.colour, label=model.label)
        axes.set_xticks(positions, classes, color=INK)
        axes.tick_params(axis="x", length=0)
        _slant(axes, classes)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("IoU, %")
        longest = max((len(model.label) for model in series), default=0)
        columns = max(1, min(len(series), 120 // (longest + 6)))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
        return to_svg(made)


def table(classes: Sequence[str], series: Sequence[Series]) -> str:
    """A row a model, a column a class, the number in each cell and a shade for it."""
    with figure(9.6, 0.25 * len(series) + 0.9) as (made, (axes,)):
        numbers = np.array([model.percent() for model in series])
        axes.pcolormesh(numbers, cmap=_SHADES, vmin=0, vmax=100, edgecolors="white", linewidth=1)
        for (row, column), number in np.ndenumerate(numbers):
            text = "–" if np.isnan(number) else f"{number:.1f}"
            colour = "white" if number >= _DARK else INK
            axes.text(
                column + 0.5, row + 0.5, text, color=colour, fontsize=8, ha="center", va="center_baseline"
            )
        axes.set_xticks(np.arange(len(classes)) + 0.5, classes, color=INK)
        axes.set_yticks(np.arange(len(series)) + 0.5, [model.label for model in series])
        for label, model in zip(axes.get_yticklabels(), series, strict=True):
            label.set_color(model.colour)
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        _slant(axes, classes)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        return to_svg(made)


def _slant(axes: Axes, classes: Sequence[str]) -> None:
    """Turn names that would run into each other."""
    if sum(map(len, classes)) > 100:
        above = axes.xaxis.get_tick_params()["labeltop"]
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="left" if above else "right", rotation_mode="anchor")
