"""The report's figures as SVG: accuracy over latency, training curves, IoU of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.reporting.style import INK, MUTED, figure, marker, to_svg


class Point(NamedTuple):
    """One model on one target.

    Attributes:
        model: model id.
        target: target name.
        precision: decides the marker.
        p50_ms: median latency, milliseconds.
        miou: share in 0..1.
        colour: colour of the model's role.
        stable: whether the latency may be judged.
    """

    model: str
    target: str
    precision: str
    p50_ms: float
    miou: float
    colour: str
    stable: bool


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats in both latency and mIoU, by rising latency."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.p50_ms, -p.miou)):
        if not best or point.miou > best[-1].miou:
            best.append(point)
    return best


def pareto(points: Sequence[Point], labels: Mapping[str, str]) -> str:
    """Accuracy over latency of every engine, with the frontier; hollow markers are unstable timings.

    Args:
        points: what was measured.
        labels: the name shown for each model id.
    """
    with figure(7.6, 4.0) as (made, (axes,)):
        edge = frontier([point for point in points if point.stable])
        axes.plot(
            [p.p50_ms for p in edge],
            [100 * p.miou for p in edge],
            color=MUTED,
            lw=1,
            ls=(0, (4, 3)),
            zorder=1,
        )
        for point in points:
            axes.scatter(
                point.p50_ms,
                100 * point.miou,
                s=70,
                alpha=0.9,
                marker=marker(point.precision),
                facecolor=point.colour if point.stable else "white",
                edgecolor="white" if point.stable else point.colour,
                linewidth=1.2,
                zorder=3,
            )
        shown: set[str] = set()
        for point in points:
            if point.model not in shown:
                shown.add(point.model)
                axes.scatter([], [], color=point.colour, s=60, label=labels[point.model])
        for precision in sorted({point.precision for point in points}):
            axes.scatter(
                [], [], color="white", edgecolor=INK, marker=marker(precision), s=55, label=precision
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("median latency, ms an image (log scale)")
        axes.set_ylabel("mIoU on the test split, %")
        axes.margins(0.12, 0.15)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handletextpad=0.4)
        return to_svg(made)


class Curve(NamedTuple):
    """A training curve: (iteration, value) pairs of the loss and of the validation mIoU (0..1)."""

    label: str
    colour: str
    loss: Sequence[tuple[int, float]]
    val_miou: Sequence[tuple[int, float]]


def training_curves(curves: Sequence[Curve]) -> str:
    """Total loss and validation mIoU of every network over its iterations."""
    with figure(9.6, 3.2, columns=2) as (made, (left, right)):
        for curve in curves:
            if curve.loss:
                left.plot(*zip(*curve.loss, strict=True), color=curve.colour, lw=1.4, label=curve.label)
            if curve.val_miou:
                steps, scores = zip(*curve.val_miou, strict=True)
                right.plot(
                    steps,
                    [100 * s for s in scores],
                    color=curve.colour,
                    lw=1.4,
                    marker="o",
                    ms=3,
                    label=curve.label,
                )
        left.set(xlabel="iteration", ylabel="training loss (weighted sum of terms)", yscale="log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        left.yaxis.set_minor_locator(NullLocator())
        right.set(xlabel="iteration", ylabel="mIoU on val, %")
        right.legend(loc="lower right")
        return to_svg(made)


def class_bars(classes: Sequence[str], series: Sequence[tuple[str, str, Sequence[float | None]]]) -> str:
    """IoU of each class, a bar a model; classes absent from the split have no bar.

    Args:
        classes: class names.
        series: (label, colour, IoU in 0..1 or None for each class).
    """
    with figure(9.6, 3.2) as (made, (axes,)):
        width = 0.8 / max(1, len(series))
        positions = np.arange(len(classes))
        for i, (label, colour, values) in enumerate(series):
            heights = [np.nan if value is None else 100 * value for value in values]
            axes.bar(
                positions + (i - (len(series) - 1) / 2) * width,
                heights,
                width * 0.92,
                color=colour,
                label=label,
            )
        axes.set_xticks(positions, classes, color=INK)
        axes.tick_params(axis="x", length=0, rotation=0 if len(classes) <= 12 else 40)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("IoU, %")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=max(1, len(series)))
        return to_svg(made)
