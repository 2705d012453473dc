"""One little network, trained and exported once a process; tests that use it carry the mark of its group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from little_net import LittleNet, PyramidNet, contract_of, picture, pictures, train_little
from openvino_files import nncf_files

from deploy.bundle import CONTRACT, PARITY, QUANTISATION, Range, write_model
from deploy.config import Precision, QuantizeConfig, TargetConfig
from deploy.export import Exported, export
from deploy.parity import Parity
from deploy.quantize import Typed, quantize, unchanged


def _spec(backend: str, precision: Precision) -> TargetConfig:
    return TargetConfig(backend=backend, precision=precision, where="here", threads=1)


SPECS = {
    "ort_cpu_fp32": _spec("onnxruntime", "fp32"),
    "ort_cpu_int8": _spec("onnxruntime", "int8"),
    "openvino_fp32": _spec("openvino", "fp32"),
    "openvino_bf16": _spec("openvino", "bf16"),
    "openvino_int8": _spec("openvino", "int8"),
    "pytorch_fp32": _spec("pytorch", "fp32"),
    "pytorch_compiled_fp32": _spec("pytorch_compiled", "fp32"),
}
SETTINGS = QuantizeConfig(
    calibration_images=8, val_images=6, candidates=["minmax", "percentile"], percentile=99.99
)


@pytest.fixture(scope="session")
def little() -> LittleNet:
    return train_little()


@pytest.fixture(scope="session")
def exported(little: LittleNet) -> Exported:
    return export(little, contract_of(little))


@pytest.fixture(scope="session")
def dynamic() -> Exported:
    """A network with adaptive pooling, exported for many sizes from an example of one."""
    torch.manual_seed(0)
    network = PyramidNet().eval()
    height, width = Range(min=24, max=128, multiple=8), Range(min=24, max=200)
    return export(network, contract_of(network, height=height, width=width))


@pytest.fixture(scope="session")
def int8(exported: Exported) -> Typed:
    return quantize(
        exported.files,
        exported.contract,
        calibration=pictures(range(8)),
        validation=[picture(number) for number in range(100, 106)],
        settings=SETTINGS,
        threads=1,
    )


@pytest.fixture(scope="session")
def nncf_int8(exported: Exported) -> Typed:
    """The same network in INT8 by OpenVINO's quantiser, in OpenVINO's format."""
    record = unchanged(exported.files, "openvino").record.model_copy(update={"precision": "int8"})
    feeds = [picture(number).image[None] for number in range(8)]
    return Typed(nncf_files(exported.files, feeds), record)


@pytest.fixture
def typed(tmp_path: Path, exported: Exported, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Writes the typed folder of a target as the stage quantize does."""

    def write(target: str) -> Path:
        spec = SPECS[target]
        if spec.precision == "int8":
            made: Typed = request.getfixturevalue("int8" if spec.backend == "onnxruntime" else "nncf_int8")
            result = made
        else:
            result = unchanged(exported.files, spec.backend, spec.precision)
        folder = tmp_path / "typed" / target
        folder.mkdir(parents=True)
        for name, content in result.files.items():
            (folder / name).write_bytes(content)
        write_model(folder / CONTRACT, exported.contract)
        write_model(folder / QUANTISATION, result.record)
        write_model(folder / PARITY, Parity(images=1, agreement=1.0, max_relative_error=0.0, sqnr_db=None))
        return folder

    return write


@pytest.fixture
def bundle(tmp_path: Path, typed: Callable[[str], Path]) -> Callable[[str], Path]:
    """Builds the engine bundle of a target."""
    from deploy.build import build

    def make(target: str) -> Path:
        folder = tmp_path / "engines" / target
        build(typed(target), folder, target=target, spec=SPECS[target], hardware={"cpu": "of a test"})
        return folder

    return make
