"""What params.yaml must hold beyond types: names that exist, sizes that fit, targets that this machine runs.

All of it before any work and without torch. What needs a network to be built is left to the stage complexity,
which runs before any training: whether timm builds a backbone with its option values, and whether a recipe's
options fit the channels of teacher and student (`groups` divides them).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

from afdcd.config import ModelConfig, ScheduleConfig
from afdcd.data.sources import SOURCES, Source, open_source
from afdcd.errors import UserError
from afdcd.models.formats import FORMATS
from afdcd.models.heads import HEADS
from afdcd.models.names import check_backbone
from afdcd.plugins import checked_options, nearest, require_known
from deploy.presets import require_preset
from deploy.sessions.capability import check_backend, check_target, nvidia_driver
from pipeline import paths, recipes
from pipeline.launch import count_gpus, count_processes, node_mistakes
from pipeline.params import Params

HERE = "here"
"""`where` of a target that this machine builds and measures."""

CONTROL = "alone"
"""The recipe of a student trained without a teacher."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check(params: Params) -> None:
    """Refuse what cannot work.

    Raises:
        UserError: one line a mistake, each with the key, the value and the remedy.
    """
    for group in (_names, _lists):
        _raise(group(params))
    _raise(
        complaint
        for group in (
            _data,
            _networks,
            recipes.complaints,
            _runtime,
            _batches,
            _export,
            _gates,
            _targets,
            _elsewhere,
        )
        for complaint in group(params)
    )


def produced(params: Params) -> list[str]:
    """Ids of all networks that this run trains."""
    ways = [CONTROL, *params.distill.run]
    combinations = product(params.train.students, ways, params.train.seeds)
    return ["teacher", *(paths.model_id(*combination) for combination in combinations)]


def _raise(complaints: Iterable[str]) -> None:
    lines = list(complaints)
    if lines:
        raise UserError("\n".join(f"{paths.PARAMS}: {line}" for line in lines))


def _refusal(call: Callable[..., Any], *arguments: Any) -> list[str]:
    """What a check of another room refuses, as complaints."""
    try:
        call(*arguments)
    except UserError as error:
        return [str(error)]
    return []


def _names(params: Params) -> Iterator[str]:
    """Names become parts of paths and stage names, where '-' would join two different ones to the same."""
    places: dict[str, Iterable[str]] = {
        "students": params.students,
        "distill.recipes": params.distill.recipes,
        "deploy.specs": params.deploy.specs,
    }
    for place, names in places.items():
        for name in names:
            if not _NAME.fullmatch(name):
                yield (
                    f"{place}.{name}: {name!r} is no possible name; "
                    "use letters, digits and '_', and start with a letter"
                )
    if CONTROL in params.distill.recipes:
        yield f"distill.recipes.{CONTROL}: {CONTROL!r} means a student without a teacher; rename the recipe"


def _lists(params: Params) -> Iterator[str]:
    """Entries must exist in their catalogue and stand once."""
    yield from _members("train.students", params.train.students, params.students)
    yield from _members("distill.run", params.distill.run, params.distill.recipes)
    yield from _members("deploy.targets", params.deploy.targets, params.deploy.specs)
    yield from _members("deploy.elsewhere", params.deploy.elsewhere, params.deploy.specs)
    ids = produced(params)
    yield from _members("deploy.models", params.deploy.models, ids)
    yield from _members("deploy.release", params.deploy.release, params.deploy.models)
    for seed in _twice(params.train.seeds):
        yield f"train.seeds: {seed} stands twice; remove one"
    if not _twice([*params.train.students, *params.distill.run, *map(str, params.train.seeds)]):
        for name in _twice(ids):
            yield f"students and recipes give two networks the same id {name!r}; rename a student or a recipe"


def _members(place: str, listed: list[str], catalogue: Iterable[str]) -> Iterator[str]:
    known = list(catalogue)
    yield from (
        f"{place}: unknown name {name!r}; {nearest(name, known)}" for name in listed if name not in known
    )
    yield from (f"{place}: {name!r} stands twice; remove one" for name in _twice(listed))


