"""Stage export: a trained network becomes one ExportedProgram and two ONNX twins, checked against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import atomic_folder, sha256
from afdcd.models.segmenter import Segmenter
from afdcd.models.store import WEIGHTS, load_trained
from deploy.archive import load_program
from deploy.bisect import against_program
from deploy.bundle import (
    CONTRACT,
    LOGITS,
    PARITY,
    PROGRAM,
    ClassMapOutput,
    Contract,
    Geometry,
    ImageInput,
    Pixels,
    Range,
    write_model,
)
from deploy.config import ExportConfig
from deploy.export import Exported, export
from deploy.parity import Case, Parity, inputs, require, suite
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
    params = load()
    settings, limits = params.deploy.export, params.gates
    manifest = Manifest.load(paths.PREPARED)
    network, card = load_trained(paths.trained(model))
    if card.classes != manifest.info.classes:
        raise UserError(
            f"{paths.trained(model)} knows the classes {', '.join(card.classes)}, {paths.PREPARED} has "
            f"{', '.join(manifest.info.classes)}; train it on these data"
        )
    exported = export(bare := network.deployed(), _contract(model, bare, manifest, settings))
    images = [manifest.image(entry) for entry in manifest.split("val")[: settings.parity_images]]
    parity = _parity(exported, images)
    require(
        parity,
        model=model,
        min_agreement=limits.export_min_agreement,
        max_relative_error=limits.export_max_relative_error,
        names=("gates.export_min_agreement", "gates.export_max_relative_error"),
        explain=lambda case: _explanation(exported, images, case, limits.export_max_relative_error),
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
    height, width = _sides(settings)
    fewest, most = settings.batch
    return Contract(
        model=model,
        input=ImageInput(
            name="images",
            dtype="uint8",
            layout="NHWC",
            batch=Range(min=fewest, max=most),
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


def _sides(settings: ExportConfig) -> tuple[int | Range, int | Range]:
    """Height and width that the graph takes."""
    if settings.dynamic is None:
        return settings.input_size
    multiple = settings.dynamic.multiple
    height, width = (
        shortest if shortest == longest else Range(min=shortest, max=longest, multiple=multiple)
        for shortest, longest in (settings.dynamic.height, settings.dynamic.width)
    )
    return height, width


def _parity(exported: Exported, images: Sequence[Pixels]) -> Parity:
    """The ONNX twins in ONNX Runtime against the ExportedProgram in PyTorch."""
    read = exported.files.__getitem__
    with (
        open_backend("pytorch", exported.contract, read, threads=1) as reference,
        open_backend("onnxruntime", exported.contract, read, threads=1) as engine,
    ):
        return suite(reference, engine, images)


def _explanation(
    exported: Exported, images: Sequence[Pixels], case: Case | None, limit: float | None
) -> str | None:
    """The tensor at which graph and program part, or that none does when all are looked at."""
    if case is None or limit is None:
        return None
    found = against_program(
        load_program(exported.files[PROGRAM]),
        onnx.load_from_string(exported.files[LOGITS]),
        exported.contract,
        inputs(case.kind, (1, *case.shape[1:]), images, exported.contract),
        limit=limit,
    )
    return None if found is None else f"{found.sentence()}: look at what the exporter made of it"


if __name__ == "__main__":
    run(main)
