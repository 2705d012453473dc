"""What a person can do about a gate that is not met, with the keys of params.yaml."""

from __future__ import annotations

from deploy.config import Precision

_INT8 = (
    "keep more layers in float (deploy.quantize.keep_float), or calibrate on more images "
    "(deploy.quantize.calibration_images)"
)
_NARROW = "give this target a wider precision (deploy.specs)"
_FLOAT = (
    "float32 must compute what PyTorch does: see which engine does not with "
    "`python -m deploy compare FILE.onnx --backend onnxruntime openvino`, and take another backend "
    "(deploy.specs)"
)
_ACCURACY: dict[Precision, str] = {"fp32": _FLOAT, "fp16": _NARROW, "bf16": _NARROW, "int8": _INT8}
_SMALLER = "take a smaller student (train.students) or a narrower precision (deploy.targets)"
_FASTER = f"{_SMALLER}, or smaller images (deploy.export.input_size)"
_EXPORT = "find the operator that the exporter changed with `python -m deploy parity FOLDER --images PHOTOS`"

REMEDIES: dict[str, str | dict[Precision, str]] = {
    "min_retention": "train the student longer (train.schedule), or take a larger one (train.students)",
    "min_gain_over_alone": "take another recipe (deploy.release), or judge by several seeds (train.seeds)",
    "export_min_agreement": _EXPORT,
    "export_max_relative_error": _EXPORT,
    "min_agreement": _ACCURACY,
    "max_relative_error": _ACCURACY,
    "max_drop": _ACCURACY,
    "max_class_drop": _ACCURACY,
    "min_speedup_over_teacher": _FASTER,
    "max_size_mb": _SMALLER,
    "max_p50_ms": _FASTER,
    "max_p99_ms": _FASTER,
}
"""Gate -> remedy, by precision where it depends on that."""


def remedy(gate: str, precision: Precision) -> str:
    """What helps against a gate that an engine of a precision misses."""
    found = REMEDIES[gate]
    return found if isinstance(found, str) else found[precision]
