"""The record of how a target's precision was reached; it goes into manifests and onto the report."""

from __future__ import annotations

from deploy.config import Config


class Layer(Config):
    """A convolution.

    Attributes:
        name: its node in the graph.
        sqnr_db: power of its float output over that of what quantising its input and weights changes, dB;
            None where that changes nothing.
        macs: its share of the multiply-accumulates of all layers.
    """

    name: str
    sqnr_db: float | None
    macs: float


class Candidate(Config):
    """One way to quantise, and what it costs on val against the float graph.

    Attributes:
        kept: layers that it leaves in float.
        weight_bits: that weights use of their 8.
        miou: on val, 0..1; None where the images had no labels.
        agreement: share of val pixels with the float graph's class.
        sqnr_db: power of the float logits over that of the difference, dB; None when there is none.
    """

    name: str
    kept: list[str] = []
    weight_bits: int = 8
    miou: float | None
    agreement: float
    sqnr_db: float | None


class Quantisation(Config):
    """What was done to reach the target's precision.

    Attributes:
        preset: "none" where the exported graph is used as it is.
        chosen: name of the candidate that was best on val.
        float_miou: of the float graph on the same val images; None where they had no labels.
        judged_on: the backend that ran the candidates on val; TensorRT's graphs run in ONNX Runtime for it.
        calibration_sha256: of the calibration images at input size.
        operators: the kinds that were quantised.
        layers: every layer's sensitivity at the chosen calibration, the most sensitive first; empty where no
            layer may stay in float.
        kept: the layers that stay in float.
    """

    precision: str
    preset: str
    chosen: str | None
    candidates: list[Candidate]
    float_miou: float | None
    judged_on: str | None = None
    val_images: int
    calibration_images: int
    calibration_sha256: str | None
    operators: list[str]
    layers: list[Layer] = []
    kept: list[str] = []
