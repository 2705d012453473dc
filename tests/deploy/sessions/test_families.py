"""Every engine of a CPU computes what PyTorch does, for the four families of students of the published pairs.

The other presets' students are held against PyTorch by tests/deploy/test_networks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from little_net import contract_of
from torch import nn

from afdcd.config import ModelConfig
from afdcd.models.segmenter import build_segmenter
from deploy.bundle import Geometry
from deploy.config import Precision, QuantizeConfig
from deploy.evaluate import Sample
from deploy.export import Exported, export
from deploy.hardware import int8_sums_saturate
from deploy.parity import Parity, compare
from deploy.quantize import quantize, unchanged
from deploy.sessions import open_backend
from deploy.sessions.capability import PRECISIONS, capability

PAIRS = Path(__file__).parents[3] / "conf" / "pair"
CLASSES = 3
SIZE = (64, 96)

ENGINES = [
    pytest.param(
        backend,
        precision,
        marks=pytest.mark.slow if precision == "int8" or backend == "pytorch_compiled" else (),
    )
    for backend, possible in PRECISIONS.items()
    for precision in possible
    if backend != "pytorch"
]
LEAST: dict[str, tuple[float, float]] = {"fp32": (80.0, 0.999), "bf16": (25.0, 0.97), "int8": (12.0, 0.85)}
"""dB of SQNR and share of equal classes, on random weights, whose classes lie closer than trained ones."""
if int8_sums_saturate():
    # With weights of 7 bits OpenVINO comes to 11.998 dB and 85.1 % where a ResNet has the least.
    LEAST["int8"] = (11.5, 0.85)
LEAST_OF_MOBILE: dict[str, tuple[float, float]] = {**LEAST, "bf16": (10.0, 0.9), "int8": (4.5, 0.85)}
"""A MobileNetV2 of random weights carries the rounding of 52 layers along: about half of a ResNet's dB."""


pytestmark = pytest.mark.xdist_group("families")


PUBLISHED = ("narrow_r18", "r101_r18", "r101_psp_r18", "r101_mbv2")


def _families() -> dict[str, ModelConfig]:
    """The students of these pairs, without pretrained weights."""
    found = {}
    for pair in PUBLISHED:
        text = (PAIRS / f"{pair}.yaml").read_text(encoding="utf-8")
        for name, values in yaml.safe_load(text)["students"].items():
            found[name] = ModelConfig.model_validate({**values, "pretrained": "none"})
    return found


FAMILIES = _families()
QUICK = "narrow_r18"


def test_all_four_families_are_there() -> None:
    kinds = {(config.backbone, config.head) for config in FAMILIES.values()}
    assert len(FAMILIES) >= 4
    assert {("resnet18", "deeplabv3"), ("resnet18", "psp"), ("mobilenetv2_100", "deeplabv3")} <= kinds


def _pictures(count: int) -> npt.NDArray[np.uint8]:
    """Blocks of colours with noise, uniform noise, and only blacks and whites, in turn, (N, H, W, 3)."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        coarse = random.integers(0, 256, (SIZE[0] // 16, SIZE[1] // 16, 3))
        real = coarse.repeat(16, 0).repeat(16, 1) + random.normal(0, 8, (*SIZE, 3))
        kinds = [
            real.clip(0, 255),
            random.integers(0, 256, (*SIZE, 3)),
            255 * random.integers(0, 2, (*SIZE, 3)),
        ]
        made.append(kinds[number % 3].astype(np.uint8))
    return np.stack(made)


def _settle(network: nn.Module) -> None:
    """Statistics of normalisation from a few images: with random ones, signals fade or burst."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(_pictures(6)).permute(0, 3, 1, 2))
    network.eval()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in FAMILIES],
)
def family(request: pytest.FixtureRequest) -> Iterator[Exported]:
    torch.manual_seed(0)
    network = build_segmenter(FAMILIES[request.param], CLASSES)
    _settle(network)
    bare = network.deployed()
    contract = contract_of(bare, height=SIZE[0], width=SIZE[1])
    changes = {"model": request.param, "geometry": Geometry(size=SIZE, fit="stretch")}
    yield export(bare, contract.model_copy(update=changes))


def _typed(family: Exported, backend: str, precision: Precision) -> Mapping[str, bytes]:
    if precision != "int8":
        return unchanged(family.files, backend, precision).files
    images = _pictures(6)
    labels = np.zeros(SIZE, np.uint8)
    settings = QuantizeConfig(
        calibration_images=6,
        val_images=1,
        candidates=["minmax"],
        percentile=99.99,
        keep_float=None,
        weight_bits="auto",
    )
    return quantize(
        family.files,
        family.contract,
        calibration=images,
        validation=[Sample("one", images[0], labels)],
        settings=settings,
        threads=1,
        backend=backend,
    ).files


def _parity(family: Exported, backend: str, precision: Precision) -> Parity:
    files = _typed(family, backend, precision)
    with (
        open_backend("pytorch", family.contract, family.files.__getitem__, threads=1) as reference,
        open_backend(backend, family.contract, files.__getitem__, threads=1, precision=precision) as engine,
    ):
        return compare(reference, engine, _pictures(4))


@pytest.mark.parametrize(("backend", "precision"), ENGINES)
def test_an_engine_computes_what_pytorch_does(family: Exported, backend: str, precision: Precision) -> None:
    if reason := capability(backend, precision):
        pytest.skip(f"this machine {reason}")
    found = _parity(family, backend, precision)
    sqnr, agreement = (LEAST_OF_MOBILE if "mbv2" in family.contract.model else LEAST)[precision]
    assert found.agreement >= agreement
    assert found.sqnr_db is None or found.sqnr_db >= sqnr
    # An engine that ignores the precision asked for would be as near as float32 is.
    assert precision == "fp32" or (found.sqnr_db is not None and found.sqnr_db < LEAST["fp32"][0])
