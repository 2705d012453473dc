"""The protocol over gRPC, by Triton's own client."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio_client
from fake_run import SIZE
from google.protobuf.message import DecodeError
from PIL import Image
from serving_process import Server
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from deploy.serving import wire
from deploy.serving.messages import CLASSES, MESSAGES

Images = npt.NDArray[np.uint8]
pytestmark = pytest.mark.xdist_group("serving")


def inputs(images: Images) -> list[client.InferInput]:
    given = client.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images)
    return [given]


@pytest.mark.parametrize("name", MESSAGES)
def test_field_numbers_are_tritons(name: str) -> None:
    theirs = service_pb2.DESCRIPTOR.message_types_by_name[name.split(".")[0]]
    if "." in name:
        theirs = theirs.nested_types_by_name[name.split(".")[1]]
    for field in CLASSES[name].DESCRIPTOR.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)


def test_triton_client_learns_what_is_served(server: Server) -> None:
    with client.InferenceServerClient(server.grpc) as asks:
        assert asks.is_server_live() and asks.is_server_ready() and asks.is_model_ready("painter", "1")
        assert asks.get_server_metadata(as_json=True)["name"] == "afdcd"
        found = asks.get_model_metadata("painter")
        assert list(found.inputs[0].shape) == [-1, *SIZE, 3] and found.outputs[0].datatype == "UINT8"


def test_triton_client_gets_the_engines_own_answer(server: Server, images: Images) -> None:
    with client.InferenceServerClient(server.grpc) as asks:
        for model, highest in (("painter", 1), ("other", 2)):
            got = asks.infer(model, inputs(images), request_id="seven")
            assert np.array_equal(got.as_numpy("class_map"), np.minimum(images[..., 0], highest))
            assert got.get_response().id == "seven"


def test_asynchronous_triton_client(server: Server, images: Images) -> None:
    async def ask() -> list[Images]:
        async with aio_client.InferenceServerClient(server.grpc) as asks:
            got = await asyncio.gather(*(asks.infer("painter", inputs(images)) for _ in range(8)))
            return [one.as_numpy("class_map") for one in got]

    for found in asyncio.run(asyncio.wait_for(ask(), 30)):
        assert np.array_equal(found, np.minimum(images[..., 0], 1))


def test_an_encoded_image(server: Server) -> None:
    target = io.BytesIO()
    picture = np.random.default_rng(1).integers(0, 4, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(picture).save(target, "PNG")
    given = client.InferInput("images", [1], "BYTES")
    given.set_data_from_numpy(np.array([target.getvalue()], dtype=object))
    with client.InferenceServerClient(server.grpc) as asks:
        got = asks.infer("painter", [given]).as_numpy("class_map")
    assert np.array_equal(got[0], np.minimum(picture[..., 0], 1))


@pytest.mark.parametrize(
    ("model", "name", "shape", "status"),
    [
        ("absent", "images", (1, *SIZE, 3), "NOT_FOUND"),
        ("painter", "pictures", (1, *SIZE, 3), "INVALID_ARGUMENT"),
        ("painter", "images", (1, 1, 1, 3), "INVALID_ARGUMENT"),
        ("painter", "images", (3000, *SIZE, 3), "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_is_wrong_is_said(
    server: Server, model: str, name: str, shape: tuple[int, ...], status: str
) -> None:
    given = client.InferInput(name, list(shape), "UINT8")
    given.set_data_from_numpy(np.zeros(shape, dtype=np.uint8))
    with (
        client.InferenceServerClient(server.grpc) as asks,
        pytest.raises(InferenceServerException) as told,
    ):
        asks.infer(model, [given])
    assert told.value.status() == f"StatusCode.{status}"


def raw_request(parts: list[bytes]) -> Any:
    made = service_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=parts)
    made.inputs.add(name="images", datatype="UINT8", shape=[1, 2])
    made.parameters["timeout"].int64_param = 5
    return made


@pytest.mark.parametrize("parts", [[], [b""], [b"a" * 127], [b"b" * 300_000], [b"c", b"d" * 128]])
def test_tensors_are_cut_out_and_put_back(parts: list[bytes]) -> None:
    sent = raw_request(parts)
    read = wire.read_request(sent.SerializeToString())
    assert [bytes(one) for one in read.raw] == parts and not read.message.raw_input_contents
    assert read.message.SerializeToString(deterministic=True) == raw_request([]).SerializeToString()
    for part in parts:
        answer = CLASSES["ModelInferResponse"](model_name="m", id="7")
        got = service_pb2.ModelInferResponse.FromString(
            wire.write_response(wire.InferResponse(answer, memoryview(part)))
        )
        assert (got.id, list(got.raw_output_contents)) == ("7", [part])


def test_what_is_no_message_is_left_to_protobuf() -> None:
    whole = raw_request([b"e" * 200]).SerializeToString()
    for cut in range(1, len(whole), 7):
        try:
            expected = service_pb2.ModelInferRequest.FromString(whole[:cut])
        except DecodeError:
            with pytest.raises(DecodeError):
                wire.read_request(whole[:cut])
        else:
            read = wire.read_request(whole[:cut])
            assert [bytes(one) for one in read.raw] == list(expected.raw_input_contents)
    unknown = whole + bytes([15 << 3, 5])  # a number, which the cutter does not know
    assert wire.read_request(unknown).message.model_name == "m"
