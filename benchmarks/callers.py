"""Callers of a server with uint8 256x512 images, from a bare socket to `tritonclient`, for `serving.py`."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from made_engines import SIZE, Call
from spoken_grpc import Unary
from tritonclient.grpc import service_pb2

from deploy.sessions import Session, open_session

SERVICE = "inference.GRPCInferenceService"
INFER = f"/{SERVICE}/ModelInfer"
LIBRARIES = {"HTTP": http_client, "gRPC": grpc_client}
ANSWERED = re.compile(rb"HTTP/1.1 200 .*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.IGNORECASE | re.DOTALL)


def triton(kind: str, address: str, model: str, images: np.ndarray) -> Callable[[], Call]:
    """Makes a caller by `tritonclient`."""
    library = LIBRARIES[kind]

    def make() -> Call:
        asks = library.InferenceServerClient(address)
        given = library.InferInput("images", list(images.shape), "UINT8")
        given.set_data_from_numpy(images)
        return lambda: asks.infer(model, [given])

    return make


class SpokenHTTP:
    """A request over HTTP whose bytes were made beforehand; of the answer only the length is read."""

    def __init__(self, address: str, model: str, images: np.ndarray) -> None:
        host, port = address.split(":")
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
        asked = {
            "inputs": [tensor | {"parameters": {"binary_data_size": images.nbytes}}],
            "outputs": [{"name": "class_map", "parameters": {"binary_data": True}}],
        }
        header = json.dumps(asked).encode()
        self._start = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Length: {len(header) + images.nbytes}\r\n"
            f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
        ).encode() + header
        self._images, self._answer = images, memoryview(bytearray(1 << 20))
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self) -> None:
        self._socket.sendall(self._start)
        self._socket.sendall(self._images.data)
        head, got = None, 0
        while head is None:
            some = self._socket.recv_into(self._answer[got:])
            if not some:
                raise ConnectionError("the server went away")
            got += some
            head = re.match(ANSWERED, self._answer[:got])
        whole = head.end() + int(head[1])
        take(self._socket, self._answer[got:whole])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def spoken_grpc(address: str, model: str, images: np.ndarray) -> Unary:
    """A call over gRPC whose bytes were made beforehand; of the answer only frames and status are read."""
    return Unary(address, INFER, message(model, images))


class LibraryGRPC:
    """The same call by grpcio's own client; the bytes of the answer are not parsed."""

    def __init__(self, address: str, model: str, images: np.ndarray) -> None:
        self._message = message(model, images)
        self._channel = grpc.insecure_channel(address)
        self._infer = self._channel.unary_unary(INFER)

    def __call__(self) -> None:
        self._infer(self._message)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def message(model: str, images: np.ndarray) -> bytes:
    """A ModelInferRequest."""
    asked = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()])
    asked.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    return bytes(asked.SerializeToString())


SPOKEN: dict[str, Callable[[str, str, np.ndarray], Any]] = {"HTTP": SpokenHTTP, "gRPC": spoken_grpc}


class Bare:
    """The same engine in a process that knows nothing but the number of bytes; `kind` is how they come."""

    def __init__(self, kind: str, bundle: Path, images: np.ndarray) -> None:
        self._images, self._map = images, memoryview(bytearray(SIZE[0] * SIZE[1]))
        command = [sys.executable, __file__, kind, str(bundle)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._ends, port = self._process.stdin, int(self._process.stdout.readline())
        if kind == "gRPC":
            self._calls: Any = Unary(f"127.0.0.1:{port}", INFER, images.tobytes())
            self._ask: Call = self._calls
        else:
            self._calls = socket.create_connection(("127.0.0.1", port))
            self._ask = self._over_socket

    def __call__(self) -> None:
        self._ask()

    def _over_socket(self) -> None:
        self._calls.sendall(self._images.data)
        take(self._calls, self._map)

    def close(self) -> None:
        """End the process."""
        self._calls.close()
        self._ends.close()
        self._process.wait(60)


def fill(line: socket.socket, into: memoryview) -> bool:
    """Read so many bytes; False where the other end is gone."""
    got = 0
    while got < len(into):
        some = line.recv_into(into[got:])
        if not some:
            return False
        got += some
    return True


def take(line: socket.socket, into: memoryview) -> None:
    """Read so many bytes, which must come."""
    if not fill(line, into):
        raise ConnectionError("the server went away")


def answer_socket(session: Session) -> None:
    """The process of `Bare` behind a socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        line, _ = listening.accept()
        images = np.empty((1, *SIZE, 3), np.uint8)
        while fill(line, memoryview(images).cast("B")):
            line.sendall(session.infer(images).data)


def answer_calls(session: Session) -> None:
    """The process of `Bare` behind grpcio's own server, in a thread of it."""

    def infer(content: bytes, context: object) -> bytes:
        return session.infer(np.frombuffer(content, np.uint8).reshape(1, *SIZE, 3)).tobytes()

    server = grpc.server(ThreadPoolExecutor(1))
    method = INFER.rpartition("/")[2]
    handler = grpc.method_handlers_generic_handler(
        SERVICE, {method: grpc.unary_unary_rpc_method_handler(infer)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    with open_session(Path(sys.argv[2]), threads=1) as only:
        {"HTTP": answer_socket, "gRPC": answer_calls}[sys.argv[1]](only)
