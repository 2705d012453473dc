"""`python -m deploy serve`: bundles behind the Open Inference Protocol v2."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from afdcd.errors import UserError
from deploy.bundle import Manifest
from deploy.cli import Verbs
from deploy.cli.output import above_zero, count, share

GPU = ("onnxruntime_cuda", "onnxruntime_tensorrt", "tensorrt", "tensorrt_rtx")
"""Backends on which a call of many images is faster than many calls."""


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("serve", "answer requests of the Open Inference Protocol v2 over HTTP and gRPC")
    verb.add_argument("paths", type=Path, nargs="+", metavar="BUNDLE_OR_RELEASE")
    verb.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1; 0.0.0.0 for all")
    verb.add_argument("--port", type=int, default=8000, help="of HTTP, default 8000; 0 takes a free one")
    verb.add_argument("--grpc-port", type=int, default=8001, help="default 8001; 0 takes a free one")
    verb.add_argument("--no-grpc", action="store_true", help="HTTP alone")
    work = verb.add_argument_group("scheduling, for each model")
    work.add_argument("--sessions", type=count, help="default: one a CPU core; 1 on a GPU")
    work.add_argument("--threads", type=count, default=1, help="CPU threads of a session, default 1")
    work.add_argument("--queue", type=count, default=64, help="requests that may wait, default 64")
    work.add_argument("--batch", type=count, help="images a call; default 1 on a CPU, 8 on a GPU")
    work.add_argument("--delay-ms", type=above_zero, default=2.0, help="wait for a batch, default 2")
    bounds = verb.add_argument_group("limits, for each request")
    bounds.add_argument("--timeout-s", type=above_zero, default=30.0, help="to answer it, default 30")
    bounds.add_argument("--read-s", type=above_zero, default=15.0, help="to receive it, default 15")
    bounds.add_argument("--body-mb", type=above_zero, default=64.0, help="default 64")
    bounds.add_argument("--megapixels", type=above_zero, default=50.0, help="encoded images, default 50")
    drift = verb.add_argument_group("drift: low-confidence pixels in /metrics")
    drift.add_argument(
        "--watch", type=count, default=0, metavar="N", help="look at one answer in N again; default none"
    )
    drift.add_argument(
        "--sure", type=share, default=0.5, help="probability below which a pixel counts, default 0.5"
    )
    verb.add_argument("--drain-s", type=count, default=30, help="to finish after SIGTERM, default 30")
    verb.add_argument("--token-file", type=Path, help="holds the bearer token that clients must send")
    verb.add_argument("--control", action="store_true", help="allow load and rollback over HTTP")
    verb.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files")
    verb.add_argument("--log", choices=["info", "warning"], default="info", help="default info")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve until told to stop.

    Raises:
        UserError: a bundle is damaged or cannot run here, or the extra `serve` is not installed.
    """
    try:
        from deploy.serving import http, logs, page, reading, server
    except ImportError as error:
        raise UserError(f"serving needs the extra serve ({error}): pip install 'afdcd[serve]'") from error
    from deploy.serving.models import Models, find_bundles
    from deploy.serving.options import Limits, Scheduling
    from deploy.serving.service import Service

    def plan(manifest: Manifest) -> Scheduling:
        gpu = manifest.backend in GPU
        most = manifest.contract.input.batch.max
        batch = options.batch or (8 if gpu else 1)
        return Scheduling(
            sessions=options.sessions or (1 if gpu else len(os.sched_getaffinity(0))),
            threads=options.threads,
            queue=options.queue,
            batch=batch if most is None else min(batch, most),
            delay_seconds=options.delay_ms / 1e3,
            watch=options.watch,
            sure=options.sure,
        )

    logs.set_up(options.log)
    reading.keep_memory()
    token = None if options.token_file is None else read_token(options.token_file)
    limits = Limits(
        body=int(options.body_mb * 1e6),
        pixels=int(options.megapixels * 1e6),
        read_seconds=options.read_s,
        seconds=options.timeout_s,
    )
    serving = Service(Models(find_bundles(options.paths), plan), limits)
    app = http.app(serving, token=token, control=options.control, more=page.routes())
    certificate = options.tls and tuple(options.tls)
    address = server.Address(options.host, options.port, certificate)

    async def grpc() -> tuple[int, server.Stop]:
        from deploy.serving import rpc

        where = f"{options.host}:{options.grpc_port}"
        return await rpc.start(
            serving, where, token=token, certificate=certificate, drain_seconds=options.drain_s
        )

    async def main() -> None:
        await server.serve(
            app,
            serving,
            address,
            drain_seconds=options.drain_s,
            also=None if options.no_grpc else grpc,
            tell=lambda line: print(line, flush=True),
        )

    server.run(main, [serving])


def read_token(path: Path) -> bytes:
    """The bearer token of a file.

    Raises:
        UserError: the file is missing or empty.
    """
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); put the token into it") from error
    if not token:
        raise UserError(f"{path} is empty; put the token into it")
    return token
