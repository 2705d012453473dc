"""Stage export: a trained network becomes one ExportedProgram and two ONNX twins, checked against PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import atomic_folder, sha256
from afdcd.geometry import fit
from afdcd.models.segmenter import Segmenter
from afdcd.models.store import WEIGHTS, load_trained
from deploy.bundle import CONTRACT, PARITY, ClassMapOutput, Contract, Geometry, ImageInput, Range, write_model
from deploy.config import ExportConfig
from deploy.export import Exported, export
from deploy.parity import Parity, compare, require
from deploy.sessions import open_backend
from pipeline import paths
from pipeline.cli import arguments, run
from pipeline.params import load


def main(given: list[str]) -> None:
    """Export a model.

    Raises:
        UserError: the weights are damaged or know other classes, or the graph differs from PyTorch.
    """
    (model,) = arguments(given, "MODEL")
    settings = load().deploy.export
    manifest = Manifest.load(paths.PREPARED)
    network, card = load_trained(paths.trained(model))
    if card.classes != manifest.info.classes:
        raise UserError(
            f"{paths.trained(model)} knows the classes {', '.join(card.classes)}, {paths.PREPARED} has "
            f"{', '.join(manifest.info.classes)}; train it on these data"
        )
    exported = export(bare := network.deployed(), _contract(model, bare, manifest, settings))
    parity = _parity(exported, _images(manifest, settings))
    require(
        parity,
        model=model,
        min_agreement=settings.min_agreement,
        max_relative_error=settings.max_relative_error,
    )
    with atomic_folder(paths.exported(model)) as folder:
        for name, content in exported.files.items():
            (folder / name).write_bytes(content)
        write_model(folder / CONTRACT, exported.contract)
        write_model(folder / PARITY, parity)
    print(
        f"{model}: {exported.contract.parameters} parameters, agreement with PyTorch {parity.agreement:.6f}, "
        f"largest relative error {parity.max_relative_error:.1e} on {parity.images} images"
    )


def _contract(model: str, network: Segmenter, manifest: Manifest, settings: ExportConfig) -> Contract:
    height, width = settings.input_size
    return Contract(
        model=model,
        input=ImageInput(
            name="images",
            dtype="uint8",
            layout="NHWC",
            batch=Range(min=1, max=None),
            height=height,
            width=width,
        ),
        output=ClassMapOutput(name="class_map", dtype="uint8"),
        logits="logits",
        classes=list(manifest.info.classes),
        palette=list(manifest.info.palette),
        ignore_index=manifest.info.ignore_index,
        normalisation=network.config.normalisation,
        geometry=Geometry(size=settings.input_size, fit=settings.fit),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        opset=settings.opset,
        weights_sha256=sha256(paths.trained(model) / WEIGHTS),
        graphs={},
    )


def _images(manifest: Manifest, settings: ExportConfig) -> npt.NDArray[np.uint8]:
    entries = manifest.split("val")[: settings.parity_images]
    fitted = [fit(manifest.image(entry), settings.input_size, settings.fit).image for entry in entries]
    return np.stack(fitted)


def _parity(exported: Exported, images: npt.NDArray[np.uint8]) -> Parity:
    """The ONNX twins in ONNX Runtime against the ExportedProgram in PyTorch."""
    read = exported.files.__getitem__
    with (
        open_backend("pytorch", exported.contract, read, threads=1) as reference,
        open_backend("onnxruntime", exported.contract, read, threads=1) as engine,
    ):
        return compare(reference, engine, images)


if __name__ == "__main__":
    run(main)
