"""The plain socket that speaks gRPC, against grpcio's own server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from spoken_grpc import BUFFER, Unary  # noqa: E402


@pytest.fixture
def served() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that echoes, and what it was asked."""
    asked: list[bytes] = []

    def echo(message: bytes, context: Any) -> bytes:
        asked.append(message)
        return message

    def refuse(message: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, "too much")
        return b""

    calls = {name: grpc.unary_unary_rpc_method_handler(call) for name, call in (("E", echo), ("R", refuse))}
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", calls),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", asked
    server.stop(None).wait()


@pytest.mark.parametrize("length", [0, 1, 70_000, 393_216, 9 * BUFFER])
def test_the_server_gets_the_message_and_every_answer_is_taken(
    served: tuple[str, list[bytes]], length: int
) -> None:
    address, asked = served
    message = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
    ask = Unary(address, "/a.B/E", message)
    for _ in range(20):
        ask()
    ask.close()
    assert asked == [message] * 20


@pytest.mark.parametrize("method", ["R", "Absent"])
def test_a_call_that_fails_is_no_answer(served: tuple[str, list[bytes]], method: str) -> None:
    ask = Unary(served[0], f"/a.B/{method}", b"x" * 1000)
    with pytest.raises(ConnectionError, match="failed"):
        ask()
    ask.close()
