"""What the pipeline's tests share: the project's root, its params, and edits of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from clone import ROOT, changed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long chain first: with several workers the rest fills the time beside it."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def params_text() -> str:
    return (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def edited(params_text: str) -> Callable[[dict[str, Any]], str]:
    """params.yaml's text with edits at dotted keys."""
    return lambda edits: yaml.safe_dump(changed(yaml.safe_load(params_text), edits), sort_keys=False)


@pytest.fixture
def project(tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and the data root, as the working folder: enough for load and check."""
    (tmp_path / "params.yaml").write_text(params_text, encoding="utf-8")
    (tmp_path / "data/raw/streets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tiny project as the working folder; returns its params, to be changed and written again."""
    monkeypatch.chdir(tmp_path)
    return tiny.write_project(tmp_path, root)


@pytest.fixture
def taught(params: dict[str, Any]) -> dict[str, Any]:
    """The project with a trained teacher and the recipes' first phases done."""
    from pipeline import adapt, train_teacher

    train_teacher.main([])
    for recipe in tiny.RECIPES:
        adapt.main([recipe])
    return params
