"""Measures a v2 server from outside, over HTTP or gRPC: what one client of the load does with one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from afdcd.errors import UserError
from deploy.config import Config
from deploy.serving.client import Client, Pixels, ServerError
from deploy.serving.load import OK, Call, Loaded, closed, poisson

DIFFERENT = "different answer"


class Load(Config):
    """What to put on a server.

    Attributes:
        clients: connections; in the open loop, requests in flight at most.
        rate: requests a second of the open loop; null for the closed one.
        seconds: how long.
        requests: how many at most.
        warmup: requests of the first client before anything counts.
        timeout: seconds that an answer may take.
    """

    clients: int
    rate: float | None
    seconds: float
    requests: int
    warmup: int
    timeout: float


class Measured(Config):
    """A server under load, and what was asked of it."""

    url: str
    model: str
    version: str
    shape: list[int]
    load: Loaded


class Asker(Protocol):
    """A connection to a model."""

    def shape(self) -> list[int]:
        """Of the input, -1 where it varies."""
        ...

    def infer(self, images: Pixels) -> Pixels:
        """The class map."""
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


class Http:
    """Asks with binary tensors over HTTP."""

    def __init__(self, url: str, model: str, version: str, token: str | None, timeout: float) -> None:
        self._client = Client(url, token=token, timeout=timeout)
        self._model, self._version = model, version

    def shape(self) -> list[int]:
        """Of the input, -1 where it varies."""
        return _uint8_shape(self._model, self._client.metadata(self._model, self._version)["inputs"])

    def infer(self, images: Pixels) -> Pixels:
        """The class map."""
        return self._client.infer(self._model, images, self._version)

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()


class Grpc:
    """Asks over gRPC through NVIDIA's own client."""

    def __init__(self, url: str, model: str, version: str, token: str | None, timeout: float) -> None:
        try:
            from tritonclient import grpc
        except ImportError as error:
            raise UserError("gRPC needs NVIDIA's client: pip install 'tritonclient[grpc]'") from error
        self._grpc: Any = grpc
        parts = urlsplit(url)
        # A channel each: the library would share one between all clients of an address.
        own = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
        ]
        self._client = grpc.InferenceServerClient(parts.netloc, channel_args=own)
        self._model, self._version, self._timeout = model, version, timeout
        self._headers = None if token is None else {"authorization": f"Bearer {token}"}
        self._names: tuple[str, str] | None = None

    def shape(self) -> list[int]:
        """Of the input, -1 where it varies."""
        told = self._told()
        self._names = str(told["inputs"][0]["name"]), str(told["outputs"][0]["name"])
        return _uint8_shape(self._model, told["inputs"])

    def infer(self, images: Pixels) -> Pixels:
        """The class map."""
        if self._names is None:
            self.shape()
        assert self._names is not None
        given = self._grpc.InferInput(self._names[0], list(images.shape), "UINT8")
        given.set_data_from_numpy(images)
        answer = self._refusing(
            lambda: self._client.infer(
                self._model,
                [given],
                model_version=self._version,
                headers=self._headers,
                client_timeout=self._timeout,
            )
        )
        return np.asarray(answer.as_numpy(self._names[1]), dtype=np.uint8)

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def _told(self) -> dict[str, Any]:
        found: dict[str, Any] = self._refusing(
            lambda: self._client.get_model_metadata(
                self._model,
                self._version,
                headers=self._headers,
                as_json=True,
                client_timeout=self._timeout,
            )
        )
        return found

    def _refusing(self, ask: Callable[[], Any]) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return ask()
        except InferenceServerException as error:
            kind = str(error.status() or "error").removeprefix("StatusCode.")
            raise GrpcError(f"{self._model}: {kind}: {error.message()}", kind) from error


class GrpcError(ServerError):
    """A refusal over gRPC.

    Attributes:
        kind: the name of gRPC's status.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def measure(
    url: str,
    model: str,
    load: Load,
    *,
    version: str,
    batch: int,
    size: tuple[int, int] | None,
    token: str | None,
) -> Measured:
    """Put the load on a model of a server with one random image, and hold every answer against the first.

    Args:
        url: http://host:port, https://host:port or grpc://host:port.
        model: its name.
        load: how much.
        version: of the model; empty for the one that answers by default.
        batch: images a request.
        size: (height, width) where the model takes several.
        token: the bearer token.

    Raises:
        UserError: the server does not answer, knows no such model, or refuses the first request.
    """
    kind = Grpc if url.startswith("grpc://") else Http
    with ExitStack() as opened:
        askers: list[Asker] = []
        for _ in range(load.clients):
            asker = kind(url, model, version, token, load.timeout)
            opened.callback(asker.close)
            askers.append(asker)
        shape = _concrete(model, askers[0].shape(), batch, size)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        first = askers[0].infer(images)
        for _ in range(load.warmup):
            askers[0].infer(images)
        loaded = _run([_call(asker, images, first) for asker in askers], load)
    return Measured(url=url, model=model, version=version, shape=list(shape), load=loaded)


def _run(calls: Sequence[Call], load: Load) -> Loaded:
    if load.rate is None:
        return closed(calls, seconds=load.seconds, requests=load.requests)
    return poisson(calls, rate=load.rate, seconds=load.seconds, requests=load.requests)


def _call(asker: Asker, images: Pixels, expected: Pixels) -> Call:
    def ask() -> str:
        try:
            return OK if np.array_equal(asker.infer(images), expected) else DIFFERENT
        except GrpcError as error:
            return error.kind
        except ServerError as error:
            return str(error.status) if error.status else "no answer"

    return ask


def _uint8_shape(model: str, inputs: Sequence[dict[str, Any]]) -> list[int]:
    if len(inputs) != 1 or inputs[0]["datatype"] != "UINT8" or len(inputs[0]["shape"]) != 4:
        raise UserError(f"{model} is no class-map model: its input is not one UINT8 tensor of (B, H, W, 3)")
    return [int(side) for side in inputs[0]["shape"]]


def _concrete(model: str, shape: Sequence[int], batch: int, size: tuple[int, int] | None) -> tuple[int, ...]:
    height, width = shape[1:3]
    if size is None and (height < 0 or width < 0):
        raise UserError(f"{model} takes images of several sizes; give one: --size HEIGHT WIDTH")
    return (batch, *(size or (height, width)), 3)
