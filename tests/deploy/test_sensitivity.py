from __future__ import annotations

import numpy as np
import onnx
import pytest
from little_net import pictures
from onnx import TensorProto, helper, numpy_helper

from deploy import qdq
from deploy.config import KeepFloat
from deploy.quantisation import Layer
from deploy.sensitivity import measure, most_sensitive

SIZE = (4, 6)


def _two_layers(second: np.ndarray) -> onnx.ModelProto:
    """Bytes / 255 -> a convolution of 1x1 that copies red -> ReLU -> a convolution of 1x1 with `second`."""
    first = np.zeros((2, 3, 1, 1), np.float32)
    first[:, 0] = 1
    constants = {"scale": np.float32(255), "first": first, "second": second.astype(np.float32)}
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "scale"], ["units"], name="units"),
        helper.make_node("Conv", ["units", "first"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "second"], ["c"], name="two"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *SIZE, 3])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n", len(second), *SIZE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _images() -> np.ndarray:
    """None at 254, where steps of 1 / 127 would lie between two values."""
    return np.random.default_rng(0).integers(0, 254, (3, *SIZE, 3), dtype=np.uint8)


def _measured(second: np.ndarray, scheme: qdq.Scheme) -> dict[str, Layer]:
    model = _two_layers(second)
    ranges = qdq.ranges(model, _images(), method="minmax", percentile=99.9, what="test", scheme=scheme)
    layers = measure(model, qdq.insert(model, ranges, scheme), _images(), threads=1)
    return {layer.name: layer for layer in layers}


@pytest.mark.parametrize("scheme", [qdq.U8S8, qdq.S8S8])
def test_hand_values(scheme: qdq.Scheme) -> None:
    """Weights 1 and 0.3 of one channel: 0.3 becomes 38 / 127 of 1; inputs are rounded to their own steps."""
    found = _measured(np.array([[1.0, 0.3]] * 3).reshape(3, 2, 1, 1), scheme)
    red = _images()[..., 0] / 255
    step = red.max() / (255 if scheme is qdq.U8S8 else 127)
    true, coded = 1.3 * red, (1 + 38 / 127) * np.round(red / step) * step
    expected = 10 * np.log10(np.sum(true**2) / np.sum((true - coded) ** 2))
    assert found["two"].sqnr_db == pytest.approx(expected, abs=0.05)
    # 6 multiplications a pixel each.
    assert (found["one"].macs, found["two"].macs) == (0.5, 0.5)


def test_what_an_earlier_layer_loses_is_not_counted_twice() -> None:
    """The same first layer before two different second ones."""
    weights = (np.array([1.0, second]).reshape(1, 2, 1, 1) for second in (1.0, 0.003))
    near, far = (_measured(values, qdq.S8S8) for values in weights)
    assert near["one"].sqnr_db == far["one"].sqnr_db
    assert near["two"].sqnr_db != far["two"].sqnr_db


def _layers(*pairs: tuple[float | None, float]) -> list[Layer]:
    return [Layer(name=f"n{place}", sqnr_db=sqnr, macs=macs) for place, (sqnr, macs) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (KeepFloat(layers=9, macs=1.0), ["n0", "n1", "n2"]),
        (KeepFloat(layers=1, macs=1.0), ["n0"]),
        (KeepFloat(layers=2, macs=0.3), ["n0", "n2"]),
        (KeepFloat(layers=2, macs=0.05), []),
    ],
)
def test_the_budget(budget: KeepFloat, kept: list[str]) -> None:
    """The second does not fit into 0.3 beside the first and is passed over; the last loses nothing."""
    layers = _layers((10.0, 0.1), (20.0, 0.5), (30.0, 0.2), (None, 0.2))
    assert most_sensitive(layers, budget) == kept


def test_pictures_are_not_touched() -> None:
    images = pictures(range(2))
    before = images.copy()
    model = _two_layers(np.ones((1, 2, 1, 1)))
    sized = images[:, : SIZE[0], : SIZE[1]]
    ranges = qdq.ranges(model, sized, method="minmax", percentile=99.9, what="test")
    measure(model, qdq.insert(model, ranges), sized, threads=1)
    np.testing.assert_array_equal(images, before)
