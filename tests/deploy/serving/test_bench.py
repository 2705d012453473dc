from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from fake_run import SIZE
from PIL import Image
from serving_process import Server
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deploy.__main__ import main
from deploy.serving.bench import DIFFERENT, Load, measure
from deploy.serving.client import Client, ServerError

LOAD = Load(clients=2, rate=None, seconds=20, requests=30, warmup=2, timeout=10)
Images = npt.NDArray[np.uint8]


class Speaker(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The red channel of an image, over gRPC; refuses each fifth request and lies on each seventh."""

    def __init__(self) -> None:
        self.asked, self.tokens = 0, set[str]()

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ModelMetadataResponse(name=request.name)
        answer.inputs.add(name="images", datatype="UINT8", shape=[-1, *SIZE, 3])
        answer.outputs.add(name="class_map", datatype="UINT8", shape=[-1, *SIZE])
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked += 1
        self.tokens |= {value for key, value in context.invocation_metadata() if key == "authorization"}
        if self.asked % 5 == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
        images = np.frombuffer(request.raw_input_contents[0], dtype=np.uint8)
        red = images.reshape(list(request.inputs[0].shape))[..., 0]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="class_map", datatype="UINT8", shape=red.shape)
        answer.raw_output_contents.append((red + (self.asked % 7 == 0)).astype(np.uint8).tobytes())
        return answer


@pytest.fixture
def speaker() -> Iterator[tuple[Speaker, str]]:
    speaker = Speaker()
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(speaker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield speaker, f"grpc://127.0.0.1:{port}"
    server.stop(0).wait(10)


def test_the_client_gets_what_the_engine_gives(server: Server, images: Images) -> None:
    with Client(f"http://{server.http}", timeout=20) as client:
        assert client.ready() and client.ready("painter") and not client.ready("nobody")
        wanted = np.minimum(images[..., 0], 1)
        assert np.array_equal(client.infer("painter", images), wanted)
        assert np.array_equal(client.infer("painter", images[0], version="1"), wanted[0])
        file = io.BytesIO()
        Image.fromarray(images[0]).save(file, "PNG")
        assert np.array_equal(client.segment("painter", file.getvalue()), wanted[0])
        for refused, status in (("nobody", 404), ("painter", 400)):
            with pytest.raises(ServerError) as error:
                client.infer(refused, images[:, :3])
            assert error.value.status == status
        assert np.array_equal(client.infer("painter", images), wanted)


@pytest.mark.parametrize("rate", [[], ["--rate", "100"]])
def test_bench_server_measures_our_server(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: list[str]
) -> None:
    out = tmp_path / "bench.json"
    given = ["bench-server", f"http://{server.http}", "--model", "painter", "--requests", "40", *rate]
    main([*given, "--clients", "2", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["shape"] == [1, *SIZE, 3] and found["load"]["outcomes"] == {"ok": 40}
    assert found["load"]["kind"] == ("open" if rate else "closed")
    assert "good answers a second" in capsys.readouterr().out


def test_grpc_refusals_and_lies_are_counted(speaker: tuple[Speaker, str]) -> None:
    served, url = speaker
    found = measure(url, "red", LOAD, version="", batch=2, size=None, token="secret")
    assert found.shape == [2, *SIZE, 3] and served.tokens == {"Bearer secret"}
    # Requests 1 to 3 are the first answer and the warm-up.
    numbers = range(4, 34)
    assert found.load.outcomes["UNAVAILABLE"] == sum(number % 5 == 0 for number in numbers)
    assert found.load.outcomes[DIFFERENT] == sum(number % 7 == 0 and number % 5 != 0 for number in numbers)


def test_what_cannot_be_measured_is_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for url, model, says in (
        (f"http://{server.http}", "nobody", "no model 'nobody'"),
        ("http://127.0.0.1:1", "painter", "is the server there"),
        ("here", "painter", "give http://host:port"),
        ("grpc://127.0.0.1:1", "painter", "UNAVAILABLE"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["bench-server", url, "--model", model, "--seconds", "1", "--timeout", "5"])
        assert ended.value.code == 1 and says in capsys.readouterr().err
