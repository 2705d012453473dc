"""From an exported folder to an engine with nothing but verbs and folders of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from little_net import write_pictures

from deploy.__main__ import main
from deploy.bundle import CONTRACT, PARITY, write_model
from deploy.export import Exported
from deploy.parity import Parity

pytestmark = pytest.mark.xdist_group("little")


@pytest.fixture
def folder(tmp_path: Path, exported: Exported) -> Path:
    made = tmp_path / "exported"
    made.mkdir()
    for name, content in exported.files.items():
        (made / name).write_bytes(content)
    write_model(made / CONTRACT, exported.contract)
    write_model(made / PARITY, Parity(images=1, agreement=1.0, max_relative_error=0.0, sqnr_db=None))
    write_pictures(tmp_path / "calibration", range(8))
    write_pictures(tmp_path / "image", range(100, 104), tmp_path / "mask")
    return made


def test_an_exported_network_becomes_an_int8_bundle(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, bundle = tmp_path / "typed", tmp_path / "bundle"
    sets = ["--images", str(tmp_path / "image"), "--masks", str(tmp_path / "mask")]
    calibration = ["--calibration", str(tmp_path / "calibration"), "--layers", "0"]
    main(["quantize", str(folder), "--for", "onnxruntime", *calibration, *sets, "--typed", str(typed)])
    assert "chosen" in capsys.readouterr().out
    wanted = ["--backend", "onnxruntime", "--precision", "int8"]
    main(["build", str(typed), *wanted, "--bundle", str(bundle), "--json"])
    assert json.loads(capsys.readouterr().out)["precision"] == "int8"
    main(["evaluate", str(bundle), *sets, "--json"])
    assert json.loads(capsys.readouterr().out)["miou"] > 0.5


@pytest.mark.slow
def test_parity_of_an_exported_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["parity", str(folder), "--images", str(tmp_path / "image")]
    main([*given, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["agreement"] > 0.9999 and len(found["cases"]) == 15
    with pytest.raises(SystemExit) as ended:
        main([*given, "--max-error", "0"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "agreement" in said.out
    assert "the first tensor that differs is" in said.err
