"""A study's figures as SVG, in the report's look: differences with intervals, and accuracy over cost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from pipeline.checks import CONTROL
from pipeline.reporting.style import ALONE, INK, MUTED, figure, to_svg
from pipeline.studies import plan
from pipeline.studies.outcome import Line, Outcome, control_of

BLUE = "#3a6fc4"
TITLES = {plan.EQUAL_ITERATIONS: "equal iterations", plan.EQUAL_TIME: "equal training time"}


def differences(outcome: Outcome) -> str:
    """A forest plot an arm: each recipe's mean difference to the control with its interval, and the seeds."""
    count = len(outcome.study.recipes)
    with figure(8.6, 0.27 * count + 1.1, columns=len(outcome.arms)) as (made, axes):
        for i, (arm, lines) in enumerate(outcome.arms.items()):
            _forest(axes[i], lines)
            axes[i].set_title(f"at {TITLES[arm]}", fontsize=9, color=INK)
            axes[i].set_yticks(range(count), outcome.study.recipes if i == 0 else [""] * count, color=INK)
            axes[i].set_ylim(count - 0.4, -0.6)
        made.supxlabel(
            "points of mIoU above the student alone (95 % interval; small dots: seeds); "
            "each panel has its own scale",
            fontsize=9,
        )
        return to_svg(made)


def _forest(axes: Axes, lines: list[Line]) -> None:
    control = control_of(lines)
    axes.axvline(0, color=ALONE, lw=1.2, zorder=1)
    for row, line in enumerate(line for line in lines if line is not control):
        points = list(line.differences(control).values())
        axes.scatter(points, [row + 0.22] * len(points), s=7, color=MUTED, linewidth=0, zorder=2)
        found = line.interval(control)
        if found is not None:
            colour = BLUE if found.excludes_zero else INK
            axes.plot(
                [found.low, found.high], [row, row], color=colour, lw=1.5, solid_capstyle="butt", zorder=3
            )
            axes.scatter([found.mean], [row], s=26, color=colour, linewidth=0, zorder=4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def accuracy_over_cost(outcome: Outcome) -> str:
    """Mean mIoU with its spread over the cost of a step, a panel an arm, named at the right edge."""
    assert outcome.costs is not None
    ratio = {recipe: cost["cpu_ratio"] for recipe, cost in outcome.costs["recipes"].items()}
    with figure(9.6, 4.2, columns=len(outcome.arms)) as (made, axes):
        for each, (arm, lines) in zip(axes, outcome.arms.items(), strict=True):
            each.set_title(f"at {TITLES[arm]}", fontsize=9, color=INK)
            _scatter(each, [line for line in lines if line.mean is not None], ratio)
        low, high = min(a.get_ylim()[0] for a in axes), max(a.get_ylim()[1] for a in axes)
        for each, lines in zip(axes, outcome.arms.values(), strict=True):
            each.set_ylim(low, high)
            _names(each, [line for line in lines if line.mean is not None], ratio)
        axes[0].set_ylabel(f"mIoU on {outcome.study.split}, % (mean and sd over seeds)")
        made.supxlabel("CPU time of a step, relative to the student alone", fontsize=9)
        return to_svg(made)


def _scatter(axes: Axes, lines: list[Line], ratio: dict[str, float]) -> None:
    for line in lines:
        colour = ALONE if line.recipe == CONTROL else BLUE
        x, y, spread = ratio[line.recipe], line.mean or 0.0, line.deviation or 0.0
        axes.plot([x, x], [y - spread, y + spread], color=colour, lw=1, alpha=0.5, zorder=2)
        axes.scatter([x], [y], s=30, color=colour, linewidth=0, zorder=3)


def _names(axes: Axes, lines: list[Line], ratio: dict[str, float]) -> None:
    """Names in a column at the right edge, joined to their points by thin lines."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    edge = right + 0.06 * (right - left)
    ordered = sorted(lines, key=lambda line: line.mean or 0.0)
    places = spread([line.mean or 0.0 for line in ordered], 0.052 * (high - low), low, high)
    for line, y in zip(ordered, places, strict=True):
        axes.annotate(
            line.recipe,
            (ratio[line.recipe], line.mean or 0.0),
            (edge, y),
            va="center",
            fontsize=8,
            color=ALONE if line.recipe == CONTROL else INK,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.5, "alpha": 0.6, "shrinkB": 3},
        )


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising values moved as little as need be to lie `gap` apart, within low..high where they fit."""
    groups: list[tuple[float, int]] = []
    for value in values:
        centre, size = value, 1
        while groups and groups[-1][0] + groups[-1][1] * gap / 2 > centre - size * gap / 2:
            other, count = groups.pop()
            centre, size = (other * count + centre * size) / (count + size), count + size
        groups.append((centre, size))
    placed = [centre + (i - (size - 1) / 2) * gap for centre, size in groups for i in range(size)]
    over = max(0.0, placed[-1] - high) if placed else 0.0
    placed = [place - over for place in placed]
    under = max(0.0, low - placed[0]) if placed else 0.0
    return [place + under for place in placed]
