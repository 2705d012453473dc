"""A made-up outcome with every number chosen: what is written can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from clone import ROOT

from pipeline.studies import definition, plan
from pipeline.studies.outcome import Line, Outcome, Trained
from pipeline.studies.plan import Run

Scores = Mapping[str, Mapping[int, float]]
"""Recipe -> seed -> mIoU in %."""


def line(recipe: str, scores: Mapping[int, float], iterations: int = 400) -> Line:
    trained = {}
    for seed, score in scores.items():
        run = Run(recipe, recipe, "net", seed, iterations)
        trained[seed] = Trained(run, f"{recipe}{seed}", score + 1, score, 10.0)
    return Line(recipe, iterations, trained)


def outcome(name: str, scores: Scores, step: Mapping[str, float]) -> Outcome:
    study = definition.load(name, ROOT)
    lengths = plan.equal_time_iterations(study, step)
    arms = {
        plan.EQUAL_ITERATIONS: [line(recipe, scores.get(recipe, {})) for recipe in study.compared],
        plan.EQUAL_TIME: [line(r, scores.get(r, {}), lengths[r]) for r in study.compared],
    }
    params: dict[str, Any] = {
        "train": {"schedule": {"batch_size": 8}},
        "teacher": {"seed": 0, "schedule": {"iterations": 800}},
    }
    recipes = {
        recipe: {
            "cpu_seconds": step[recipe],
            "cpu_seconds_least": 0.9 * step[recipe],
            "cpu_seconds_most": 1.2 * step[recipe],
            "wall_seconds": 1.1 * step[recipe],
            "cpu_ratio": step[recipe] / step["alone"],
            "peak_mib_above_control": 10.0,
        }
        for recipe in study.compared
    }
    trainings = plan.trainings(study, "net", lengths)
    done = sum(len(each.trained) for each in arms[plan.EQUAL_ITERATIONS])
    return Outcome(
        name=name,
        study=study,
        commit="c0ffee" + 34 * "0",
        student="net",
        params=params,
        params_text="# both arms\n",
        arms=arms,
        costs={"unit": "cpu_seconds", "threads": 1, "batch_size": 8, "crop": [96, 192], "recipes": recipes},
        teacher=70.0,
        first_phases={"idd": 31.4},
        cpu_seconds=4000.0,
        done=(len(trainings) if done == len(study.compared) * len(study.seeds) else done, len(trainings)),
        data={"name": "streets", "classes": ["a", "b"], "splits": {"test": 160, "train": 800, "val": 60}},
        hardware={"cpu": {"model": "a CPU", "logical_cores": 2}, "gpus": []},
    )


@pytest.fixture
def made_up() -> Callable[[str, Scores, Mapping[str, float]], Outcome]:
    return outcome
