"""The report's first part: verdict, headline figures, and every model on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploy.gates import Judgement
from pipeline.reporting import figures
from pipeline.reporting.names import Names
from pipeline.reporting.words import NOTHING, count, percent, points, short
from pipeline.results import REFERENCE_BACKEND, TEACHER, Results


def headline(results: Results, judgement: Judgement, names: Names) -> dict[str, Any]:
    """Title, verdict, first sentences and the cards of the released model."""
    failed = judgement.failed()
    return {
        "title": f"Distilled segmentation networks on {results.data.info.name}",
        "passed": not failed,
        "verdict": f"{len(failed)} gate(s) failed, nothing was released" if failed else "all gates met",
        "lede": _lede(results),
        "cards": _cards(results, names),
    }


def _lede(results: Results) -> str:
    info, seeds = results.data.info, len(results.params.train.seeds)
    height, width = results.params.deploy.export.input_size
    return (
        f"{len(info.classes)} classes, {info.splits['train']} training images, input {height}×{width}. "
        "Accuracy on test, latency and size are those of the exported engines. "
        + (
            "There is one training seed, so small differences between students mean nothing."
            if seeds == 1
            else f"There are {seeds} training seeds."
        )
    )


def _cards(results: Results, names: Names) -> list[dict[str, str]]:
    """The first model to release on the fastest target that ships."""
    deploy = results.params.deploy
    targets = [name for name in results.targets() if deploy.specs[name].backend != REFERENCE_BACKEND]
    if not deploy.release or not targets:
        return []
    model = deploy.release[0]
    target = min(targets, key=lambda name: results.benchmarks[name].models[model].latency_ms.p50)
    score, timing = results.scores[model, target], results.benchmarks[target].models[model]
    threads = f"{timing.threads} thread" + ("s" if timing.threads != 1 else "")
    cards = [
        (percent(score.miou) + " %", f"mIoU of {names.labels[model]} on {target}"),
        (short(timing.latency_ms.p50, " ms"), f"median latency, {threads}"),
        (short(results.engines[model, target].size() / 1e6, " MB"), "engine file"),
    ]
    if TEACHER in deploy.models:
        teacher = results.scores[TEACHER, target].miou
        kept = score.miou / teacher if teacher else None
        cards.insert(1, (percent(kept, 0) + " %", "of the teacher's mIoU on the same target"))
        cards.insert(2, (short(timing.speedup, "×"), "faster than the teacher on the same target"))
    return [{"value": value, "label": text} for value, text in cards]


def engines(results: Results, names: Names) -> dict[str, Any]:
    """Both tables, the Pareto figure and the notes on them."""
    deploy, settings = results.params.deploy, results.params.deploy.benchmark
    timings = [timing for report in results.benchmarks.values() for timing in report.models.values()]
    note = (
        f"Batch {settings.batch_size}, end to end from an image in host memory to a class map, "
        f"{settings.rounds} rounds of {settings.iterations} calls, the models in turn; images/s of one "
        "stream of calls. Compute: the median of the engine's own run on an image that lies in place, "
        "nothing copied in or out. MB: the engine's file."
    )
    if not all(timing.steadiness.stable for timing in timings):
        note += " * unsteady: the rounds disagree, and relative latency gates are not judged."
    sizes = results.complexity["networks"].values()
    uncounted = sorted({name for size in sizes for name in size["counted_as_zero"]})
    keys = [(model, target) for model in deploy.models for target in results.targets()]
    return {
        "rows": [_row(results, names, *key) for key in keys],
        "test_images": results.data.info.splits["test"],
        "latency_note": note,
        "complexity_note": (
            "GMAC: multiply-accumulates of one image through the network as deployed, counted by fvcore (one "
            f"multiply-add is one MAC); it has no count for {', '.join(uncounted) or 'no operator'}, "
            "taken as zero. Of peak: the operations of a call, without those on padding, over its compute "
            "time, as a share of the best that the same cores were seen to do in that precision, on a large "
            "matrix product or convolution."
        ),
        "pareto": figures.pareto(list(_points(results, names)), names.panels),
    }


def _row(results: Results, names: Names, model: str, target: str) -> dict[str, Any]:
    """One engine's accuracy, speed and size."""
    deploy = results.params.deploy
    score, reference = results.scores[model, target], results.references[model]
    timing = results.benchmarks[target].models[model]
    size = results.complexity["networks"][results.networks[model].student or TEACHER]
    drops = [
        value - before
        for name in score.classes
        if (value := score.iou[name]) is not None and (before := reference.iou[name]) is not None
    ]
    return {
        "first": target == deploy.targets[0],
        "released": model in deploy.release,
        "colour": names.colour(model),
        "label": names.labels[model],
        "target": target,
        "miou": percent(score.miou, 2),
        "drop": points(score.miou - reference.miou),
        "class_drop": points(min(drops)) if drops else NOTHING,
        "accuracy": percent(score.pixel_accuracy),
        "agreement": percent(score.agreement, 2),
        "p50": short(timing.latency_ms.p50) + ("" if timing.steadiness.stable else " *"),
        "compute": short(None if timing.compute_ms is None else timing.compute_ms.p50),
        "p90": short(timing.latency_ms.p90),
        "p99": short(timing.latency_ms.p99),
        "throughput": short(timing.throughput),
        "speedup": NOTHING if model == TEACHER else short(timing.speedup, "×"),
        "size": short(results.engines[model, target].size() / 1e6),
        "parameters": count(size["parameters"]),
        "gmacs": f"{size['gmacs']:.3g}",
        "share": percent(work.share, 0) if (work := results.benchmarks[target].work.get(model)) else NOTHING,
    }


def _points(results: Results, names: Names) -> Iterator[figures.Point]:
    """Every engine as a point of accuracy over latency."""
    deploy = results.params.deploy
    for model in deploy.models:
        for target in results.targets():
            timing = results.benchmarks[target].models[model]
            yield figures.Point(
                model=model,
                target=target,
                precision=deploy.specs[target].precision,
                p50_ms=timing.latency_ms.p50,
                miou=results.scores[model, target].miou,
                colour=names.colour(model),
                stable=timing.steadiness.stable,
            )
