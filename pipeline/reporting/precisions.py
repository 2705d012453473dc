"""The report's part on INT8: which candidate val chose for each engine, and which layers stay in float."""

from __future__ import annotations

from typing import Any

from deploy.quantisation import Quantisation
from pipeline.reporting.names import Names
from pipeline.reporting.words import NOTHING, percent, points, short
from pipeline.results import Results

_SHOWN = 3
"""Most sensitive layers that are named where none stays in float."""


def precisions(results: Results, names: Names) -> dict[str, Any]:
    """A row an engine that was quantised, and what is worth knowing of its layers."""
    deploy = results.params.deploy
    records = {
        (model, target): Quantisation.model_validate(results.engines[model, target].quantisation)
        for model in deploy.models
        for target in deploy.targets
        if results.engines[model, target].quantisation.get("chosen")
    }
    return {
        "quantised": [_row(names, *key, record) for key, record in records.items()],
        "quantised_note": _note(list(records.values())),
    }


def _row(names: Names, model: str, target: str, record: Quantisation) -> dict[str, Any]:
    chosen = next(candidate for candidate in record.candidates if candidate.name == record.chosen)
    before = record.float_miou
    return {
        "colour": names.colour(model),
        "label": names.labels[model],
        "target": target,
        "chosen": chosen.name,
        "others": ", ".join(entry.name for entry in record.candidates if entry is not chosen) or NOTHING,
        "miou": percent(chosen.miou, 2),
        "drop": NOTHING if before is None or chosen.miou is None else points(chosen.miou - before),
        "agreement": percent(chosen.agreement, 2),
        "sqnr": short(chosen.sqnr_db),
        "kept": _layers(record),
    }


def _layers(record: Quantisation) -> str:
    """Layers in float with their SQNR and share of the work; else why there are none."""
    told = {layer.name: f"{layer.name} ({short(layer.sqnr_db, ' dB')})" for layer in record.layers}
    if record.kept:
        share = sum(layer.macs for layer in record.layers if layer.name in record.kept)
        return f"{', '.join(told[name] for name in record.kept)}: {percent(share)} % of the MACs"
    if not record.layers:
        return "none was tried"
    return f"none, no gain on val; lowest are {', '.join(list(told.values())[:_SHOWN])}"


def _note(records: list[Quantisation]) -> str:
    if not records:
        return ""
    first = records[0]
    return (
        f"Calibrated on {first.calibration_images} training images, judged on {first.val_images} val images: "
        "the smallest loss of mIoU wins (more than the float graph has is chance); within a tenth of a point "
        "of it the highest agreement with the float graph; within a tenth of a point of that the fewest "
        "layers in float. SQNR: power of the float logits over that of the difference; of a layer, the same "
        "for its own output. deploy.quantize.keep_float says how many may stay in float."
    )
