from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import TARGET, write_project

from afdcd.errors import UserError
from afdcd.files import read_json
from pipeline import paths, protocol


def test_the_test_split_by_windows_stands_beside_the_score(
    tmp_path: Path, params_text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(tmp_path, params_text)
    monkeypatch.chdir(tmp_path)
    protocol.main([TARGET, "narrow_r18_kd_0", "--view", "slide", "--absent", "zero", "--boundary", "0.02"])
    assert "not what gates judge" in capsys.readouterr().out
    path = paths.protocol(TARGET, "narrow_r18_kd_0")
    found = read_json(path)
    assert found["gated"] is False and found["images"] == 5 and found["iou"]["car"] == 0.0
    assert found["protocol"]["view"] == "slide" and found["protocol"]["absent"] == "zero"
    assert path.with_suffix(".csv").read_text().startswith("class,iou,boundary_iou,")
    with pytest.raises(UserError, match="an image at scale 2 would be 16x32"):
        protocol.main([TARGET, "teacher", "--scales", "1", "2"])
