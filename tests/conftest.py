"""Fixtures that tests of every room share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shapes_source import Shapes

from afdcd.data.prepare import prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder to read only: 12/4/4 images of 48x96, 4 classes, one ignored column."""
    folder = tmp_path_factory.mktemp("shapes") / "prepared"
    source = Shapes(seed=0, size=(48, 96), counts={"train": 12, "val": 4, "test": 4})
    prepare(source, root=folder, folder=folder, progress=lambda what, total, done: None)
    return folder


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The real CamVid images; without them the test is skipped."""
    root = os.environ.get("AFDCD_CAMVID")
    if not root:
        pytest.skip("AFDCD_CAMVID does not name a folder with the CamVid images")
    return Path(root)
