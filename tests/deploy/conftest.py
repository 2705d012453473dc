"""One little network, trained and exported once a process; tests that use it carry the mark of its group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from little_net import LittleNet, PyramidNet, contract_of, picture, pictures, train_little

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
    calibration_images=8,
    val_images=6,
    candidates=["minmax", "percentile"],
    percentile=99.99,
    keep_float=None,
    weight_bits=[8],
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
def quantised(exported: Exported) -> Callable[..., Typed]:
    """The network in INT8 for a backend, made once each; two calibrations for ONNX Runtime, else one."""
    made: dict[str, Typed] = {}

    def get(backend: str) -> Typed:
        if backend not in made:
            calibrations = SETTINGS.candidates[: 2 if backend == "onnxruntime" else 1]
            made[backend] = quantize(
                exported.files,
                exported.contract,
                calibration=pictures(range(8)),
                validation=[picture(number) for number in range(100, 106)],
                settings=SETTINGS.model_copy(update={"candidates": calibrations}),
                threads=1,
                backend=backend,
            )
        return made[backend]

    return get


@pytest.fixture(scope="session")
def int8(quantised: Callable[..., Typed]) -> Typed:
    """For ONNX Runtime on a CPU."""
    return quantised("onnxruntime")


@pytest.fixture
def typed(tmp_path: Path, exported: Exported, quantised: Callable[..., Typed]) -> Callable[[str], Path]:
    """Writes the typed folder of a target as the stage quantize does."""

    def write(target: str) -> Path:
        spec = SPECS[target]
        if spec.precision == "int8":
            result = quantised(spec.backend)
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
