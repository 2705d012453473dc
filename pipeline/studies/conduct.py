"""A study from its first command to its last: data and teacher, costs, both arms, scores."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from afdcd.errors import UserError
from afdcd.files import read_json, write_text
from pipeline import configure, paths
from pipeline.studies import plan
from pipeline.studies.definition import SUFFIX, Study
from pipeline.studies.outlook import Outlook
from pipeline.studies.running import Runner, Task, runner, stage
from pipeline.studies.workspace import Workspace

logger = logging.getLogger(__name__)


def conduct(workspace: Workspace, jobs: int, write: Callable[[], object]) -> None:
    """Do what is left of the study; `write` is called whenever there is more to tell.

    Raises:
        UserError: a stage failed (the others were run all the same), or the study was asked to stop.
    """
    study = workspace.study
    with workspace.owned(), ExitStack() as stack:
        workspace.drop_broken_lock()
        # Whatever ends the rest, and after it: what is there is told.
        stack.callback(lambda: workspace.costs.exists() and write())
        hands = stack.enter_context(runner(workspace, study.threads))
        if not workspace.costs.exists():
            _write_params(workspace, study, None)
            workspace.link_raw_data()
            _prepare(hands, workspace, study.recipes, jobs)
            logger.info("timing a training step of %d recipes", len(study.compared))
            _all(hands, [Task("costs", (sys.executable, "-m", "pipeline.studies.costs", workspace.name))], 1)
        lengths = equal_lengths(workspace, study)
        _write_params(workspace, study, lengths)
        _prepare(hands, workspace, workspace.params()["distill"]["run"], jobs)
        _train(hands, workspace, study, lengths, jobs, write)


def equal_lengths(workspace: Workspace, study: Study) -> dict[str, int] | None:
    """The second arm's iterations, None as long as costs are not measured."""
    if not workspace.costs.exists():
        return None
    costs = read_json(workspace.costs)
    return plan.equal_time_iterations(
        study, {recipe: cost[costs["unit"]] for recipe, cost in costs["recipes"].items()}
    )


def student_of(workspace: Workspace) -> str:
    """The student that is trained.

    Raises:
        UserError: there are several.
    """
    students = workspace.params()["train"]["students"]
    if len(students) != 1:
        raise UserError(
            f"the pair of the study {workspace.name} has {len(students)} students, a study takes one; "
            "add train.students=[NAME] to configure"
        )
    return str(students[0])


def _write_params(workspace: Workspace, study: Study, lengths: Mapping[str, int] | None) -> None:
    """params.yaml of the first arm, or of both; untouched where it holds the same already."""
    if lengths is None:
        command = [*configure.COMMAND.split()[1:], "--force", *plan.overrides(study)]
        workspace.run(sys.executable, *command)
        student_of(workspace)
        return
    values = workspace.params()
    if any(name.endswith(SUFFIX) for name in values["distill"]["run"]):
        return
    header = (
        f"Written by: python -m pipeline.study {workspace.name}",
        "Both arms; lengths from study/costs.json",
    )
    text = plan.dumped(plan.with_equal_time(values, study, lengths), header)
    write_text(workspace.folder / paths.PARAMS, text)


def _prepare(hands: Runner, workspace: Workspace, recipes: Sequence[str], jobs: int) -> None:
    """Data, the teacher, and the first phases; what is up to date is not run again."""
    _all(hands, [stage("probe")], 1)
    for group in (["prepare"], ["complexity", "train_teacher"], [f"adapt@{recipe}" for recipe in recipes]):
        _all(hands, [stage(name) for name in _outdated(workspace, group)], jobs)


def _all(hands: Runner, tasks: Sequence[Task], jobs: int) -> None:
    """Run tasks without which nothing goes on.

    Raises:
        UserError: one failed.
    """
    failed = hands.run(tasks, jobs, lambda task, wall: logger.info("%s done in %.0f s", task.name, wall))
    if failed:
        raise UserError(f"{', '.join(failed)} failed; see above, and the logs in study/logs of the workspace")


def _train(
    hands: Runner,
    workspace: Workspace,
    study: Study,
    lengths: Mapping[str, int] | None,
    jobs: int,
    write: Callable[[], object],
) -> None:
    """Both arms, seed by seed, each seed scored and told when it is done.

    Raises:
        UserError: some failed.
    """
    runs = plan.trainings(study, student_of(workspace), lengths)
    outdated = set(_outdated(workspace, [run.stage for run in runs]))
    outlook = Outlook(runs, outdated, read_json(workspace.costs), jobs)
    logger.info(outlook.line())
    failed: list[str] = []
    for seed in study.seeds:
        wave = [run for run in runs if run.seed == seed]
        todo = [stage(run.stage) for run in wave if run.stage in outdated]
        failed += hands.run(todo, jobs, lambda task, wall: logger.info(outlook.ended(task.name, wall)))
        score_all(hands, workspace)
        write()
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} trainings failed: {', '.join(failed)}; "
            f"their logs are in {workspace.records / 'logs'}, and the same command tries them again"
        )


def _outdated(workspace: Workspace, stages: Sequence[str]) -> list[str]:
    """Those of the stages that DVC would run."""
    status = json.loads(workspace.run("dvc", "--wait-for-lock", "status", "--json", *stages))
    return [name for name in stages if name in status]


def score_all(hands: Runner, workspace: Workspace) -> None:
    """Score the teacher and every trained student that has no score yet, in one process.

    Raises:
        UserError: it failed.
    """
    study = workspace.study
    runs = plan.trainings(study, student_of(workspace), equal_lengths(workspace, study))
    trained = [model for model in ("teacher", *(run.model for run in runs)) if workspace.card(model)]
    if trained:
        command = (sys.executable, "-m", "pipeline.studies.scores", study.split, *trained)
        _all(hands, [Task("scores", command)], 1)