def _twice(items: Iterable[Any]) -> list[Any]:
    return [item for item, count in Counter(items).items() if count > 1]


def _data(params: Params) -> Iterator[str]:
    dataset = params.dataset
    if "seed" in dataset.options:
        yield "dataset.options.seed: the seed stands at dataset.seed; remove this one"
    source = None
    try:
        constructor = require_known(SOURCES, dataset.name, "dataset.name")
        checked_options(constructor, {**dataset.options, "seed": dataset.seed}, "dataset.options")
        if not Path(dataset.root).exists():
            source = open_source(dataset)
    except UserError as error:
        yield str(error)
    if not Path(dataset.root).exists():
        wanted = _wanted(dataset.name, source)
        yield f"dataset.root: {dataset.root!r} does not exist in {Path.cwd()}; {wanted}"


def _wanted(name: str, source: Source | None) -> str:
    """What belongs into a missing root and where to get it, in the source's own words if it has some."""
    if source is not None and source.total:
        return f"make that folder; {name} renders its images and reads none"
    try:
        for _ in source.samples(Path()) if source else ():
            break
    except UserError as error:
        return str(error)
    return f"put the images of {name} there, or set dataset.root to where they are"


def _networks(params: Params) -> Iterator[str]:
    """Backbones, weights files and the teacher's checkpoint, as far as names tell."""
    for place, model in _models(params):
        for complaint in _refusal(check_backbone, model.backbone, model.backbone_options):
            yield f"{place}: {complaint}"
        for complaint in _refusal(require_known, HEADS, model.head, "head"):
            yield f"{place}.head: {complaint}"
        if model.pretrained not in ("none", "imagenet") and not Path(model.pretrained).is_file():
            yield f"{place}.pretrained: {model.pretrained!r} is neither none, nor imagenet, nor a file here"
    yield from (
        f"teacher.format: {said}"
        for said in _refusal(require_known, FORMATS, params.teacher.format, "format")
    )
    checkpoint = params.teacher.checkpoint
    if checkpoint is not None and not Path(checkpoint).exists():
        yield f"teacher.checkpoint: {checkpoint!r} does not exist; give a path, or null to train the teacher"


def _models(params: Params) -> list[tuple[str, ModelConfig]]:
    students = [(f"students.{name}", params.students[name]) for name in params.train.students]
    return [("teacher.model", params.teacher.model), *students]


def _runtime(params: Params) -> Iterator[str]:
    """The device must be there, with one GPU a process, and batch statistics are shared between GPUs only."""
    runtime, gpus = params.runtime, count_gpus(os.environ)
    processes = count_processes(runtime, gpus)
    yield from node_mistakes(runtime)
    # Some systems (WSL) have a driver and no list of GPUs.
    cuda = runtime.device != "cpu" and (gpus > 0 or nvidia_driver())
    if runtime.device == "cuda" and not cuda:
        yield "runtime.device: cuda is not possible, this machine shows no NVIDIA GPU; set it to auto or cpu"
    elif cuda and 0 < gpus < processes:
        yield (
            f"runtime.processes: {processes} is not possible, each needs a GPU and there are {gpus} here; "
            "lower it, or set runtime.device: cpu"
        )
    if runtime.contrast == "triton" and not cuda:
        yield "runtime.contrast: triton needs a GPU, and training would run on the CPU; set it to auto"
    every = processes * runtime.nodes
    if params.train.practice.sync_bn and every > 1 and not cuda:
        yield (
            f"train.practice.sync_bn: true works on GPUs only, and runtime would start {every} processes "
            "on the CPU; set it to false, or runtime.processes: 1"
        )


