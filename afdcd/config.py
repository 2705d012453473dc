"""Typed settings of the learning half; torch-free, so that a check costs no torch import.

Every value lives in `conf/` and params.yaml: these models carry no defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Size = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""(height, width) in pixels."""

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Some = Annotated[float, Field(gt=0, le=1)]
"""A share that is not nothing."""
Count = Annotated[int, Field(ge=1)]

Level = Annotated[float, Field(ge=0, le=255)]
"""Brightness of one colour of a pixel."""

IGNORE_INDEX = 255
"""The label of pixels that take no part; one value from the manifest to the engine."""


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class DatasetConfig(Config):
    """Where images come from; `options` are those of the named source's constructor.

    `unlabelled` names folders below `root` with images without masks, for recipes that learn from these too.
    """

    name: str
    root: str
    unlabelled: list[str]
    seed: Annotated[int, Field(ge=0)]
    options: dict[str, Any]


class Normalisation(Config):
    """What a network does to RGB values in 0..255 first: `(x - mean) / std`, channels in `order`."""

    order: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class ModelConfig(Config):
    """A Segmenter: a timm backbone, a head, and the normalisation that its weights expect.

    `head` names one of `afdcd.models.heads.HEADS`.
    `dropout` stands before the classifiers, `projection_dropout` after the projection of DeepLabV3's pyramid.
    """

    backbone: str
    backbone_options: dict[str, Any]
    output_stride: Literal[8, 16, 32]
    head: str
    head_channels: Count
    atrous_rates: tuple[Count, Count, Count]
    dropout: Share
    projection_dropout: Share
    auxiliary: bool
    pretrained: str
    normalisation: Normalisation


class OptimiserConfig(Config):
    """SGD or AdamW with a poly schedule; only adapters are clipped, as the released code does."""

    name: Literal["sgd", "adamw"]
    lr: Positive
    momentum: Share
    weight_decay: NonNegative
    poly_power: NonNegative
    warmup_iterations: Annotated[int, Field(ge=0)]
    clip_adapters: Positive | None


class ScheduleConfig(Config):
    """How long and how a network is trained; `batch_size` is global, over all ranks."""

    iterations: Count
    batch_size: Count
    validate_every: Count
    optimiser: OptimiserConfig


Resize = Literal["none", "teacher_to_student"]
"""What a recipe does with teacher maps of another size than the student's: refuse, or resize them."""


class ScheduleOverride(Config):
    """How long the students of one recipe are trained; None keeps what all share."""

    iterations: Count
    validate_every: Count | None = None


SCALE_STEP = 0.1
"""Between the random scales of the released code."""


class AugmentConfig(Config):
    """Random scale, crop, horizontal flip and photometric jitter of a training sample.

    `order` is `window` (uint8 throughout, any scale of the range) or `released` (float32, scales in steps of
    `SCALE_STEP`, no jitter); see `afdcd.data.transforms`.
    `balanced` is the chance that a crop is laid over a pixel of a class drawn evenly from those that the
    image shows, instead of anywhere.
    `fill` is the red, green and blue of what the scaled image leaves empty in the crop.
    """

    order: Literal["window", "released"]
    crop: Size
    scale: tuple[Positive, Positive]
    fill: tuple[Level, Level, Level]
    flip: Share
    balanced: Share
    brightness: Share
    contrast: Share
    saturation: Share

    @model_validator(mode="after")
    def _fits_order(self) -> AugmentConfig:
        """Each order's own limits.

        Raises:
            ValueError: which is broken, and how it is mended.
        """
        if self.order == "window" and any(level != round(level) for level in self.fill):
            raise ValueError("must have whole numbers in fill with order: window, which works in uint8")
        if self.order == "released" and (self.brightness or self.contrast or self.saturation):
            raise ValueError("must have brightness, contrast and saturation 0 with order: released")
        ends = [end / SCALE_STEP for end in self.scale]
        if self.order == "released" and any(abs(end - round(end)) > 1e-6 for end in ends):
            raise ValueError(f"must have a scale in steps of {SCALE_STEP} with order: released")
        return self


TrainingPrecision = Literal["fp32", "bf16", "auto"]
"""bfloat16 is autocast; "auto" takes it where the device multiplies it in hardware, and float32 elsewhere."""


class PracticeConfig(Config):
    """What all trainings of a run share and what changes their results.

    `compile` runs the networks through torch.compile: other rounding, and a minute or more before the
    first step of each training. `ema` is the decay of a running mean of the student's weights, which is
    then validated and saved in the student's place; None keeps none.
    """

    augment: AugmentConfig
    class_weights: Literal["none", "log", "median"]
    auxiliary_weight: NonNegative
    precision: TrainingPrecision
    teacher_precision: TrainingPrecision
    channels_last: bool
    sync_bn: bool
    micro_batch: Count | None
    compile: bool
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    checkpoint_every: Count


ContrastForm = Literal["auto", "dense", "chunked", "native", "compiled", "triton"]
"""How Af-DCD's contrasts are computed; all give the same value and gradient up to rounding."""


class RuntimeConfig(Config):
    """Speed; no stage tracks it. Processes and threads change results by a little all the same.

    `processes` are those of each of the `nodes` (machines), which meet at `rendezvous`, "host:port" of one
    of them. After a process was killed all start again from the last checkpoint, `restarts` times at most.

    `workers` changes nothing. `threads` changes the order of sums, so their rounding; of two, one runs a
    short teacher's pass and the other the step beside it, where that is quicker. Several `processes`
    train on the same global batch, but each has its own dropout and, without `sync_bn`, batch statistics of
    its own share; terms that divide by a sum over the batch are divided on each share. `device` changes the
    arithmetic. A checkpoint keeps the number of threads that it was begun with.
    `cache_gb` changes nothing: up to so much disk (10^9 bytes) holds the train split decoded; 0 is none.
    `contrast` changes rounding only; "auto" chooses by device and size.
    """

    device: Literal["auto", "cpu", "cuda"]
    processes: Count | Literal["auto"]
    nodes: Count
    rendezvous: Annotated[str, Field(pattern=r"^([\w.-]+|\[[0-9A-Fa-f:]+\]):[1-9]\d{0,4}$")] | None
    restarts: Annotated[int, Field(ge=0)]
    workers: Annotated[int, Field(ge=0)]
    threads: Count | Literal["auto"]
    cache_gb: NonNegative
    contrast: ContrastForm


MethodOptions = dict[str, Any]
"""`{"weights": {term: weight}, **options}` of one method; options are its constructor's keywords."""

Recipe = dict[str, Any]
"""A recipe: method name -> `MethodOptions`, for instance `{"kd": {...}, "afdcd": {...}}`.

Beside methods stand the keys that `afdcd.losses.recipe.RESERVED` names; one without methods trains on labels.
"""
