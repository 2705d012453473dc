"""One little network, trained and exported once a process; tests that use it carry the mark of its group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from little_net import LittleNet, contract_of, picture, pictures, train_little

from deploy.bundle import CONTRACT, PARITY, QUANTISATION, write_model
from deploy.config import QuantizeConfig, TargetConfig
from deploy.export import Exported, export
from deploy.parity import Parity
from deploy.quantize import Typed, quantize, unchanged

SPECS = {
    "ort_cpu_fp32": TargetConfig(backend="onnxruntime", precision="fp32", where="here", threads=1),
    "ort_cpu_int8": TargetConfig(backend="onnxruntime", precision="int8", where="here", threads=1),
    "pytorch_fp32": TargetConfig(backend="pytorch", precision="fp32", where="here", threads=1),
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
def int8(exported: Exported) -> Typed:
    return quantize(
        exported.files,
        exported.contract,
        calibration=pictures(range(8)),
        validation=[picture(number) for number in range(100, 106)],
        settings=SETTINGS,
        threads=1,
    )


@pytest.fixture
def typed(tmp_path: Path, exported: Exported, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Writes the typed folder of a target as the stage quantize does."""

    def write(target: str) -> Path:
        spec = SPECS[target]
        result: Typed = (
            request.getfixturevalue("int8")
            if spec.precision == "int8"
            else unchanged(exported.files, spec.backend)
        )
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
