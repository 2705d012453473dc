from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from little_net import LittleNet, contract_of, pictures

from afdcd.errors import UserError
from afdcd.files import read_json, write_json
from deploy.bundle import (
    CLASS_MAP,
    CONTRACT,
    LOGITS,
    MANIFEST,
    Contract,
    Range,
    read_contract,
    read_manifest,
    verify,
    write_model,
)
from deploy.sessions import BACKENDS, open_session


@pytest.fixture(scope="module")
def contract() -> Contract:
    return contract_of(LittleNet())


def test_a_contract_survives_its_file(contract: Contract, tmp_path: Path) -> None:
    write_model(tmp_path / CONTRACT, contract)
    assert read_contract(tmp_path) == contract


def test_a_contract_of_another_version_is_refused_with_the_field(contract: Contract, tmp_path: Path) -> None:
    write_json(tmp_path / CONTRACT, contract.model_dump(mode="json") | {"mood": 1})
    with pytest.raises(UserError, match=r"no contract of this version \(mood"):
        read_contract(tmp_path)


def test_images_that_fit_are_not_copied(contract: Contract) -> None:
    images = pictures(range(2))
    assert contract.admit(images) is images
    view = contract.admit(images[:, ::-1])
    assert view.flags.c_contiguous


def test_ranges_of_sizes_are_held(contract: Contract) -> None:
    batch = Range(min=1, max=2)
    width = Range(min=32, max=64)
    free = contract.model_copy(
        update={"input": contract.input.model_copy(update={"batch": batch, "width": width})}
    )
    for width_given, passes in ((31, False), (32, True), (64, True), (65, False)):
        images = np.zeros((2, 32, width_given, 3), dtype=np.uint8)
        if passes:
            free.admit(images)
        else:
            with pytest.raises(UserError, match=r"\(1..2, 32, 32..64, 3\), got \(2, 32"):
                free.admit(images)
    with pytest.raises(UserError, match="takes images of shape"):
        free.admit(np.zeros((3, 32, 64, 3), dtype=np.uint8))


def test_sizes_between_the_steps_are_refused(contract: Contract) -> None:
    height = Range(min=16, max=64, multiple=8)
    free = contract.model_copy(update={"input": contract.input.model_copy(update={"height": height})})
    free.admit(np.zeros((1, 24, 64, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"\(B, 16..64 in steps of 8, 64, 3\), got \(1, 25, 64, 3\)"):
        free.admit(np.zeros((1, 25, 64, 3), dtype=np.uint8))


def test_a_contract_of_before_steps_is_read(contract: Contract, tmp_path: Path) -> None:
    value = contract.model_dump(mode="json")
    del value["input"]["batch"]["multiple"]
    write_json(tmp_path / CONTRACT, value)
    assert read_contract(tmp_path) == contract


@pytest.mark.xdist_group("little")
@pytest.mark.parametrize("name", [CLASS_MAP, LOGITS])
def test_an_altered_file_is_named(bundle: Callable[[str], Path], name: str) -> None:
    folder = bundle("ort_cpu_fp32")
    verify(folder)
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=rf"{name} is not the file that its manifest describes"):
        verify(folder)


@pytest.mark.xdist_group("little")
def test_a_missing_file_is_named(bundle: Callable[[str], Path]) -> None:
    folder = bundle("ort_cpu_fp32")
    (folder / LOGITS).unlink()
    with pytest.raises(UserError, match=r"logits.onnx is missing, though its manifest lists it"):
        verify(folder)


@pytest.mark.xdist_group("little")
def test_an_unknown_backend_is_refused_with_the_nearest(bundle: Callable[[str], Path]) -> None:
    folder = bundle("ort_cpu_fp32")
    manifest = read_json(folder / MANIFEST)
    write_json(folder / MANIFEST, manifest | {"backend": "onnxruntim"})
    with pytest.raises(UserError, match="did you mean 'onnxruntime'"):
        open_session(folder, threads=1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="manifest.json is"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="manifest.json is missing"):
        verify(tmp_path)


@pytest.mark.xdist_group("little")
def test_running_an_onnx_bundle_needs_no_torch(bundle: Callable[[str], Path]) -> None:
    code = (
        "import sys, pathlib, numpy as np\n"
        "from deploy.sessions import open_session\n"
        "with open_session(pathlib.Path(sys.argv[1]), threads=1) as session:\n"
        "    session.infer(np.zeros((1, 32, 64, 3), np.uint8))\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle("ort_cpu_int8"))], check=True)


def test_every_backend_of_the_table_can_be_imported() -> None:
    from afdcd.plugins import resolve

    for name in BACKENDS:
        assert callable(resolve(BACKENDS, name, "backend"))
