"""The ways to a target's precision, by backend: a table that probe reads without loading an engine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from afdcd.errors import UserError
from deploy.config import Precision, QuantizeConfig, TargetConfig

Preset = Literal["none", "typed", "u8s8_per_channel", "s8s8_symmetric", "nncf_mixed"]

PRESETS: dict[tuple[str, Precision], Preset] = {
    ("onnxruntime", "fp32"): "none",
    ("onnxruntime_cuda", "fp32"): "none",
    ("onnxruntime_tensorrt", "fp32"): "none",
    ("openvino", "fp32"): "none",
    # OpenVINO computes the float32 graph in bfloat16 when it is told so at opening.
    ("openvino", "bf16"): "none",
    ("pytorch", "fp32"): "none",
    ("pytorch_compiled", "fp32"): "none",
    ("tensorrt", "fp32"): "none",
    ("tensorrt_rtx", "fp32"): "none",
    ("onnxruntime_cuda", "fp16"): "typed",
    ("onnxruntime_tensorrt", "fp16"): "typed",
    ("tensorrt", "fp16"): "typed",
    ("tensorrt", "bf16"): "typed",
    ("tensorrt_rtx", "fp16"): "typed",
    ("tensorrt_rtx", "bf16"): "typed",
    ("onnxruntime", "int8"): "u8s8_per_channel",
    ("openvino", "int8"): "nncf_mixed",
    ("onnxruntime_tensorrt", "int8"): "s8s8_symmetric",
    ("tensorrt", "int8"): "s8s8_symmetric",
    ("tensorrt_rtx", "int8"): "s8s8_symmetric",
}
"""(backend, precision) -> what the stage quantize does.

none: the exported graph as it is. typed: fp16 or bf16 written into the graph (`deploy.precision`).
u8s8_per_channel, s8s8_symmetric: Q/DQ nodes by onnxruntime's quantiser (`deploy.qdq`), unsigned for its own
CPU kernels, signed and symmetric for TensorRT. nncf_mixed: OpenVINO's own format (`deploy.nncf_int8`).
"""

CALIBRATED: frozenset[Preset] = frozenset({"u8s8_per_channel", "s8s8_symmetric", "nncf_mixed"})
"""Those that look at images."""

_NNCF = "nncf"


def require_preset(target: str, spec: TargetConfig, settings: QuantizeConfig | None = None) -> None:
    """Refuse a precision that no preset leads to, or whose preset cannot work here.

    Args:
        target: the target's name.
        spec: its backend and precision.
        settings: of quantisation, where they are to be checked against the preset.

    Raises:
        UserError: with the pairs of backend and precision that exist, the package that is missing, or the
            candidate that the preset does not know.
    """
    preset = PRESETS.get((spec.backend, spec.precision))
    if preset is None:
        known = ", ".join(f"{backend} {precision}" for backend, precision in PRESETS)
        raise UserError(
            f"target {target}: no way leads to {spec.precision} for {spec.backend} in this version; "
            f"there is {known}"
        )
    if preset != "nncf_mixed":
        return
    if find_spec(_NNCF) is None:
        raise UserError(
            f"target {target}: INT8 for openvino is made by the package {_NNCF}, which is not installed; "
            "pip install -e '.[openvino]'"
        )
    if settings is not None and "entropy" in settings.candidates:
        raise UserError(
            f"target {target}: {_NNCF} has no entropy calibration; take minmax and percentile in "
            "deploy.quantize.candidates, or remove the target"
        )


def preset_of(spec: TargetConfig) -> Preset:
    """What is done for a target that `require_preset` lets pass."""
    return PRESETS[spec.backend, spec.precision]


def needs_no_typing(spec: TargetConfig) -> bool:
    """Whether the target runs the exported graph as it is."""
    return preset_of(spec) == "none"
