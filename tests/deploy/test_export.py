from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from little_net import CLASSES, SIZE, LittleNet, Output, PyramidNet, contract_of, pictures
from torch import nn

from afdcd.errors import UserError
from deploy import graph
from deploy.archive import load_program
from deploy.bundle import CLASS_MAP, LOGITS, PROGRAM, Range
from deploy.export import Deployable, Exported, export
from deploy.sessions import open_backend

pytestmark = pytest.mark.xdist_group("little")


def _model(exported: Exported, name: str = CLASS_MAP) -> onnx.ModelProto:
    return onnx.load_from_string(exported.files[name])


def test_the_cast_comes_before_the_transpose(exported: Exported) -> None:
    kinds = [node.op_type for node in _model(exported).graph.node if node.op_type != "Shape"]
    assert kinds.index("Cast") < kinds.index("Transpose")
    assert kinds[-2:] == ["ArgMax", "Cast"]


def test_the_graph_keeps_the_contract(exported: Exported) -> None:
    for name, output, kind in ((CLASS_MAP, "class_map", "UINT8"), (LOGITS, "logits", "FLOAT")):
        model = _model(exported, name)
        (image,), (result,) = model.graph.input, model.graph.output
        assert (image.name, result.name) == ("images", output)
        assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert result.type.tensor_type.elem_type == getattr(onnx.TensorProto, kind)
        dims = image.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", *SIZE, 3]
        assert result.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_only_the_bare_network_is_in_the_files(exported: Exported, little: LittleNet) -> None:
    """Batch norm is folded: what is left is each convolution's weight and one bias a channel."""
    folded = sum(
        layer.weight.numel() + layer.out_channels
        for layer in little.modules()
        if isinstance(layer, nn.Conv2d)
    )
    normalisation = 2 * 3
    for name in (CLASS_MAP, LOGITS):
        assert graph.weight_elements(_model(exported, name)) == folded + normalisation
    program = load_program(exported.files[PROGRAM])
    held = sum(parameter.numel() for parameter in program.parameters())
    assert held == exported.contract.parameters == sum(parameter.numel() for parameter in little.parameters())


def test_training_only_parameters_are_refused() -> None:
    network = LittleNet(auxiliary=True).eval()
    with pytest.raises(UserError, match=r"2 parameters that no output needs \(network.auxiliary"):
        export(network, contract_of(network))


def test_another_network_than_the_contract_counts_is_refused(little: LittleNet) -> None:
    contract = contract_of(little).model_copy(update={"parameters": 1})
    with pytest.raises(UserError, match="the bare network 1"):
        export(little, contract)


def test_more_classes_than_uint8_holds_are_refused(little: LittleNet) -> None:
    contract = contract_of(little).model_copy(update={"classes": [str(index) for index in range(256)]})
    with pytest.raises(UserError, match="256 classes do not fit"):
        export(little, contract)


@pytest.mark.parametrize("opset", [18, 22])
def test_another_opset_is_honoured(little: LittleNet, opset: int) -> None:
    made = export(little, contract_of(little, opset))
    assert graph.opset(_model(made)) == opset


def test_an_opset_that_the_exporter_cannot_reach_is_refused(little: LittleNet) -> None:
    with pytest.raises(
        UserError, match=r"asked for opset 13, the exporter produced 18; set deploy.export.opset"
    ):
        export(little, contract_of(little, 13))


def test_the_same_weights_give_the_same_bytes_and_no_trace_of_this_machine(
    exported: Exported, little: LittleNet
) -> None:
    again = export(little, contract_of(little))
    assert again.files == exported.files
    for name, content in exported.files.items():
        assert hashlib.sha256(content).hexdigest() == exported.contract.graphs[name]
        assert __file__.encode() not in content and b"little_net" not in content
        assert b'stack_trace": "' not in content and b".py" not in content
    other = LittleNet().eval()
    assert export(other, contract_of(other)).files[CLASS_MAP] != exported.files[CLASS_MAP]