def _batches(params: Params) -> Iterator[str]:
    """A global batch is cut evenly into processes, and each share into micro-batches."""
    processes = count_processes(params.runtime, count_gpus(os.environ)) * params.runtime.nodes
    micro = params.train.practice.micro_batch
    step = processes * (micro or 1)
    schedules: list[tuple[str, ScheduleConfig]] = [("train.schedule", params.train.schedule)]
    if params.teacher.checkpoint is None:
        schedules.append(("teacher.schedule", params.teacher.schedule))
    for place, schedule in schedules:
        if schedule.batch_size % step:
            parts = f"{processes} process(es)" + (f" x micro_batch {micro}" if micro else "")
            lower = schedule.batch_size // step * step
            near = f"{lower} or {lower + step}" if lower else str(step)
            yield f"{place}.batch_size: {schedule.batch_size} is not divisible by {parts}; take {near}"


def _export(params: Params) -> Iterator[str]:
    """Ranges must not be empty, and hold the size that images are brought to."""
    export = params.deploy.export
    fewest, most = export.batch
    if most is not None and most < fewest:
        yield f"deploy.export.batch: {most} is less than {fewest}; give the fewest and the most images a call"
    if export.dynamic is None:
        return
    multiple = export.dynamic.multiple
    sides = {"height": export.dynamic.height, "width": export.dynamic.width}
    for (side, (shortest, longest)), length in zip(sides.items(), export.input_size, strict=True):
        if any(value % multiple for value in (shortest, longest)):
            yield (
                f"deploy.export.dynamic.{side}: {shortest}..{longest} does not start and end at multiples of "
                f"deploy.export.dynamic.multiple, {multiple}; change one of them"
            )
        elif not shortest <= length <= longest or length % multiple:
            yield (
                f"deploy.export.dynamic.{side}: {shortest}..{longest} in steps of {multiple} leaves out "
                f"{length}, the {side} of deploy.export.input_size; widen it"
            )


def _gates(params: Params) -> Iterator[str]:
    """Gates must name targets, and find the networks that they compare with."""
    gates, deploy = params.gates, params.deploy
    for field in ("max_p50_ms", "max_p99_ms"):
        for target in getattr(gates, field):
            if target not in deploy.specs:
                yield f"gates.{field}: unknown target {target!r}; {nearest(target, deploy.specs)}"
    for target in [*deploy.targets, *deploy.elsewhere]:
        precision = deploy.specs[target].precision
        for field in ("min_agreement", "max_relative_error", "max_drop", "max_class_drop"):
            if precision not in getattr(gates, field):
                yield f"gates.{field}: no limit for {precision}, the precision of {target}; give one, or null"
    compares = [
        key for key in ("min_retention", "min_speedup_over_teacher") if getattr(gates, key) is not None
    ]
    if compares and "teacher" not in deploy.models:
        yield (
            f"deploy.models lacks 'teacher', which gates.{compares[0]} compares with; "
            "add it, or set the gate to null"
        )


def _targets(params: Params) -> Iterator[str]:
    """Targets that this machine, or this version, cannot run."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(installed) > 1:
        yield (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall both, then install the one you need"
        )
    for name in params.deploy.targets:
        spec = params.deploy.specs[name]
        if spec.where != HERE:
            yield (
                f"deploy.targets: {name} is measured on {spec.where!r} (deploy.specs.{name}.where); "
                "move it to deploy.elsewhere, or set where to here"
            )
        else:
            yield from _refusal(check_target, name, spec) or _refusal(
                require_preset, name, spec, params.deploy.quantize
            )


def _elsewhere(params: Params) -> Iterator[str]:
    """Targets of other devices: their graphs must be possible, their hardware is not asked."""
    for name in params.deploy.elsewhere:
        spec = params.deploy.specs[name]
        if spec.where == HERE:
            yield (
                f"deploy.elsewhere: {name} is measured here (deploy.specs.{name}.where); "
                "move it to deploy.targets, or set where to the device's name"
            )
        elif not _NAME.fullmatch(spec.where):
            yield (
                f"deploy.specs.{name}.where: {spec.where!r} is no possible name of a device; "
                "use letters, digits and '_', and start with a letter"
            )
        else:
            yield from _refusal(check_backend, name, spec) or _refusal(
                require_preset, name, spec, params.deploy.quantize
            )


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
