"""`python -m deploy bench-server`: latency and throughput of a running v2 server, ours or another."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from afdcd.errors import UserError
from deploy.cli import Verbs
from deploy.cli.output import above_zero, add_out, count, show
from deploy.serving.bench import Load, Measured, measure


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("bench-server", "put load on a server of the Open Inference Protocol v2 and measure it")
    verb.add_argument("url", metavar="URL", help="http://host:port, https://host:port or grpc://host:port")
    verb.add_argument("--model", required=True)
    verb.add_argument("--version", default="", help="default: the one that answers by default")
    verb.add_argument("--clients", type=count, default=8, help="connections (default: 8)")
    verb.add_argument("--rate", type=above_zero, help="open loop: so many requests arrive a second (Poisson)")
    verb.add_argument("--seconds", type=above_zero, default=10.0, help="default: 10")
    verb.add_argument("--requests", type=count, default=100_000, help="at most so many (default: 100000)")
    verb.add_argument("--warmup", type=count, default=10, help="requests that do not count (default: 10)")
    verb.add_argument("--timeout", type=above_zero, default=30.0, help="seconds for an answer (default: 30)")
    verb.add_argument("--batch", type=count, default=1, help="images a request (default: 1)")
    verb.add_argument("--size", type=count, nargs=2, metavar=("HEIGHT", "WIDTH"))
    verb.add_argument("--token-file", type=Path, metavar="FILE", help="holds the bearer token")
    add_out(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Put the load on the server and show what it did.

    Raises:
        UserError: it does not answer, or refuses the first request.
    """
    load = Load(
        clients=options.clients,
        rate=options.rate,
        seconds=options.seconds,
        requests=options.requests,
        warmup=options.warmup,
        timeout=options.timeout,
    )
    found = measure(
        options.url,
        options.model,
        load,
        version=options.version,
        batch=options.batch,
        size=None if options.size is None else (options.size[0], options.size[1]),
        token=_token(options.token_file),
    )
    show(options, found, _table(found))


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token in {path}: {error}") from error


def _table(found: Measured) -> Table:
    load = found.load
    how = f"{load.clients} clients" if load.rate is None else f"{load.rate:g} arrivals a second"
    table = Table("", "", show_header=False)
    table.columns[1].justify = "right"
    table.add_row("model", found.model)
    table.add_row("load", how)
    table.add_row("good answers a second", f"{load.throughput:.2f}")
    if load.latency_ms is not None:
        for name in ("min", "p50", "p90", "p95", "p99", "max"):
            value = getattr(load.latency_ms, name)
            table.add_row(f"{name} ms", "too few to tell" if value is None else f"{value:.2f}")
    table.add_row("seconds", f"{load.seconds:.2f}")
    for outcome, times in load.outcomes.items():
        table.add_row(f"answers: {outcome}", str(times))
    if load.sent_late is not None:
        table.add_row("sent a millisecond or more late", f"{load.sent_late:.1%}")
        table.add_row("not sent in time", str(load.unsent))
    return table
