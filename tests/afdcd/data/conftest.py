"""A CamVid of a few random pixels, in either layout, and a prepare that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afdcd.data.sources.camvid import LAYOUTS

Writer = Callable[..., Path]


@pytest.fixture
def write_camvid() -> Writer:
    def write(root: Path, layout: int = 0, suffix: str = ".jpg") -> Path:
        rng = np.random.default_rng(5)
        images, masks = LAYOUTS[layout]
        for split, count in {"train": 3, "val": 2, "test": 1}.items():
            for part in (images, masks):
                (root / part.format(split=split)).mkdir(parents=True)
            for number in range(count):
                mask = rng.integers(0, 12, (6, 8), dtype=np.uint8)
                image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / images.format(split=split) / f"{split}{number}{suffix}")
                Image.fromarray(mask).save(root / masks.format(split=split) / f"{split}{number}.png")
        return root

    return write


@pytest.fixture
def kill_after(tmp_path: Path) -> Callable[[str, int, str], None]:
    """Run Python code on `tmp_path`; kill -9 after so many lines, all of which begin with `line`."""

    def kill(code: str, lines: int, line: str) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline().startswith(line)
            process.send_signal(signal.SIGKILL)

    return kill
