"""Stage release: the verified engines with all that was measured of them, in place of the last release."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from afdcd.errors import UserError
from afdcd.files import atomic_folder, recover, sha256, write_json, write_text
from deploy.benchmark import Report
from deploy.bundle import MANIFEST, Manifest, checked_bytes, manifest_sha256, read_manifest, verify
from deploy.card import card
from deploy.evaluate import Score
from deploy.gates import Judgement
from deploy.kit import graphs
from deploy.measurement import engine_folder
from pipeline import elsewhere, paths
from pipeline.cli import arguments, run
from pipeline.elsewhere import Found
from pipeline.gate import Verdict
from pipeline.params import DeployParams, load
from pipeline.provenance import provenance
from pipeline.results import REFERENCE_BACKEND, read_typed
from pipeline.scoring import SCORE, SPLIT

SUMS = "SHA256SUMS"
CARD = "README.md"


class _Engine(NamedTuple):
    """An engine to release.

    Attributes:
        bundle: where it was built, for messages.
        manifest_sha256: of its manifest as it was measured.
        files: where each file of the manifest lies.
        measured_by: names of what holds score and timing.
        outputs: what DVC has of its making.
    """

    bundle: Path
    manifest: Manifest
    manifest_sha256: str
    files: dict[str, Path]
    score: Score
    report: Report
    measured_by: tuple[str, str]
    outputs: tuple[Path, ...]


def _built_here(target: str, model: str) -> _Engine:
    """An engine of this machine.

    Raises:
        UserError: a file is missing or altered.
    """
    bundle = paths.engine(target, model)
    manifest = verify(bundle)
    score, report = paths.evaluation(target, model) / SCORE, paths.benchmark(target)
    return _Engine(
        bundle=bundle,
        manifest=manifest,
        manifest_sha256=sha256(bundle / MANIFEST),
        files={name: bundle / name for name in manifest.files},
        score=read_typed(Score, score),
        report=read_typed(Report, report),
        measured_by=(str(score), str(report)),
        outputs=(
            paths.PREPARED,
            paths.trained(model),
            paths.exported(model),
            paths.typed(target, model),
            bundle,
        ),
    )


def _built_elsewhere(target: str, model: str, found: Found) -> _Engine:
    """An engine that a device built: its graphs as they went there, and the plans that came back.

    Raises:
        UserError: a plan did not come back, or a file is not what the device measured.
    """
    device, manifest = found.device, found.engines[model]
    sent = paths.kit(device) / graphs(target, model)
    back = engine_folder(paths.MEASUREMENTS, device, target, model)
    files = {name: sent / name if (sent / name).is_file() else back / name for name in manifest.files}
    for name, path in files.items():
        if not path.is_file():
            raise UserError(
                f"{path} is missing: {device} built {name} and measured it; bring the folder {back} back too"
            )
        checked_bytes(path, manifest.files[name].sha256)
    source = str(paths.measurement(device))
    return _Engine(
        bundle=back,
        manifest=manifest,
        manifest_sha256=manifest_sha256(manifest),
        files=files,
        score=found.scores[model],
        report=found.timing,
        measured_by=(source, source),
        outputs=(paths.PREPARED, paths.trained(model), paths.exported(model), paths.KITS),
    )


def _measured(target: str, model: str, engine: _Engine, judgement: Judgement) -> dict[str, Any]:
    """The manifest's last field: accuracy, latency, gates, hardware, provenance.

    Raises:
        UserError: a figure is missing or was taken from another build of the engine.
    """
    score, report = engine.score, engine.report
    if model not in report.models:
        raise UserError(f"{engine.measured_by[1]} has no {model}; add it to deploy.models and run dvc repro")
    timing = report.models[model]
    for source, measured in zip(engine.measured_by, (score.engine, timing.engine), strict=True):
        if measured != engine.manifest_sha256:
            raise UserError(
                f"{source} is of another build of {engine.bundle} than the one to release; run dvc repro"
            )
    gates = [gate for gate in judgement.verdicts if (gate.model, gate.target) == (model, target)]
    if not gates:
        raise UserError(f"{paths.VERDICT} judged no {model} on {target}; run dvc repro")
    settings = report.settings.model_dump(mode="json")
    return {
        "accuracy": {"split": SPLIT, **score.model_dump(mode="json")},
        "latency": {**settings, "inputs": report.inputs, **timing.model_dump(mode="json")},
        "gates": [gate.model_dump(mode="json") for gate in gates],
        "hardware": report.hardware,
        "provenance": {
            **provenance(engine.outputs),
            "weights_sha256": engine.manifest.contract.weights_sha256,
        },
    }


def _write_bundle(target: str, model: str, engine: _Engine, judgement: Judgement, folder: Path) -> None:
    """Write a bundle into `folder`.

    Raises:
        UserError: a file of the engine is missing or altered, or a figure does not belong to it.
    """
    manifest, measured = engine.manifest, _measured(target, model, engine, judgement)
    folder.mkdir(parents=True)
    for name, path in engine.files.items():
        shutil.copyfile(path, folder / name)
    complete = manifest.model_copy(update={"measured": measured})
    write_json(folder / MANIFEST, complete.model_dump(mode="json"))
    write_text(folder / CARD, card(complete, measured))
    verify(folder)
    names = sorted([*manifest.files, MANIFEST, CARD])
    write_text(folder / SUMS, "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def _shipped(deploy: DeployParams) -> list[tuple[str, str]]:
    """(model, target) of all that is released: PyTorch is held against, and never ships."""
    return [
        (model, target)
        for model in deploy.release
        for target in [*deploy.targets, *deploy.elsewhere]
        if target in deploy.elsewhere
        or read_manifest(paths.engine(target, model)).backend != REFERENCE_BACKEND
    ]


def main(given: list[str]) -> None:
    """Release what deploy.release and deploy.targets name; the last release stays until all is written.

    With nothing to release it stays for good: only another release replaces it.

    Raises:
        UserError: there is no passing verdict, or an engine is not what was judged.
    """
    arguments(given)
    recover(paths.RELEASE)
    verdict = read_typed(Verdict, paths.VERDICT)
    if not verdict.passed:
        raise UserError(f"{paths.VERDICT} is no passing verdict; run dvc repro gate")
    deploy = load().deploy
    shipped = _shipped(deploy)
    if not shipped:
        paths.RELEASE.mkdir(parents=True, exist_ok=True)
        print(f"nothing to release on deploy.targets; {paths.RELEASE} stays as it was")
        return
    found, missing = elsewhere.collect(deploy)
    for target, reason in missing.items():
        raise UserError(f"{target} cannot be released: {reason}")
    with atomic_folder(paths.RELEASE) as temporary:
        for model, target in shipped:
            away = found.get(target)
            engine = _built_here(target, model) if away is None else _built_elsewhere(target, model, away)
            _write_bundle(target, model, engine, verdict.gates, temporary / model / target)
    for model, target in shipped:
        print(f"released {paths.RELEASE / model / target}")


if __name__ == "__main__":
    run(main)
