"""The report's further parts: gates, classes, gallery, training, provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from deploy.gates import Judgement, Verdict
from pipeline.params import Params
from pipeline.provenance import git_state
from pipeline.reporting.classes import Series, class_figure
from pipeline.reporting.curves import Curve as Drawn
from pipeline.reporting.curves import training_curves
from pipeline.reporting.gallery import embed, embed_map
from pipeline.reporting.names import Names
from pipeline.reporting.words import NOTHING, percent, short
from pipeline.results import ALONE, TEACHER, Curve, Results

STATUS_STYLES = {"pass": "pass", "fail": "fail", "not judged": "judge", "not gated": "none"}
PICTURE_WIDTH = 320


def gates(judgement: Judgement, names: Names) -> dict[str, Any]:
    """The verdict table and what is worth knowing beside it."""
    return {
        "gates": [_gate(verdict, names) for verdict in judgement.verdicts],
        "remarks": [
            f"{names.labels[note.model]} on {note.target}: {note.detail}" for note in judgement.notes
        ],
    }


def _gate(verdict: Verdict, names: Names) -> dict[str, str]:
    return {
        "name": verdict.name.replace("_", " "),
        "model": names.labels[verdict.model],
        "target": verdict.target,
        "value": NOTHING if verdict.value is None else f"{verdict.value:.4g}",
        "limit": NOTHING if verdict.limit is None else f"{verdict.limit:g}",
        "status": verdict.status,
        "style": STATUS_STYLES[verdict.status],
        "detail": verdict.detail,
    }


def classes(results: Results, names: Names) -> dict[str, Any]:
    """IoU of each class on the first target."""
    target, known = results.params.deploy.targets[0], results.data.info.classes
    scores = {model: results.scores[model, target] for model in results.params.deploy.models}
    series = [
        Series(names.labels[model], names.colour(model), [score.iou[name] for name in known])
        for model, score in scores.items()
    ]
    return {"class_target": target, "class_bars": class_figure(known, series)}


def gallery(results: Results, names: Names) -> dict[str, Any]:
    """Rows of image, truth, and what chosen engines made of it."""
    info = results.data.info
    palette = [(red, green, blue) for red, green, blue in info.palette]
    shown = _gallery_columns(results, names)
    maps = {(model, target): results.gallery(model, target) for model, target, _ in shown}
    rows = []
    for entry in results.data.split("test"):
        if not all(entry.name in found for found in maps.values()):
            break
        width = min(PICTURE_WIDTH, max(entry.width, results.params.deploy.export.input_size[1]))
        row = [
            embed(results.data.image(entry), f"{entry.name}, image", width),
            embed_map(results.data.labels(entry), palette, f"{entry.name}, truth", width),
        ]
        row += [
            embed_map(maps[model, target][entry.name], palette, f"{entry.name}, {head}", width)
            for model, target, head in shown
        ]
        rows.append(row)
    return {
        "gallery": {"columns": ["image", "truth", *(head for *_, head in shown)], "rows": rows},
        "legend": [
            {"name": name, "colour": f"rgb{colour}"}
            for name, colour in zip(info.classes, palette, strict=True)
        ],
    }


def _gallery_columns(results: Results, names: Names) -> list[tuple[str, str, str]]:
    """(model, target, heading): teacher, control, the released one, and it on every further target."""
    deploy, networks = results.params.deploy, results.networks
    first, *others = deploy.targets
    released = deploy.release[:1] or [model for model in deploy.models if networks[model].student][-1:]
    controls = [results.controls().get(model) for model in released]
    chosen = dict.fromkeys([TEACHER, *(control for control in controls if control), *released])
    columns = [(model, first, names.labels[model]) for model in chosen if model in deploy.models]
    return columns + [
        (model, target, f"{names.labels[model]}, {target}") for model in released for target in others
    ]


def training(results: Results, names: Names) -> dict[str, Any]:
    """Curves, validation scores and the last values of every term; networks without an engine too."""
    practice, deployed = results.params.train.practice, results.params.deploy.models
    networks = results.networks
    curves = [
        Drawn(
            label=names.labels[model],
            panel=names.panels[model],
            colour=names.colour(model),
            student=networks[model].student,
            reference=networks[model].recipe in (TEACHER, ALONE),
            loss=_column(rows, "loss"),
            val_miou=_column(rows, "val_miou"),
        )
        for model, rows in results.curves.items()
    ]
    note = (
        "Weights are chosen by mIoU on val, in PyTorch; nothing is chosen on test. Class weights: "
        f"{practice.class_weights}; precision: {practice.precision}. Losses of different recipes are "
        "sums of different terms and do not compare."
    )
    if len(deployed) < len(results.curves):
        note += " Only deployed networks have engines, and with them scores on test."
    return {
        "curves": training_curves(curves),
        "trainings": [
            {
                "label": names.panels[model],
                "colour": names.colour(model),
                "seed": networks[model].seed,
                "engine": "yes" if model in deployed else "no",
                **_training(rows),
            }
            for model, rows in results.curves.items()
        ],
        "training_note": note,
    }


def _training(rows: Curve) -> dict[str, Any]:
    if not rows:
        nothing = dict.fromkeys(("best", "miou", "seconds", "rate"), NOTHING)
        return {"iterations": "imported", **nothing, "terms": [NOTHING]}
    scores, last = _column(rows, "val_miou"), rows[-1]
    best = max(scores, key=lambda pair: pair[1]) if scores else None
    rates = sorted(rate for _, rate in _column(rows, "images_per_second"))
    terms = [
        f"{name.replace('_', ' ')} {value:.3g} × {_weight(last[f'weighted/{name}'], value)}"
        for name, value in last.items()
        if value is not None and f"weighted/{name}" in last
    ]
    return {
        "iterations": f"{last['iteration']:.0f}",
        "best": best[0] if best else NOTHING,
        "miou": percent(best[1]) if best else NOTHING,
        "seconds": short(last["seconds"]),
        "rate": f"{rates[len(rates) // 2]:.0f}" if rates else NOTHING,
        "terms": terms or [NOTHING],
    }


def _weight(weighted: float | None, raw: float) -> str:
    return NOTHING if weighted is None or raw == 0 else f"{weighted / raw:.3g}"


def _column(rows: Curve, name: str) -> list[tuple[int, float]]:
    """(iteration, value) where the column holds a value."""
    found = []
    for row in rows:
        iteration, value = row["iteration"], row.get(name)
        if iteration is not None and value is not None:
            found.append((int(iteration), value))
    return found


def provenance(results: Results) -> dict[str, Any]:
    """The machine, and which sources, data and settings made the numbers."""
    info, params = results.data.info, results.params
    state = git_state()
    commit = f"{state['commit'][:12]}{' and changes to it' if state['dirty'] else ''}" if state else "unknown"
    splits = ", ".join(f"{images} {split}" for split, images in info.splits.items())
    versions = results.hardware.get("versions", {})
    return {
        "hardware": list(_flat(results.hardware, skip=("versions",))),
        "provenance": [
            ("commit", commit),
            ("settings", f"sha256 {_digest(params)}, of params.yaml without runtime"),
            ("data set", f"{info.name}: {splits}"),
            ("manifest", f"sha256 {results.data.sha256[:16]}"),
            ("licence of the data", info.licence),
            ("seeds", ", ".join(map(str, params.train.seeds))),
            ("recipes", ", ".join(params.distill.run) or "none"),
            *versions.items(),
        ],
        "footer": (
            "Written by the report stage of dvc repro; the same numbers lie in reports/metrics.json and "
            "reports/gates.json. A repeated run on another machine measures anew."
        ),
    }


def _digest(params: Params) -> str:
    """A hash of all settings that a result depends on."""
    text = json.dumps(params.model_dump(mode="json", exclude={"runtime"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flat(
    value: dict[str, Any], *, skip: tuple[str, ...] = (), prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Nested settings as (name, text) pairs."""
    for name, inner in value.items():
        if name in skip:
            continue
        if isinstance(inner, dict):
            yield from _flat(inner, prefix=f"{prefix}{name} ")
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
            yield f"{prefix}{name}".replace("_", " "), "none" if inner is None else text or "none"
