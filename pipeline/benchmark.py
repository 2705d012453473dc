"""Stage benchmark: all models of a target in turn, on validation images."""

from __future__ import annotations

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import sha256, write_json
from afdcd.geometry import fit
from deploy.benchmark import Report, measure, turns
from deploy.benchmark_worker import Images, Subject
from deploy.bundle import MANIFEST, Geometry, read_manifest
from deploy.progress import bar
from deploy.weighing import weighed
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import load, named

IMAGES = 8
"""Different images that the calls go round; the test split stays unseen."""

TEACHER = "teacher"


def _batches(geometry: Geometry, batch_size: int) -> list[Images]:
    """Validation images at the input size, (B, H, W, 3), eight different batches or all there are."""
    manifest = Manifest.load(paths.PREPARED)
    entries = manifest.split("val")[:IMAGES]
    fitted = [fit(manifest.image(entry), geometry.size, geometry.fit).image for entry in entries]
    return turns(fitted, batch_size)


def _geometry(target: str, models: list[str]) -> Geometry:
    geometries = [read_manifest(paths.engine(target, model)).contract.geometry for model in models]
    if any(geometry != geometries[0] for geometry in geometries):
        raise UserError(f"the engines of {target} take different input sizes; build them again (dvc repro)")
    return geometries[0]


def _tell(report: Report) -> None:
    for model, result in report.models.items():
        speed = "" if result.speedup is None else f", {result.speedup:.2f}x the teacher"
        state = "" if result.steadiness.stable else f" (unstable: {result.steadiness.reason})"
        alone = "" if result.compute_ms is None else f" ({result.compute_ms.p50:.3f} ms in the engine)"
        work = report.work.get(model)
        share = "" if work is None or work.share is None else f", {work.share:.0%} of peak"
        print(f"{model} on {report.target}: p50 {result.latency_ms.p50:.3f} ms{alone}{speed}{share}{state}")


def main(given: list[str]) -> None:
    """Measure the latency of all models of a target.

    Raises:
        UserError: there is no such target, or an engine is missing, altered, or cannot run.
    """
    (target,) = arguments(given, "TARGET")
    params = load().deploy
    named(params.specs, target, "target")
    settings, models = params.benchmark, params.models
    batches = _batches(_geometry(target, models), settings.batch_size)
    bundles = {model: paths.engine(target, model) for model in models}
    subjects = [Subject(model, bundle, read_manifest(bundle).threads) for model, bundle in bundles.items()]
    with bar(f"latency on {target}", settings.rounds * len(models)) as tick:
        report = measure(
            subjects,
            batches,
            settings,
            inputs=f"{len(batches)} batches of validation images",
            target=target,
            baseline=TEACHER if TEACHER in models else None,
            engines={model: sha256(bundle / MANIFEST) for model, bundle in bundles.items()},
            tick=tick,
        )
    report = weighed(report, bundles)
    write_json(paths.benchmark(target), report.model_dump(mode="json"))
    _tell(report)


if __name__ == "__main__":
    run(main)
