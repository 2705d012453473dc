"""Accuracy over latency of every engine, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


def _by_best(points: Sequence[Point], labels: Mapping[str, str]) -> dict[str, str]:
    """Label -> colour, from the highest mIoU to the lowest: the order in which a column is read."""
    return {labels[p.model]: p.colour for p in sorted(points, key=lambda p: -p.miou)}


def pareto(points: Sequence[Point], labels: Mapping[str, str]) -> str:
    """Accuracy over latency of every engine, with the frontier; hollow markers are unstable timings.

    Args:
        points: what was measured.
        labels: the name shown for each model id; models may share one.
    """
    known = _by_best(points, labels)
    entries = len(known) + len({p.precision for p in points})
    with figure(7.6, max(4.0, 0.21 * entries + 0.5)) as (made, (axes,)):
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
        for label, colour in known.items():
            axes.scatter([], [], color=colour, s=60, label=label)
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
