"""The ways to a target's precision, by backend: a table that probe reads without loading an engine."""

from __future__ import annotations

from afdcd.errors import UserError
from deploy.config import Precision, TargetConfig

PRESETS: dict[tuple[str, Precision], str] = {
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
    ("onnxruntime", "int8"): "u8s8_per_channel",
}
"""(backend, precision) -> what the stage quantize does; "none" where the exported graph is used as it is."""


def require_preset(target: str, spec: TargetConfig) -> None:
    """Refuse a precision that no preset leads to.

    Raises:
        UserError: with the pairs of backend and precision that exist.
    """
    if (spec.backend, spec.precision) not in PRESETS:
        known = ", ".join(f"{backend} {precision}" for backend, precision in PRESETS)
        raise UserError(
            f"target {target}: no way leads to {spec.precision} for {spec.backend} in this version; "
            f"there is {known}"
        )


def needs_no_typing(spec: TargetConfig) -> bool:
    """Whether the target runs the exported graph as it is."""
    return PRESETS[spec.backend, spec.precision] == "none"
