"""params.yaml as typed settings: the one surface that a person edits, read and checked here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from afdcd.config import (
    Config,
    DatasetConfig,
    ModelConfig,
    PracticeConfig,
    Recipe,
    RuntimeConfig,
    ScheduleConfig,
)
from afdcd.errors import UserError
from afdcd.plugins import nearest
from deploy.config import BenchmarkConfig, ExportConfig, GatesConfig, QuantizeConfig, TargetConfig
from pipeline import paths, strict_yaml
from pipeline.complaints import sentences

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Entry = TypeVar("Entry")


class TeacherParams(Config):
    """The network that teaches: trained by `schedule`, or imported from `checkpoint` when a path is given.

    `format` says whose names the checkpoint has, one of `afdcd.models.formats.FORMATS`.
    """

    seed: Seed
    checkpoint: str | None
    format: str
    model: ModelConfig
    schedule: ScheduleConfig


class TrainParams(Config):
    """Which students are trained, with which seeds, for how long; `practice` also holds for the teacher."""

    students: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    schedule: ScheduleConfig
    practice: PracticeConfig


class DistillParams(Config):
    """The catalogue of recipes, and the ones that run."""

    run: Annotated[list[str], Field(min_length=1)]
    recipes: dict[str, Recipe]


class DeployParams(Config):
    """Which networks go to which targets, which of them are released, and how they are measured.

    `targets` are built and measured here, `elsewhere` on the device that each of them names (`where`).
    """

    seed: Seed
    models: Annotated[list[str], Field(min_length=1)]
    targets: Annotated[list[str], Field(min_length=1)]
    elsewhere: list[str]
    release: list[str]
    specs: dict[str, TargetConfig]
    export: ExportConfig
    quantize: QuantizeConfig
    benchmark: BenchmarkConfig


class Params(Config):
    """All of params.yaml."""

    dataset: DatasetConfig
    teacher: TeacherParams
    students: dict[str, ModelConfig]
    train: TrainParams
    distill: DistillParams
    deploy: DeployParams
    gates: GatesConfig
    runtime: RuntimeConfig


def parse(text: str, source: str = "params.yaml") -> Params:
    """The settings that `text` holds; `source` names it in errors.

    Raises:
        UserError: every unknown key with the nearest valid one, every impossible value with what is allowed.
    """
    values = strict_yaml.parse(text, source)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in sentences(Params, values, error))) from None


def load(path: Path = paths.PARAMS) -> Params:
    """Read params.yaml.

    Raises:
        UserError: the file is missing or holds what `parse` refuses.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing in {Path.cwd()}; run from the project's root, "
            "or write one with python -m pipeline.configure"
        ) from None
    return parse(text, str(path))


def named(catalogue: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """An entry of params by its name.

    Raises:
        UserError: there is none; the nearest name is proposed.
    """
    if name not in catalogue:
        raise UserError(f"params.yaml has no {kind} {name!r}; {nearest(name, catalogue)}")
    return catalogue[name]
