"""The commands of docs/serving.md, as they stand there but for the address and the model's name."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving_process import Server

DOCS = Path(__file__).parents[3] / "docs/serving.md"
pytestmark = pytest.mark.xdist_group("serving")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands need curl")
def test_the_curl_commands_of_the_docs(server: Server, tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    commands = [line for line in block.splitlines() if line.startswith("curl ")]
    assert commands
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    picture[:, 40:, 0] = 200
    Image.fromarray(picture).save(tmp_path / "street.jpg", quality=95)
    for command in commands:
        asked = shlex.split(command.replace("127.0.0.1:8000", server.http))
        subprocess.run([*asked, "-sS", "--fail"], cwd=tmp_path, check=True, timeout=30)
    with Image.open(tmp_path / "mask.png") as mask:
        labels = np.asarray(mask)
    # Near the edge between the halves JPEG and the resizing leave traces.
    assert labels.shape == (40, 80) and (labels[:, :24] == 0).all() and (labels[:, 56:] == 1).all()
