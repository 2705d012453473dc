"""Typed settings of the shipping half; imports neither torch nor an engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Opset = Annotated[int, Field(ge=18, le=24)]
"""What torch's exporter can write and ONNX Runtime can read."""


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class TargetConfig(Config):
    """An engine to ship to: a backend of `deploy.sessions`, a precision, a place, CPU threads."""

    backend: str
    precision: Precision
    where: str
    threads: Count


class DynamicSize(Config):
    """Sizes that a graph takes: shortest and longest height and width, in steps of `multiple`."""

    height: tuple[Count, Count]
    width: tuple[Count, Count]
    multiple: Count


class ExportConfig(Config):
    """What every exported graph has in common.

    Attributes:
        input_size: (height, width) that images are brought to.
        batch: fewest and most images a call; the same twice fixes it, null leaves the most open.
        dynamic: other sizes that the graph takes; null fixes it to `input_size`.
        parity_images: val images that the graph is held against PyTorch on, beside noise and extremes.
    """

    input_size: Size
    batch: tuple[Count, Count | None]
    dynamic: DynamicSize | None
    fit: Literal["stretch", "letterbox"]
    opset: Opset
    parity_images: Count


Calibration = Literal["minmax", "percentile", "entropy"]


class KeepFloat(Config):
    """The most sensitive layers that INT8 may leave in float.

    Attributes:
        layers: at most so many.
        macs: at most this share of the multiply-accumulates of all layers, in sum.
    """

    layers: Count
    macs: Share


class QuantizeConfig(Config):
    """Static INT8 quantisation: calibration images come from training, candidates are judged on val.

    Attributes:
        keep_float: each calibration is tried with so many layers in float too; null tries it without alone.
        weight_bits: of weights for ONNX Runtime on a CPU; auto is 8, and 7 too where sums of 8 saturate.
    """

    calibration_images: Count
    val_images: Count
    candidates: Annotated[list[Calibration], Field(min_length=1)]
    percentile: Annotated[float, Field(gt=50, le=100)]
    keep_float: KeepFloat | None
    weight_bits: Annotated[list[Literal[7, 8]], Field(min_length=1)] | Literal["auto"]


class BenchmarkConfig(Config):
    """Latency: `rounds` interleaved passes of `iterations` calls a model, after `warmup` calls."""

    batch_size: Count
    warmup: Count
    iterations: Count
    rounds: Count
    max_cv: Annotated[float, Field(gt=0)]


Limit = Annotated[float, Field(gt=0)] | None


class GatesConfig(Config):
    """What a release must meet; null means not gated. Accuracy in points of mIoU or IoU (0..100).

    Attributes:
        min_retention: share of the teacher's mIoU that a released model keeps.
        min_gain_over_alone: points over the same student and seed trained without the teacher. One seed's
            gain is mostly chance: meant for presets whose seeds are several.
        export_min_agreement: share of pixels on which the exported graph in ONNX Runtime must name PyTorch's
            class, of each kind of input and at every shape that is tried.
        export_max_relative_error: largest error of its logits there, over the largest logit.
        min_agreement: precision -> share of test pixels on which an engine must name the class of its parent,
            the same network in PyTorch in float32.
        max_relative_error: precision -> largest error of an engine's logits against the parent's, over the
            largest logit (`deploy.probes`).
        max_drop: precision -> points of mIoU that an engine may lose against PyTorch.
        max_class_drop: precision -> the same for every single class.
        min_speedup_over_teacher: ratio of p50 latencies on the same target.
        max_size_mb: size of an engine's files.
        max_p50_ms: target -> absolute limit; only for presets of a known machine.
        max_p99_ms: target -> absolute limit.
    """

    min_retention: Share | None
    min_gain_over_alone: float | None
    export_min_agreement: Share | None
    export_max_relative_error: Limit
    min_agreement: dict[Precision, Share | None]
    max_relative_error: dict[Precision, Limit]
    max_drop: dict[Precision, float | None]
    max_class_drop: dict[Precision, float | None]
    min_speedup_over_teacher: Limit
    max_size_mb: Limit
    max_p50_ms: dict[str, Limit]
    max_p99_ms: dict[str, Limit]
