"""Sentences about intervals, made from the intervals: they claim what those carry and no more."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from pipeline.studies import plan
from pipeline.studies.definition import Study
from pipeline.studies.outcome import Line, Outcome, control_of
from pipeline.studies.statistics import LEVEL, Interval, false_exclusions, t_quantile


def number(value: float | None) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def reading(study: Study) -> str:
    """How the tables are to be read."""
    degrees = len(study.seeds) - 1
    return (
        "Figures are mIoU in %. Differences are points above the student alone of the same seed; their "
        f"interval is Student's t over {len(study.seeds)} seeds ({degrees} degree(s) of freedom, t = "
        f"{t_quantile(LEVEL, degrees):.2f}). It speaks of other training seeds on these data, this teacher "
        "and these images, and of nothing else. A step's cost is CPU time relative to the student alone's."
    )


def arm_note(outcome: Outcome, arm: str) -> str:
    """What is equal in an arm."""
    study = outcome.study
    if arm == plan.EQUAL_ITERATIONS:
        return f"All train for {study.iterations} iterations, whatever a step costs."
    return (
        f"All train for the time that `{study.equal_time_as}` takes for {study.iterations} iterations. "
        "Iterations were set beforehand from the measured cost of a step, and the learning rate falls over "
        "each one's own length. First phases are not counted."
    )


def intervals(lines: list[Line], level: float = LEVEL) -> dict[str, Interval]:
    """Recipe -> its interval, where there is one."""
    control = control_of(lines)
    found = {line.recipe: line.interval(control, level) for line in lines if line is not control}
    return {recipe: each for recipe, each in found.items() if each is not None}


def verdict(lines: list[Line]) -> str:
    """What the intervals of an arm say together."""
    found = intervals(lines)
    if not found:
        return "No recipe has two seeds yet, so there is no interval."
    count, planned = len(found), len(lines) - 1
    halves = [each.half_width for each in found.values()]
    corrected = 1 - (1 - LEVEL) / count
    surviving = [name for name, each in intervals(lines, corrected).items() if each.excludes_zero]
    sentences = [
        f"{count} of {planned} recipes have an interval so far." if count < planned else "",
        _exclusions(found),
        f"Without any effect, {false_exclusions(count):.2f} of {count} such intervals would exclude zero on "
        "average.",
        f"At the level that keeps the chance of any false exclusion among all {count} below 5 % "
        f"(Bonferroni, {100 * corrected:.2f} %), "
        f"{'these exclude zero: ' + joined(surviving) if surviving else 'none does'}.",
        f"The intervals reach {min(halves):.2f} to {max(halves):.2f} points to each side (median "
        f"{median(halves):.2f}): effects smaller than that are not to be seen here, present or not.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _exclusions(found: dict[str, Interval]) -> str:
    above = [name for name, each in found.items() if each.low > 0]
    below = [name for name, each in found.items() if each.high < 0]
    if not above and not below:
        return (
            f"**No interval of {len(found)} excludes zero**: "
            "no recipe is shown to differ from the student alone."
        )
    parts = [f"above zero for {joined(above)}"] * bool(above) + [f"below zero for {joined(below)}"] * bool(
        below
    )
    rest = len(found) - len(above) - len(below)
    others = f"; it holds zero for the other {rest}" if rest else ""
    return f"The interval lies {' and '.join(parts)}{others}."


def joined(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plain(lines: list[Line]) -> list[str]:
    """An arm for the terminal."""
    control = control_of(lines)
    shown = []
    for line in lines:
        found = None if line is control else line.interval(control)
        tail = f"{found.mean:+6.2f}  ({found.low:+.2f} to {found.high:+.2f})" if found else ""
        shown.append(
            f"  {line.recipe:14} {len(line.trained)} done, {line.iterations:6} iterations  "
            f"{number(line.mean):>6}  {tail}".rstrip()
        )
    return shown
