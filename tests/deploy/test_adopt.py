from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from foreign_onnx import Torchvisionlike, by_hand, export_plain
from little_net import CLASSES, NORMALISATION, SIZE, LittleNet, pictures
from onnx import TensorProto

from afdcd.config import Normalisation
from afdcd.errors import UserError
from deploy.adopt import Adopted, Wanted, adopt
from deploy.check import require_sound
from deploy.pixels import UNIT, prepared
from deploy.sessions import open_backend
from deploy.sessions.original import OriginalSession

pytestmark = pytest.mark.xdist_group("little")

RAW = Normalisation(order="rgb", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def wanted(**changes: Any) -> Wanted:
    plain = Wanted(name="theirs", classes=[], normalisation=RAW, size=None, fit="stretch", output=None)
    return plain._replace(**changes)


def run(
    taken: Adopted, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    with open_backend("onnxruntime", taken.contract, taken.files.__getitem__, threads=1) as session:
        return session.infer(images), session.logits(images)


def noise(batch: int = 1, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("many", [False, True])
def test_it_computes_what_pytorch_does(tmp_path: Path, little: LittleNet, many: bool) -> None:
    path = export_plain(tmp_path / "net.onnx", little, many=many)
    size = (40, 56) if many else SIZE
    taken = adopt(path, wanted(normalisation=NORMALISATION, size=size if many else None, classes=CLASSES))
    assert taken.contract.input.batch.max is (None if many else 1) and taken.output == "out"
    assert taken.contract.classes == CLASSES and taken.contract.geometry.size == size
    images = noise(3 if many else 1, size)
    with torch.no_grad():
        true = Torchvisionlike(little)(torch.from_numpy(prepared(images, NORMALISATION)))["out"].numpy()
    classes, logits = run(taken, images)
    np.testing.assert_allclose(logits, true, atol=2e-5 * np.abs(true).max())
    assert (classes == true.argmax(axis=1)).mean() > 0.999
    with OriginalSession(path, taken) as original:
        np.testing.assert_allclose(original.logits(images), true, atol=2e-5 * np.abs(true).max())
    for name, content in taken.files.items():
        require_sound(content, name, "tensorrt")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_channels_and_scales_of_pixels(tmp_path: Path, order: Any) -> None:
    taken = adopt(
        by_hand(tmp_path / "a.onnx"), wanted(normalisation=UNIT.model_copy(update={"order": order}))
    )
    images = noise()
    classes, logits = run(taken, images)
    given = images[..., ::-1] if order == "bgr" else images
    np.testing.assert_allclose(logits, given.transpose(0, 3, 1, 2) / 255.0, atol=1e-6)
    assert (classes == given.argmax(axis=3)).all()


@pytest.mark.parametrize("batch", [1, "n"])
def test_small_scores_are_enlarged(tmp_path: Path, batch: int | str) -> None:
    taken = adopt(by_hand(tmp_path / "a.onnx", stride=4, shape=(batch, 3, *SIZE)), wanted())
    images = noise(1 if batch == 1 else 2)
    small = torch.from_numpy(images.transpose(0, 3, 1, 2)[:, :, ::4, ::4].astype(np.float32))
    true = torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(run(taken, images)[1], true, atol=1e-3)
    with OriginalSession(tmp_path / "a.onnx", taken) as original:
        np.testing.assert_allclose(original.logits(images), true, atol=1e-3)


@pytest.mark.parametrize(
    "ending",
    [
        [("ArgMax", {"axis": 1, "keepdims": 0})],
        [("ArgMax", {"axis": 1, "keepdims": 1}), ("Cast", {"to": TensorProto.INT32})],
    ],
)
def test_a_class_map_inside_leads_to_its_scores(tmp_path: Path, ending: list[tuple[str, Any]]) -> None:
    taken = adopt(by_hand(tmp_path / "a.onnx", ending=ending), wanted())
    assert taken.scores == "scores" and taken.output == f"t{len(ending) - 1}"
    images = noise()
    assert (run(taken, images)[0] == images.argmax(axis=3)).all()


def test_half_precision_stays_inside(tmp_path: Path) -> None:
    taken = adopt(by_hand(tmp_path / "a.onnx", kind=TensorProto.FLOAT16), wanted(normalisation=UNIT))
    classes, logits = run(taken, noise())
    assert logits.dtype == np.float32 and (classes == noise().argmax(axis=3)).mean() > 0.99


def test_old_opsets_and_taken_names(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.onnx", opset=11)
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["logits" if name == "scores" else name for name in names]
    model.graph.output[0].name = "logits"
    onnx.save(model, path)
    taken = adopt(path, wanted())
    assert taken.contract.opset == 17 and taken.contract.logits == "logits_"
    assert (run(taken, noise())[0] == noise().argmax(axis=3)).all()


def test_a_batch_that_is_open_by_name_only(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.onnx", shape=("n", 3, *SIZE), outputs=["again"])
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["scores", "one"], ["again"]))
    sizes = np.array([1, 3, *SIZE], dtype=np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, "one"))
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    taken = adopt(path, wanted())
    assert taken.contract.input.batch.max == 1
    assert (run(taken, noise())[0] == noise().argmax(axis=3)).all()


def test_a_batch_that_the_graph_folds_into_its_classes(tmp_path: Path) -> None:
    """Two images run, and come out as one of twice the classes."""
    path = by_hand(tmp_path / "a.onnx", shape=("n", 3, *SIZE), outputs=["again"])
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Reshape", ["scores", "one"], ["again"]))
    sizes = np.array([1, -1, *SIZE], dtype=np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, "one"))
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    taken = adopt(path, wanted())
    assert taken.contract.input.batch.max == 1
    assert (run(taken, noise())[0] == noise().argmax(axis=3)).all()


def test_open_lengths_that_are_written_as_minus_one(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.onnx", shape=(-1, 3, -1, -1))
    with pytest.raises(UserError, match=r"takes \?x3x\?x\?; say with --size HEIGHT WIDTH"):
        adopt(path, wanted())
    taken = adopt(path, wanted(size=SIZE))
    assert taken.contract.input.batch.max is None
    assert (run(taken, noise(2))[0] == noise(2).argmax(axis=3)).all()
    with OriginalSession(path, taken) as original:
        assert (original.infer(noise(2)) == noise(2).argmax(axis=3)).all()


def test_weights_beside_the_file_are_part_of_its_hash(tmp_path: Path, little: LittleNet) -> None:
    path = export_plain(tmp_path / "net.onnx", little, external=True)
    (weights,) = (file for file in tmp_path.iterdir() if file != path)
    first = adopt(path, wanted()).contract.weights_sha256
    content = bytearray(weights.read_bytes())
    content[0] ^= 1  # the last bit of a mantissa
    weights.write_bytes(content)
    assert adopt(path, wanted()).contract.weights_sha256 != first


@pytest.mark.parametrize(
    ("made", "asked", "says"),
    [
        ({"shape": (1, *SIZE, 3)}, {}, r"takes x float 1x32x64x3; it must take one float32 or float16"),
        (
            {"operator": "Wobble"},
            {},
            "the node 'scores' of the operator ai.onnx.Wobble, which ONNX does not define at opset 20",
        ),
        ({"shape": (4, 3, *SIZE)}, {}, "takes batches of 4; export it for one image"),
        ({"shape": (1, 3, "h", "w")}, {}, r"takes 1x3x\?x\?; say with --size HEIGHT WIDTH"),
        ({}, {"size": (8, 8)}, "takes 1x3x32x64, --size asks for 8x8"),
        ({}, {"classes": ["a"]}, "tells 3 classes apart, --classes names 1"),
        ({}, {"output": "other"}, "has no output 'other'; there are scores"),
        ({"classes": 1}, {}, r"gives scores float32 \(1, 1, 32, 64\); needed are scores of 2 to 255"),
        ({"ending": [("Flatten", {})]}, {}, "needed are scores of 2 to 255 classes"),
        (
            {"ending": [("Relu", {})], "outputs": ["scores", "t0"]},
            {},
            "gives several scores: scores, t0; choose one with --output",
        ),
    ],
)
def test_what_cannot_be_taken(tmp_path: Path, made: dict[str, Any], asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        adopt(by_hand(tmp_path / "a.onnx", **made), wanted(**asked))


def test_one_of_several_scores_is_chosen(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "a.onnx", ending=[("Neg", {})], outputs=["scores", "t0"])
    for output, best in (("scores", np.argmax), ("t0", np.argmin)):
        assert (run(adopt(path, wanted(output=output)), noise())[0] == best(noise(), axis=3)).all()


def test_the_record_of_pictures_is_near(tmp_path: Path, little: LittleNet) -> None:
    """On images the network learnt, classes and not chance decide."""
    taken = adopt(export_plain(tmp_path / "net.onnx", little), wanted(normalisation=NORMALISATION))
    images = pictures(range(2))
    assert set(np.unique(run(taken, images[:1])[0])) == {0, 1, 2}
