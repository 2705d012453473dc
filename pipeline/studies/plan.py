"""Which students a study trains, for how long, and the params.yaml that says so."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import yaml

from pipeline import paths
from pipeline.checks import CONTROL
from pipeline.studies.definition import SUFFIX, Study

EQUAL_ITERATIONS, EQUAL_TIME = ARMS = ("equal_iterations", "equal_time")


class Run(NamedTuple):
    """One student's training.

    Attributes:
        recipe: as the study names it, or `alone`.
        entry: the recipe's name in params.yaml, with `SUFFIX` where its length is its own.
        student: the network's name.
        seed: training seed.
        iterations: how long.
    """

    recipe: str
    entry: str
    student: str
    seed: int
    iterations: int

    @property
    def model(self) -> str:
        """Id of the trained network."""
        return paths.model_id(self.student, self.entry, self.seed)

    @property
    def stage(self) -> str:
        """The DVC stage that trains it."""
        if self.entry == CONTROL:
            return f"train_student@{self.student}-{self.seed}"
        return f"distill@{self.student}-{self.entry}-{self.seed}"


def overrides(study: Study) -> list[str]:
    """What `python -m pipeline.configure` is told for the first arm; nothing is exported or released."""
    return [
        *study.configure,
        f"recipe=[{','.join(study.recipes)}]",
        f"train.seeds=[{','.join(map(str, study.seeds))}]",
        f"train.schedule.iterations={study.iterations}",
        f"train.schedule.validate_every={validate_every(study, study.iterations)}",
        f"runtime.threads={study.threads}",
        "deploy.models=[teacher]",
        "deploy.release=[]",
    ]


def validate_every(study: Study, iterations: int) -> int:
    """The distance of validations that makes them as many for every length."""
    return math.ceil(iterations / study.validations)


def equal_time_iterations(study: Study, step: Mapping[str, float]) -> dict[str, int]:
    """Recipe (and `alone`) -> iterations that take as long as the budget recipe's, by seconds a step."""
    budget = study.iterations * step[study.equal_time_as]
    return {recipe: max(1, round(budget / step[recipe])) for recipe in study.compared}


def with_equal_time(values: Mapping[str, Any], study: Study, lengths: Mapping[str, int]) -> dict[str, Any]:
    """The first arm's params and, beside each recipe, a twin of another length; `alone` has an empty one."""
    both = copy.deepcopy(dict(values))
    for recipe in study.compared:
        if entry(study, recipe, EQUAL_TIME, lengths) == recipe:
            continue
        methods = {} if recipe == CONTROL else copy.deepcopy(both["distill"]["recipes"][recipe])
        length = lengths[recipe]
        schedule = {"iterations": length, "validate_every": validate_every(study, length)}
        both["distill"]["recipes"][recipe + SUFFIX] = {**methods, "schedule": schedule}
        both["distill"]["run"].append(recipe + SUFFIX)
    return both


def entry(study: Study, recipe: str, arm: str, lengths: Mapping[str, int]) -> str:
    """The recipe's name in params; a recipe that is as long in both arms is trained once."""
    same = arm == EQUAL_ITERATIONS or lengths[recipe] == study.iterations
    return recipe if same else recipe + SUFFIX


def runs(study: Study, student: str, arm: str, lengths: Mapping[str, int]) -> list[Run]:
    """The runs of an arm, seed by seed, the control first: whatever is done is a comparison already.

    Args:
        study: the definition.
        student: the network's name.
        arm: one of `ARMS`.
        lengths: iterations of the second arm; not read for the first.
    """
    return [
        Run(
            recipe,
            entry(study, recipe, arm, lengths),
            student,
            seed,
            study.iterations if arm == EQUAL_ITERATIONS else lengths[recipe],
        )
        for seed in study.seeds
        for recipe in study.compared
    ]


def trainings(study: Study, student: str, lengths: Mapping[str, int] | None) -> list[Run]:
    """All runs once, seed by seed; of the first arm alone while the second's lengths are unknown."""
    arms = ARMS if lengths is not None else (EQUAL_ITERATIONS,)
    every = [run for arm in arms for run in runs(study, student, arm, lengths or {})]
    return sorted(dict.fromkeys(every), key=lambda run: study.seeds.index(run.seed))


def dumped(values: Mapping[str, Any], header: Iterable[str]) -> str:
    """params.yaml below comment lines."""
    lines = "".join(f"# {line}\n" for line in header)
    return f"{lines}\n{yaml.safe_dump(dict(values), sort_keys=False, width=100)}"
