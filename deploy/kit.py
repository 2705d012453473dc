"""A kit: the folder that carries graphs, images and gates to the device that ships; nobody trains there.

It holds the graphs as typed for the device's targets, the test images with their labels, PyTorch's class
maps of them, images to time on, the calibration images, and the gates. On the device
`python -m deploy measure KIT` builds, scores and times every target it can; it needs neither torch nor DVC
nor any training code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from afdcd.errors import UserError
from afdcd.files import atomic_folder, read_json, sha256, write_text
from deploy.build import ENGINE_FILES
from deploy.bundle import CONTRACT, PARITY, QUANTISATION, FileRecord, describe, write_model
from deploy.config import BenchmarkConfig, Config, GatesConfig, TargetConfig
from deploy.evaluate import Sample, Score

KIT = "kit.json"
README = "README.md"

Pixels = npt.NDArray[np.uint8]

PAGE = """# Kit for {device}

{models} on {targets}; {images} {split} images of {data} (licence: {licence}).

On the device, in a clone of the project (Python 3.11 or newer; of its packages only numpy, pillow, pydantic,
rich, onnx and the engines to measure are needed), with this folder beside it as `{device}`:

    python -m deploy measure {device}

It writes `measurements/{device}.json`, and beside it the engines that it built. Take both back to
`measurements/` of the project and run `dvc repro` there: report, gates and release then hold them.
"""


class KitSample(Config):
    """A test image and its labels (class numbers, 8-bit PNG), paths below the kit."""

    name: str
    image: str
    labels: str


class Kit(Config):
    """kit.json: what is in a kit, each file by hash, and how it is to be measured.

    Attributes:
        models: in the order in which they are timed.
        baseline: the model that speed-ups are relative to.
        reference: what `references` and the class maps below `reference/` come from.
        references: model -> its score by the reference, on the same images.
        released: models that the gates judge; `controls` leads from each to its twin without a teacher.
        timing: images to time on; `calibration` those that INT8 ranges came from, at input size.
        files: all files but kit.json and README.md.
    """

    format: Literal[1]
    device: str
    models: list[str]
    targets: dict[str, TargetConfig]
    baseline: str | None
    reference: str
    references: dict[str, Score]
    released: list[str]
    controls: dict[str, str]
    split: str
    data: str
    licence: str
    benchmark: BenchmarkConfig
    gates: GatesConfig
    samples: list[KitSample]
    timing: list[str]
    calibration: list[str]
    files: dict[str, FileRecord]

    def key(self) -> str:
        """SHA-256 of all that a measurement depends on: not of the gates, which only judge it."""
        value = self.model_dump(mode="json", exclude={"gates", "released", "controls"})
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Labelled(NamedTuple):
    """An image file and its labels (H, W), class numbers."""

    name: str
    image: Path
    labels: Pixels


@dataclass(frozen=True)
class Plan:
    """What goes into a kit.

    Attributes:
        typed: (target, model) -> folder of graphs, contract.json, parity.json and quantize.json.
        maps: model -> the reference's class maps (`deploy.maps`); `logits` its probes (`deploy.probes`).
        timing: image files, of which the first few of val are enough.
        calibration: (N, H, W, 3) uint8 at input size; of length 0 where nothing was calibrated.
    """

    device: str
    targets: Mapping[str, TargetConfig]
    models: Sequence[str]
    typed: Mapping[tuple[str, str], Path]
    baseline: str | None
    reference: str
    references: Mapping[str, Score]
    maps: Mapping[str, Path]
    logits: Mapping[str, Path]
    released: Sequence[str]
    controls: Mapping[str, str]
    split: str
    data: str
    licence: str
    benchmark: BenchmarkConfig
    gates: GatesConfig
    timing: Sequence[Path]
    calibration: Pixels


def graphs(target: str, model: str) -> Path:
    """Where a kit holds the typed graphs of a model for a target."""
    return Path("graphs") / target / model


def reference(model: str) -> Path:
    """Where a kit holds the reference's class maps of a model."""
    return Path("reference") / f"{model}.npz"


def reference_logits(model: str) -> Path:
    """Where a kit holds the reference's logits of a model, of a few images on a grid."""
    return Path("reference") / f"{model}.logits.npz"


