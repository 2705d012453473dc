"""What a study found so far, read from its workspace; a workspace of an older commit is read as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from afdcd.files import read_json, sha256
from pipeline import paths
from pipeline.checks import CONTROL
from pipeline.studies import plan, scores
from pipeline.studies.conduct import equal_lengths, student_of
from pipeline.studies.definition import Study
from pipeline.studies.plan import Run
from pipeline.studies.statistics import LEVEL, Interval, deviation, interval, mean
from pipeline.studies.workspace import Workspace


class Trained(NamedTuple):
    """A finished training; mIoU in % on val at its best, and on the study's split where it is scored."""

    run: Run
    weights: str
    val: float
    score: float | None
    seconds: float


class Line(NamedTuple):
    """One recipe in one arm; `trained` by seed."""

    recipe: str
    iterations: int
    trained: Mapping[int, Trained]

    @property
    def scores(self) -> dict[int, float]:
        """Seed -> mIoU in %."""
        return {seed: each.score for seed, each in self.trained.items() if each.score is not None}

    @property
    def mean(self) -> float | None:
        """Of the scores, None without any."""
        return mean(list(self.scores.values())) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Of the scores, None for fewer than two."""
        return deviation(list(self.scores.values()))

    @property
    def mean_val(self) -> float | None:
        """Of the best mIoU on val, None without any."""
        return mean([each.val for each in self.trained.values()]) if self.trained else None

    def differences(self, control: Line) -> dict[int, float]:
        """Seed -> points above the control of that seed."""
        mine, theirs = self.scores, control.scores
        return {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}

    def interval(self, control: Line, level: float = LEVEL) -> Interval | None:
        """Of the differences, None for fewer than two."""
        return interval(list(self.differences(control).values()), level)


class Outcome(NamedTuple):
    """All that a study's page tells.

    Attributes:
        arms: arm -> the control's line, then the recipes'; one arm as long as costs are unknown.
        costs: as `pipeline.studies.costs` wrote them.
        teacher: mIoU in % on the split.
        first_phases: recipe -> CPU-seconds of its stage adapt, where a method has a first phase.
        cpu_seconds: of all stages so far.
        done: finished trainings, and how many there are.
        data: the prepared data's description.
        hardware: the machine's.
    """

    name: str
    study: Study
    commit: str
    student: str
    params: dict[str, Any]
    params_text: str
    arms: Mapping[str, list[Line]]
    costs: dict[str, Any] | None
    teacher: float | None
    first_phases: Mapping[str, float]
    cpu_seconds: float
    done: tuple[int, int]
    data: dict[str, Any] | None
    hardware: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether every training of both arms is done and scored."""
        scored = all(
            len(line.scores) == len(self.study.seeds) for lines in self.arms.values() for line in lines
        )
        return len(self.arms) == len(plan.ARMS) and self.done[0] == self.done[1] and scored

    @classmethod
    def of(cls, workspace: Workspace) -> Outcome:
        """Read a workspace.

        Raises:
            UserError: the study was not begun, or a file is broken.
        """
        study, params = workspace.study, workspace.params()
        lengths = equal_lengths(workspace, study)
        student = student_of(workspace)
        runs = plan.trainings(study, student, lengths)
        trained = {run: found for run in runs if (found := _trained(workspace, study, run))}
        present = plan.ARMS if lengths is not None else (plan.EQUAL_ITERATIONS,)
        records = workspace.records / "stages"
        return cls(
            name=workspace.name,
            study=study,
            commit=workspace.commit,
            student=student,
            params=params,
            params_text=(workspace.folder / paths.PARAMS).read_text(encoding="utf-8"),
            arms={
                arm: _lines(study, plan.runs(study, student, arm, lengths or {}), trained) for arm in present
            },
            costs=read_json(workspace.costs) if workspace.costs.exists() else None,
            teacher=_score(workspace, study, "teacher"),
            first_phases=_first_phases(workspace, study),
            cpu_seconds=sum(read_json(path)["cpu_seconds"] for path in records.glob("*.json")),
            done=(len(trained), len(runs)),
            data=_optional(workspace, "data/prepared/dataset.json"),
            hardware=_optional(workspace, str(paths.HARDWARE)),
        )


def _lines(study: Study, runs: list[Run], trained: Mapping[Run, Trained]) -> list[Line]:
    lines = []
    for recipe in study.compared:
        mine = [run for run in runs if run.recipe == recipe]
        lines.append(
            Line(recipe, mine[0].iterations, {run.seed: trained[run] for run in mine if run in trained})
        )
    return lines


def _trained(workspace: Workspace, study: Study, run: Run) -> Trained | None:
    """A run's network; None where it is not there, or is one of another length."""
    card = workspace.card(run.model)
    if card is None or card["iterations"] != run.iterations:
        return None
    weights = sha256(scores.weights_of(workspace.folder, run.model))
    return Trained(run, weights, 100 * card["val_miou"], _score(workspace, study, run.model), card["seconds"])


def _score(workspace: Workspace, study: Study, model: str) -> float | None:
    """The score in % on the study's split, None where it is not scored."""
    weights = scores.weights_of(workspace.folder, model)
    if not weights.exists():
        return None
    path = scores.place(workspace.folder, study.split, sha256(weights))
    return 100 * float(read_json(path)["miou"]) if path.exists() else None


def _first_phases(workspace: Workspace, study: Study) -> dict[str, float]:
    found = {}
    for recipe in study.recipes:
        state = workspace.folder / paths.adapted(recipe) / "state.json"
        record = workspace.records / "stages" / f"adapt@{recipe}.json"
        if state.exists() and record.exists() and read_json(state)["methods"]:
            found[recipe] = float(read_json(record)["cpu_seconds"])
    return found


def _optional(workspace: Workspace, name: str) -> dict[str, Any] | None:
    path = workspace.folder / name
    return dict(read_json(path)) if path.exists() else None


def control_of(lines: list[Line]) -> Line:
    """The control's line of an arm."""
    return next(line for line in lines if line.recipe == CONTROL)
