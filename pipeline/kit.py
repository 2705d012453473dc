"""Stage kit: a folder for each device that measures targets; empty where all are measured here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from afdcd.data.manifest import Manifest, evaluation_samples
from afdcd.files import atomic_folder
from deploy.bundle import read_contract
from deploy.evaluate import Score
from deploy.kit import Labelled, Plan, write_kit
from pipeline import paths
from pipeline.benchmark import IMAGES
from pipeline.cli import arguments, run
from pipeline.params import Params, load, named
from pipeline.quantize import calibration_images, type_graphs
from pipeline.results import TEACHER, controls, networks, read_typed
from pipeline.scoring import LOGITS, PREDICTIONS, SCORE, SPLIT


def devices(params: Params) -> dict[str, list[str]]:
    """Device -> the targets that are measured there, in the order of params."""
    found: dict[str, list[str]] = {}
    for target in params.deploy.elsewhere:
        found.setdefault(named(params.deploy.specs, target, "target").where, []).append(target)
    return found


def main(given: list[str]) -> None:
    """Write the kits.

    Raises:
        UserError: a graph cannot be typed for a target, or an image cannot be read.
    """
    arguments(given)
    params = load()
    with atomic_folder(paths.KITS) as root:
        for device, targets in devices(params).items():
            with tempfile.TemporaryDirectory(prefix="kit-") as temporary:
                plan = _plan(params, device, targets, Path(temporary))
                kit = write_kit(root / device, plan, _labelled())
            size = sum(record.bytes for record in kit.files.values()) / 1e6
            print(f"{paths.KITS / device}: {', '.join(targets)}; {len(kit.samples)} images, {size:.1f} MB")
    if not params.deploy.elsewhere:
        print("every target is measured here: no kit")


def _labelled() -> Iterator[Labelled]:
    manifest = Manifest.load(paths.PREPARED)
    for entry, _, labels in evaluation_samples(manifest, SPLIT):
        yield Labelled(entry.name, entry.image, labels)


def _plan(params: Params, device: str, targets: list[str], temporary: Path) -> Plan:
    deploy, data = params.deploy, Manifest.load(paths.PREPARED)
    typed: dict[tuple[str, str], Path] = {}
    for target in targets:
        for model in deploy.models:
            typed[target, model] = temporary / target / model
            type_graphs(deploy, target, model, typed[target, model])
    calibrated = any(deploy.specs[target].precision == "int8" for target in targets)
    contract = read_contract(paths.exported(deploy.models[0]))
    leading = controls(networks(params))
    return Plan(
        device=device,
        targets={target: deploy.specs[target] for target in targets},
        models=deploy.models,
        typed=typed,
        baseline=TEACHER if TEACHER in deploy.models else None,
        reference="PyTorch",
        references={model: read_typed(Score, paths.reference(model) / SCORE) for model in deploy.models},
        maps={model: paths.reference(model) / PREDICTIONS for model in deploy.models},
        logits={model: paths.reference(model) / LOGITS for model in deploy.models},
        released=deploy.release,
        controls={model: leading[model] for model in deploy.models if model in leading},
        split=SPLIT,
        data=data.info.name,
        licence=data.info.licence,
        benchmark=deploy.benchmark,
        gates=params.gates,
        timing=[entry.image for entry in data.split("val")[:IMAGES]],
        calibration=(
            calibration_images(data, contract, deploy.quantize.calibration_images, deploy.seed)
            if calibrated
            else np.zeros((0, 1, 1, 3), dtype=np.uint8)
        ),
    )


if __name__ == "__main__":
    run(main)
