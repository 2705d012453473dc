from __future__ import annotations

import re

import pytest

from pipeline.reporting.classes import MOST_BARS, Series, class_figure
from pipeline.reporting.curves import MOST_LINES, Curve, training_curves
from pipeline.reporting.figures import Point, pareto
from pipeline.reporting.style import recipe_colours

THIRTEEN = [f"r{i}" for i in range(13)]


def axes(svg: str) -> int:
    return len(re.findall(r'id="axes_\d+"', svg))


def strokes(svg: str, colour: str) -> int:
    """Lines of a colour; those with round ends are curves, markers are not."""
    return len(re.findall(rf"fill: none; stroke[^\"]*: {colour}", svg))


def curve(recipe: str, seed: int = 0, student: str | None = "s") -> Curve:
    steps = range(1, 5)
    return Curve(
        label=f"{recipe}, seed {seed}",
        panel=recipe,
        colour=recipe_colours(THIRTEEN)[recipe],
        student=student,
        reference=recipe in ("teacher", "alone"),
        loss=[(step, 3.0 / step) for step in steps],
        val_miou=[(step, 0.1 * step + 0.01 * seed) for step in steps],
    )


def test_thirteen_recipes_have_thirteen_colours() -> None:
    assert len(set(recipe_colours(THIRTEEN).values())) == 15


def test_few_networks_share_two_axes() -> None:
    assert axes(training_curves([curve("teacher", student=None), curve("alone"), curve("r0")])) == 2


def test_many_networks_have_a_panel_each_before_the_control_and_the_teacher() -> None:
    curves = [curve("teacher", student=None), curve("alone"), *map(curve, THIRTEEN)]
    svg = training_curves(curves)
    # 13 recipes and the legend, then 15 losses, five in a row.
    assert axes(svg) == 15 + 15
    colours = recipe_colours(THIRTEEN)
    assert strokes(svg, colours["r3"]) == 2
    assert strokes(svg, colours["alone"]) == 13 + 1 + 1
    assert svg == training_curves(curves)


def test_seeds_share_a_panel() -> None:
    seeds = range(3)
    svg = training_curves([curve(recipe, seed) for recipe in ("alone", "r0", "r1") for seed in seeds])
    assert axes(svg) == 5 + 5
    assert strokes(svg, recipe_colours(THIRTEEN)["r0"]) == 2 * 3


def test_many_seeds_of_the_control_alone_are_still_shown() -> None:
    svg = training_curves([curve("alone", seed) for seed in range(MOST_LINES + 1)])
    assert strokes(svg, recipe_colours(THIRTEEN)["alone"]) > 2 * MOST_LINES


def test_an_imported_teacher_has_no_panel_of_loss() -> None:
    imported = curve("teacher", student=None)._replace(loss=[], val_miou=[])
    svg = training_curves([imported, curve("alone"), *map(curve, THIRTEEN[:9])])
    assert axes(svg) == 10 + 10


@pytest.mark.parametrize(("models", "bars"), [(MOST_BARS, True), (MOST_BARS + 1, False)])
def test_many_models_get_numbers_for_bars(models: int, bars: bool) -> None:
    colours = recipe_colours(THIRTEEN)
    series = [Series(recipe, colours[recipe], [0.5, None, 0.25]) for recipe in THIRTEEN[:models]]
    svg = class_figure(["road", "sky", "car"], series)
    assert ("QuadMesh" in svg) != bars
    assert (svg.count(f"fill: {colours['r0']}") >= 2) == bars
    assert svg == class_figure(["road", "sky", "car"], series)


def test_models_of_one_name_share_an_entry_of_the_legend() -> None:
    points = [Point(f"kd_{seed}", "t", "fp32", 1.0 + seed, 0.5, "#123456", True) for seed in range(3)]
    one, each = (pareto(points, {f"kd_{seed}": name(seed) for seed in range(3)}) for name in (_kd, str))
    assert one.count("fill: #123456") == each.count("fill: #123456") - 2


def _kd(seed: int) -> str:
    return "kd"