def write_kit(folder: Path, plan: Plan, samples: Iterable[Labelled]) -> Kit:
    """Write a kit in place of what `folder` held; `samples` are read one by one.

    Raises:
        UserError: there is no sample, or the disk is full.
    """
    with atomic_folder(folder) as root:
        for (target, model), source in plan.typed.items():
            _copy_graphs(source, root / graphs(target, model))
        for model, maps in plan.maps.items():
            _copy(maps, root / reference(model))
        for model, logits in plan.logits.items():
            _copy(logits, root / reference_logits(model))
        listed = list(_write_samples(root, samples))
        if not listed:
            raise UserError(f"the kit for {plan.device} needs test images with labels, and there are none")
        timing = [Path("timing") / f"{index:03}{path.suffix}" for index, path in enumerate(plan.timing)]
        for path, inside in zip(plan.timing, timing, strict=True):
            _copy(path, root / inside)
        calibration = [Path("calibration") / f"{index:04}.png" for index in range(len(plan.calibration))]
        for image, inside in zip(plan.calibration, calibration, strict=True):
            _save(image, root / inside)
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        kit = Kit(
            format=1,
            device=plan.device,
            models=list(plan.models),
            targets=dict(plan.targets),
            baseline=plan.baseline,
            reference=plan.reference,
            references=dict(plan.references),
            released=list(plan.released),
            controls=dict(plan.controls),
            split=plan.split,
            data=plan.data,
            licence=plan.licence,
            benchmark=plan.benchmark,
            gates=plan.gates,
            samples=listed,
            timing=[path.as_posix() for path in timing],
            calibration=[path.as_posix() for path in calibration],
            files=describe(root, names),
        )
        write_model(root / KIT, kit)
        write_text(root / README, _page(kit))
    return kit


def _page(kit: Kit) -> str:
    return PAGE.format(
        device=kit.device,
        models=", ".join(kit.models),
        targets=", ".join(kit.targets),
        images=len(kit.samples),
        split=kit.split,
        data=kit.data,
        licence=kit.licence,
    )


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)


def _save(pixels: Pixels, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(to)


def _copy_graphs(source: Path, to: Path) -> None:
    for name in (CONTRACT, PARITY, QUANTISATION, *ENGINE_FILES):
        if (source / name).is_file():
            _copy(source / name, to / name)


def _write_samples(root: Path, samples: Iterable[Labelled]) -> Iterator[KitSample]:
    """Number the files: a sample may have any name."""
    for index, sample in enumerate(samples):
        image, labels = (
            Path("test") / f"{index:05}{sample.image.suffix}",
            Path("test") / f"{index:05}_labels.png",
        )
        _copy(sample.image, root / image)
        _save(sample.labels, root / labels)
        yield KitSample(name=sample.name, image=image.as_posix(), labels=labels.as_posix())


def read_kit(folder: Path) -> Kit:
    """The description of a kit; its files are not looked at.

    Raises:
        UserError: kit.json is missing or of another version.
    """
    path = folder / KIT
    if not path.is_file():
        raise UserError(
            f"{folder} is no kit: it has no {KIT}; `python -m deploy kit` or dvc repro writes one"
        )
    try:
        return Kit.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is no kit of this version ({place}: {first['msg']}); write the kit again"
        ) from error


def verify_kit(folder: Path) -> Kit:
    """Check every file of a kit against kit.json and return the description.

    Raises:
        UserError: a file is missing or altered; the message names it.
    """
    kit = read_kit(folder)
    for name, record in kit.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing, though {KIT} lists it; copy the whole kit again")
        if sha256(path) != record.sha256:
            raise UserError(
                f"{path} is not the file that {KIT} describes (SHA-256 differs); copy the kit again"
            )
    return kit


def samples_of(folder: Path, kit: Kit) -> Iterator[Sample]:
    """The test images (H, W, 3) and labels (H, W) of a kit, one by one.

    Raises:
        UserError: a file cannot be read.
    """
    for sample in kit.samples:
        yield Sample(sample.name, load(folder / sample.image, "RGB"), load(folder / sample.labels, "L"))


def load(path: Path, mode: str) -> Pixels:
    """Pixels of a kit's image in Pillow's `mode`.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); copy the kit again") from error
