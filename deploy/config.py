"""Typed settings of the shipping half; imports neither torch nor an engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Count, Count]


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TargetConfig(Config):
    """An engine to ship to: a backend of `deploy.sessions`, a precision, a place, CPU threads."""

    backend: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    where: str
    threads: Count


class ExportConfig(Config):
    """What every exported graph has in common."""

    input_size: Size
    fit: Literal["stretch", "letterbox"]
    opset: Count
    parity_images: Count
    max_relative_error: Annotated[float, Field(gt=0)]
    min_agreement: Share


class QuantizeConfig(Config):
    """Static INT8 quantisation: calibration images come from training, candidates are judged on val."""

    calibration_images: Count
    val_images: Count
    candidates: list[Literal["minmax", "percentile", "entropy"]]
    percentile: Annotated[float, Field(gt=50, le=100)]


class BenchmarkConfig(Config):
    """Latency: `rounds` interleaved passes of `iterations` calls a model, after `warmup` calls."""

    batch_size: Count
    warmup: Count
    iterations: Count
    rounds: Count
    max_cv: Annotated[float, Field(gt=0)]
