from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from afdcd.errors import UserError
from deploy.serving.client import HEADER_LENGTH, Client, ServerError

TENSOR = {"datatype": "UINT8", "shape": [-1, 4, 6, 3]}
METADATA = {"inputs": [TENSOR | {"name": "images"}], "outputs": [TENSOR | {"name": "class_map"}]}
IMAGES = np.zeros((1, 4, 6, 3), dtype=np.uint8)


class Odd(ThreadingHTTPServer):
    """Tells the metadata of a model, and answers anything else as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.headers, self.body = 200, dict[str, str](), b""
        self.seen: list[tuple[str, bytes | None]] = []
        self.encodings: list[str | None] = []
        self.hang_up = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    server: Odd

    def do_GET(self) -> None:  # noqa: N802
        self._answer(200, {}, json.dumps(METADATA).encode())

    def do_POST(self) -> None:  # noqa: N802
        length = int(self.headers["Content-Length"])
        self.server.encodings.append(self.headers.get("Accept-Encoding"))
        self.server.seen.append((self.headers.get("Authorization", ""), self.rfile.read(length)))
        self._answer(self.server.status, self.server.headers, self.server.body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        # Without a word of it, as servers do with connections that rested.
        self.close_connection = self.server.hang_up

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[Odd]:
    server = Odd()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_class_map_comes_raw_or_as_json(odd: Odd) -> None:
    wanted = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    output = {"name": "class_map", "datatype": "UINT8", "shape": [1, 4, 6]}
    with Client(odd.url, token="secret", timeout=10) as client:
        header = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": 24}}]}).encode()
        odd.headers, odd.body = {HEADER_LENGTH: str(len(header))}, header + wanted.tobytes()
        assert np.array_equal(client.infer("m", IMAGES), wanted)
        odd.headers, odd.body = (
            {},
            json.dumps({"outputs": [output | {"data": wanted.ravel().tolist()}]}).encode(),
        )
        assert np.array_equal(client.infer("m", IMAGES[0]), wanted[0])
    assert [authorization for authorization, _ in odd.seen] == ["Bearer secret"] * 2
    assert all(body is not None and body.endswith(IMAGES.tobytes()) for _, body in odd.seen)


def test_a_refusal_tells_status_words_and_wait(odd: Odd) -> None:
    odd.status, odd.headers, odd.body = 503, {"Retry-After": "7"}, b'{"error": "the queue is full"}'
    with Client(odd.url, timeout=10) as client, pytest.raises(ServerError) as refused:
        client.infer("m", IMAGES)
    assert (refused.value.status, refused.value.retry_after) == (503, 7)
    assert str(refused.value) == f"{odd.url} refused (503): the queue is full"
    odd.headers, odd.body = {}, b"<html>"
    with Client(odd.url, timeout=10) as client, pytest.raises(ServerError, match="503.*Service Unavailable"):
        client.segment("m", b"image")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({}, b"[]"),
        ({}, b'{"outputs": []}'),
        ({}, b'{"outputs": [{"datatype": "UINT8", "shape": [1, 4, 6]}]}'),
        ({}, b'{"outputs": [{"shape": [1], "data": [900]}]}'),
        ({HEADER_LENGTH: "9999"}, b"{}"),
        ({HEADER_LENGTH: "-1"}, b"{}"),
    ],
)
def test_an_answer_that_is_none_is_an_error(odd: Odd, headers: dict[str, str], body: bytes) -> None:
    odd.headers, odd.body = headers, body
    with Client(odd.url, timeout=10) as client:
        with pytest.raises(ServerError):
            client.infer("m", IMAGES)
        with pytest.raises(ServerError, match="no PNG"):
            client.segment("m", b"image")


def test_a_connection_that_was_closed_is_opened_again(odd: Odd) -> None:
    odd.hang_up = True
    with Client(odd.url, timeout=10) as client:
        for _ in range(3):
            assert client.metadata("m") == METADATA


def test_nobody_there() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    server.server_close()
    with Client(url, timeout=2) as client:
        assert not client.ready() and not client.ready("m")
        with pytest.raises(ServerError, match="no answer from .*; is the server there"):
            client.metadata("m")


def test_bad_arguments_never_leave() -> None:
    for url in ("localhost:8000", "ftp://host", "http://", "http://host:port", "http://[::1"):
        with pytest.raises(UserError, match="address"):
            Client(url)
    with Client("http://127.0.0.1:9") as client, pytest.raises(UserError, match="uint8 of shape"):
        client.infer("m", np.zeros((4, 6, 3), dtype=np.float32))


def test_no_images_at_all_are_for_the_server_to_refuse() -> None:
    with Odd() as odd:
        threading.Thread(target=odd.serve_forever, daemon=True).start()
        odd.status = 400
        with Client(odd.url) as client, pytest.raises(ServerError):
            client.infer("little", IMAGES[:0])
        odd.shutdown()
    assert b'"binary_data_size": 0' in (odd.seen[0][1] or b"")
    assert odd.encodings == ["identity"], "the client unpacks nothing"
