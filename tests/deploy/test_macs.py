from __future__ import annotations

import warnings
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from afdcd.config import ModelConfig, Normalisation
from afdcd.errors import UserError
from afdcd.models.segmenter import Segmenter
from deploy.bundle import LOGITS
from deploy.complexity import conv_gmacs
from deploy.export import Deployable, Exported
from deploy.macs import count
from deploy.rewrite import Exportable

NORMALISATION = Normalisation(order="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def single(
    operator: str, given: list[Any], weights: list[int], made: list[Any], **attributes: Any
) -> onnx.ModelProto:
    """A graph of one node with constant weights."""
    size = 1
    for length in weights:
        size *= length
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], "one", **attributes)],
        "g",
        [value("x", TensorProto.FLOAT, given)],
        [value("y", TensorProto.FLOAT, made)],
        [helper.make_tensor("w", TensorProto.FLOAT, weights, [0.0] * size)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_groups_and_strides() -> None:
    model = single("Conv", [2, 8, 9, 9], [8, 2, 3, 3], [2, 8, 4, 4], group=4, strides=[2, 2])
    found = count(model, {})
    assert found.nodes[0].macs == found.nodes[0].effective == 2 * 8 * 4 * 4 * 2 * 9
    assert found.gflops == 2 * found.gmacs == found.effective_gflops


def test_taps_in_the_padding_are_not_effective() -> None:
    wide = single("Conv", [1, 4, 10, 10], [4, 4, 3, 3], [1, 4, 10, 10], pads=[12] * 4, dilations=[12, 12])
    (node,) = count(wide, {}).nodes
    # Dilation beyond the image: of nine taps the middle one is left.
    assert (node.macs, node.effective) == (9 * 4 * 4 * 100, 4 * 4 * 100)
    (same,) = count(
        single("Conv", [1, 1, 5, 5], [1, 1, 3, 3], ["n", 1, 5, 5], auto_pad="SAME_UPPER"), {}
    ).nodes
    assert (same.macs, same.effective) == (9 * 25, 13 * 13)


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        (single("ConvTranspose", [1, 3, 4, 4], [3, 5, 2, 2], [1, 5, 8, 8], strides=[2, 2]), 16 * 3 * 5 * 4),
        (single("MatMul", [2, 7, 6], [6, 5], [2, 7, 5]), 2 * 7 * 6 * 5),
        (single("Gemm", [6, 7], [5, 6], [7, 5], transA=1, transB=1), 7 * 6 * 5),
    ],
)
def test_other_operators(model: onnx.ModelProto, macs: int) -> None:
    assert count(model, {}).nodes[0].macs == macs


def test_open_sizes_must_be_given() -> None:
    model = single("Conv", ["n", 3, "h", "w"], [4, 3, 1, 1], ["n", 4, "h", "w"])
    assert count(model, {"x": (2, 3, 5, 6)}).nodes[0].macs == 2 * 3 * 4 * 30
    with pytest.raises(UserError, match="Conv 'one': the shape of 'x' is not known"):
        count(model, {})
    with pytest.raises(UserError, match="4 dimensions"):
        count(model, {"x": (3, 5)})


def fvcore(module: nn.Module, shape: tuple[int, ...]) -> float:
    """1e9 multiply-accumulates of convolutions and products by fvcore."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(module.eval(), torch.zeros(shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counted = analysis.by_operator()
    return sum(counted[name] for name in ("conv", "linear", "matmul", "bmm", "addmm", "einsum")) / 1e9


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("mobilenetv2_100", "deeplabv3"),
        pytest.param("resnet18", "deeplabv3", marks=pytest.mark.slow),
        pytest.param("resnet18", "psp", marks=pytest.mark.slow),
    ],
)
def test_our_networks_agree_with_fvcore(backbone: str, head: str) -> None:
    config = ModelConfig(
        backbone=backbone,
        backbone_options={},
        output_stride=8,
        head=head,
        head_channels=32,
        atrous_rates=(12, 24, 36),
        dropout=0.1,
        projection_dropout=0.5,
        auxiliary=False,
        pretrained="none",
        normalisation=NORMALISATION,
    )
    network = Segmenter(config, 5).eval().deployed()
    example = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
    with Exportable(), torch.no_grad():
        program = torch.export.export(Deployable(network).eval(), (example,))
        made = torch.onnx.export(program, (), verbose=False)
    assert made is not None
    found = count(made.model_proto, {})
    assert found.gmacs == pytest.approx(fvcore(network, (1, 3, 64, 96)), rel=0.01)
    assert found.gmacs == pytest.approx(conv_gmacs(network, (1, 3, 64, 96)), rel=0.01)
    assert found.effective_gflops < found.gflops


@pytest.mark.xdist_group("little")
def test_a_dynamic_graph_of_ours(dynamic: Exported) -> None:
    model = onnx.load_from_string(dynamic.files[LOGITS])
    small, large = (count(model, {"images": (1, 32, side, 3)}).gmacs for side in (64, 128))
    assert 1.9 < large / small < 2.1
