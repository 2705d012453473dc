"""TensorRT-RTX parses and builds five families of students, in every type, for one size and for many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from little_net import LittleNet, contract_of
from torch import nn

from afdcd.config import ModelConfig
from afdcd.errors import UserError
from afdcd.models.segmenter import build_segmenter
from deploy.bundle import CLASS_MAP, LOGITS, Geometry, Range
from deploy.config import Precision, QuantizeConfig
from deploy.evaluate import Sample
from deploy.export import Exported, export
from deploy.precision import variant
from deploy.quantize import Typed, quantize
from deploy.tensorrt.dry import dry_build

pytest.importorskip("tensorrt_rtx")

PAIRS = Path(__file__).parents[3] / "conf" / "pair"
SIZE = (64, 96)
FREE = {
    "height": Range(min=64, max=128, multiple=8),
    "width": Range(min=64, max=160, multiple=8),
}
ONE_SIZE = ("pvt_b0",)
"""Networks that do not export for many sizes (docs/models.md)."""
Export = Callable[[str, bool], Exported]


TRIED = ("narrow_r18", "r101_r18", "r101_psp_r18", "r101_mbv2", "pvt_b2_b0")


def _families() -> dict[str, ModelConfig]:
    """The students of these pairs, without pretrained weights."""
    found = {}
    for file in TRIED:
        pair = yaml.safe_load((PAIRS / f"{file}.yaml").read_text(encoding="utf-8"))
        for name, values in pair["students"].items():
            found[name] = ModelConfig.model_validate({**values, "pretrained": "none"})
    return found


FAMILIES = _families()


@pytest.fixture(scope="module")
def family() -> Export:
    """Exports a family once, for one size or for many."""
    made: dict[tuple[str, bool], Exported] = {}

    def get(name: str, free: bool) -> Exported:
        if (name, free) not in made:
            torch.manual_seed(0)
            made[name, free] = _export(build_segmenter(FAMILIES[name], 3).deployed(), free)
        return made[name, free]

    return get


def _export(network: nn.Module, free: bool) -> Exported:
    sides = FREE if free else {"height": SIZE[0], "width": SIZE[1]}
    contract = contract_of(network, **sides)
    return export(network, contract.model_copy(update={"geometry": Geometry(size=SIZE, fit="stretch")}))


def _typed(exported: Exported, precision: Precision) -> dict[str, bytes]:
    if precision == "fp32":
        return {name: exported.files[name] for name in (CLASS_MAP, LOGITS)}
    if precision == "int8":
        images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
        settings = QuantizeConfig(
            calibration_images=2,
            val_images=1,
            candidates=["minmax"],
            percentile=99.99,
            keep_float=None,
            weight_bits=[8],
        )
        return quantize(
            exported.files,
            exported.contract,
            calibration=images,
            validation=[Sample("one", images[0], np.zeros(SIZE, np.uint8))],
            settings=settings,
            threads=1,
            backend="tensorrt_rtx",
        ).files
    return variant(exported.files, precision)


@pytest.mark.slow
@pytest.mark.xdist_group("rtx")
@pytest.mark.parametrize(
    ("free", "precision"),
    [(False, "fp32"), (False, "fp16"), (False, "bf16"), (False, "int8"), (True, "fp32"), (True, "int8")],
    ids=lambda value: {False: "one size", True: "many sizes"}.get(value, value),
)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_builds(name: str, free: bool, precision: Precision, family: Export) -> None:
    """Each type for one size; for many the widest and the narrowest, since the types share their shapes."""
    if free and name in ONE_SIZE:
        with pytest.raises(UserError, match="it holds guards as Python source"):
            family(name, free)
        return
    exported = family(name, free)
    for graph, content in _typed(exported, precision).items():
        told = dry_build(content, graph, contract=exported.contract, precision=precision)
        kind, shape = next(iter(told.outputs.values()))
        sides = (-1, -1) if free else SIZE
        assert kind == ("UINT8" if graph == CLASS_MAP else "FLOAT")
        assert tuple(shape)[-2:] == sides
        assert told.plan_bytes > 10_000


@pytest.mark.xdist_group("little")
@pytest.mark.parametrize("name", [CLASS_MAP, LOGITS])
def test_symmetric_int8_builds(exported: Exported, quantised: Callable[..., Typed], name: str) -> None:
    content = quantised("tensorrt_rtx").files[name]
    told = dry_build(content, name, contract=exported.contract, precision="int8")
    assert told.plan_bytes > 10_000 and not told.warnings


@pytest.mark.xdist_group("little")
def test_a_graph_of_many_sizes_builds(little: LittleNet) -> None:
    exported = _export(little, True)
    told = dry_build(exported.files[CLASS_MAP], CLASS_MAP, contract=exported.contract)
    assert told.outputs == {"class_map": ("UINT8", (-1, -1, -1))}
