"""The protocol over HTTP, by its own client and by hand."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import time
import zlib

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as client
import tritonclient.http.aio as aio_client
from fake_run import SIZE
from PIL import Image
from serving_process import Server

from afdcd.geometry import fit, unfit

Images = npt.NDArray[np.uint8]
pytestmark = pytest.mark.xdist_group("serving")


def painted(images: Images, highest: int = 1) -> Images:
    return np.minimum(images[..., 0], highest).astype(np.uint8)


def inputs(images: Images, *, binary: bool = True) -> list[client.InferInput]:
    given = client.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return [given]


def test_triton_client_learns_what_is_served(server: Server) -> None:
    with client.InferenceServerClient(server.http) as asks:
        assert asks.is_server_live() and asks.is_server_ready()
        assert asks.is_model_ready("painter") and asks.is_model_ready("painter", "1")
        assert "binary_tensor_data" in asks.get_server_metadata()["extensions"]
        found = asks.get_model_metadata("painter")
        assert found["versions"] == ["1"] and found["inputs"] == [
            {"name": "images", "datatype": "UINT8", "shape": [-1, *SIZE, 3]}
        ]
        assert found["outputs"] == [{"name": "class_map", "datatype": "UINT8", "shape": [-1, *SIZE]}]
        assert asks.get_model_config("painter")["input"][0]["data_type"] == "TYPE_UINT8"
        assert {row["name"] for row in asks.get_model_repository_index()} == {"painter", "other"}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_triton_client_gets_the_engines_own_answer(
    server: Server, images: Images, binary_in: bool, binary_out: bool, packing: str | None
) -> None:
    with client.InferenceServerClient(server.http) as asks:
        for model, highest in (("painter", 1), ("other", 2)):
            got = asks.infer(
                model,
                inputs(images, binary=binary_in),
                outputs=[client.InferRequestedOutput("class_map", binary_data=binary_out)],
                request_id="seven",
                request_compression_algorithm=packing,
                response_compression_algorithm=packing,
            )
            assert np.array_equal(got.as_numpy("class_map"), painted(images, highest))
            assert got.get_response()["id"] == "seven" and got.get_response()["model_version"] == "1"


def test_asynchronous_triton_client(server: Server, images: Images) -> None:
    async def ask() -> list[Images]:
        async with aio_client.InferenceServerClient(server.http) as asks:
            got = await asyncio.gather(*(asks.infer("painter", inputs(images)) for _ in range(8)))
            return [one.as_numpy("class_map") for one in got]

    for found in asyncio.run(asyncio.wait_for(ask(), 30)):
        assert np.array_equal(found, painted(images))


def test_json_without_any_library(server: Server, images: Images) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.tolist()}
    got = server.ask("POST", "/v2/models/painter/infer", json.dumps({"inputs": [tensor]}).encode())
    output = got.json()["outputs"][0]
    assert got.status == 200 and output["shape"] == [2, *SIZE]
    assert output["data"] == painted(images).ravel().tolist()


def jpeg(size: tuple[int, int], kind: str = "PNG") -> tuple[bytes, Images]:
    picture = np.random.default_rng(1).integers(0, 4, (*size, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(picture).save(target, kind)
    return target.getvalue(), np.asarray(Image.open(target).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_encoded_image_becomes_a_mask_of_its_own_size(server: Server, kind: str) -> None:
    content, picture = jpeg((50, 91), kind)
    labels = server.ask("GET", "/v2/models/painter/labels").json()
    fitted = fit(picture, tuple(labels["input_size"]), labels["fit"])
    expected = unfit(painted(fitted.image[None])[0], fitted)
    got = server.ask("POST", "/v2/models/painter/segment", content)
    mask = Image.open(io.BytesIO(got.body))
    assert got.headers["content-type"] == "image/png" and mask.size == (91, 50)
    assert np.array_equal(np.asarray(mask), expected)
    parts = [part.split(";")[0] for part in got.headers["server-timing"].split(", ")]
    assert parts == ["decode", "queue", "compute"]
    with client.InferenceServerClient(server.http) as asks:
        given = client.InferInput("images", [1], "BYTES")
        given.set_data_from_numpy(np.array([content], dtype=object))
        answer = asks.infer("painter", [given]).as_numpy("class_map")
    assert np.array_equal(answer, expected[None])


INFER = "/v2/models/painter/infer"
CUT_GZIP = gzip.compress(b"{}" * 9, mtime=0)[:-9]


def tensor(**other: object) -> bytes:
    one = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 0], **other}
    return json.dumps({"inputs": [one]}).encode()


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "says"),
    [
        ("GET", "/v2/models/absent", None, {}, 404, "no model 'absent'"),
        ("GET", "/v2/models/painter/versions/9", None, {}, 404, "no version '9'"),
        ("GET", "/v2/models/..%2F..%2Fetc/ready", None, {}, 404, "no"),
        ("GET", "/nothing", None, {}, 404, "nothing at this address"),
        ("POST", INFER, b"{", {}, 400, "not JSON"),
        ("POST", INFER, b"[]", {}, 400, "must be a JSON object"),
        ("POST", INFER, b"[" * 100_000, {}, 400, "not JSON"),
        ("POST", INFER, b"{}", {}, 400, "list of one tensor"),
        ("POST", INFER, tensor(name="x"), {}, 400, "no input 'x'"),
        ("POST", INFER, tensor(datatype="FP32"), {}, 400, "UINT8"),
        ("POST", INFER, tensor(shape=[1, -1, 1, 3]), {}, 400, "list of lengths"),
        ("POST", INFER, tensor(shape=[2, 1, 1, 3]), {}, 400, "takes 6 bytes, got 3"),
        ("POST", INFER, tensor(), {}, 400, "takes images of shape"),
        ("POST", INFER, tensor(data=[0, 256, 0]), {}, 400, "0..255"),
        ("POST", INFER, tensor(data=[0, 0.5, 0]), {}, 400, "0..255"),
        ("POST", INFER, tensor(data=[0, [0], 0]), {}, 400, "flat or nested evenly"),
        ("POST", INFER, tensor(data=[10**30, 0, 0]), {}, 400, "0..255"),
        ("POST", INFER, tensor(parameters={"binary_data_size": 3}), {}, 400, "either data or"),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "9"}, 400, "only 2 bytes"),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "whole number"),
        ("POST", INFER, b"{}", {"Content-Encoding": "gzip"}, 400, "no gzip or deflate"),
        ("POST", INFER, CUT_GZIP, {"Content-Encoding": "gzip"}, 400, "ends too early"),
        ("POST", INFER, zlib.compress(bytes(10**8)), {"Content-Encoding": "deflate"}, 413, "unpacks to more"),
        ("POST", INFER, b"{}", {"Content-Encoding": "br"}, 400, "gzip or deflate"),
        ("POST", INFER, bytes(1_000_001), {}, 413, "at most 1000000"),
        ("POST", INFER, b"{}", {"x-request-timeout-ms": "soon"}, 400, "milliseconds"),
        ("POST", "/v2/models/painter/segment", b"no image", {}, 400, "no whole image"),
        ("POST", "/v2/models/painter/segment", jpeg((1000, 1000))[0][:5000], {}, 413, "at most 500000"),
        ("POST", "/v2/models/painter/segment", jpeg((60, 90))[0][:5000], {}, 400, "no whole image"),
        ("POST", "/v2/repository/models/absent/load", b"{}", {}, 404, "no model"),
        ("POST", "/v2/repository/models/painter/rollback", b"{}", {}, 400, "no version before"),
    ],
    # Bodies are megabytes, and a name that differs between processes tears a run apart.
    ids=lambda value: "body" if isinstance(value, bytes) else None,
)
def test_what_is_wrong_is_said(
    server: Server,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    says: str,
) -> None:
    got = server.ask(method, path, body, headers)
    assert got.status == status and says in got.json()["error"], got


def test_wrong_method(server: Server) -> None:
    assert server.ask("GET", INFER).status == 405


def test_counts_in_prometheus_and_tritons_form(server: Server, images: Images) -> None:
    with client.InferenceServerClient(server.http) as asks:
        before = asks.get_inference_statistics("other")["model_stats"][0]
        asks.infer("other", inputs(images))
        after = asks.get_inference_statistics("other", "1")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 2
    count = after["inference_stats"]["success"]["count"]
    assert count == before["inference_stats"]["success"]["count"] + 1
    text = server.ask("GET", "/metrics").body.decode()
    assert f'v2_requests_total{{model="other",outcome="ok",version="1"}} {count}.0' in text
    assert f'v2_request_seconds_count{{model="other",version="1"}} {count}.0' in text


def test_a_request_keeps_its_id_in_the_log(server: Server) -> None:
    got = server.ask("GET", "/v2", headers={"x-request-id": "mine-7"})
    assert got.headers["x-request-id"] == "mine-7"
    for _ in range(100):  # the line is written after the answer
        lines = [
            json.loads(line) for line in server.log.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
        if found := [line for line in lines if line.get("request") == "mine-7"]:
            break
        time.sleep(0.05)
    assert found and found[0]["status"] == 200 and found[0]["path"] == "/v2"
