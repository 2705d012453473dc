"""Networks of the presets' kinds through export and engines; random weights, little sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from contracts.segmenter import RGB, pictures
from little_net import contract_of

from afdcd.config import ModelConfig, Normalisation
from afdcd.models.segmenter import Segmenter, build_segmenter
from deploy import graph, winograd
from deploy.bundle import Contract, Geometry
from deploy.complexity import measure
from deploy.config import Precision, QuantizeConfig
from deploy.evaluate import Sample
from deploy.export import Exported, export
from deploy.quantize import quantize
from deploy.sessions import open_backend

SIZE = (64, 96)
CAFFE = Normalisation(order="bgr", mean=(104.00698793, 116.66876762, 122.67891434), std=(1.0, 1.0, 1.0))


def network(backbone: str, head: str, stride: int, width: int, **changes: Any) -> Segmenter:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "backbone": backbone,
        "backbone_options": {},
        "output_stride": stride,
        "head": head,
        "head_channels": width,
        "atrous_rates": (3, 6, 9),
        "dropout": 0.0,
        "projection_dropout": 0.0,
        "auxiliary": False,
        "pretrained": "none",
        "normalisation": RGB,
        **changes,
    }
    return build_segmenter(ModelConfig(**values), 3).deployed()


def exported_of(bare: Segmenter) -> Exported:
    contract: Contract = contract_of(bare, height=SIZE[0], width=SIZE[1])
    geometry = Geometry(size=SIZE, fit="stretch")
    changes = {"geometry": geometry, "normalisation": bare.config.normalisation}
    return export(bare, contract.model_copy(update=changes))


def logits_by(
    exported: Exported, backend: str, images: np.ndarray, precision: Precision = "fp32"
) -> np.ndarray:
    read = exported.files.__getitem__
    with open_backend(backend, exported.contract, read, threads=1, precision=precision) as session:
        found: np.ndarray = session.logits(images)
        assert session.infer(images).shape == images.shape[:3]
    return found


def assert_engines_agree(bare: Segmenter, backends: tuple[str, ...]) -> Exported:
    made = exported_of(bare)
    images = pictures(1, *SIZE)
    with torch.no_grad():
        small = bare(images).logits
        expected = torch.nn.functional.interpolate(small, SIZE, mode="bilinear", align_corners=False).numpy()
    for backend in backends:
        found = logits_by(made, backend, np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()))
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=1e-3 * scale, err_msg=backend)
    return made


NARROW = {"backbone_options": {"channels": [8, 16, 32, 64], "stem_width": 8}}


@pytest.mark.parametrize(
    "head", [*(pytest.param(head, marks=pytest.mark.slow) for head in ("deeplabv3", "psp")), "fcn"]
)
def test_whole_networks_in_winograds_form(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "WORTH", 0.0)
    made = exported_of(network("resnet18", head, 8, 24, **NARROW))
    images = np.ascontiguousarray(pictures(2, *SIZE).permute(0, 2, 3, 1).numpy())
    files: dict[str, bytes] = {}
    for name, content in made.files.items():
        if name.endswith(".onnx"):
            model, names = winograd.rewrite(onnx.load_from_string(content))
            assert names
            files[name] = graph.to_bytes(model)
    for backend in ("onnxruntime", "openvino"):
        plain, fast = (logits_by(one, backend, images) for one in (made, Exported(files, made.contract)))
        np.testing.assert_allclose(fast, plain, rtol=0, atol=1e-5 * np.abs(plain).max(), err_msg=backend)


def test_the_normalisation_of_bgr_weights_is_in_the_graph() -> None:
    bare = network("resnet18", "fcn", 8, 16, normalisation=CAFFE, **NARROW)
    made = assert_engines_agree(bare, ("onnxruntime",))
    assert made.contract.normalisation == CAFFE
    images = np.ascontiguousarray(pictures(1, *SIZE).permute(0, 2, 3, 1).numpy())
    turned = np.ascontiguousarray(images[..., ::-1])
    assert (
        np.abs(logits_by(made, "onnxruntime", images) - logits_by(made, "onnxruntime", turned)).max() > 1e-3
    )


SETTINGS = QuantizeConfig(
    calibration_images=4,
    val_images=4,
    candidates=["minmax"],
    percentile=99.99,
    keep_float=None,
    weight_bits=[8],
)
STUDENTS = {
    "pvt_v2_b0": ("segformer", 32, 256),
    "mobilenetv3_large_100": ("lraspp", 16, 168),
    "mobilenetv4_conv_small": ("lraspp", 16, 192),
    "efficientnet_lite0": ("lraspp", 16, 168),
}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", STUDENTS)
def test_the_presets_students_run_on_the_cpus_engines(backbone: str) -> None:
    head, stride, width = STUDENTS[backbone]
    bare = network(backbone, head, stride, width)
    made = assert_engines_agree(bare, ("onnxruntime", "openvino"))
    counted = measure(bare, (1, 3, *SIZE))
    assert 0 < counted.conv_gmacs <= counted.gmacs
    images = np.ascontiguousarray(pictures(4, *SIZE).permute(0, 2, 3, 1).numpy())
    maps = logits_by(made, "onnxruntime", images).argmax(1).astype(np.uint8)
    samples = [Sample(str(number), images[number], maps[number]) for number in range(4)]
    for backend in ("onnxruntime", "openvino"):
        typed = quantize(
            made.files,
            made.contract,
            calibration=images,
            validation=samples,
            settings=SETTINGS,
            threads=1,
            backend=backend,
        )
        int8 = logits_by(Exported(typed.files, made.contract), backend, images, "int8")
        real = logits_by(made, backend, images)
        correlation = float(np.corrcoef(int8.ravel(), real.ravel())[0, 1])
        print(f"{backbone} {backend} int8: correlation {correlation:.4f}")
        assert np.isfinite(int8).all() and correlation > 0.8
