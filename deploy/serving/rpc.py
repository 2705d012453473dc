"""The Open Inference Protocol v2 over gRPC, in the event loop that also serves HTTP."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from deploy.bundle import Contract, Pixels
from deploy.serving import codec, service, wire
from deploy.serving.codec import admit_tensor, time_limit
from deploy.serving.front import check_token
from deploy.serving.messages import CLASSES, SERVICE
from deploy.serving.refusal import Refusal
from deploy.serving.service import Service

log = logging.getLogger("deploy.serving")

Call = Callable[[Any, Any], Awaitable[Any]]
READ, WRITE = {"ModelInfer": wire.read_request}, {"ModelInfer": wire.write_response}


async def start(
    serving: Service,
    address: str,
    *,
    token: bytes | None,
    certificate: tuple[str, str] | None,
    drain_seconds: float,
) -> tuple[int, Callable[[], Awaitable[None]]]:
    """Listen on `host:port`; port 0 takes a free one.

    Returns:
        the port, and what stops the server once running calls have ended.
    """
    length = serving.limits.body + 65536
    options = [
        ("grpc.max_receive_message_length", length),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    calls = _Calls(serving)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(call, token),
            request_deserializer=READ.get(name, CLASSES[f"{name}Request"].FromString),
            response_serializer=WRITE.get(name, CLASSES[f"{name}Response"].SerializeToString),
        )
        for name, call in calls.table().items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if certificate is None:
        port = server.add_insecure_port(address)
    else:
        chain, key = (Path(name).read_bytes() for name in certificate)
        port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
    await server.start()

    async def stop() -> None:
        await server.stop(drain_seconds)

    return int(port), stop


def _guarded(call: Call, token: bytes | None) -> Call:
    """A call behind the token, whose refusals become gRPC's statuses."""

    async def guarded(request: Any, context: Any) -> Any:
        try:
            metadata = dict(context.invocation_metadata() or ())
            check_token(str(metadata.get("authorization", "")).encode(), token)
            return await call(request, context)
        except Refusal as refusal:
            await context.abort(grpc.StatusCode[refusal.code], str(refusal))

    return guarded


class _Calls:
    """One method a call of the service."""

    def __init__(self, serving: Service) -> None:
        self._serving = serving

    def table(self) -> dict[str, Call]:
        """By their names in the protocol."""
        return {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server,
            "ModelMetadata": self.model,
            "ModelInfer": self.infer,
        }

    async def live(self, request: Any, context: Any) -> Any:
        return CLASSES["ServerLiveResponse"](live=True)

    async def ready(self, request: Any, context: Any) -> Any:
        return CLASSES["ServerReadyResponse"](ready=self._serving.ready)

    async def model_ready(self, request: Any, context: Any) -> Any:
        self._serving.models.get(request.name, request.version)
        return CLASSES["ModelReadyResponse"](ready=self._serving.ready)

    async def server(self, request: Any, context: Any) -> Any:
        return CLASSES["ServerMetadataResponse"](**service.server_metadata())

    async def model(self, request: Any, context: Any) -> Any:
        models = self._serving.models
        version = models.get(request.name, request.version)
        return CLASSES["ModelMetadataResponse"](
            **service.model_metadata(models.versions(request.name), version)
        )

    async def infer(self, asked: wire.InferRequest, context: Any) -> wire.InferResponse:
        request = asked.message
        contract = self._serving.models.get(request.model_name, request.model_version).contract
        seconds = time_limit(_parameters(request.parameters))
        left = context.time_remaining()
        if left is not None:
            seconds = left if seconds is None else min(seconds, left)
        images = _images(request, asked.raw, contract)
        served = await self._serving.infer(
            request.model_name, request.model_version, images, self._serving.seconds(seconds)
        )
        output = {"name": contract.output.name, "datatype": "UINT8", "shape": served.maps.shape}
        message = CLASSES["ModelInferResponse"](
            model_name=request.model_name,
            model_version=served.version.number,
            id=request.id,
            outputs=[output],
        )
        return wire.InferResponse(message, codec.raw(served.maps))


def _parameters(given: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in given.items()
    }


def _images(request: Any, raw: list[memoryview], contract: Contract) -> Pixels | bytes:
    """The images of a request, raw or typed.

    Raises:
        Refusal: it is not for this model.
    """
    if len(request.inputs) != 1 or len(raw) > 1:
        raise Refusal(f"inputs must be one tensor, {contract.input.name}")
    for output in request.outputs:
        if output.name != contract.output.name:
            raise Refusal(f"{contract.model} has no output {output.name!r}, only {contract.output.name}")
    tensor = request.inputs[0]
    shape = list(tensor.shape)
    if any(side < 0 for side in shape):
        raise Refusal("shape must be a list of lengths")
    data: memoryview | bytes
    if raw:
        data = raw[0]
    elif tensor.datatype == "BYTES":
        data = b"".join(len(one).to_bytes(4, "little") + one for one in tensor.contents.bytes_contents)
    else:
        values = np.array(tensor.contents.uint_contents, dtype=np.uint32)
        if values.size and values.max() > 255:
            raise Refusal("contents must be whole numbers of 0..255")
        data = values.astype(np.uint8).tobytes()
    return admit_tensor(tensor.name, tensor.datatype, shape, data, contract)
