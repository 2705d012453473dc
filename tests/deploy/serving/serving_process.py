"""A server in a process of its own, on free ports, that ends with the test."""

from __future__ import annotations

import http.client
import json
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

WAIT = 30.0
GRPC = ("--grpc-port", "0")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    def __init__(self, *given: str | Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy", "serve", *map(str, given), "--port", "0", *GRPC],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], WAIT)
        line = self.process.stdout.readline() if ready else ""
        found = re.search(r"https?://([\d.]+):(\d+)(?: grpc://[\d.]+:(\d+))?", line)
        if found is None:
            self.process.kill()
            raise AssertionError(f"no server: {line!r} {log.read_text()}")
        self.host, self.port = found[1], int(found[2])
        self.grpc_port = int(found[3] or 0)
        self.http = f"{self.host}:{self.port}"
        self.grpc = f"{self.host}:{self.grpc_port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT)
        try:
            connection.request(method, path, body, headers or {})
            got = connection.getresponse()
            return Reply(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(WAIT)
        assert self.process.stdout is not None
        self.process.stdout.close()
