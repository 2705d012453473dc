"""Plans at the command line, on an imaginary GPU: what does not belong here is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu
from little_net import picture
from PIL import Image

from deploy.__main__ import main

pytestmark = pytest.mark.xdist_group("little")


@pytest.fixture
def sets(tmp_path: Path) -> list[str]:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(picture(0).image).save(tmp_path / "images" / "0.png")
    Image.fromarray(np.asarray(picture(0).labels)).save(tmp_path / "masks" / "0.png")
    return ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks")]


def told(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(given))
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and said.count("\n") == 1
    return said


def test_a_plan_of_another_version(
    tensorrt: Any,
    bundle: Callable[[str], Path],
    gpu: FakeGpu,
    install: Callable[..., Any],
    sets: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(bundle("trt_fp32"))
    main(["evaluate", folder, *sets])
    install(gpu, "cuda_python", "10.16.1.11")
    for command in (["evaluate", folder, *sets], ["compare", folder, f"{folder}/class_map.onnx"]):
        said = told(capsys, *command, *(["--shape", "1x32x64x3"] if command[0] == "compare" else []))
        assert "class_map.plan of little is not for this machine" in said
        assert "TensorRT 11.4.0.106, here is 10.16.1.11" in said and "rebuild" in said


def test_a_size_outside_the_profile(
    tensorrt: Any, bundle: Callable[[str], Path], sets: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(capsys, "evaluate", str(bundle("trt_fp32")), *sets, "--crop", "48", "64")
    assert "little takes images of shape" in said and "got (1, 48, 64, 3)" in said
    assert "Export for other sizes" in said
