"""A small client of the Open Inference Protocol v2 over HTTP: an image in, a class map out; numpy alone."""

from __future__ import annotations

import http.client
import io
import json
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from afdcd.errors import UserError

HEADER_LENGTH = "Inference-Header-Content-Length"
Pixels = npt.NDArray[np.uint8]


class ServerError(UserError):
    """The server refused, or is not there.

    Attributes:
        status: of HTTP; 0 where no answer came.
        retry_after: seconds that the server asks to wait; None where it says nothing.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class Client:
    """One connection to a server; a context manager. Threads take a client each.

    Args:
        url: http://host:port or https://host:port.
        token: the bearer token, if the server asks for one.
        timeout: seconds to connect, and to wait for each answer.

    Raises:
        UserError: the address is none of HTTP.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 30.0) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UserError(f"{url!r} is no address: {error}; give http://host:port") from None
        if parts.scheme not in ("http", "https") or not host:
            raise UserError(f"{url!r} is no address of a server; give http://host:port")
        self._url, self._path = url, parts.path.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=timeout, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        self._names: dict[tuple[str, str], tuple[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        self._connection.close()

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or a model of it, takes requests; False also where nobody answers."""
        try:
            self._ask("GET", "/v2/health/ready" if model is None else f"{_place(model, '')}/ready")
        except ServerError:
            return False
        return True

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Names, types and shapes of a model as the server tells them.

        Raises:
            ServerError: it does not answer, or knows no such model.
        """
        found = self._json(self._ask("GET", _place(model, version))[1])
        return found

    def infer(self, model: str, images: Pixels, version: str = "") -> Pixels:
        """Class map (B, H, W) of images (B, H, W, 3), or (H, W) of one image (H, W, 3), at the model's size.

        Raises:
            UserError: the array is not uint8, or the model has not one input and one output.
            ServerError: the server refuses the images, or does not answer.
        """
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise UserError(
                f"images are uint8 of shape (H, W, 3) or (B, H, W, 3), got {images.dtype} {images.shape}"
            )
        block = np.ascontiguousarray(images if images.ndim == 4 else images[None])
        given, wanted = self._tensors(model, version)
        tensor = {"name": given, "datatype": "UINT8", "shape": list(block.shape)}
        request = {
            "inputs": [tensor | {"parameters": {"binary_data_size": block.nbytes}}],
            "outputs": [{"name": wanted, "parameters": {"binary_data": True}}],
        }
        header = json.dumps(request).encode()
        headers, body = self._ask(
            "POST",
            f"{_place(model, version)}/infer",
            (header, block.reshape(-1).data),
            {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))},
        )
        maps = self._class_map(headers.get(HEADER_LENGTH), body)
        return maps if images.ndim == 4 else maps[0]

    def segment(self, model: str, image: bytes, version: str = "") -> Pixels:
        """Class map (H, W), at the image's own size, of an encoded JPEG or PNG.

        This is an address of this project's server; Triton has none like it.

        Raises:
            ServerError: the server refuses the image, or does not answer.
        """
        from PIL import Image

        kind = {"Content-Type": "application/octet-stream"}
        _, body = self._ask("POST", f"{_place(model, version)}/segment", (image,), kind)
        try:
            return np.asarray(Image.open(io.BytesIO(body), formats=["PNG"]), dtype=np.uint8)
        except (OSError, SyntaxError) as error:
            raise ServerError(f"{self._url} answered with no PNG: {error}") from error

    def _tensors(self, model: str, version: str) -> tuple[str, str]:
        """Names of the input and the output, asked for once."""
        if (model, version) not in self._names:
            told = self.metadata(model, version)
            try:
                (given,), (wanted,) = told["inputs"], told["outputs"]
                self._names[model, version] = str(given["name"]), str(wanted["name"])
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{model} has not one input and one output; it is no class-map model"
                ) from None
        return self._names[model, version]

    def _class_map(self, length: str | None, body: bytes) -> Pixels:
        """The one tensor of an answer, raw behind the header or as JSON inside."""
        size = len(body) if length is None or not length.isdigit() else int(length)
        try:
            (output,) = self._json(body[:size])["outputs"]
            shape = [int(side) for side in output["shape"]]
            if "data" in output:
                return np.asarray(output["data"], dtype=np.uint8).reshape(shape)
            if output["datatype"] != "UINT8":
                raise UserError(f"the server answers {output['datatype']}, a class map is UINT8")
            return np.frombuffer(body, dtype=np.uint8, offset=size).reshape(shape)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServerError(f"{self._url} gave an answer that is none of the protocol: {error}") from error

    def _json(self, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except ValueError as error:
            raise ServerError(f"{self._url} answered with no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ServerError(f"{self._url} answered with JSON that is no object")
        return found

    def _ask(
        self,
        method: str,
        path: str,
        parts: Sequence[bytes | memoryview] = (),
        headers: dict[str, str] | None = None,
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """Headers and body of a good answer; the parts of the request's body are not joined."""
        fresh = self._connection.sock is None
        for last in (fresh, True):
            try:
                self._send(method, self._path + path, parts, self._headers | (headers or {}))
                response = self._connection.getresponse()
                content = response.read()
                break
            except TimeoutError as error:
                self._connection.close()
                raise ServerError(f"{self._url} did not answer in time; raise the timeout") from error
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A server may close a connection that rested; asking once more does no harm.
                if last:
                    reason = str(error) or type(error).__name__
                    raise ServerError(
                        f"no answer from {self._url}: {reason}; is the server there?"
                    ) from error
        if response.status >= 400:
            raise _refusal(self._url, response, content)
        return response.headers, content

    def _send(
        self, method: str, address: str, parts: Sequence[bytes | memoryview], headers: dict[str, str]
    ) -> None:
        self._connection.putrequest(method, address)  # asks for answers as they are, uncompressed
        for name, value in headers.items():
            self._connection.putheader(name, value)
        if parts:
            self._connection.putheader("Content-Length", str(sum(map(len, parts))))
        self._connection.endheaders(bytes(parts[0]) if parts else None)
        for part in parts[1:]:
            self._connection.send(part)


def _place(model: str, version: str) -> str:
    place = f"/v2/models/{quote(model, safe='')}"
    return f"{place}/versions/{quote(version, safe='')}" if version else place


def _refusal(url: str, response: http.client.HTTPResponse, content: bytes) -> ServerError:
    """What the server says is wrong, in its own words if it has some."""
    try:
        words = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        words = response.reason
    wait = response.headers.get("Retry-After", "")
    return ServerError(
        f"{url} refused ({response.status}): {words}",
        response.status,
        float(wait) if wait.isdigit() else None,
    )