def test_sizes_are_documented_in_the_graph(dynamic: Exported) -> None:
    for name, channels in ((CLASS_MAP, []), (LOGITS, [len(CLASSES)])):
        model = _model(dynamic, name)
        shapes = [
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        ]
        assert shapes == [
            ["batch", "8*height8", "width", 3],
            ["batch", *channels, "8*height8", "width"],
        ]
        notes = {entry.key: entry.value for entry in model.metadata_props}
        assert notes == {"afdcd.height": "24..128 in steps of 8", "afdcd.width": "24..200"}


@pytest.mark.parametrize("size", [(24, 24), (40, 57), (48, 96), (104, 97), (128, 199)])
def test_sizes_that_were_not_exported_at_are_right_in_pytorch_and_onnxruntime(
    dynamic: Exported, size: tuple[int, int]
) -> None:
    """Adaptive pooling and all: as it comes from the exporter it is wrong here."""
    torch.manual_seed(0)
    network = Deployable(PyramidNet().eval())
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    with torch.inference_mode():
        class_map, logits = (value.numpy() for value in network(torch.from_numpy(images)))
    read = dynamic.files.__getitem__
    for backend in ("pytorch", "onnxruntime"):
        with open_backend(backend, dynamic.contract, read, threads=1) as session:
            np.testing.assert_allclose(session.logits(images), logits, atol=1e-5)
            assert (session.infer(images) == class_map).mean() >= 0.9999


@pytest.mark.parametrize("size", [(16, 64), (136, 64), (25, 64), (32, 23), (32, 201)])
def test_sizes_outside_the_profile_are_refused_with_got_and_range(
    dynamic: Exported, size: tuple[int, int]
) -> None:
    images = np.zeros((1, *size, 3), dtype=np.uint8)
    with open_backend("onnxruntime", dynamic.contract, dynamic.files.__getitem__, threads=1) as session:
        message = rf"\(B, 24..128 in steps of 8, 24..200, 3\), got \(1, {size[0]}, {size[1]}, 3\)"
        with pytest.raises(UserError, match=message):
            session.infer(images)


def test_a_fixed_batch_is_fixed_in_the_graph(little: LittleNet) -> None:
    made = export(little, contract_of(little, batch=Range(min=3, max=3)))
    for name in (CLASS_MAP, LOGITS):
        model = _model(made, name)
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_value == 3


class BesselNet(LittleNet):
    def forward(self, images: torch.Tensor) -> Output:
        features, logits = super().forward(images)
        return Output(features, torch.special.bessel_j0(logits))


class BranchingNet(LittleNet):
    def forward(self, images: torch.Tensor) -> Output:
        features, logits = super().forward(images)
        return Output(features, logits if logits.sum() > 0 else -logits)


def test_an_operator_that_onnx_lacks_is_named_with_its_node() -> None:
    network = BesselNet().eval()
    with pytest.raises(
        UserError, match=r"little cannot become ONNX: its node \w*bessel_j0 is \w+.*bessel_j0"
    ):
        export(network, contract_of(network))


def test_a_network_that_cannot_be_traced_is_one_sentence() -> None:
    network = BranchingNet().eval()
    with pytest.raises(UserError, match=r"cannot trace little for inputs of 1\.\. x 32 x 64 x 3 \(Could not"):
        export(network, contract_of(network))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_runs_in_the_twins_and_they_agree(exported: Exported, batch: int) -> None:
    images = pictures(range(batch))
    class_map, logits = (
        ort.InferenceSession(exported.files[name], providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )[0]
        for name in (CLASS_MAP, LOGITS)
    )
    assert class_map.shape == (batch, *SIZE) and logits.shape == (batch, len(CLASSES), *SIZE)
    np.testing.assert_array_equal(class_map, logits.argmax(axis=1))


def test_exporting_leaves_the_network_as_it_was_and_is_silent(
    little: LittleNet, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: tensor.clone() for name, tensor in little.state_dict().items()}
    export(little, contract_of(little))
    assert all(torch.equal(tensor, before[name]) for name, tensor in little.state_dict().items())
    assert capfd.readouterr() == ("", "")
