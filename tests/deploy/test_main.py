from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from fake_run import SIZE, TARGET, write_data, write_engine

from afdcd.errors import UserError
from deploy.__main__ import main
from deploy.cli.subjects import subjects


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_engine(tmp_path / "bundle", "painter", highest=1)
    return tmp_path / "bundle"


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What a refused command says; it exits 1."""
    with pytest.raises(SystemExit) as ended:
        main(list(given))
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ")
    return said.err


def test_doctor_says_what_runs_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert "ready" in capsys.readouterr().out
    main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["engines"]["onnxruntime int8"] is None and "needs" in told["engines"]["tensorrt fp16"]
    assert told["hardware"]["cpu"]["logical_cores"] >= 1


def test_evaluate_scores_folders(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data", per_split=2)
    folders = ["--images", str(tmp_path / "data/image"), "--masks", str(tmp_path / "data/mask")]
    main(["evaluate", str(bundle), *folders, "--json"])
    score = json.loads(capsys.readouterr().out)
    assert score["images"] == 6 and score["iou"]["road"] == 1.0 and score["iou"]["car"] == 0.0
    main(["evaluate", str(bundle), *folders])
    assert "mean IoU" in capsys.readouterr().out


def test_evaluate_by_a_protocol(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data", per_split=1)
    given = ["evaluate", str(bundle), "--images", str(tmp_path / "data/image")]
    masks = ["--masks", str(tmp_path / "data/mask")]
    table = tmp_path / "classes.csv"
    main([*given, *masks, "--json", "--csv", str(table)])
    plain = json.loads(capsys.readouterr().out)
    assert "gated" not in plain and len(table.read_text().splitlines()) == 4
    main([*given, *masks, "--view", "slide", "--flip", "--boundary", "0.02", "--csv", str(table), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["gated"] is False and found["confusion"] == plain["confusion"]
    assert found["protocol"]["stride"] == [-(-2 * SIZE[0] // 3), -(-2 * SIZE[1] // 3)]
    assert table.read_text().splitlines()[1].startswith("road,1.000000,")
    main([*given, *masks, "--absent", "zero"])
    assert "not what gates judge" in capsys.readouterr().out
    assert "--masks is missing" in refused(capsys, *given)
    assert "--scales: " in refused(capsys, *given, *masks, "--scales", "0")
    assert "named as Cityscapes" in refused(capsys, *given, "--submission", str(tmp_path / "sent"))


def test_benchmark_takes_bundles_and_files(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--iterations", "4", "--rounds", "2", "--warmup", "1"]
    write_engine(tmp_path / "other", "copier", highest=2)
    main(["benchmark", str(bundle), str(tmp_path / "other"), *few, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert set(report["models"]) == {f"painter on {TARGET}", f"copier on {TARGET}"}
    assert report["baseline"] == f"painter on {TARGET}" and report["input_size"] == list(SIZE)
    main(["benchmark", str(bundle), *few])
    printed = capsys.readouterr().out
    assert "p50" in printed and printed.count("painter") >= 2  # in 80 columns, of latency and of work
    assert "a benchmark needs fixed sizes" in refused(
        capsys, "benchmark", str(bundle / "class_map.onnx"), *few
    )


def test_bundles_of_one_name_are_told_apart(bundle: Path, tmp_path: Path) -> None:
    again = shutil.copytree(bundle, tmp_path / "again")
    found = subjects([bundle, again], ["onnxruntime"], None, [])
    assert [one.name for one in found] == [f"painter on {TARGET} ({path})" for path in (bundle, again)]
    with pytest.raises(UserError, match="given twice"):
        subjects([bundle, bundle], ["onnxruntime"], None, [])


def test_verify_finds_an_altered_file(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", str(bundle)])
    assert "class_map.onnx" in capsys.readouterr().out
    (bundle / "class_map.onnx").write_bytes(b"other")
    assert "not the file that its manifest describes" in refused(capsys, "verify", str(bundle))


def test_mistakes_are_one_sentence(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refused(capsys, "benchmark", "nowhere.onnx")
    assert "given twice" in refused(capsys, "benchmark", str(bundle), str(bundle))
    assert "is no folder" in refused(
        capsys, "evaluate", str(bundle), "--images", "nowhere", "--masks", "nowhere"
    )
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", str(bundle), "--rounds", "0"])
    assert ended.value.code == 2 and "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("spread", ["-1", "0", "nan", "inf", "much"])
def test_an_impossible_spread_is_refused(capsys: pytest.CaptureFixture[str], spread: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "x.onnx", f"--max-cv={spread}"])
    assert ended.value.code == 2 and "argument --max-cv: " in capsys.readouterr().err


def test_ctrl_c_is_one_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.cli.doctor.capability", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "deploy", "doctor", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: the disk is full while writing the output")


def test_the_verbs_need_no_torch() -> None:
    program = (
        "import sys; import deploy.__main__;"
        "assert not {'torch', 'openvino', 'nncf', 'afdcd.models'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
