"""Stage release: the verified engines with all that was measured of them, in place of the last release."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from afdcd.errors import UserError
from afdcd.files import atomic_folder, recover, sha256, write_json, write_text
from deploy.benchmark import Report
from deploy.bundle import MANIFEST, read_manifest, verify
from deploy.card import card
from deploy.evaluate import Score
from deploy.gates import Judgement
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.gate import Verdict
from pipeline.params import DeployParams, load
from pipeline.provenance import provenance
from pipeline.results import REFERENCE_BACKEND, read_typed
from pipeline.scoring import SCORE, SPLIT

SUMS = "SHA256SUMS"
CARD = "README.md"


def _same_engine(bundle: Path, measured_by: str, engine: str | None) -> None:
    if engine != sha256(bundle / MANIFEST):
        raise UserError(
            f"{measured_by} is of another build of {bundle} than the one to release; run dvc repro"
        )


def _measured(target: str, model: str, bundle: Path, weights: str, judgement: Judgement) -> dict[str, Any]:
    """The manifest's last field: accuracy, latency, gates, hardware, provenance.

    Raises:
        UserError: a figure is missing or was taken from another build of the engine.
    """
    score_path, report_path = paths.evaluation(target, model) / SCORE, paths.benchmark(target)
    score, report = read_typed(Score, score_path), read_typed(Report, report_path)
    if model not in report.models:
        raise UserError(f"{report_path} has no {model}; add it to deploy.models and run dvc repro")
    timing = report.models[model]
    _same_engine(bundle, str(score_path), score.engine)
    _same_engine(bundle, str(report_path), timing.engine)
    gates = [gate for gate in judgement.verdicts if (gate.model, gate.target) == (model, target)]
    if not gates:
        raise UserError(f"{paths.VERDICT} judged no {model} on {target}; run dvc repro")
    settings = report.settings.model_dump(mode="json")
    outputs = (
        paths.PREPARED,
        paths.trained(model),
        paths.exported(model),
        paths.typed(target, model),
        bundle,
    )
    return {
        "accuracy": {"split": SPLIT, **score.model_dump(mode="json")},
        "latency": {**settings, "inputs": report.inputs, **timing.model_dump(mode="json")},
        "gates": [gate.model_dump(mode="json") for gate in gates],
        "hardware": report.hardware,
        "provenance": {**provenance(outputs), "weights_sha256": weights},
    }


def _write_bundle(target: str, model: str, judgement: Judgement, folder: Path) -> None:
    """Write a bundle into `folder`.

    Raises:
        UserError: a file of the engine is missing or altered, or a figure does not belong to it.
    """
    bundle = paths.engine(target, model)
    manifest = verify(bundle)
    measured = _measured(target, model, bundle, manifest.contract.weights_sha256, judgement)
    folder.mkdir(parents=True)
    for name in manifest.files:
        shutil.copyfile(bundle / name, folder / name)
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
        for target in deploy.targets
        if read_manifest(paths.engine(target, model)).backend != REFERENCE_BACKEND
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
    shipped = _shipped(load().deploy)
    if not shipped:
        paths.RELEASE.mkdir(parents=True, exist_ok=True)
        print(f"nothing to release on deploy.targets; {paths.RELEASE} stays as it was")
        return
    with atomic_folder(paths.RELEASE) as temporary:
        for model, target in shipped:
            _write_bundle(target, model, verdict.gates, temporary / model / target)
    for model, target in shipped:
        print(f"released {paths.RELEASE / model / target}")


if __name__ == "__main__":
    run(main)
