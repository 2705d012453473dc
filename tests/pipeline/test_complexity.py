from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import complexity, params
from pipeline.complexity import main

ROOT = Path(__file__).parents[2]


def test_it_counts_teacher_and_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = params.load(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(complexity.params, "load", lambda: settings)
    Path("data/prepared").mkdir(parents=True)
    Path("data/prepared/dataset.json").write_text(json.dumps({"classes": ["road", "sky", "car"]}))
    main([])
    found = json.loads(Path("reports/complexity.json").read_text())
    assert found["input_size"] == list(settings.deploy.export.input_size)
    assert set(found["networks"]) == {"teacher", *settings.students}
    assert "multiply-accumulates" in found["rule"]
    for counts in found["networks"].values():
        assert 0 < counts["parameters"] < counts["training_parameters"]
        assert 0 < counts["conv_gmacs"] < counts["training_conv_gmacs"]
        assert counts["conv_gmacs"] <= counts["gmacs"] < 1.05 * counts["conv_gmacs"]
    teacher, student = found["networks"]["teacher"], found["networks"][next(iter(settings.students))]
    assert student["gmacs"] < teacher["gmacs"]
