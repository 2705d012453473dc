"""Stage quantize: the exported graphs in a target's precision; needs no hardware of the target."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afdcd.data.manifest import Manifest, evaluation_samples
from afdcd.files import atomic_folder
from afdcd.geometry import fit
from deploy.bundle import (
    CONTRACT,
    PARITY,
    QUANTISATION,
    Contract,
    checked_bytes,
    read_contract,
    write_model,
)
from deploy.calibration import drawn
from deploy.config import TargetConfig
from deploy.evaluate import Sample
from deploy.presets import CALIBRATED, needs_no_typing, preset_of, require_preset
from deploy.quantize import Typed, narrowed, quantize, unchanged
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import DeployParams, load, named


def main(given: list[str]) -> None:
    """Type the graphs of a model for a target.

    Raises:
        UserError: there is no way to that precision, or calibration or val images are missing.
    """
    target, model = arguments(given, "TARGET", "MODEL")
    with atomic_folder(paths.typed(target, model)) as folder:
        typed = type_graphs(load().deploy, target, model, folder)
    _report(target, model, typed)


def type_graphs(deploy: DeployParams, target: str, model: str, folder: Path) -> Typed:
    """Write the graphs of a model as typed for a target into `folder`, with contract and records.

    Raises:
        UserError: there is no way to that precision, or calibration or val images are missing.
    """
    spec = named(deploy.specs, target, "target")
    require_preset(target, spec, deploy.quantize)
    source = paths.exported(model)
    contract = read_contract(source)
    exported = {name: checked_bytes(source / name, known) for name, known in contract.graphs.items()}
    if needs_no_typing(spec):
        typed = unchanged(exported, spec.backend, spec.precision)
    elif preset_of(spec) in CALIBRATED:
        typed = _int8(exported, contract, deploy, spec)
    else:
        assert spec.precision in ("fp16", "bf16")  # what is left in the table of presets
        typed = narrowed(exported, spec.backend, spec.precision)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in typed.files.items():
        (folder / name).write_bytes(content)
    for name in (CONTRACT, PARITY):
        shutil.copyfile(source / name, folder / name)
    write_model(folder / QUANTISATION, typed.record)
    return typed


def _int8(exported: dict[str, bytes], contract: Contract, deploy: DeployParams, spec: TargetConfig) -> Typed:
    manifest = Manifest.load(paths.PREPARED)
    found = evaluation_samples(manifest, "val", deploy.quantize.val_images)
    return quantize(
        exported,
        contract,
        calibration=calibration_images(manifest, contract, deploy.quantize.calibration_images, deploy.seed),
        validation=[Sample(entry.name, image, labels) for entry, image, labels in found],
        settings=deploy.quantize,
        threads=spec.threads,
        backend=spec.backend,
    )


def calibration_images(
    manifest: Manifest, contract: Contract, count: int, seed: int
) -> npt.NDArray[np.uint8]:
    """`count` training images drawn by `seed`, in the manifest's order, at input size."""
    entries = manifest.split("train")
    size, mode = contract.geometry.size, contract.geometry.fit
    chosen = drawn(len(entries), count, seed)
    return np.stack([fit(manifest.image(entries[index]), size, mode).image for index in chosen])


def _report(target: str, model: str, typed: Typed) -> None:
    record = typed.record
    if record.chosen is None:
        done = "as it is" if record.preset == "none" else f"with {record.precision} written into it"
        print(f"{model} for {target}: the exported graph {done}")
        return
    for candidate in record.candidates:
        assert candidate.miou is not None  # val images have labels
        mark = "chosen" if candidate.name == record.chosen else "      "
        print(
            f"{model} for {target}: {mark} {candidate.name}: val mIoU {100 * candidate.miou:.2f}, "
            f"agreement {candidate.agreement:.4f}"
        )
    if record.kept:
        print(f"{model} for {target}: in float stay {', '.join(record.kept)}")


if __name__ == "__main__":
    run(main)
