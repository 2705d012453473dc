"""`python -m deploy triton-repo`: a model repository for NVIDIA Triton from bundles."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Group
from rich.table import Table

from afdcd.errors import UserError
from deploy.cli import Verbs
from deploy.cli.output import count, show
from deploy.serving.triton import Service
from deploy.serving.triton_repository import Fleet, write


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("triton-repo", "write a model repository for NVIDIA Triton, and a manifest for KServe")
    verb.add_argument(
        "bundles",
        nargs="+",
        metavar="[NAME=]BUNDLE",
        help="folder of a bundle; a NAME given twice makes the second its next version",
    )
    verb.add_argument("--out", dest="folder", type=Path, required=True, metavar="FOLDER")
    verb.add_argument("--instances", type=count, default=2, help="copies that run at once (default: 2)")
    verb.add_argument(
        "--queue-delay-us", type=count, default=2000, help="wait for a batch on a GPU (default: 2000)"
    )
    verb.add_argument("--queue-size", type=count, default=64, help="requests that may wait on a GPU")
    verb.add_argument("--keep", type=count, default=1, help="versions served side by side (default: 1)")
    verb.add_argument("--storage", default="pvc://models/triton", help="KServe's storageUri of models/")
    verb.add_argument("--container", default="25.03-py3", help="tag of the official image")
    verb.add_argument("--replicas", type=count, nargs=2, default=(1, 4), metavar=("LEAST", "MOST"))
    verb.add_argument("--concurrency", type=count, default=8, help="requests in flight a replica")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the folder and say what is in it.

    Raises:
        UserError: a bundle is damaged, Triton cannot serve it, or the folder is something else.
    """
    least, most = options.replicas
    if least > most:
        raise UserError(f"--replicas {least} {most}: the least is above the most")
    service = Service(
        instances=options.instances,
        queue_delay_us=options.queue_delay_us,
        queue_size=options.queue_size,
        keep=options.keep,
    )
    fleet = Fleet(
        storage=options.storage,
        container=options.container,
        replicas=(least, most),
        concurrency=options.concurrency,
    )
    placed = write(options.bundles, options.folder, service, fleet)
    table = Table("model", "version", "Triton runs", "on", "from")
    for one in placed:
        table.add_row(one.model, str(one.version), one.backend, one.device, one.bundle)
    notes = dict.fromkeys(f"note: {one.model}: {note}" for one in placed for note in one.notes)
    record = {"folder": str(options.folder), "models": [one.model_dump(mode="json") for one in placed]}
    show(options, record, Group(table, *notes))
