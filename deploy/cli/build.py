"""`python -m deploy build`: a folder of typed graphs becomes an engine bundle that has run once here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from afdcd.errors import UserError
from afdcd.files import read_json
from deploy import hardware, tables
from deploy.build import build
from deploy.bundle import QUANTISATION
from deploy.cli import Verbs
from deploy.cli.output import count, show
from deploy.config import Precision, TargetConfig
from deploy.presets import PRESETS, needs_no_typing
from deploy.sessions import BACKENDS


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("build", "an engine bundle from a folder that `quantize` or the pipeline wrote")
    verb.add_argument("typed", type=Path, metavar="FOLDER", help="graphs, contract, parity, quantize.json")
    verb.add_argument("--backend", required=True, choices=sorted(BACKENDS))
    verb.add_argument("--precision", required=True, choices=get_args(Precision))
    verb.add_argument("--threads", type=count, default=1, help="CPU threads, default 1")
    verb.add_argument("--bundle", type=Path, required=True, help="the folder to write; replaced as a whole")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Build the bundle and say what is in it.

    Raises:
        UserError: this machine cannot run the target, a graph is not sound, or the engine does not run.
    """
    spec = TargetConfig(
        backend=options.backend, precision=options.precision, where="here", threads=options.threads
    )
    if not (options.typed / QUANTISATION).is_file():
        raise UserError(
            f"{options.typed} is no folder of typed graphs (it lacks {QUANTISATION}); `python -m deploy "
            "export` makes one in fp32 of a .pt2 or .onnx, `quantize` one in INT8"
        )
    record = read_json(options.typed / QUANTISATION)
    typed = record.get("precision")
    if typed != spec.precision and not (typed == "fp32" and needs_no_typing(spec)):
        raise UserError(
            f"{options.typed} holds graphs in {typed}, --precision asks for {spec.precision}; "
            "`quantize` writes graphs in INT8"
        )
    _require_for_engine(options, spec, record.get("preset"))
    target = f"{options.backend}_{options.precision}"
    manifest = build(options.typed, options.bundle, target=target, spec=spec, hardware=hardware.describe())
    show(options, manifest, tables.contents(manifest))


def _require_for_engine(options: argparse.Namespace, spec: TargetConfig, preset: str | None) -> None:
    """Refuse INT8 that was made for another engine: this one would run it at float speed, or misread it."""
    wanted = PRESETS.get((spec.backend, spec.precision))
    if spec.precision == "int8" and wanted is not None and preset != wanted:
        raise UserError(
            f"{options.typed} is quantised for another engine (preset {preset}), {spec.backend} takes "
            f"{wanted}; python -m deploy quantize --for {spec.backend}"
        )
