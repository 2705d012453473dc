"""All that a run left, read by the lists of params (never by what lies about) into one typed object."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from afdcd.data.manifest import Manifest as Data
from afdcd.errors import UserError
from afdcd.files import read_json
from deploy.benchmark import Report
from deploy.bundle import Manifest, read_manifest
from deploy.config import Config
from deploy.evaluate import Score
from deploy.gates import Judgement, Key, Measurement, judge
from deploy.maps import load_maps
from deploy.measurement import figures
from pipeline import elsewhere, paths
from pipeline.params import Params
from pipeline.scoring import GALLERY, PREDICTIONS, SCORE

ALONE = "alone"
TEACHER = "teacher"
REFERENCE_BACKEND = "pytorch"
"""Held against, never released."""

Kind = TypeVar("Kind", bound=Config)
Curve = list[dict[str, float | None]]
"""A row a logged iteration: column -> value; None where the column is empty."""


class Network(NamedTuple):
    """A trained network of a run; the teacher has no student name and the recipe `teacher`."""

    model: str
    student: str | None
    recipe: str
    seed: int


def networks(params: Params) -> dict[str, Network]:
    """Every network of a run by its id: the teacher, then each student alone and by each recipe."""
    found = {TEACHER: Network(TEACHER, None, TEACHER, params.teacher.seed)}
    recipes = [ALONE, *params.distill.run]
    for student, recipe, seed in product(params.train.students, recipes, params.train.seeds):
        model = paths.model_id(student, recipe, seed)
        found[model] = Network(model, student, recipe, seed)
    return found


def controls(known: dict[str, Network]) -> dict[str, str]:
    """Distilled network -> the same student and seed trained alone."""
    return {
        model: paths.model_id(network.student, ALONE, network.seed)
        for model, network in known.items()
        if network.student is not None and network.recipe != ALONE
    }


def read_typed(kind: type[Kind], path: Path) -> Kind:
    """A JSON file as the model that wrote it.

    Raises:
        UserError: the file is missing or of another version.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is of another version ({place}: {first['msg']}); run dvc repro") from error


def read_curve(path: Path) -> Curve:
    """A training curve.

    Raises:
        UserError: the file is missing or holds something else than numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = csv.DictReader(handle)
            return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run dvc repro") from error
    except ValueError as error:
        raise UserError(f"{path} is no training curve ({error}); run dvc repro") from error


@dataclass(frozen=True)
class Results:
    """What a run left; `root` is the project's folder, keys are (model, target).

    Attributes:
        elsewhere: target -> device, of the targets that another device has measured.
        missing: target -> why nothing is known of it, of those that one has yet to measure.
    """

    root: Path
    params: Params
    data: Data
    hardware: dict[str, Any]
    complexity: dict[str, Any]
    networks: dict[str, Network]
    curves: dict[str, Curve]
    references: dict[str, Score]
    scores: dict[Key, Score]
    engines: dict[Key, Manifest]
    benchmarks: dict[str, Report]
    elsewhere: dict[str, str]
    missing: dict[str, str]

    def predictions(self, model: str) -> dict[str, npt.NDArray[np.uint8]]:
        """PyTorch's class maps of all test samples, by name."""
        return load_maps(self.root / paths.reference(model) / PREDICTIONS)

    def gallery(self, model: str, target: str) -> dict[str, npt.NDArray[np.uint8]]:
        """An engine's class maps of the first test samples, by name."""
        return load_maps(self.root / paths.evaluation(target, model) / GALLERY)

    def measurement(self, model: str, target: str) -> Measurement:
        """What the gates look at."""
        engine, score = self.engines[model, target], self.scores[model, target]
        device = self.params.deploy.specs[target].where
        return figures(engine, score, self.benchmarks[target], self.references[model], device=device)

    def judgement(self) -> Judgement:
        """Every gate of every model to release, on every target that ships; one not measured fails."""
        deploy = self.params.deploy
        judgement = judge(
            {key: self.measurement(*key) for key in self.scores},
            self.params.gates,
            released=deploy.release,
            targets=[name for name in self.targets() if deploy.specs[name].backend != REFERENCE_BACKEND],
            teacher=TEACHER,
            controls=self.controls(),
        )
        blocked = elsewhere.blocked(self.missing, deploy)
        return Judgement(verdicts=judgement.verdicts + blocked.verdicts, notes=judgement.notes)

    def targets(self) -> list[str]:
        """All targets that were measured, those of this machine first."""
        return [*self.params.deploy.targets, *self.elsewhere]

    def controls(self) -> dict[str, str]:
        """Distilled network -> the same student and seed trained alone."""
        return controls(self.networks)

    def metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """The few numbers that `dvc metrics diff` compares: model -> target -> name -> value."""
        found: dict[str, dict[str, dict[str, float | None]]] = {}
        for (model, target), score in self.scores.items():
            timing = self.benchmarks[target].models[model]
            found.setdefault(model, {})[target] = {
                "miou": round(100 * score.miou, 2),
                "p50_ms": round(timing.latency_ms.p50, 3),
                "speedup": timing.speedup,
                "size_mb": round(self.engines[model, target].size() / 1e6, 3),
            }
        return found


def collect(params: Params, root: Path = Path()) -> Results:
    """Read all results of the run that `params` describes.

    Raises:
        UserError: a result is missing or of another version; the file is named.
    """
    models, targets = params.deploy.models, params.deploy.targets
    known = networks(params)
    keys = [(model, target) for target in targets for model in models]
    found, missing = elsewhere.collect(params.deploy, root)
    away = [(model, target) for target in found for model in models]
    return Results(
        root=root,
        params=params,
        data=Data.load(root / paths.PREPARED),
        hardware=read_json(root / paths.HARDWARE),
        complexity=read_json(root / paths.COMPLEXITY),
        networks=known,
        curves={model: read_curve(root / paths.curve(model)) for model in known},
        references={model: read_typed(Score, root / paths.reference(model) / SCORE) for model in models},
        scores={
            (model, target): read_typed(Score, root / paths.evaluation(target, model) / SCORE)
            for model, target in keys
        }
        | {(model, target): found[target].scores[model] for model, target in away},
        engines={(model, target): read_manifest(root / paths.engine(target, model)) for model, target in keys}
        | {(model, target): found[target].engines[model] for model, target in away},
        benchmarks={target: read_typed(Report, root / paths.benchmark(target)) for target in targets}
        | {target: measured.timing for target, measured in found.items()},
        elsewhere={target: measured.device for target, measured in found.items()},
        missing=missing,
    )
