from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_run import RELEASED, TARGET, complete, judged, write_project

from afdcd.data.manifest import Manifest
from afdcd.errors import UserError
from afdcd.files import read_json, write_json
from deploy.bundle import verify
from pipeline import gate, paths, release

BUNDLE = paths.RELEASE / RELEASED / TARGET


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its verdict."""
    root = tmp_path_factory.mktemp("run")
    write_project(root, (Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        complete()
        judged()
        gate.main([])
    return root


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    monkeypatch.chdir(root)
    return root


def tree(folder: Path) -> dict[str, str]:
    """Path -> hash of every file below, hidden ones too."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_release_is_a_verified_bundle_that_says_all_about_itself(here: Path) -> None:
    release.main([])
    assert list(paths.RELEASE.iterdir()) == [paths.RELEASE / RELEASED]
    measured = verify(BUNDLE).measured
    assert measured is not None
    assert measured["accuracy"]["split"] == "test" and measured["accuracy"]["images"] == 5
    assert measured["latency"]["latency_ms"]["p50"] > 0 and measured["latency"]["batch_size"] == 1
    assert {verdict["name"] for verdict in measured["gates"]} >= {"min_retention", "max_drop"}
    assert measured["hardware"]["cpu"]["logical_cores"] >= 1
    assert measured["provenance"]["data"]["licence"] == "CC0" and measured["provenance"]["git"] is None
    assert measured["provenance"]["params_sha256"] == hashlib.sha256(paths.PARAMS.read_bytes()).hexdigest()
    assert measured["provenance"]["data"]["manifest_sha256"] == Manifest.load(paths.PREPARED).sha256
    assert measured["provenance"]["weights_sha256"] == verify(BUNDLE).contract.weights_sha256
    page = (BUNDLE / "README.md").read_text()
    assert f"# {RELEASED} on {TARGET}" in page and "|\n| car | 0.0 |" in page and "{" not in page
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=BUNDLE, check=True)
    assert {path.name for path in BUNDLE.iterdir()} == {
        "class_map.onnx",
        "logits.onnx",
        "manifest.json",
        "README.md",
        "SHA256SUMS",
    }


def failing_copy(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def altered_engine(_: pytest.MonkeyPatch) -> None:
    path = paths.engine(TARGET, RELEASED) / "class_map.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def other_score(_: pytest.MonkeyPatch) -> None:
    path = paths.evaluation(TARGET, RELEASED) / "score.json"
    write_json(path, read_json(path) | {"engine": "0" * 64})


def no_verdict(_: pytest.MonkeyPatch) -> None:
    paths.VERDICT.unlink()


def failed_verdict(_: pytest.MonkeyPatch) -> None:
    write_json(paths.VERDICT, read_json(paths.VERDICT) | {"passed": False})


def verdict_of_others(_: pytest.MonkeyPatch) -> None:
    write_json(paths.VERDICT, {"passed": True, "gates": {"verdicts": [], "notes": []}})


def full_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "copyfile", failing_copy)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (full_disk, "the disk is full while writing models/release"),
        (altered_engine, "not the file that its manifest describes"),
        (other_score, "of another build"),
        (no_verdict, "verdict.json is missing"),
        (failed_verdict, "no passing verdict"),
        (verdict_of_others, "judged no narrow_r18_kd_0"),
    ],
)
def test_a_fault_leaves_the_last_release_byte_identical(
    here: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, message: str
) -> None:
    release.main([])
    before = tree(Path("models"))
    with monkeypatch.context() as patch:
        fault(patch)
        with pytest.raises(UserError, match=message):
            release.main([])
    after = tree(Path("models"))
    engine = str(Path("engines") / TARGET / RELEASED / "class_map.onnx")
    assert {**after, engine: ""} == {**before, engine: ""}


def test_what_is_released_no_more_goes(here: Path) -> None:
    stale = paths.RELEASE / "old_model" / TARGET
    stale.mkdir(parents=True)
    release.main([])
    assert not stale.exists() and BUNDLE.exists()


def pytorch_only() -> None:
    manifest = paths.engine(TARGET, RELEASED) / "manifest.json"
    write_json(manifest, read_json(manifest) | {"backend": "pytorch"})


def no_model() -> None:
    params = yaml.safe_load(paths.PARAMS.read_text())
    params["deploy"]["release"] = []
    paths.PARAMS.write_text(yaml.safe_dump(params))


@pytest.mark.parametrize("nothing", [pytorch_only, no_model])
def test_with_nothing_to_release_the_last_release_stays(
    here: Path, capsys: pytest.CaptureFixture[str], nothing: Callable[[], None]
) -> None:
    release.main([])
    before = tree(paths.RELEASE)
    nothing()
    capsys.readouterr()
    release.main([])
    assert tree(paths.RELEASE) == before
    assert capsys.readouterr().out == "nothing to release on deploy.targets; models/release stays as it was\n"


def test_a_release_that_a_killed_process_had_moved_aside_comes_back(here: Path) -> None:
    release.main([])
    before = tree(paths.RELEASE)
    ended = subprocess.Popen(["true"])
    ended.wait()
    paths.RELEASE.rename(f"models/.release.{ended.pid}.abc.old")
    no_model()
    release.main([])
    assert tree(paths.RELEASE) == before


def test_nothing_was_ever_released(here: Path) -> None:
    """DVC wants the folder to be there."""
    no_model()
    release.main([])
    assert list(paths.RELEASE.iterdir()) == []
