from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fake_run import SIZE, write_engine

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import Server  # noqa: E402


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, painter and other, with a small cap and leave to change them."""
    folder = tmp_path_factory.mktemp("serve")
    write_engine(folder / "release/painter", "painter", highest=1)
    write_engine(folder / "release/other", "other", highest=2)
    limits = ("--body-mb", "1", "--megapixels", "0.5", "--read-s", "2")
    with Server(folder / "release", *limits, "--control", log=folder / "log") as running:
        yield running


@pytest.fixture
def images() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 4, (2, *SIZE, 3), dtype=np.uint8)
