"""What surrounds every HTTP request: its id, the bearer token, refusals as JSON, and one line of log."""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from deploy.serving.refusal import Broken, Refusal, Unauthorised

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("deploy.serving")
OPEN = ("/v2/health/live", "/v2/health/ready", "/", "/page/page.css", "/page/page.js")
"""Probes of orchestrators, which carry no token, and the page, which asks for it."""


class Front:
    """An ASGI app around another.

    Args:
        app: gets what passes.
        token: what clients must bear; None where anybody may ask.
    """

    def __init__(self, app: App, token: bytes | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        identity = given if 0 < len(given) <= 128 and given.isascii() else os.urandom(16).hex().encode()
        start, status = time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity)]
            await send(message)

        try:
            if scope["path"] not in OPEN:
                check_token(headers.get(b"authorization", b""), self._token)
            await self._app(scope, receive, tell)
        except Refusal as refusal:
            await refuse(refusal, tell)
        except Exception:
            log.exception("a request failed", extra={"request": identity.decode()})
            if not status:
                await refuse(Broken("the server failed on this request; its log says why"), tell)
        finally:
            if log.isEnabledFor(logging.INFO):
                fields = {
                    "request": identity.decode(),
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round((time.perf_counter() - start) * 1e3, 3),
                }
                log.info("request", extra=fields)


def check_token(header: bytes, token: bytes | None) -> None:
    """Compare in constant time.

    Raises:
        Unauthorised: the header does not bear the token.
    """
    if token is not None and not hmac.compare_digest(header, b"Bearer " + token):
        raise Unauthorised("this server asks for a bearer token")


async def refuse(refusal: Refusal, send: Send) -> None:
    """Answer with the protocol's error object."""
    body = json.dumps({"error": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
