"""`python -m deploy quantize`: an exported network becomes INT8, judged on images with masks."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from afdcd.errors import UserError
from afdcd.files import atomic_folder
from deploy import tables
from deploy.bundle import CONTRACT, PARITY, QUANTISATION, checked_bytes, read_contract, write_model
from deploy.calibration import read_folder
from deploy.cli import Verbs
from deploy.cli.output import count, show
from deploy.config import KeepFloat, QuantizeConfig
from deploy.pairs import pair, read
from deploy.quantize import quantize

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "onnxruntime_tensorrt")


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("quantize", "INT8 graphs of an exported network, for `build`")
    verb.add_argument("exported", type=Path, metavar="FOLDER", help="as the stage export writes it")
    verb.add_argument("--for", dest="backend", required=True, choices=BACKENDS)
    verb.add_argument("--calibration", type=Path, required=True, help="images like those it will see")
    verb.add_argument("--images", type=Path, required=True, help="others, to judge the candidates on")
    verb.add_argument("--masks", type=Path, required=True, help="class numbers, <image name>.png each")
    verb.add_argument("--count", type=count, default=64, help="calibration images at most, default 64")
    verb.add_argument("--layers", type=int, default=4, help="that may stay in float, default 4; 0 for none")
    verb.add_argument("--seed", type=int, default=0, help="of the draw of calibration images")
    verb.add_argument("--threads", type=count, default=1, help="CPU threads, default 1")
    verb.add_argument("--typed", type=Path, required=True, help="the folder to write; replaced as a whole")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Quantise, and say which candidate was chosen.

    Raises:
        UserError: images are missing, or the network cannot be quantised for the engine.
    """
    if options.layers < 0:
        raise UserError(f"--layers must be at least 0, got {options.layers}")
    contract = read_contract(options.exported)
    graphs = {name: checked_bytes(options.exported / name, known) for name, known in contract.graphs.items()}
    calibration = read_folder(options.calibration, contract.geometry, count=options.count, seed=options.seed)
    validation = list(read(pair(options.images, options.masks)))
    settings = QuantizeConfig(
        calibration_images=len(calibration),
        val_images=len(validation),
        candidates=["minmax", "percentile"],
        percentile=99.99,
        keep_float=KeepFloat(layers=options.layers, macs=0.1) if options.layers else None,
        weight_bits="auto",
    )
    typed = quantize(
        graphs,
        contract,
        calibration=calibration,
        validation=validation,
        settings=settings,
        threads=options.threads,
        backend=options.backend,
    )
    with atomic_folder(options.typed) as folder:
        for name, content in typed.files.items():
            (folder / name).write_bytes(content)
        for name in (CONTRACT, PARITY):
            shutil.copyfile(options.exported / name, folder / name)
        write_model(folder / QUANTISATION, typed.record)
    show(options, typed.record, tables.candidates(typed.record))
