from __future__ import annotations

import io
import sys

import pytest

from deploy.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_only_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, drawn in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
        assert ("3/3" in stream.getvalue()) is drawn
