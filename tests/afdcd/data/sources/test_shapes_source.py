from __future__ import annotations

from pathlib import Path

from contracts.source import SourceContract
from shapes_source import Shapes


class TestShapes(SourceContract):
    """The contract holds for a source that renders; the fixtures of other rooms rest on it."""

    def make(self, root: Path) -> Shapes:
        return Shapes(seed=1, size=(12, 20), counts={"train": 2, "val": 1, "test": 1})
