"""What a device says of a kit: every target built, scored and timed there, or why it could not be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from afdcd.errors import UserError
from afdcd.files import sha256
from afdcd.geometry import fit
from deploy import hardware
from deploy.benchmark import Report, measure, turns
from deploy.benchmark_worker import Images, Subject
from deploy.build import build
from deploy.bundle import MANIFEST, Manifest, read_contract, read_manifest, write_model
from deploy.config import Config, TargetConfig
from deploy.evaluate import Score, evaluate
from deploy.gates import Judgement, Measurement, judge
from deploy.kit import Kit, graphs, load, reference, reference_logits, samples_of, verify_kit
from deploy.maps import load_maps
from deploy.probes import relative_error
from deploy.sessions import open_session
from deploy.sessions.capability import capability

Tell = Callable[[str], None]


class Outcome(Config):
    """What came of a target.

    Attributes:
        reason: why it was not measured; None where it was.
        engines: model -> manifest of the engine that was built on the device.
        scores: model -> accuracy of that engine.
        timing: latency of all models in turn.
    """

    reason: str | None
    engines: dict[str, Manifest]
    scores: dict[str, Score]
    timing: Report | None


class DeviceMeasurement(Config):
    """measurements/<device>.json.

    Attributes:
        kit: key of the kit that was measured.
        hardware: of the device.
        digest: SHA-256 of all other fields, so that an edited or damaged file is known.
    """

    format: Literal[1]
    kit: str
    device: str
    hardware: dict[str, Any]
    targets: dict[str, Outcome]
    digest: str

    def computed(self) -> str:
        """The digest that the other fields have."""
        value = self.model_dump(mode="json", exclude={"digest"})
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def engine_folder(out: Path, device: str, target: str, model: str) -> Path:
    """Where the engine that was built on the device lies, beside the measurement."""
    return out / device / target / model


def take(folder: Path, out: Path, *, tell: Tell) -> DeviceMeasurement:
    """Measure every target of a kit that this machine can run, and write `out/<device>.json` in one step.

    Args:
        folder: the kit.
        out: where the measurement and the engines go.
        tell: is given a line at each step.

    Raises:
        UserError: the kit is damaged, or this machine can measure none of its targets; nothing is written.
    """
    kit = verify_kit(folder)
    machine = hardware.describe()
    outcomes = {
        target: _outcome(folder, out, kit, target, spec, machine, tell)
        for target, spec in kit.targets.items()
    }
    reasons = [f"  {target}: {outcome.reason}" for target, outcome in outcomes.items() if outcome.reason]
    if len(reasons) == len(outcomes):
        raise UserError(
            f"this machine can measure no target of {folder}, nothing is written:\n" + "\n".join(reasons)
        )
    blank = DeviceMeasurement(
        format=1, kit=kit.key(), device=kit.device, hardware=machine, targets=outcomes, digest=""
    )
    found = blank.model_copy(update={"digest": blank.computed()})
    write_model(out / f"{kit.device}.json", found)
    return found


def _outcome(
    folder: Path, out: Path, kit: Kit, target: str, spec: TargetConfig, machine: dict[str, Any], tell: Tell
) -> Outcome:
    nothing = capability(spec.backend, spec.precision)
    try:
        if nothing is None:
            return _measured(folder, out, kit, target, spec, machine, tell)
    except UserError as error:
        nothing = str(error)
    tell(f"{target}: not measured: {nothing}")
    return Outcome(reason=nothing, engines={}, scores={}, timing=None)


def _measured(
    folder: Path, out: Path, kit: Kit, target: str, spec: TargetConfig, machine: dict[str, Any], tell: Tell
) -> Outcome:
    """Build, score and time all models of a target.

    Raises:
        UserError: an engine cannot be built, scored or timed.
    """
    engines: dict[str, Manifest] = {}
    scores: dict[str, Score] = {}
    for model in kit.models:
        bundle = engine_folder(out, kit.device, target, model)
        tell(f"{target}: {model}: building")
        engines[model] = build(
            folder / graphs(target, model), bundle, target=target, spec=spec, hardware=machine
        )
        tell(f"{target}: {model}: scoring on {len(kit.samples)} images")
        scores[model] = _score(folder, kit, model, bundle)
    tell(f"{target}: timing {len(kit.models)} models in turn")
    bundles = {model: engine_folder(out, kit.device, target, model) for model in kit.models}
    timing = measure(
        [Subject(model, bundle, spec.threads) for model, bundle in bundles.items()],
        _batches(folder, kit, target),
        kit.benchmark,
        inputs=f"{len(kit.timing)} images of the kit",
        target=target,
        baseline=kit.baseline,
        engines={model: sha256(bundle / MANIFEST) for model, bundle in bundles.items()},
    )
    if find_spec("onnx") is None:
        tell(f"{target}: onnx is not installed here, so work and share of the machine's peak are left out")
    else:
        from deploy.weighing import weighed  # takes onnx along, which a device can do without

        timing = weighed(timing, bundles)
    return Outcome(reason=None, engines=engines, scores=scores, timing=timing)


def _score(folder: Path, kit: Kit, model: str, bundle: Path) -> Score:
    manifest = read_manifest(bundle)
    contract = manifest.contract
    size, mode = contract.geometry.size, contract.geometry.fit
    with open_session(bundle, threads=manifest.threads) as session:
        score = evaluate(
            session,
            samples_of(folder, kit),
            classes=contract.classes,
            ignore_index=contract.ignore_index,
            size=size,
            mode=mode,
            reference=load_maps(folder / reference(model)),
            gallery=0,
            engine=sha256(bundle / MANIFEST),
        ).score
        wanted = load_maps(folder / reference_logits(model))
        error = relative_error(session, samples_of(folder, kit), wanted, size=size, mode=mode)
    return score.model_copy(update={"max_relative_error": error})


def _batches(folder: Path, kit: Kit, target: str) -> list[Images]:
    geometry = read_contract(folder / graphs(target, kit.models[0])).geometry
    images = [fit(load(folder / name, "RGB"), geometry.size, geometry.fit).image for name in kit.timing]
    return [np.ascontiguousarray(batch) for batch in turns(images, kit.benchmark.batch_size)]


def read_measurement(path: Path) -> DeviceMeasurement:
    """A device's measurement.

    Raises:
        UserError: the file is missing, of another version, edited or damaged.
    """
    try:
        found = DeviceMeasurement.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing; `python -m deploy measure KIT` on the device writes it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise UserError(
            f"{path} is no measurement of this version ({place}: {first['msg']}); measure the kit again"
        ) from error
    if found.digest != found.computed():
        raise UserError(f"{path} was edited or damaged (its digest differs); measure the kit again")
    return found


def figures(engine: Manifest, score: Score, timing: Report, ground: Score, *, device: str) -> Measurement:
    """What the gates look at: an engine, its score and latency, and the reference's score of that model.

    `device` is where score and latency were measured.
    """
    latency = timing.models[engine.model]
    return Measurement(
        device=device,
        backend=engine.backend,
        threads=latency.threads,
        precision=engine.precision,
        agreement=score.agreement,
        relative_error=score.max_relative_error,
        export_agreement=engine.parity.get("agreement"),
        export_error=engine.parity.get("max_relative_error"),
        miou=score.miou,
        iou=score.iou,
        reference_miou=ground.miou,
        reference_iou=ground.iou,
        bytes=engine.size(),
        p50_ms=latency.latency_ms.p50,
        p99_ms=latency.latency_ms.p99,
        unstable=latency.steadiness.reason,
        speedup=latency.speedup,
    )


def judged(kit: Kit, found: DeviceMeasurement) -> Judgement:
    """The kit's gates on what the device measured, so that one need not go home to know."""
    known = {
        (model, target): figures(
            outcome.engines[model], outcome.scores[model], outcome.timing, ground, device=found.device
        )
        for target, outcome in found.targets.items()
        if outcome.timing is not None
        for model, ground in kit.references.items()
    }
    return judge(
        known,
        kit.gates,
        released=kit.released,
        targets=[target for target, outcome in found.targets.items() if outcome.timing is not None],
        teacher=kit.baseline or "",
        controls=kit.controls,
    )
