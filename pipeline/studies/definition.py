"""What a study compares: conf/study/<name>.yaml as checked settings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from afdcd.config import Config
from afdcd.errors import UserError
from afdcd.plugins import nearest
from pipeline import strict_yaml
from pipeline.checks import CONTROL
from pipeline.complaints import sentences
from pipeline.params import Seed

FOLDER = Path("conf/study")
RECIPES = Path("conf/recipe")
SUFFIX = "_equal_time"
"""What the second arm's recipes have after their names."""

Positive = Annotated[int, Field(ge=1)]

_OWN = (
    *("recipe", "distill", "train.seeds", "train.schedule.iterations", "train.schedule.validate_every"),
    *("runtime.threads", "deploy.models", "deploy.release"),
)
"""Overrides that the study writes itself."""


class CostsConfig(Config):
    """How a training step is timed: `warmup` steps unseen, then the median of `rounds` of `steps` each."""

    warmup: Positive
    rounds: Annotated[int, Field(ge=3)]
    steps: Positive


class Study(Config):
    """One comparison of recipes with the student alone, paired by seed.

    Attributes:
        about: the question, one sentence.
        configure: overrides of `python -m pipeline.configure`: dataset, pair, schedule of the teacher, ...
        recipes: presets of conf/recipe; the control need not be named.
        seeds: at least two; with two a 95 % interval is 12.7 standard errors wide to each side.
        iterations: how long each student is trained in the first arm.
        validations: how often each is scored on val, in both arms, so that all are chosen among equally many.
        equal_time_as: the recipe (or `alone`) whose time for `iterations` all get in the second arm.
        split: what is scored.
        threads: threads of one training.
        costs: how steps are timed.
    """

    about: Annotated[str, Field(min_length=1)]
    configure: list[str]
    recipes: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=2)]
    iterations: Positive
    validations: Positive
    equal_time_as: str
    split: Literal["val", "test"]
    threads: Positive
    costs: CostsConfig

    @property
    def compared(self) -> list[str]:
        """The control, then the recipes."""
        return [CONTROL, *self.recipes]


def names(root: Path = Path()) -> list[str]:
    """Studies that are defined below `root`."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def load(name: str, root: Path = Path()) -> Study:
    """The study `name` as defined below `root`.

    Raises:
        UserError: there is none of that name, or its file holds what cannot be.
    """
    known = names(root)
    if name not in known:
        raise UserError(f"no study {name!r} in {root / FOLDER}; {nearest(name, known)}")
    path = root / FOLDER / f"{name}.yaml"
    return parse(path.read_text(encoding="utf-8"), str(path), root)


def parse(text: str, source: str, root: Path = Path()) -> Study:
    """The study that `text` holds; `source` names it in errors, presets are those below `root`.

    Raises:
        UserError: unknown keys or recipes, impossible values, entries that stand twice.
    """
    values = strict_yaml.parse(text, source)
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {line}" for line in sentences(Study, values, error))) from None
    presets = sorted(path.stem for path in (root / RECIPES).glob("*.yaml"))
    for recipe in study.recipes:
        if recipe not in presets:
            raise UserError(f"{source}: recipes: unknown recipe {recipe!r}; {nearest(recipe, presets)}")
    for key, items in (("recipes", study.recipes), ("seeds", study.seeds)):
        for item, count in Counter(map(str, items)).items():
            if count > 1:
                raise UserError(f"{source}: {key}: {item} stands twice; remove one")
    if study.equal_time_as not in study.compared:
        raise UserError(
            f"{source}: equal_time_as: {study.equal_time_as!r} is not compared; "
            f"{nearest(study.equal_time_as, study.compared)}"
        )
    for override in study.configure:
        key = override.lstrip("+~").partition("=")[0]
        if any(key == own or key.startswith(f"{own}.") for own in _OWN):
            raise UserError(
                f"{source}: configure: {override!r} is the study's own to set; use its keys instead"
            )
    return study
