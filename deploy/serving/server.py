"""The process: HTTP, gRPC and signals in one event loop, from the first engine to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, cast

import uvicorn

from deploy.serving.front import App
from deploy.serving.reading import SharedBuffer
from deploy.serving.refusal import Refusal
from deploy.serving.service import Service

log = logging.getLogger("deploy.serving")
CONNECTIONS = 2048

Stop = Callable[[], Awaitable[None]]


class Address(NamedTuple):
    """Where HTTP listens.

    Attributes:
        certificate: TLS certificate and key; None for plain HTTP.
    """

    host: str
    port: int
    certificate: tuple[str, str] | None


class _Quiet(uvicorn.Server):
    """Leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(
    app: App,
    serving: Service,
    address: Address,
    *,
    drain_seconds: float,
    also: Callable[[], Awaitable[tuple[int, Stop]]] | None,
    tell: Callable[[str], None],
) -> None:
    """Listen until SIGTERM or SIGINT, then finish what runs; SIGHUP looks for new versions.

    Args:
        app: speaks HTTP.
        serving: the models.
        address: of HTTP; port 0 takes a free one.
        drain_seconds: that running requests get after the signal.
        also: starts gRPC and gives its port and what stops it.
        tell: is told in one line where the server listens, once it is ready.
    """
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        ssl_certfile=address.certificate and address.certificate[0],
        ssl_keyfile=address.certificate and address.certificate[1],
        http=cast(type[asyncio.Protocol], SharedBuffer),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(drain_seconds),
    )
    server = _Quiet(config)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks: set[asyncio.Future[Any]] = set()

    def look() -> None:
        task = loop.run_in_executor(None, reload_all, serving)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, look)
    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.sleep(0.005)
    if running.done():
        await running
        raise SystemExit(1)
    port, stop_grpc = await also() if also else (None, None)
    tell(_announcement(address, server.servers[0].sockets[0].getsockname()[1], port))
    await stop.wait()
    serving.ready = False
    server.should_exit = True
    log.info("stopping")
    await asyncio.gather(running, *([stop_grpc()] if stop_grpc else []))


def reload_all(serving: Service) -> None:
    """Look at every model's folder once; what cannot be loaded is logged, and the old version goes on."""
    for name in serving.models.names():
        try:
            if serving.models.reload(name):
                log.info("%s has a new version", name)
        except Refusal as refusal:
            log.error("%s", refusal)


def _announcement(address: Address, http: int, grpc: int | None) -> str:
    scheme = "https" if address.certificate else "http"
    host = f"[{address.host}]" if ":" in address.host else address.host
    line = f"serving {scheme}://{host}:{http}"
    return line if grpc is None else f"{line} grpc://{host}:{grpc}"


def run(main: Callable[[], Any], servings: Sequence[Service]) -> None:
    """Run the event loop, uvloop's where there is one, and free the engines at its end."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
    finally:
        for serving in servings:
            serving.models.close()
