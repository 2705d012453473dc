"""ONNX files that no code of this project made: torch.onnx.export of a plain module, and graphs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from little_net import CLASSES, NORMALISATION, SIZE, LittleNet
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

PIXELS = [
    *("--mean", *map(str, NORMALISATION.mean)),
    *("--std", *map(str, NORMALISATION.std)),
]
"""What the command line must be told of them."""


class Torchvisionlike(nn.Module):
    """A trained LittleNet without its normalisation; gives {"out": scores at the input's size}."""

    def __init__(self, little: LittleNet) -> None:
        super().__init__()
        self.little = little

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        net = self.little
        stem = F.max_pool2d(net.stem(images), 3, 2, 1)
        features = stem + net.body(stem)
        scores = net.classifier(torch.cat([features, net.tail(features)], dim=1))
        return {"out": F.interpolate(scores, size=images.shape[2:], mode="bilinear", align_corners=False)}


def export_plain(path: Path, little: LittleNet, *, many: bool = False, external: bool = False) -> Path:
    """A file as torch.onnx.export writes it, for one size or for many batches and sizes."""
    shapes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        Torchvisionlike(little).eval(),
        (torch.zeros(2 if many else 1, 3, *SIZE),),
        str(path),
        verbose=False,
        external_data=external,
        output_names=["out"],
        dynamic_shapes=(shapes,) if many else None,
    )
    return path


def by_hand(
    path: Path,
    *,
    shape: Sequence[int | str] = (1, 3, *SIZE),
    kind: int = TensorProto.FLOAT,
    stride: int = 1,
    classes: int = len(CLASSES),
    ending: Sequence[tuple[str, dict[str, Any]]] = (),
    outputs: Sequence[str] = (),
    opset: int = 20,
    operator: str = "Conv",
) -> Path:
    """A convolution without names, with its weights as a Constant node, and what comes behind it.

    The middle tap of class k's kernel takes channel k, so that the class is the brightest channel.
    """
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.zeros((classes, 3, 3, 3), dtype=dtype)
    for number in range(min(classes, 3)):
        weight[number, number, 1, 1] = 1
    attributes = {"pads": [1, 1, 1, 1], "strides": [stride, stride]}
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node(operator, ["x", "w"], ["scores"], **(attributes if operator == "Conv" else {})),
    ]
    value = "scores"
    for number, (behind, options) in enumerate(ending):
        nodes.append(helper.make_node(behind, [value], [f"t{number}"], **options))
        value = f"t{number}"
    infos = [helper.make_empty_tensor_value_info(name) for name in outputs or [value]]
    given = helper.make_tensor_value_info("x", kind, list(shape))
    graph = helper.make_graph(nodes, "g", [given], infos)
    # Types of outputs must be there; onnx infers them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if operator == "Conv":
        model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, path)
    return path
