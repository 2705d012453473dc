"""Loss and validation mIoU over the iterations, as SVG: two axes for a few networks, panels for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pipeline.reporting.style import MUTED, figure, to_svg

MOST_LINES = 6
"""Networks that share two axes; more lines cannot be told apart."""
_COLUMNS = 5
_PANEL = 1.45
"""Inches."""

Pairs = Sequence[tuple[int, float]]
"""(iteration, value)."""


class Curve(NamedTuple):
    """A network's training.

    Attributes:
        label: its name.
        panel: its name without the seed; the seeds of a recipe share a panel.
        colour: of its role.
        student: None for the teacher.
        reference: whether others are held against it: the teacher, and a student alone.
        loss: weighted sum of terms.
        val_miou: values in 0..1.
    """

    label: str
    panel: str
    colour: str
    student: str | None
    reference: bool
    loss: Pairs
    val_miou: Pairs

    def scores(self) -> list[tuple[int, float]]:
        """Validation mIoU in percent."""
        return [(iteration, 100 * value) for iteration, value in self.val_miou]


def training_curves(curves: Sequence[Curve]) -> str:
    """Total loss and validation mIoU of every network over its iterations."""
    return _together(curves) if len(curves) <= MOST_LINES else _panels(curves)


def _together(curves: Sequence[Curve]) -> str:
    with figure(9.6, 3.2, columns=2) as (made, (left, right)):
        for curve in curves:
            _line(left, curve.loss, curve.colour)
            _line(right, curve.scores(), curve.colour, marker="o", ms=3, label=curve.label)
        left.set(xlabel="iteration", ylabel="training loss (weighted sum of terms)")
        _logarithmic(left)
        right.set(xlabel="iteration", ylabel="mIoU on val, %")
        right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return to_svg(made)


def _panels(curves: Sequence[Curve]) -> str:
    """A panel a recipe: above validation mIoU on one scale, below the loss, each on its own."""
    losses = [curve for curve in curves if curve.loss]
    scored = [curve for curve in curves if not curve.reference] or list(curves)
    above, below = (list(dict.fromkeys(curve.panel for curve in chosen)) for chosen in (scored, losses))
    # One place more than there are recipes: the legend stands in it.
    first = -(-(len(above) + 1) // _COLUMNS)
    rows = first + -(-len(below) // _COLUMNS)
    with figure(9.6, _PANEL * rows, columns=_COLUMNS, rows=rows) as (made, axes):
        split = first * _COLUMNS
        for place, panel in zip(axes, above, strict=False):
            _scores(place, [curve for curve in scored if curve.panel == panel], curves)
        for place, panel in zip(axes[split:], below, strict=False):
            for curve in losses:
                if curve.panel == panel:
                    _line(place, curve.loss, curve.colour)
                    place.set_title(panel, color=curve.colour, fontsize=8.5)
            place.yaxis.set_major_locator(MaxNLocator(4))
        _one_scale(axes[: len(above)])
        _legend(axes[len(above)], curves)
        for place in (*axes[len(above) : split], *axes[split + len(below) :]):
            place.set_axis_off()
        for number, place in enumerate(axes):
            place.tick_params(labelsize=7)
            place.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            if number % _COLUMNS == 0:
                place.set_ylabel("mIoU on val, %" if number < split else "training loss", fontsize=8)
        return to_svg(made)


def _scores(axes: Axes, own: Sequence[Curve], curves: Sequence[Curve]) -> None:
    """A recipe's validation mIoU before that of the teacher and of the same student alone."""
    for curve in curves:
        if curve.reference and curve.student in (None, own[0].student):
            _line(axes, curve.scores(), curve.colour, lw=1, ls=_dashes(curve))
    for curve in own:
        _line(axes, curve.scores(), curve.colour, marker="o", ms=2.5, lw=1.6)
    axes.set_title(own[0].panel, color=own[0].colour, fontsize=8.5)


def _dashes(curve: Curve) -> Any:
    return (0, (4, 2)) if curve.student is None else "-"


def _legend(axes: Axes, curves: Sequence[Curve]) -> None:
    for panel in dict.fromkeys(curve.panel for curve in curves if curve.reference):
        curve = next(curve for curve in curves if curve.panel == panel)
        axes.plot([], [], color=curve.colour, lw=1, ls=_dashes(curve), label=panel)
    axes.plot([], [], color=MUTED, marker="o", ms=2.5, lw=1.6, label="the panel's recipe")
    axes.legend(loc="center left", fontsize=8, borderpad=0)


def _one_scale(places: Sequence[Axes]) -> None:
    limits = [place.get_ylim() for place in places]
    for place in places:
        place.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        place.yaxis.set_major_locator(MaxNLocator(4))


def _line(axes: Axes, pairs: Pairs, colour: str, **style: Any) -> None:
    if pairs:
        axes.plot(*zip(*pairs, strict=True), color=colour, **{"lw": 1.4, **style})


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
