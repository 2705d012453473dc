"""`python -m deploy quantize`: an exported network or anyone's ONNX becomes INT8, judged on other images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from afdcd.errors import UserError
from afdcd.files import atomic_file, atomic_folder, json_text, read_json
from deploy import tables
from deploy.adopt import Adopted
from deploy.bundle import (
    CLASS_MAP,
    CONTRACT,
    PARITY,
    QUANTISATION,
    Contract,
    checked_bytes,
    read_contract,
    write_model,
)
from deploy.calibration import read_folder, read_images, split
from deploy.cli import Verbs
from deploy.cli.output import count, show
from deploy.cli.plain import add_plain, adopted, against_file, refuse_plain
from deploy.config import KeepFloat, QuantizeConfig
from deploy.evaluate import Sample
from deploy.graph import to_bytes
from deploy.pairs import images_of, pair, read, unlabelled
from deploy.plain_graph import holds_half, holds_quantised, own_interface
from deploy.quantize import quantize
from deploy.wrapping import READER

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "onnxruntime_tensorrt")


def add(command: Verbs) -> None:
    """The verb and its arguments."""
    verb = command("quantize", "INT8 graphs of an exported network or an ONNX file, for `build` or as a file")
    verb.add_argument("network", type=Path, metavar="FOLDER_OR_ONNX", help="as `export` writes it; or a file")
    verb.add_argument("--for", dest="backend", required=True, choices=BACKENDS)
    verb.add_argument("--calibration", type=Path, required=True, help="images like those it will see")
    verb.add_argument(
        "--images", type=Path, help="others, to judge the candidates on; default: a quarter of --calibration"
    )
    verb.add_argument(
        "--masks",
        type=Path,
        help="of --images: class numbers, <image name>.png each; without them agreement with float32 judges",
    )
    verb.add_argument("--count", type=count, default=64, help="calibration images at most, default 64")
    verb.add_argument("--layers", type=int, default=4, help="that may stay in float, default 4; 0 for none")
    verb.add_argument("--seed", type=int, default=0, help="of the draw of calibration images")
    verb.add_argument("--threads", type=count, default=1, help="CPU threads, default 1")
    verb.add_argument("--typed", type=Path, help="the folder to write for `build`; replaced as a whole")
    verb.add_argument(
        "--onnx", type=Path, metavar="FILE", help="also, of an ONNX file: INT8 with its input and output"
    )
    add_plain(verb)
    verb.set_defaults(run=run)


class _Images(NamedTuple):
    """What calibrates, and what judges."""

    calibration: npt.NDArray[np.uint8]
    validation: list[Sample]
    labelled: bool


def run(options: argparse.Namespace) -> None:
    """Quantise, and say which candidate was chosen.

    Raises:
        UserError: images are missing, or the network cannot be quantised for the engine.
    """
    _require_possible(options)
    taken = None
    if options.network.is_dir():
        refuse_plain(options, options.network)
        contract = read_contract(options.network)
        graphs = {
            name: checked_bytes(options.network / name, known) for name, known in contract.graphs.items()
        }
        images = _images(options, contract)
        parity = json_text(read_json(options.network / PARITY)).encode()
    else:
        taken = adopted(options.network, options)
        _require_float(taken.model, options.network)
        contract, graphs = taken.contract, taken.files
        images = _images(options, contract)
        parity = (
            against_file(options.network, taken, list(images.calibration)).model_dump_json(indent=1).encode()
        )
    settings = QuantizeConfig(
        calibration_images=len(images.calibration),
        val_images=len(images.validation),
        candidates=["minmax", "percentile"],
        percentile=99.99,
        keep_float=KeepFloat(layers=options.layers, macs=0.1) if options.layers else None,
        weight_bits="auto",
    )
    typed = quantize(
        graphs,
        contract,
        calibration=images.calibration,
        validation=images.validation,
        labelled=images.labelled,
        settings=settings,
        threads=options.threads,
        backend=options.backend,
    )
    if options.typed is not None:
        with atomic_folder(options.typed) as folder:
            for name, content in {**typed.files, PARITY: parity}.items():
                (folder / name).write_bytes(content)
            write_model(folder / CONTRACT, contract)
            write_model(folder / QUANTISATION, typed.record)
    if options.onnx is not None and taken is not None:
        with atomic_file(options.onnx) as temporary:
            temporary.write_bytes(_own_file(taken, typed.files[CLASS_MAP]))
    show(options, typed.record, tables.candidates(typed.record))


def _require_possible(options: argparse.Namespace) -> None:
    if options.layers < 0:
        raise UserError(f"--layers must be at least 0, got {options.layers}")
    if options.masks is not None and options.images is None:
        raise UserError("--masks are of the images to judge on; give their folder with --images")
    if options.typed is None and options.onnx is None:
        raise UserError("say what to write: --typed FOLDER for `build`, or --onnx FILE for an ONNX file")
    if options.onnx is None:
        return
    if options.network.is_dir():
        raise UserError(f"--onnx is for an ONNX file; {options.network} is a folder, take --typed")
    if options.backend == "openvino":
        raise UserError(
            "--onnx: INT8 for openvino is made in OpenVINO's own format; take --typed and `build`"
        )


def _require_float(model: onnx.ModelProto, path: Path) -> None:
    if holds_quantised(model):
        raise UserError(f"{path} is quantised already; give the float32 graph that it was made of")
    if holds_half(model):
        raise UserError(f"{path} holds weights in float16; INT8 is made of a float32 graph, export that")


def _images(options: argparse.Namespace, contract: Contract) -> _Images:
    """What calibrates and what judges, no image in both unless two folders hold it."""
    if options.images is None:
        first, second = split(options.calibration, count=options.count, seed=options.seed)
        return _Images(read_images(first, contract.geometry), list(unlabelled(second)), labelled=False)
    calibration = read_folder(options.calibration, contract.geometry, count=options.count, seed=options.seed)
    if options.masks is None:
        if not options.images.is_dir():
            raise UserError(f"{options.images} is no folder; give one with images to judge on")
        return _Images(calibration, list(unlabelled(images_of(options.images))), labelled=False)
    return _Images(calibration, list(read(pair(options.images, options.masks))), labelled=True)


def _own_file(taken: Adopted, class_map: bytes) -> bytes:
    """The INT8 graph with the file's own input and output."""
    quantised = onnx.load_from_string(class_map)
    model = own_interface(quantised, taken.model, output=taken.output, scores=taken.scores, reader=READER)
    return to_bytes(model)
