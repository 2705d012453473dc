from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from deploy import graph, winograd
from deploy.macs import count
from deploy.sessions.onnxruntime import open_graph
from deploy.winograd import rewrite, written

WIDE = 160


def _model(
    size: tuple[int, int] = (16, 9),
    *,
    channels: tuple[int, int] = (WIDE, WIDE),
    kernel: tuple[int, int] = (3, 3),
    bias: bool = True,
    opset: int = 20,
    batch: int | str = "batch",
    height: int | str | None = None,
    weight_given: bool = False,
    **told: Any,
) -> onnx.ModelProto:
    """A convolution and a ReLU."""
    inputs, outputs = channels
    draw = np.random.default_rng(0)
    scale = 1 / np.sqrt(inputs * kernel[0] * kernel[1])
    group = told.get("group", 1)
    weight = (scale * draw.standard_normal((outputs, inputs // group, *kernel))).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    if bias:
        constants.append(numpy_helper.from_array(draw.standard_normal(outputs).astype(np.float32), "b"))
    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs, height or size[0], size[1]])
    ]
    if weight_given:
        given.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, list(weight.shape)))
        del constants[0]
    told = {"pads": [1, 1, 1, 1]} | told
    nodes = [
        helper.make_node("Conv", ["x", "w", *["b"] * bias], ["y"], name="conv", **told),
        helper.make_node("Relu", ["y"], ["z"], name="relu"),
    ]
    made = helper.make_graph(
        nodes,
        "network",
        given,
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, list("ncij"))],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (found,) = open_graph(graph.to_bytes(model), "graph", threads=1).run(None, {"x": x})
    return np.asarray(found)


def _exact(model: onnx.ModelProto, x: np.ndarray) -> torch.Tensor:
    """PyTorch's convolution in float64."""
    constants = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    told = {one.name: helper.get_attribute_value(one) for one in model.graph.node[0].attribute}
    top, left, bottom, right = told["pads"]
    padded = F.pad(torch.from_numpy(x.astype(np.float64)), (left, right, top, bottom))
    bias = torch.from_numpy(constants["b"]) if "b" in constants else None
    dilation = told.get("dilations", [1, 1])
    return F.conv2d(padded, torch.from_numpy(constants["w"]), bias, dilation=dilation).relu()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((16, 9), {}),
        ((15, 9), {}),  # a row of padding
        ((33, 6), {}),
        ((4, 1), {}),
        ((16, 9), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ((31, 12), {"dilations": [4, 4], "pads": [4, 4, 4, 4]}),
        ((24, 12), {"dilations": [3, 1], "pads": [3, 1, 3, 1]}),
        ((16, 9), {"pads": [1, 0, 1, 0]}),  # narrower than the input
        ((16, 9), {"pads": [1, 0, 1, 3]}),
        ((16, 9), {"bias": False}),
        ((16, 9), {"channels": (96, 256)}),
        ((16, 9), {"opset": 18, "strides": [1, 1], "group": 1}),
    ],
)
def test_it_is_the_convolution(images: int, size: tuple[int, int], told: dict[str, Any]) -> None:
    model = _model(size, **told)
    fast, names = rewrite(model)
    assert names == written(fast) == ["conv"] and not written(model)
    onnx.checker.check_model(fast, full_check=True)
    x = np.random.default_rng(1).standard_normal(
        (images, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, *size), dtype=np.float32
    )
    wanted = _exact(model, x)
    found = torch.from_numpy(_run(fast, x).astype(np.float64))
    assert found.shape == wanted.shape
    # As close as the engine's own convolution, give or take a bit or two.
    own = (torch.from_numpy(_run(model, x)) - wanted).abs().max()
    assert (found - wanted).abs().max() <= max(8 * own, 2e-6)


def test_openvino_computes_it_too() -> None:
    openvino = pytest.importorskip("openvino")
    core, model = openvino.Core(), _model((31, 12), dilations=[2, 2], pads=[2, 2, 2, 2], batch=1)
    x = np.random.default_rng(1).standard_normal((1, WIDE, 31, 12), dtype=np.float32)

    def error(one: onnx.ModelProto) -> float:
        read = core.read_model(graph.to_bytes(one))
        found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]
        return float((torch.from_numpy(found) - _exact(model, x)).abs().max())

    assert error(rewrite(model)[0]) <= 8 * error(model)


def test_the_products_are_half_as_many() -> None:
    model = _model((32, 16), batch=1)
    plain, fast = (count(one, {"x": (1, WIDE, 32, 16)}).gmacs for one in (model, rewrite(model)[0]))
    assert plain == 2 * fast > 0


def test_the_file_keeps_its_size_and_its_bytes() -> None:
    model = _model()
    fast = graph.to_bytes(rewrite(model)[0])
    assert len(fast) < len(graph.to_bytes(model)) + 10_000
    assert fast == graph.to_bytes(rewrite(model)[0])


def test_what_was_rewritten_stays_under_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((64, WIDE, 3, 3), np.float32), "narrow"))
    model.graph.node.append(
        helper.make_node("Conv", ["z", "narrow"], ["t"], name="second", pads=[1, 1, 1, 1])
    )
    model.graph.output[0].name = "t"
    fast, names = rewrite(model)
    assert names == ["conv"]
    monkeypatch.setattr(winograd, "WORTH", 0.0)
    assert rewrite(model)[1] == ["conv", "second"]
    again, names = rewrite(fast)
    assert again is fast and not names


def test_names_at_the_ends_stay() -> None:
    fast, _ = rewrite(_model((15, 9)))
    makers = {name: node for node in fast.graph.node for name in node.output}
    assert makers["y"].name == "conv" and makers["z"].op_type == "Relu"


def test_several_convolutions_of_one_weight() -> None:
    model = _model()
    second = onnx.NodeProto()
    second.CopyFrom(model.graph.node[0])
    second.name, second.input[0], second.output[0] = "second", "z", "t"
    model.graph.node.append(second)
    model.graph.output[0].name = "t"
    fast, names = rewrite(model)
    assert names == ["conv", "second"]
    onnx.checker.check_model(fast, full_check=True)
    x = np.random.default_rng(1).standard_normal((1, WIDE, 16, 9), dtype=np.float32)
    np.testing.assert_allclose(_run(fast, x), _run(model, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "told",
    [
        {"strides": [2, 2]},
        {"strides": [1, 2]},
        {"group": 2, "channels": (2 * WIDE, 2 * WIDE)},
        {"kernel": (1, 3)},
        {"kernel": (3, 1)},
        {"kernel": (5, 5)},
        {"pads": [0, 0, 0, 0]},
        {"pads": [1, 1, 0, 1]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"channels": (64, 64)},
        {"channels": (8, 512)},
        {"size": (5, 9)},  # of eight rows three would be padding
        {"dilations": [12, 12], "pads": [12, 12, 12, 12]},
        {"height": "height"},
        {"weight_given": True},
        {"opset": 17},
    ],
)
def test_what_does_not_fit_stays(told: dict[str, Any]) -> None:
    model = _model(**told)
    same, names = rewrite(model)
    assert same is model and not names


def test_half_types_stay() -> None:
    from deploy.precision import typed

    narrow = typed(_model(batch=1), "fp16")
    assert rewrite(narrow)[0] is narrow
